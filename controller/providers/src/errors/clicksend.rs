//! ClickSend's codes. Sources: <https://developers.clicksend.com/docs> (response codes),
//! <https://help.clicksend.com/article/8cc479qlbb-list-of-sms-gateway-error-codes>.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::{ErrorTable, Table};

pub(crate) const TABLES: &[ErrorTable] = &[
    ErrorTable {
        of: "`status` of a message, `response_code` of an answer",
        source: "https://developers.clicksend.com/docs",
        rows: ANSWER,
    },
    ErrorTable {
        of: "`error_code` of a report",
        source: "https://help.clicksend.com/article/8cc479qlbb-list-of-sms-gateway-error-codes",
        rows: REPORT,
    },
];

/// `status` of a message and `response_code` of an answer.
pub(crate) const ANSWER: Table = &[
    ("MISSING_CREDENTIALS", Route, "the request has no credentials"),
    ("INVALID_CREDENTIALS", Route, "the account's credentials are refused"),
    ("ACCOUNT_NOT_ACTIVATED", Route, "the account is not active"),
    ("INVALID_RECIPIENT", Permanent, "not a phone number"),
    ("THROTTLED", Transient, "the same message went to this number a moment ago"),
    ("INVALID_SENDER_ID", Route, "the sender is not valid"),
    ("INSUFFICIENT_CREDIT", Route, "the account has no credit"),
    ("COUNTRY_NOT_ENABLED", Route, "the account may not send to this country"),
    ("REGISTRATION_NEEDED", Route, "the sender has to be registered"),
    ("EMPTY_MESSAGE", Permanent, "the message is empty"),
    ("TOO_MANY_RECIPIENTS", Route, "too many messages in one request"),
    ("MISSING_REQUIRED_FIELDS", Route, "something is missing in the request"),
    ("INVALID_SCHEDULE", Route, "the time to send is not valid"),
    ("NOT_ENOUGH_PERMISSION_TO_LIST_ID", Route, "the account may not use this list"),
];

/// `error_code` of a report that failed.
pub(crate) const REPORT: Table = &[
    ("5", Route, "cancelled at the maker"),
    ("7", Transient, "not delivered; the reason is not known"),
    ("8", Permanent, "the number is not active or not valid"),
    ("9", Permanent, "the number is not valid, or the network can not be reached"),
    ("10", Permanent, "the network has refused the subscriber"),
    ("11", Permanent, "the subscription, phone or network has no SMS"),
    ("12", Transient, "the phone is off or out of reach"),
    ("13", Transient, "the phone's memory is full"),
    ("14", Transient, "the network has an error or is congested"),
    ("15", Route, "the network has refused the message"),
    ("17", Transient, "the network did not answer in time"),
    ("18", Route, "the network can not be reached"),
    ("19", Route, "the network took the message for spam"),
];

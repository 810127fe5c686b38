//! Africa's Talking's codes. Sources: <https://developers.africastalking.com/docs/sms/sending/bulk>,
//! <https://developers.africastalking.com/docs/sms/notifications>.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::{ErrorTable, Table};

pub(crate) const TABLES: &[ErrorTable] = &[
    ErrorTable {
        of: "`statusCode` of a recipient that was not taken",
        source: "https://developers.africastalking.com/docs/sms/sending/bulk",
        rows: ANSWER,
    },
    ErrorTable {
        of: "what `Message` says when an answer has no recipients",
        source: "https://developers.africastalking.com/docs/sms/sending/bulk",
        rows: WORDS,
    },
    ErrorTable {
        of: "`failureReason` of a report",
        source: "https://developers.africastalking.com/docs/sms/notifications",
        rows: REPORT,
    },
];

/// `statusCode` of a recipient that was not taken.
pub(crate) const ANSWER: Table = &[
    ("402", Route, "the sender name is not registered with the account"),
    ("403", Permanent, "not a phone number"),
    ("404", Permanent, "the maker does not serve this kind of number"),
    ("405", Route, "the account has no credit"),
    ("406", Permanent, "the recipient has opted out"),
    ("407", Route, "the maker has no route to this number"),
    ("409", Permanent, "the recipient does not want such messages"),
    ("500", Transient, "the maker's internal error"),
    ("502", Route, "the network's gateway has refused the message"),
];

/// What `Message` says when there are no recipients in the answer.
pub(crate) const WORDS: Table = &[
    ("InvalidSenderId", Route, "the sender name is not registered with the account"),
    ("InvalidPhoneNumber", Permanent, "not a phone number"),
    ("InvalidPhoneNumbers", Permanent, "not a phone number"),
    ("UnsupportedNumberType", Permanent, "the maker does not serve this kind of number"),
    ("InsufficientBalance", Route, "the account has no credit"),
    ("UserInBlacklist", Permanent, "the recipient has opted out"),
    ("CouldNotRoute", Route, "the maker has no route to this number"),
    ("DoNotDisturbRejection", Permanent, "the recipient does not want such messages"),
];

/// `failureReason` of a report.
pub(crate) const REPORT: Table = &[
    ("InsufficientCredit", Permanent, "the subscriber can not pay for this message"),
    ("InvalidLinkId", Permanent, "the message belongs to no subscription"),
    ("UserIsInactive", Permanent, "the number is not active"),
    ("UserInBlackList", Permanent, "the recipient has opted out"),
    ("UserAccountSuspended", Permanent, "the network has suspended the subscriber"),
    ("NotNetworkSubscriber", Route, "the number belongs to another network"),
    ("UserNotSubscribedToProduct", Permanent, "the recipient has not subscribed to this product"),
    ("UserDoesNotExist", Permanent, "there is no such number"),
    ("DoNotDisturbRejection", Permanent, "the recipient does not want such messages"),
    ("DeliveryFailure", Transient, "not delivered; the network gives no reason"),
];

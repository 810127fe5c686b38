//! Vonage's codes: the SMS API's answers and reports, and the Messages API. Sources:
//! <https://developer.vonage.com/api-errors/sms>, <https://developer.vonage.com/messaging/sms/guides/delivery-receipts>,
//! <https://developer.vonage.com/api-errors/messages>.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::{ErrorTable, Table};

pub(crate) const SMS_TABLES: &[ErrorTable] = &[
    ErrorTable {
        of: "`status` of a part in an answer",
        source: "https://developer.vonage.com/api-errors/sms",
        rows: SMS_STATUS,
    },
    ErrorTable {
        of: "`err-code` of a report",
        source: "https://developer.vonage.com/messaging/sms/guides/delivery-receipts",
        rows: SMS_RECEIPT,
    },
];

pub(crate) const MESSAGES_TABLES: &[ErrorTable] = &[ErrorTable {
    of: "the code in an answer or a report",
    source: "https://developer.vonage.com/api-errors/messages",
    rows: MESSAGES,
}];

/// `status` of a part in the SMS API's answer.
pub(crate) const SMS_STATUS: Table = &[
    ("1", Transient, "too many requests"),
    ("2", Route, "a parameter is missing"),
    ("3", Route, "a parameter is not valid"),
    ("4", Route, "the account's credentials are refused"),
    ("5", Transient, "an internal error of the maker"),
    ("6", Permanent, "the message cannot be processed: the number's prefix is not known"),
    ("7", Permanent, "the recipient is barred"),
    ("8", Route, "the account is suspended"),
    ("9", Route, "the account has no credit"),
    ("10", Transient, "too many connections"),
    ("11", Route, "the account is not enabled for HTTP"),
    ("12", Route, "the text is too long for this maker"),
    ("14", Route, "the request's signature is refused"),
    ("15", Route, "the sender is not allowed"),
    ("22", Route, "the network code is not valid"),
    ("23", Route, "the callback address is not valid"),
    ("29", Route, "a demo account sends to listed numbers only"),
    ("32", Route, "a signed request must not hold the secret"),
    ("33", Permanent, "the number is no longer in service"),
];

/// `err-code` of a delivery receipt.
pub(crate) const SMS_RECEIPT: Table = &[
    ("1", Transient, "not delivered, without a reason"),
    ("2", Transient, "the handset is absent for now"),
    ("3", Permanent, "the number is no longer in service"),
    ("4", Permanent, "the recipient's line is barred"),
    ("5", Route, "the number's carrier is not known after porting"),
    ("6", Permanent, "the carrier filtered the text as unwanted"),
    ("7", Transient, "the handset is busy"),
    ("8", Transient, "an error of the network"),
    ("9", Permanent, "the recipient has opted out"),
    ("10", Route, "a parameter of the message is wrong"),
    ("11", Route, "there is no route to the number"),
    ("12", Permanent, "the number cannot be reached"),
    ("13", Permanent, "the recipient is too young for this sender"),
    ("14", Permanent, "the carrier blocks the number"),
    ("15", Transient, "the recipient's prepaid plan has no credit"),
    ("50", Route, "the entity id is missing or wrong"),
    ("51", Route, "the sender's registration is missing or wrong"),
    ("52", Route, "the content id is missing or wrong"),
    ("53", Permanent, "the recipient has not consented"),
    ("54", Route, "a regulation forbids it"),
    ("99", Route, "an error of the route"),
];

/// Codes of the Messages API, in answers and in status callbacks.
pub(crate) const MESSAGES: Table = &[
    ("1000", Transient, "too many requests"),
    ("1010", Route, "a parameter is missing"),
    ("1020", Route, "a parameter is not valid"),
    ("1030", Transient, "an internal error of the maker"),
    ("1040", Permanent, "the message cannot be processed: the number's prefix is not known"),
    ("1050", Permanent, "the recipient is barred"),
    ("1060", Route, "the account is barred"),
    ("1070", Route, "the account has no credit"),
    ("1080", Route, "the account is not enabled for this API"),
    ("1090", Route, "the text is too long for this maker"),
    ("1100", Transient, "the maker could not pass it on"),
    ("1120", Route, "the sender is not allowed"),
    ("1130", Route, "the validity is not valid"),
    ("1140", Route, "the account may not do this"),
    ("1150", Route, "a parameter is not valid"),
    ("1160", Route, "the account sends to listed numbers only"),
    ("1170", Permanent, "the recipient's number is not valid"),
    ("1180", Transient, "the handset is absent for now"),
    ("1190", Permanent, "the number is no longer in service"),
    ("1200", Route, "the number's carrier is not known after porting"),
    ("1210", Permanent, "the carrier filtered the text as unwanted"),
    ("1220", Transient, "the handset is busy"),
    ("1230", Transient, "an error of the network"),
    ("1240", Permanent, "the recipient has opted out"),
    ("1241", Transient, "too many messages to this number"),
    ("1250", Route, "there is no route to the number"),
    ("1260", Permanent, "the number cannot be reached"),
    ("1270", Permanent, "the recipient is too young for this sender"),
    ("1280", Permanent, "the carrier blocks the number"),
    ("1290", Transient, "the recipient's prepaid plan has no credit"),
    ("1300", Permanent, "the number is not of the provider's network"),
    ("1310", Permanent, "the handset cannot receive this"),
    ("1330", Transient, "an unknown error of the carrier"),
    ("1331", Transient, "the carrier does not answer"),
    ("low-balance", Route, "the account has no credit"),
    ("unauthorized", Route, "the account's credentials are refused"),
    ("forbidden", Route, "the account may not do this"),
    ("throttled", Transient, "too many requests"),
];

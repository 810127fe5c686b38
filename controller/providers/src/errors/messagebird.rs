//! MessageBird's codes: of answers, reasons of reports, and the network codes that come with them. Sources:
//! <https://developers.messagebird.com/api/> (errors), <https://developers.messagebird.com/api/sms-messaging/#sms-statuses>,
//! <https://docs.bird.com/api/channels-api/message-status-and-interactions/message-failure-sources/sms-platform-extended-error-codes>.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::{ErrorTable, Table};

pub(crate) const TABLES: &[ErrorTable] = &[
    ErrorTable { of: "`errors[].code` of an answer", source: "https://developers.messagebird.com/api/", rows: ANSWER },
    ErrorTable {
        of: "`statusReason` of a report",
        source: "https://developers.messagebird.com/api/sms-messaging/#sms-statuses",
        rows: REASON,
    },
    ErrorTable {
        of: "`statusErrorCode` of a report",
        source: "https://docs.bird.com/api/channels-api/message-status-and-interactions/message-failure-sources/sms-platform-extended-error-codes",
        rows: NETWORK,
    },
];

/// `errors[].code` of an answer.
pub(crate) const ANSWER: Table = &[
    ("2", Route, "the access key is refused"),
    ("9", Route, "a parameter is missing"),
    ("10", Route, "a parameter is not valid"),
    ("20", Route, "there is no such resource"),
    ("21", Route, "the request is refused"),
    ("25", Route, "the account has no credit"),
    ("98", Route, "there is no such resource"),
];

/// `statusReason` of a report, with spaces.
pub(crate) const REASON: Table = &[
    ("unknown subscriber", Permanent, "the number is not in service"),
    ("incorrect number", Permanent, "the recipient's number is not valid"),
    ("unavailable subscriber", Transient, "the handset cannot be reached now"),
    ("opted out", Permanent, "the recipient has opted out"),
    ("received network error", Transient, "an error of the network"),
    ("insufficient balance", Route, "the account has no credit"),
    ("carrier rejected", Route, "the carrier refuses it"),
    ("generic delivery failure", Transient, "not delivered, without a reason"),
    ("timeout", Transient, "the network does not answer"),
];

/// `statusErrorCode` of a report: what the network said.
pub(crate) const NETWORK: Table = &[
    ("1", Permanent, "the number is not in service"),
    ("5", Transient, "the subscriber is not identified"),
    ("6", Transient, "the handset is absent for now"),
    ("9", Permanent, "the subscriber is not allowed"),
    ("11", Permanent, "the recipient's plan has no SMS"),
    ("12", Permanent, "the handset is not allowed"),
    ("13", Transient, "the recipient's line is barred"),
    ("21", Transient, "the network does not support it"),
    ("27", Transient, "the handset is absent for now"),
    ("31", Transient, "the handset is busy"),
    ("32", Transient, "the handset did not take it"),
    ("33", Transient, "too many messages wait for the handset"),
    ("34", Transient, "an error of the network"),
];

//! Infobip's statuses and errors. Sources:
//! <https://www.infobip.com/docs/essentials/api-essentials/response-status-and-error-codes>,
//! <https://www.infobip.com/docs/essentials/api-essentials/error-code-reference>.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::{ErrorTable, Table};

pub(crate) const TABLES: &[ErrorTable] = &[
    ErrorTable {
        of: "`status.id` of an answer or a report",
        source: "https://www.infobip.com/docs/essentials/api-essentials/response-status-and-error-codes",
        rows: STATUS,
    },
    ErrorTable {
        of: "`error.id` of a report, where it says more than the status",
        source: "https://www.infobip.com/docs/essentials/api-essentials/error-code-reference",
        rows: ERROR,
    },
];

/// Statuses of the groups `UNDELIVERABLE` and `REJECTED`.
pub(crate) const STATUS: Table = &[
    ("4", Route, "the operator has refused the message"),
    ("9", Transient, "not delivered"),
    ("31", Transient, "not sent"),
    ("6", Route, "the network is out of coverage or not set up for the account"),
    ("8", Permanent, "the number's prefix or length is wrong"),
    ("10", Permanent, "the recipient does not want such messages"),
    ("11", Route, "the sender is not registered with the account"),
    ("12", Route, "the account has no credit"),
    ("13", Route, "the sender is blocked on the account"),
    ("14", Permanent, "the recipient is on a block list"),
    ("17", Route, "the account's credit has run out of time"),
    ("18", Route, "the account may only send to its test number"),
    ("19", Route, "the account has no route"),
    ("20", Route, "too many messages to this number"),
    ("21", Transient, "the maker's internal error"),
    ("24", Permanent, "the message is malformed"),
    ("25", Permanent, "the message is too long"),
    ("51", Permanent, "the recipient is missing"),
    ("52", Permanent, "not a phone number"),
    ("87", Route, "the maker's anti-fraud filter has refused the message"),
    ("100", Transient, "the platform has refused the message or is not available"),
];

/// Errors of a report whose class is not what its group and `permanent` would say.
pub(crate) const ERROR: Table = &[
    ("1", Permanent, "there is no such subscriber"),
    ("5", Permanent, "the number is not known to the network"),
    ("6", Transient, "the phone is off or out of reach"),
    ("9", Permanent, "the network has barred the subscriber"),
    ("11", Permanent, "the subscription has no SMS"),
    ("12", Permanent, "the network has barred the phone"),
    ("13", Permanent, "the network has suspended the subscriber"),
    ("27", Transient, "the phone is off or out of reach"),
    ("31", Transient, "the phone is busy"),
    ("32", Transient, "the phone has not taken the message"),
    ("256", Transient, "the phone's memory is full"),
    ("351", Permanent, "not a phone number"),
    ("352", Permanent, "the country code is not known"),
    ("355", Permanent, "the message is too long"),
    ("368", Route, "the sender is not valid there"),
    ("433", Route, "the account is refused"),
    ("541", Transient, "the carrier's limit is reached"),
    ("542", Route, "the carrier's daily limit is reached"),
    ("565", Route, "the recipient can not receive from short codes"),
    ("568", Permanent, "the number has no SMS"),
    ("569", Permanent, "the network has suspended the subscriber"),
    ("573", Permanent, "the recipient has blocked the sender"),
    ("603", Permanent, "the recipient has opted out"),
    ("607", Permanent, "the content was taken for spam"),
    ("608", Route, "the maker's anti-fraud filter has refused the message"),
    ("628", Transient, "the phone has not taken the message"),
    ("629", Permanent, "the number can not receive SMS"),
    ("2048", Transient, "the network's answer did not come in time"),
    ("2049", Permanent, "the recipient is on a block list"),
    ("2050", Permanent, "the recipient does not want such messages"),
    ("2052", Permanent, "the recipient is on a block list"),
    ("2053", Route, "the sender is blocked"),
    ("3041", Permanent, "the number is no longer in use"),
    ("4096", Permanent, "the message is malformed"),
    ("4099", Route, "the account's monthly limit is reached"),
    ("4103", Route, "too many messages to this number"),
    ("4104", Route, "too many messages with this text"),
    ("5492", Route, "the network has seen this message already"),
];

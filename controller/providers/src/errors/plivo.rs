//! Plivo's codes of reports. Source: <https://www.plivo.com/docs/messaging/troubleshooting/error-codes> and
//! <https://www.plivo.com/blog/introducing-sms-error-codes>. Answers to requests have a text and no code: they go by their HTTP
//! status.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::{ErrorTable, Table};

pub(crate) const TABLES: &[ErrorTable] = &[ErrorTable {
    of: "`ErrorCode` of a report",
    source: "https://www.plivo.com/docs/messaging/troubleshooting/error-codes",
    rows: PLIVO,
}];

pub(crate) const PLIVO: Table = &[
    ("10", Permanent, "the carrier refuses the text as not valid"),
    ("20", Transient, "an error of the network"),
    ("30", Permanent, "the carrier filtered the text as unwanted"),
    ("40", Route, "the sender is not valid"),
    ("50", Permanent, "the recipient's number is not valid"),
    ("60", Permanent, "the message was in a loop"),
    ("70", Permanent, "the number is not in service"),
    ("80", Transient, "the handset cannot be reached now"),
    ("90", Route, "there is no route to the number"),
    ("100", Route, "the carrier does not allow it"),
    ("110", Route, "the text is too long for this maker"),
    ("200", Permanent, "the recipient has opted out"),
    ("201", Route, "the sender may not send to this country"),
    ("300", Transient, "the maker could not pass it on"),
    ("900", Route, "the account has no credit"),
    ("910", Route, "the account is disabled"),
    ("1000", Transient, "an unknown error of the carrier"),
];

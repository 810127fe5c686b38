//! Beem's codes. Source: <https://docs.beem.africa>, as taken up by `gowelle/laravel-beem-africa` (`SmsResponseCode`).

use flotilla_protocol::wire::ErrorClass::{Permanent, Route};

use super::{ErrorTable, Table};

pub(crate) const TABLES: &[ErrorTable] =
    &[ErrorTable { of: "`code` of an answer", source: "https://docs.beem.africa", rows: ANSWER }];

/// `code` of an answer; 100 is success and 103 leaves a doubt.
pub(crate) const ANSWER: Table = &[
    ("101", Permanent, "not a phone number"),
    ("102", Route, "the account has no credit"),
    ("104", Route, "something is missing in the request"),
    ("105", Route, "the account is not known"),
    ("106", Route, "the account has no route"),
    ("107", Route, "the request has no credentials"),
    ("108", Route, "the account's keys are refused"),
];

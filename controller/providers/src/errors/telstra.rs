//! Telstra's codes. Source: the maker's OpenAPI document,
//! <https://dev.telstra.com/sites/default/files/Messaging-API-Proxy-OAS3.json>.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::{ErrorTable, Table};

pub(crate) const TABLES: &[ErrorTable] = &[ErrorTable {
    of: "`code` of an answer",
    source: "https://dev.telstra.com/sites/default/files/Messaging-API-Proxy-OAS3.json",
    rows: ANSWER,
}];

pub(crate) const ANSWER: Table = &[
    ("RECIPIENT_OPTOUT", Permanent, "the recipient has opted out"),
    ("MODERATION_ERR", Permanent, "the content is refused"),
    ("SENDERNAME_ERR", Route, "the sender name is not approved"),
    ("TAGS_ERR", Route, "the request's tags are refused"),
    ("FIELD_MISSING", Route, "something is missing in the request"),
    ("MULTIMEDIA_TOO_LARGE", Permanent, "the message is too long"),
    ("PAYLOAD_TOO_LARGE", Permanent, "the message is too long"),
    ("TOKEN_INVALID", Transient, "the access token is refused; another one is fetched"),
    ("TOKEN_EXPIRED", Transient, "the access token is too old; another one is fetched"),
    ("ACCOUNT_ERR", Route, "the account has a problem; ask the maker"),
    ("RATE_PLAN_ERR", Route, "the account's plan has a problem; ask the maker"),
    ("ACCOUNT_NOT_LINKED", Route, "the account is not registered for messages"),
    ("ACCOUNT_LIMIT_ERROR", Route, "the account's credit or limit is used up"),
    ("FREE_TRIAL_INTERNATIONAL_ERR", Route, "the free trial sends to Australia only"),
    ("RESOURCE_AUTH_ERR", Route, "the account has not the right to send"),
    ("INSUFFICIENT_SCOPE", Route, "the access token has not the right to send"),
    ("RESOURCE_TEMP_ERR", Transient, "the maker has an incident"),
    ("RESOURCE_NOT_FOUND", Route, "the maker does not know this address; check `base_url`"),
    ("METHOD_INVALID", Route, "the maker does not know this address; check `base_url`"),
    ("TOO_MANY_REQUESTS", Transient, "too many requests"),
];

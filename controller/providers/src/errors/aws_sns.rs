//! AWS SNS: codes of `Publish` and those common to all AWS services. Sources:
//! <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>, <https://docs.aws.amazon.com/sns/latest/api/CommonErrors.html>.

use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use super::{ErrorTable, Table};

pub(crate) const TABLES: &[ErrorTable] = &[ErrorTable {
    of: "the error code of an answer",
    source: "https://docs.aws.amazon.com/sns/latest/api/API_Publish.html",
    rows: AWS_SNS,
}];

pub(crate) const AWS_SNS: Table = &[
    ("AccessDenied", Route, "the credentials may not send"),
    ("AccessDeniedException", Route, "the credentials may not send"),
    ("AuthorizationError", Route, "the credentials may not send"),
    ("EndpointDisabled", Route, "the endpoint is switched off"),
    ("ExpiredToken", Route, "the session token has expired"),
    ("ExpiredTokenException", Route, "the session token has expired"),
    ("IncompleteSignature", Route, "the request's signature is refused"),
    ("InvalidClientTokenId", Route, "the access key is not known"),
    ("InvalidParameter", Route, "a parameter is not valid"),
    ("InvalidParameterValue", Route, "a parameter is not valid"),
    ("InvalidSecurity", Route, "the credentials are refused"),
    ("MissingAuthenticationToken", Route, "the request is not signed"),
    ("NotAuthorized", Route, "the credentials may not send"),
    ("NotFound", Route, "there is no such resource"),
    ("OptedOut", Permanent, "the recipient has opted out"),
    ("OptInRequired", Route, "the account is not subscribed to this service"),
    ("ParameterValueInvalid", Route, "a parameter is not valid"),
    ("RequestExpired", Transient, "the request came too late; check this machine's clock"),
    ("SignatureDoesNotMatch", Route, "the secret key is wrong"),
    ("Throttled", Transient, "too many requests"),
    ("Throttling", Transient, "too many requests"),
    ("ThrottlingException", Transient, "too many requests"),
    ("UnrecognizedClientException", Route, "the access key is not known"),
    ("UserError", Route, "a parameter is not valid"),
    ("ValidationError", Route, "a parameter is not valid"),
];

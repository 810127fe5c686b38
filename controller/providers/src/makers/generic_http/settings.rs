//! The settings of a generic account, as JSON in its field `settings`: what they say, and the check before they are stored.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::account::{Account, FieldError};
use crate::makers::kit::wrong;

/// All templates, rules and names together, bytes; what the catalog takes for a field.
const SETTINGS_MAX: usize = 16 * 1024;
const REGEX_SIZE_MAX: usize = 256 * 1024;
const RULES_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) request: Request,
    #[serde(default)]
    pub(super) answer: Reading,
    pub(super) callback: Option<Reports>,
    /// A harmless request that only works with right secrets.
    pub(super) test: Option<Request>,
    pub(super) balance: Option<Balance>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Verb {
    Get,
    Post,
    Put,
}

/// A request as templates.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) method: Verb,
    pub(super) url: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<Body>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Body {
    Form(BTreeMap<String, String>),
    /// Each text in it is a template.
    Json(Json),
    Xml(String),
    Plain(String),
}

/// Where a value is in an answer.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Find {
    /// RFC 6901, such as `/data/0/id`.
    Pointer(String),
    /// The first group, or the whole match.
    Regex(String),
    /// The name of a header.
    Header(String),
}

/// How an answer is read.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reading {
    /// The maker's id. Where it is set, a message without one is in doubt.
    pub(super) id: Option<Find>,
    /// What rules compare.
    pub(super) code: Option<Find>,
    /// The first that fits decides.
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// HTTP statuses; none given: all below 500.
    #[serde(default)]
    pub(super) http: Vec<u16>,
    /// Values of `code`; none given: all.
    #[serde(default)]
    pub(super) code: Vec<String>,
    pub(super) means: Means,
    /// For people.
    #[serde(default)]
    pub(super) text: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Means {
    Accepted,
    Permanent,
    Route,
    Transient,
    Unclear,
}

/// How reports are read. A name that begins with `/` points into a JSON body; any other is a field of the query or of a form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reports {
    /// A JSON pointer to a list of reports; names are within each.
    pub(super) each: Option<String>,
    /// Our reference. Where it is not set, it is looked for in the query, where `callback_url` has put it.
    pub(super) reference: Option<String>,
    pub(super) id: Option<String>,
    pub(super) state: String,
    /// The maker's error code, for the message's trace.
    pub(super) code: Option<String>,
    pub(super) states: States,
    #[serde(default)]
    pub(super) signature: Signature,
    #[serde(default)]
    pub(super) reply: Reply,
    pub(super) inbound: Option<InboundNames>,
}

/// Values of the state; one that is nowhere here is news of no consequence.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct States {
    pub(super) delivered: Vec<String>,
    pub(super) expired: Vec<String>,
    pub(super) permanent: Vec<String>,
    pub(super) route: Vec<String>,
    pub(super) transient: Vec<String>,
}

/// Where a message's parts are in a request that has no state.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InboundNames {
    pub(super) id: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) text: String,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reply {
    #[default]
    Empty,
    Ok,
    Json,
}

/// How reports prove where they come from. `secret` names a secret of the account.
#[derive(Default, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Signature {
    #[default]
    None,
    /// The secret itself, in a header or in the query.
    Shared { place: Place, name: String, secret: String },
    /// Of the body.
    Hmac {
        algorithm: Algorithm,
        encoding: Encoding,
        header: String,
        #[serde(default)]
        prefix: String,
        secret: String,
    },
    /// `webhook-id`, `webhook-timestamp`, `webhook-signature`; the secret is `whsec_...`.
    StandardWebhooks { secret: String },
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    Header,
    Query,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    Hex,
    Base64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balance {
    pub(super) request: Request,
    pub(super) amount: Find,
    /// ISO 4217, or what the maker counts in.
    pub(super) currency: String,
}

impl Settings {
    pub(super) fn of(account: &Account) -> Result<Self, FieldError> {
        let text = account.field("settings")?;
        if text.len() > SETTINGS_MAX {
            return Err(wrong("settings", format!("has more than {SETTINGS_MAX} bytes")));
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let settings: Self = serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| wrong("settings", format!("{}: {}", error.path(), error.inner())))?;
        reader.end().map_err(|error| wrong("settings", format!("something follows the JSON: {error}")))?;
        Ok(settings)
    }

    /// What serde cannot see: pointers, patterns, names of secrets.
    pub(super) fn check(&self, account: &Account) -> Result<(), FieldError> {
        for (path, find) in [("answer.id", &self.answer.id), ("answer.code", &self.answer.code)] {
            find.as_ref().map_or(Ok(()), |find| find.check(path))?;
        }
        if self.answer.rules.len() > RULES_MAX {
            return Err(wrong("settings", format!("answer.rules: more than {RULES_MAX}")));
        }
        for (at, rule) in self.answer.rules.iter().enumerate() {
            rule.check(at, self.answer.code.is_some())?;
        }
        if let Some(balance) = &self.balance {
            balance.amount.check("balance.amount")?;
        }
        self.callback.as_ref().map_or(Ok(()), |reports| reports.check(account))
    }
}

impl Rule {
    fn check(&self, at: usize, has_code: bool) -> Result<(), FieldError> {
        let problem = if self.http.is_empty() && self.code.is_empty() {
            "needs `http` or `code`"
        } else if !self.code.is_empty() && !has_code {
            "compares `code`, but `answer.code` does not say where it is"
        } else if self.means == Means::Accepted && self.http.iter().any(|status| *status >= 400) {
            "takes an error (400 and above) for `accepted`"
        } else if self.http.iter().any(|status| !(100..600).contains(status)) {
            "has an HTTP status that does not exist"
        } else {
            return Ok(());
        };
        Err(wrong("settings", format!("answer.rules[{at}]: {problem}")))
    }

    pub(super) fn fits(&self, status: u16, code: Option<&str>) -> bool {
        let http = if self.http.is_empty() { status < 500 } else { self.http.contains(&status) };
        let code = self.code.is_empty() || code.is_some_and(|code| self.code.iter().any(|wanted| wanted == code));
        // An error is never a success, whatever its body says.
        http && code && (self.means != Means::Accepted || status < 400)
    }
}

impl Find {
    fn check(&self, path: &str) -> Result<(), FieldError> {
        let problem = match self {
            Self::Pointer(pointer) => check_pointer(pointer).err(),
            Self::Regex(pattern) => compiled(pattern).err(),
            Self::Header(name) => name.parse::<http::HeaderName>().err().map(|_| "is no header's name".to_owned()),
        };
        problem.map_or(Ok(()), |problem| Err(wrong("settings", format!("{path}: {problem}"))))
    }
}

impl Reports {
    /// Whether our reference may be taken from the address. One reference says nothing of a list of reports; and a signature over
    /// the body does not cover the address, so what the body has goes first.
    pub(super) fn address_counts(&self) -> bool {
        self.each.is_none() && (!self.body_is_signed() || (self.id.is_none() && self.reference.is_none()))
    }

    /// The signature is over the body: what stands in the address says nothing then.
    pub(super) fn body_is_signed(&self) -> bool {
        matches!(self.signature, Signature::Hmac { .. } | Signature::StandardWebhooks { .. })
    }

    fn check(&self, account: &Account) -> Result<(), FieldError> {
        let fail = |path: &str, problem: &str| Err(wrong("settings", format!("callback.{path}: {problem}")));
        if let Some(each) = &self.each {
            if check_pointer(each).is_err() {
                return fail("each", "is no JSON pointer; it begins with `/`");
            }
            let inside = [Some(&self.state), self.id.as_ref(), self.reference.as_ref(), self.code.as_ref()];
            if inside.into_iter().flatten().any(|name| !name.starts_with('/')) {
                return fail(
                    "each",
                    "is set, so `state`, `id`, `reference` and `code` are JSON pointers within an entry",
                );
            }
        }
        if self.id.is_none() && self.reference.is_none() && account.callback_url.is_none() {
            return fail("id", "is missing, and so is `reference`: nothing would say which message a report is of");
        }
        let states = &self.states;
        if states.delivered.is_empty() {
            return fail("states.delivered", "is missing; name the values that mean delivered");
        }
        let mut seen = std::collections::BTreeSet::new();
        let all = [&states.delivered, &states.expired, &states.permanent, &states.route, &states.transient];
        if all.into_iter().flatten().any(|value| !seen.insert(value)) {
            return fail("states", "the same value is in two of them");
        }
        self.check_signature(account)
    }

    fn check_signature(&self, account: &Account) -> Result<(), FieldError> {
        let (secret, header) = match &self.signature {
            Signature::None => return Ok(()),
            Signature::Shared { place, name, secret } => (secret, (*place == Place::Header).then_some(name)),
            Signature::Hmac { header, secret, .. } => (secret, Some(header)),
            Signature::StandardWebhooks { secret } => (secret, None),
        };
        if header.is_some_and(|name| name.parse::<http::HeaderName>().is_err()) {
            return Err(wrong("settings", "callback.signature: is no header's name"));
        }
        match account.secrets.get(secret.as_str()) {
            None => Err(wrong("settings", format!("callback.signature.secret: the account has no secret `{secret}`"))),
            Some(value) if value.len() < 16 => {
                Err(wrong("settings", format!("callback.signature.secret: `{secret}` is shorter than 16 characters")))
            }
            Some(_) => Ok(()),
        }
    }
}

fn check_pointer(pointer: &str) -> Result<(), String> {
    let fine = pointer.is_empty() || pointer.starts_with('/');
    if fine { Ok(()) } else { Err("is no JSON pointer; it begins with `/`".into()) }
}

/// The pattern, compiled within a bound; matching is linear in the answer.
pub(super) fn compiled(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_SIZE_MAX)
        .multi_line(true)
        .build()
        .map_err(|_| "is no pattern, or one that is too large".into())
}

//! An account at a maker: what people fill in.

use std::collections::BTreeMap;

use url::Url;

/// Settings of one account, checked by its maker before it is stored. Secrets are apart, because they are sealed at rest and
/// never shown.
#[derive(Clone, Default)]
pub struct Account {
    /// In place of the maker's own address; for test servers and private gateways.
    pub base_url: Option<Url>,
    /// `account_sid`, `region`, `application_id`... which ones, the maker's [`super::Capabilities`] say.
    pub fields: BTreeMap<Box<str>, Box<str>>,
    /// `auth_token`, `api_key`, `password`...
    pub secrets: BTreeMap<Box<str>, Box<str>>,
    /// Where the maker reaches us: `https://host/v1/callbacks/<maker>/<id>`; none when no `public_url` is set.
    pub callback_url: Option<Url>,
    /// Reports without a signature are taken; off unless the account says so.
    pub unsigned_callbacks: bool,
}

/// Secrets stay out.
impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("fields", &self.fields.keys()).finish_non_exhaustive()
    }
}

/// What is wrong with an account's settings, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {problem}")]
pub struct FieldError {
    pub field: Box<str>,
    pub problem: Box<str>,
}

impl Account {
    /// A field that has to be there.
    pub fn field(&self, name: &'static str) -> Result<&str, FieldError> {
        self.optional(name).ok_or_else(|| missing(name, "field"))
    }

    pub fn optional(&self, name: &'static str) -> Option<&str> {
        self.fields.get(name).map(|value| &**value).filter(|value| !value.is_empty())
    }

    /// A secret that has to be there.
    pub fn secret(&self, name: &'static str) -> Result<&str, FieldError> {
        self.optional_secret(name).ok_or_else(|| missing(name, "secret"))
    }

    pub fn optional_secret(&self, name: &'static str) -> Option<&str> {
        self.secrets.get(name).map(|value| &**value).filter(|value| !value.is_empty())
    }

    /// The maker's address, or the one that is set in its place, with a path joined to it.
    pub fn url(&self, default_base: &str, path: &str) -> Result<Url, FieldError> {
        let wrong = |error: url::ParseError| FieldError {
            field: "base_url".into(),
            problem: format!("does not make an address: {error}").into(),
        };
        let base = match &self.base_url {
            Some(base) => base.clone(),
            None => Url::parse(default_base).map_err(wrong)?,
        };
        let text = format!("{}/{}", base.as_str().trim_end_matches('/'), path.trim_start_matches('/'));
        Url::parse(&text).map_err(wrong)
    }
}

fn missing(name: &'static str, kind: &str) -> FieldError {
    FieldError { field: name.into(), problem: format!("is missing; give it as a {kind} of the account").into() }
}

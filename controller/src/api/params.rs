//! Parameters of the path and the query, with errors like everybody else's.

use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::problem::{Code, Problem};

/// Rows of one page: when nothing is asked, and at most.
pub const PAGE_DEFAULT: usize = 50;
pub const PAGE_MAX: usize = 500;

/// The id in an endpoint's path.
pub struct Id<T>(pub T);

impl<S: Send + Sync, T> FromRequestParts<S> for Id<T>
where
    T: FromStr<Err: std::fmt::Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong = |detail: String| Problem::new(Code::InvalidParameter, detail).at("id");
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        let axum::extract::Path(text) = path.map_err(|rejection| wrong(rejection.body_text()))?;
        text.parse().map(Self).map_err(|error: T::Err| wrong(error.to_string()))
    }
}

/// The query. Its struct should refuse unknown fields, so that a slip in a filter's name does not list everything.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(explain(&rejection.body_text())),
        }
    }
}

/// Takes the parameter's name out of what serde says.
fn explain(text: &str) -> Problem {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    let (field, detail) = match text.split_once(": ") {
        Some((path, detail)) if !path.contains(' ') => (path, detail),
        _ => (text.split('`').nth(1).unwrap_or("query"), text),
    };
    Problem::new(Code::InvalidParameter, detail.to_owned()).at(field.to_owned())
}

/// A count. What is none (`-1`, `many`) lies outside every range, so that the check of the range can tell what it is.
pub fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(Some(text.parse().unwrap_or(usize::MAX)))
}

/// Rows asked for, within bounds.
pub fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked {
        None => Ok(PAGE_DEFAULT),
        Some(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::new(Code::InvalidParameter, format!("give 1 to {PAGE_MAX}")).at("limit")),
    }
}

/// A parameter that is parsed by its own type.
pub fn parse<T: FromStr<Err: std::fmt::Display>>(name: &'static str, text: Option<&str>) -> Result<Option<T>, Problem> {
    let wrong = |error: T::Err| Problem::new(Code::InvalidParameter, error.to_string()).at(name);
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

/// A moment in RFC 3339, as Unix milliseconds.
pub fn moment(name: &'static str, text: Option<&str>) -> Result<Option<u64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    // A plus sign that was not escaped arrives as a space.
    let at: jiff::Timestamp = text.replace(' ', "+").parse().map_err(|_| {
        let detail = "give RFC 3339 with an offset, such as 2026-11-20T14:00:00Z";
        Problem::new(Code::InvalidParameter, detail).at(name)
    })?;
    Ok(Some(u64::try_from(at.as_millisecond()).unwrap_or(0)))
}

/// The words of a list such as `queued,sent`.
pub fn words<T>(
    name: &'static str,
    text: Option<&str>,
    known: impl Fn(&str) -> Option<T>,
    remedy: &'static str,
) -> Result<Vec<T>, Problem> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let one = |word: &str| known(word.trim()).ok_or_else(|| Problem::new(Code::InvalidParameter, remedy).at(name));
    text.split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use flotilla_protocol::id::SimId;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Filter {
        #[serde(default, deserialize_with = "count")]
        limit: Option<usize>,
        #[expect(dead_code, reason = "only parsed")]
        state: Option<String>,
    }

    async fn query(text: &str) -> Result<Filter, Problem> {
        let (mut parts, ()) = Request::builder().uri(format!("/x?{text}")).body(()).unwrap().into_parts();
        Query::from_request_parts(&mut parts, &()).await.map(|Query(filter)| filter)
    }

    #[tokio::test]
    async fn wrong_queries_name_the_parameter() {
        assert_eq!(query("limit=7&state=a%2Cb").await.unwrap().limit, Some(7));
        for (text, field) in [("stat=a", "stat"), ("limit=1&limit=2", "limit")] {
            let problem = query(text).await.unwrap_err();
            assert_eq!((problem.code(), problem.field_name()), (Code::InvalidParameter, Some(field)), "{problem}");
        }
    }

    #[tokio::test]
    async fn moments_lists_and_limits_are_checked() {
        assert_eq!(moment("since", Some("1970-01-01T00:00:01Z")).unwrap(), Some(1000));
        assert_eq!(moment("since", Some("1970-01-01T01:00:01 01:00")).unwrap(), Some(1000));
        assert!(moment("since", Some("yesterday")).is_err());
        let known = |word: &str| (word == "a").then_some(1);
        assert_eq!(words("state", Some("a, a"), known, "give a").unwrap(), [1, 1]);
        assert!(words("state", Some("a,"), known, "give a").is_err());
        for text in ["limit=-1", "limit=x", "limit=501"] {
            let problem = limit(query(text).await.unwrap().limit).unwrap_err();
            assert!(problem.to_string().contains("1 to 500"), "{problem}");
        }
        assert!(limit(Some(0)).is_err() && limit(Some(501)).is_err());
        assert!(parse::<SimId>("sim", Some("dev_1")).is_err());
    }
}

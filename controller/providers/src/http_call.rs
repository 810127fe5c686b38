//! A request to a maker, its answer, and a request from one, as values.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

/// One request. Its `Debug` shows neither headers nor body: both may hold secrets and personal data.
#[derive(Clone)]
pub struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("method", &self.method).field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// What came back, whole. The carrier bounds the body (256 KiB) before it gets here.
#[derive(Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A request that a maker has made to us.
#[derive(Clone)]
pub struct Callback {
    pub method: Method,
    /// The address that the maker has called, as it knows it: scheme, host and path as set in `public_url`, with the query of
    /// the request. Signatures are over it.
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

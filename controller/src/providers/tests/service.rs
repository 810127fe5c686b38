//! A service that plays the test maker on a loopback port: takes messages, remembers what it has taken, and misbehaves as it is
//! told.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// What becomes of a request with messages.
#[derive(Clone, Debug)]
pub(crate) enum Mood {
    Take,
    /// Takes nothing.
    Answer(StatusCode, Option<&'static str>),
    /// Refuses each message with this error.
    Refuse(&'static str),
    /// Takes them, and answers nothing that can be read.
    Garbage,
    /// Takes them, and breaks the connection in the middle of its answer.
    Break,
    /// Takes them, and answers when it is released.
    Hold,
    /// Takes none, and panics about it: the connection just ends.
    Never,
}

/// A message that it has taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taken {
    pub(crate) id: String,
    pub(crate) message: Value,
}

struct Inner {
    mood: Mutex<Mood>,
    taken: watch::Sender<Vec<Taken>>,
    requests: watch::Sender<usize>,
    release: Notify,
    balance: Mutex<i64>,
    /// Answers to polls, by state.
    polled: Mutex<&'static str>,
    token: Mutex<u32>,
    tokens_given: Mutex<u32>,
}

pub(crate) struct Service {
    inner: Arc<Inner>,
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    pub(crate) async fn start(mood: Mood) -> Self {
        let inner = Arc::new(Inner {
            mood: Mutex::new(mood),
            taken: watch::Sender::new(Vec::new()),
            requests: watch::Sender::new(0),
            release: Notify::new(),
            balance: Mutex::new(5_000_000),
            polled: Mutex::new("pending"),
            token: Mutex::new(0),
            tokens_given: Mutex::new(0),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, addr, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.inner.mood.lock() = mood;
    }

    pub(crate) fn set_balance(&self, micros: i64) {
        *self.inner.balance.lock() = micros;
    }

    pub(crate) fn set_polled(&self, state: &'static str) {
        *self.inner.polled.lock() = state;
    }

    /// Tokens that were given before count no more.
    pub(crate) fn void_tokens(&self) {
        *self.inner.token.lock() += 1;
    }

    pub(crate) fn tokens_given(&self) -> u32 {
        *self.inner.tokens_given.lock()
    }

    /// Answers one request that is held.
    pub(crate) fn release(&self) {
        self.inner.release.notify_one();
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.inner.taken.borrow().clone()
    }

    /// Waits until it has taken so many messages.
    pub(crate) async fn takes(&self, count: usize) -> Vec<Taken> {
        let mut taken = self.inner.taken.subscribe();
        taken.wait_for(|taken| taken.len() >= count).await.unwrap().clone()
    }

    /// Requests with messages so far.
    pub(crate) fn requests(&self) -> usize {
        *self.inner.requests.borrow()
    }

    /// Waits until so many requests with messages have come, taken or not.
    pub(crate) async fn is_asked(&self, count: usize) {
        self.inner.requests.subscribe().wait_for(|requests| *requests >= count).await.unwrap();
    }
}

async fn answer(
    State(inner): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let token = inner.token.lock().to_string();
    if headers.get("token").is_some_and(|given| given.as_bytes() != token.as_bytes()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match (method, uri.path()) {
        (Method::POST, "/send") => send(&inner, &value).await,
        (Method::POST, "/token") => {
            *inner.tokens_given.lock() += 1;
            axum::Json(json!({ "token": token })).into_response()
        }
        (Method::POST, "/poll") => {
            let state = *inner.polled.lock();
            let ids = value["ids"].as_array().cloned().unwrap_or_default();
            let reports: Vec<Value> = ids.iter().map(|id| json!({"id": id, "state": state})).collect();
            axum::Json(json!({ "reports": reports })).into_response()
        }
        (Method::GET, "/balance") => axum::Json(json!({"micros": *inner.balance.lock()})).into_response(),
        (Method::GET, "/test") if headers.get("key").is_some_and(|key| key == "wrong") => {
            StatusCode::UNAUTHORIZED.into_response()
        }
        (Method::GET, "/test") => "fine".into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn send(inner: &Inner, value: &Value) -> Response {
    let mood = inner.mood.lock().clone();
    inner.requests.send_modify(|requests| *requests += 1);
    let messages = value["messages"].as_array().cloned().unwrap_or_default();
    match mood {
        Mood::Answer(status, retry_after) => {
            let mut response = status.into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("retry-after", seconds.parse().unwrap());
            }
            return response;
        }
        Mood::Refuse(error) => {
            let results: Vec<Value> = messages.iter().map(|_| json!({ "error": error })).collect();
            return axum::Json(json!({ "results": results })).into_response();
        }
        Mood::Never => panic!("this service takes nothing"),
        Mood::Take | Mood::Garbage | Mood::Break | Mood::Hold => {}
    }
    let mut results = Vec::new();
    inner.taken.send_modify(|taken| {
        for message in messages {
            let id = format!("id{}", taken.len());
            // A text that begins with `+` is cut into one part more than was planned.
            let more = message["text"].as_str().is_some_and(|text| text.starts_with('+'));
            let parts = message["segments"].as_u64().unwrap_or(1) + u64::from(more);
            let parts: Vec<String> = (0..parts).map(|part| format!("{id}.{part}")).collect();
            results.push(json!({"id": id, "price": 8_300, "parts": parts}));
            taken.push(Taken { id, message });
        }
    });
    match mood {
        Mood::Garbage => return "<html>Welcome!</html>".into_response(),
        Mood::Break => {
            let pieces = [Ok(Bytes::from_static(b"{\"res")), Err(io::Error::other("broken"))];
            return Response::new(Body::from_stream(stream::iter(pieces)));
        }
        Mood::Hold => inner.release.notified().await,
        _ => {}
    }
    axum::Json(json!({ "results": results })).into_response()
}

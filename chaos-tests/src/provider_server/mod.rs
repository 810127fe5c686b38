//! An online provider for tests, on a loopback port: it speaks Twilio's API, misbehaves as a script says, and remembers what
//! it has really taken, by our reference. That memory is the truth that messages are judged by, like the radios' logs.
//!
//! It can be cut off while it runs: connections refused, or taken and never answered.

mod reports;
mod script;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use url::{Url, form_urlencoded};

use crate::radio_log::{HandOver, Refused};
pub use script::Script;
use script::{Behaviour, Dice, End, Fate};

const BODY_BYTES_MAX: usize = 64 * 1024;
const REFUSED_FOR_GOOD: u32 = 21211;
const REFUSED_FOR_THE_ACCOUNT: u32 = 30002;

#[derive(Clone, Debug)]
pub struct Settings {
    /// `AC...`
    pub account: String,
    pub token: String,
    pub script: Script,
    pub seed: u64,
    /// A line for each request that was decided, written before its answer.
    pub log: Option<PathBuf>,
}

/// How a provider is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nobody listens, and open connections are gone.
    Refused,
    /// Requests are taken in and never answered. Nothing is sent.
    Silent,
}

/// What was decided about one request for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub at_ms: u64,
    pub message: String,
    pub attempt: u16,
    pub segments: u8,
    pub refused: Option<Refused>,
    /// Taken, and the network has given it up for good.
    pub gave_up: bool,
}

/// What a server has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub decided: Vec<Taken>,
    /// Requests by what became of them, and reports by how they were answered.
    pub counts: BTreeMap<String, u64>,
    /// Forged reports that were not refused: each is a finding.
    pub forged_taken: u64,
}

/// Ends with its last owner.
pub struct ProviderServer {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

struct State {
    settings: Settings,
    dice: Mutex<Dice>,
    seen: Mutex<Seen>,
    states: Mutex<BTreeMap<String, &'static str>>,
    log: Option<File>,
    silent: watch::Sender<bool>,
    reports: reports::Reports,
}

impl ProviderServer {
    pub async fn start(address: SocketAddr, settings: Settings) -> anyhow::Result<Self> {
        settings.script.check()?;
        ensure!(settings.account.starts_with("AC"), "the account does not begin with AC");
        let log = settings.log.as_ref().map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        let state = Arc::new(State {
            dice: Mutex::new(Dice::new(settings.script.clone(), settings.seed)),
            seen: Mutex::default(),
            states: Mutex::default(),
            log,
            silent: watch::Sender::new(false),
            reports: reports::Reports::new(&settings.token)?,
            settings,
        });
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let address = listener.local_addr()?;
        let accepting = Some(tokio::spawn(accept(listener, Arc::clone(&state))));
        Ok(Self { address, state, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Seen {
        self.state.seen.lock().clone()
    }

    /// What reached this provider, as radios' logs say it.
    pub fn hand_overs(&self) -> Vec<HandOver> {
        let seen = self.state.seen.lock();
        let hand_over = |taken: &Taken| HandOver {
            at_ms: taken.at_ms,
            device: self.state.settings.account.clone(),
            slot: 0,
            message: taken.message.clone(),
            attempt: taken.attempt,
            segments: taken.segments,
            refused: taken.refused,
            gave_up: taken.gave_up,
        };
        seen.decided.iter().map(hand_over).collect()
    }

    /// From now on it is out of reach.
    pub async fn cut(&mut self, cut: Cut) {
        match cut {
            Cut::Silent => {
                self.state.silent.send_replace(true);
            }
            Cut::Refused => {
                if let Some(accepting) = self.accepting.take() {
                    accepting.abort();
                    // Its connections go with it.
                    drop(accepting.await);
                }
            }
        }
    }

    /// Behaves as its script says again.
    pub async fn restore(&mut self) -> anyhow::Result<()> {
        self.state.silent.send_replace(false);
        if self.accepting.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            self.accepting = Some(tokio::spawn(accept(listener, Arc::clone(&self.state))));
        }
        Ok(())
    }
}

impl Drop for ProviderServer {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(serve(stream, Arc::clone(&state)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The answer is that there is none.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed as the script says")]
struct Closed;

async fn serve(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { state.answer(request).await }
    });
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of the test provider has ended");
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn refusal(status: StatusCode, code: u32) -> Answer {
    answer(status, &json!({ "status": status.as_u16(), "code": code, "message": "refused by the test provider" }))
}

impl State {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Result<Answer, Closed> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE, 20422));
        };
        let mut silent = self.silent.subscribe();
        if *silent.borrow_and_update() {
            self.count("not answered");
            // The caller gives up before.
            drop(silent.wait_for(|silent| !silent).await);
            return Err(Closed);
        }
        let credentials = format!("{}:{}", self.settings.account, self.settings.token);
        let expected = format!("Basic {}", BASE64.encode(credentials.as_bytes()));
        if parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) != Some(&*expected) {
            return Ok(refusal(StatusCode::UNAUTHORIZED, 20003));
        }
        let base = format!("/2010-04-01/Accounts/{}", self.settings.account);
        match parts.uri.path().strip_prefix(&base) {
            Some("/Messages.json") if parts.method == Method::POST => self.submit(&body.to_bytes()).await,
            Some("/Balance.json") => Ok(answer(StatusCode::OK, &json!({ "balance": "100.00", "currency": "USD" }))),
            Some(".json") => Ok(answer(StatusCode::OK, &json!({ "status": "active" }))),
            Some(path) => Ok(self.state_of(path)),
            None => Ok(refusal(StatusCode::NOT_FOUND, 20404)),
        }
    }

    fn state_of(&self, path: &str) -> Answer {
        let id = path.strip_prefix("/Messages/").and_then(|rest| rest.strip_suffix(".json")).unwrap_or_default();
        match self.states.lock().get(id) {
            Some(status) => answer(StatusCode::OK, &json!({ "sid": id, "status": status })),
            None => refusal(StatusCode::NOT_FOUND, 20404),
        }
    }

    async fn submit(self: &Arc<Self>, body: &[u8]) -> Result<Answer, Closed> {
        let form: BTreeMap<_, _> = form_urlencoded::parse(body).into_owned().collect();
        let Some((message, attempt, segments, callback)) = named(&form) else {
            return Ok(refusal(StatusCode::BAD_REQUEST, 20422));
        };
        let (behaviour, fate, latency, slow) = {
            let mut dice = self.dice.lock();
            let (behaviour, fate) = (dice.behaviour(), dice.fate());
            (behaviour, fate, dice.latency(), dice.script().slow_for())
        };
        let refused = match behaviour {
            Behaviour::Permanent => Some(Refused::Permanent),
            Behaviour::Route => Some(Refused::Route),
            behaviour if !behaviour.takes() => Some(Refused::Transient),
            _ => None,
        };
        let gave_up = refused.is_none() && fate.ends == End::Undelivered;
        let at_ms = now_ms();
        let id = self.decided(behaviour, Taken { at_ms, message, attempt, segments, refused, gave_up });
        if behaviour.takes() {
            tokio::spawn(Arc::clone(self).report(id.clone(), callback, fate));
        }
        tokio::time::sleep(latency).await;
        match behaviour {
            Behaviour::Ok => Ok(taken(&id)),
            Behaviour::Throttled => {
                let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, 20429);
                response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
                Ok(response)
            }
            Behaviour::Broken | Behaviour::BrokenAfterTaking => Ok(broken()),
            Behaviour::Slow => {
                tokio::time::sleep(slow).await;
                Ok(broken())
            }
            Behaviour::SlowAfterTaking => {
                tokio::time::sleep(slow).await;
                Ok(taken(&id))
            }
            Behaviour::Closed { .. } => Err(Closed),
            Behaviour::Garbage { .. } => Ok(Response::new(Full::new(Bytes::from_static(b"<html>It works!")))),
            Behaviour::Permanent => Ok(refusal(StatusCode::BAD_REQUEST, REFUSED_FOR_GOOD)),
            Behaviour::Route => Ok(refusal(StatusCode::FORBIDDEN, REFUSED_FOR_THE_ACCOUNT)),
        }
    }

    /// Remembers it, on disk first, and gives the message's id here.
    fn decided(&self, behaviour: Behaviour, taken: Taken) -> String {
        if let Some(mut log) = self.log.as_ref() {
            let Taken { at_ms, message, attempt, segments, .. } = &taken;
            let line = format!("{at_ms} {message} {attempt} {segments} {}\n", behaviour.name().replace(' ', "-"));
            if let Err(error) = log.write_all(line.as_bytes()) {
                tracing::error!(%error, "the log of the test provider can not be written");
            }
        }
        self.count(behaviour.name());
        let mut seen = self.seen.lock();
        seen.decided.push(taken);
        format!("SM{:032x}", seen.decided.len())
    }

    fn count(&self, what: &str) {
        *self.seen.lock().counts.entry(what.to_owned()).or_default() += 1;
    }

    async fn report(self: Arc<Self>, id: String, callback: Option<Url>, fate: Fate) {
        self.states.lock().insert(id.clone(), "sent");
        tokio::time::sleep(fate.after).await;
        let ended = match fate.ends {
            End::Silence => return,
            End::Delivered => "delivered",
            End::Undelivered => "undelivered",
        };
        self.states.lock().insert(id.clone(), ended);
        let Some(callback) = callback else { return };
        for report in reports::of(&id, fate) {
            let forged = report.forged;
            let status = self.reports.send(&callback, &report).await;
            let kind = if forged { "forged report" } else { "report" };
            self.count(&format!("{kind}: {}", status.map_or("not taken".into(), |status| status.to_string())));
            if forged && status.is_some_and(|status| (200..300).contains(&status)) {
                self.seen.lock().forged_taken += 1;
            }
        }
    }
}

/// Our reference is `message-attempt-segments`, in the address for reports.
fn named(form: &BTreeMap<String, String>) -> Option<(String, u16, u8, Option<Url>)> {
    form.get("To").filter(|to| to.starts_with('+'))?;
    form.get("Body")?;
    let callback = Url::parse(form.get("StatusCallback")?).ok()?;
    let (_, reference) = callback.query_pairs().find(|(name, _)| name == "ref")?;
    let mut parts = reference.split('-');
    let (message, attempt) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    let segments = parts.next()?.parse().ok()?;
    Some((message, attempt, segments, Some(callback)))
}

fn taken(id: &str) -> Answer {
    answer(StatusCode::CREATED, &json!({ "sid": id, "status": "queued", "price": null, "error_code": null }))
}

fn broken() -> Answer {
    let mut response = Response::new(Full::new(Bytes::from_static(b"<html>Internal Server Error")));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Runs until its process is told to end; for `chaos-tests provider`.
pub async fn run(address: SocketAddr, settings: Settings) -> anyhow::Result<Infallible> {
    let server = ProviderServer::start(address, settings).await?;
    println!("{}", json!({ "url": server.base_url() }));
    std::future::pending().await
}

#[cfg(test)]
mod tests;

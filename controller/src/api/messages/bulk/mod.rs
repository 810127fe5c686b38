//! Uploads of any length: read, parsed, checked and accepted in chunks, a few at a time, in constant memory.
//!
//! ```text
//! body -> split (whole lines) -> up to IN_FLIGHT tasks: parse, check, accept (one commit each) -> tally
//! ```
//! While all of them are busy nothing is read, so a client is never faster than the journal.

mod parse;
mod report;
mod split;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use flotilla_protocol::id::TenantId;
use futures_util::StreamExt;
use rustc_hash::FxHashMap;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::plans;
use super::send::{accept, accept_problem, fresh_id, half_hash, idempotency_key, look_up};
use super::validate::Wish;
use crate::api::auth::sender;
use crate::api::forward::{self, Sent};
use crate::api::problem::{CONTENT_TYPE, Code, Problem, ProblemDocument};
use crate::api::{Api, examples, json};
use crate::domain::message::Pin;
use crate::peer::NotLeading;
use crate::shard::{AcceptError, RequestKey};
use parse::{Parsed, Shape, Table};
use report::{BadLine, Tally};
pub use report::{BulkError, BulkReport};
use split::{Chunk, Format, Lines, Splitter};

/// Chunks under way at a time. Two keep the journal busy, two more parse meanwhile.
const IN_FLIGHT: usize = 4;
/// A client may pause this long within an upload.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a chunk waits for room before the upload ends.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(30);

/// Send a stream of messages: one JSON object on each line, or CSV with a header.
///
/// Lines are like the body of `POST /v1/messages` with one recipient each; the priority is `bulk` unless a line says
/// otherwise. A bad line stops nothing: it is counted and named in the answer, which comes after the last line. The upload
/// may have any length. With an `Idempotency-Key`, repeating the same upload (after a lost connection, or a 503) sends
/// nothing twice. CSV columns are to, text, data, port, from, route, max_cost, callback_url, priority, send_at, valid_for_s, duplicates, sim, device,
/// campaign, tags (separated by `;`), client_ref and flash, in any order.
#[utoipa::path(
    post, path = "/v1/messages/bulk", tag = "messages", operation_id = "sendBulk",
    params(("Idempotency-Key" = Option<String>, Header, description = "Up to 255 bytes; remembered for 24 hours")),
    request_body(
        content(
            (String = "application/x-ndjson", example = json!(examples::ndjson())),
            (String = "text/csv", example = json!(examples::csv())),
        ),
        description = "One message on each line"
    ),
    responses(
        (status = 202, description = "Read to the end", body = BulkReport, example = json!(examples::bulk_report())),
        (status = 422, description = "Read to the end, and no line was accepted", body = BulkReport,
            example = json!(examples::bulk_report_bad())),
    )
)]
pub async fn upload(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (mut parts, mut body) = request.into_parts();
    let tenant = sender(&api, &parts.headers).await?;
    if !api.serves(tenant) {
        match forward::stream(&api, tenant, parts, body).await? {
            Sent::Answered(response) => return Ok(response),
            Sent::Here(own_parts, own_body) => (parts, body) = (own_parts, own_body),
        }
    }
    let format = format(&parts.headers)?;
    let client_key = idempotency_key(&parts.headers)?.map(<[u8]>::to_vec);
    let Ok(_permit) = Arc::clone(&api.uploads).try_acquire_owned() else {
        return Err(Problem::busy("too many bulk uploads at a time; try again", 5));
    };
    let mut upload = Upload::new(api, tenant, format, client_key);
    let ended = upload.run(body).await;
    let report = std::mem::take(&mut upload.tally).report();
    Ok(match ended {
        Ok(()) if report.accepted == 0 && report.rejected == 0 => ended_early(&empty(format), report),
        Ok(()) if report.accepted == 0 && report.rejected > 0 => {
            json::answer(StatusCode::UNPROCESSABLE_ENTITY, &report)
        }
        Ok(()) => json::answer(StatusCode::ACCEPTED, &report),
        Err(problem) => ended_early(&problem, report),
    })
}

/// Nothing to do is a slip as well: of a file that was not written, or of a pipe.
fn empty(format: Format) -> Problem {
    let (code, detail) = match format {
        Format::Ndjson => (Code::InvalidJson, "the upload has no messages; send a JSON object on each line"),
        Format::Csv => {
            (Code::InvalidCsv, "the upload has no messages; send a header such as to,text and lines under it")
        }
    };
    Problem::new(code, detail).at("body")
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    match json::media_type(headers).to_ascii_lowercase().as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Ok(Format::Ndjson)
        }
        "text/csv" => Ok(Format::Csv),
        _ => Err(Problem::new(
            Code::UnsupportedMediaType,
            "send lines of JSON with content-type: application/x-ndjson, or CSV with text/csv",
        )
        .at("content-type")),
    }
}

/// The problem that ended an upload, with what had become of it by then.
fn ended_early(problem: &Problem, report: BulkReport) -> Response {
    #[derive(Serialize)]
    struct Ended<'a> {
        #[serde(flatten)]
        problem: ProblemDocument<'a>,
        report: BulkReport,
    }
    let body = serde_json::to_vec(&Ended { problem: problem.document(), report }).unwrap_or_default();
    let mut response = problem.clone().into_response();
    *response.body_mut() = Body::from(body);
    // Chunks before the one that was refused may have been accepted.
    response.extensions_mut().remove::<NotLeading>();
    debug_assert_eq!(response.headers()["content-type"], CONTENT_TYPE);
    response
}

/// What all chunks of an upload share.
struct Job {
    api: Api,
    tenant: TenantId,
    client_key: Option<Vec<u8>>,
    shape: Shape,
}

/// Why a chunk was not accepted.
enum Trouble {
    Refused(AcceptError),
    Problem(Problem),
}

impl From<AcceptError> for Trouble {
    fn from(error: AcceptError) -> Self {
        Self::Refused(error)
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Wishes and senders of a chunk that have been looked up.
type KnownPins = FxHashMap<(Wish, Option<Box<str>>), Result<Pin, Problem>>;

struct Upload {
    api: Api,
    tenant: TenantId,
    format: Format,
    client_key: Option<Vec<u8>>,
    splitter: Splitter,
    job: Option<Arc<Job>>,
    /// Chunks so far: part of their idempotency keys.
    chunks: u64,
    running: JoinSet<(Tally, Result<(), Problem>)>,
    tally: Tally,
    /// Why nothing more is read.
    ended: Option<Problem>,
}

impl Upload {
    fn new(api: Api, tenant: TenantId, format: Format, client_key: Option<Vec<u8>>) -> Self {
        let splitter = Splitter::new(format, api.limits.bulk_line_bytes_max);
        Self {
            api,
            tenant,
            format,
            client_key,
            splitter,
            job: None,
            chunks: 0,
            running: JoinSet::new(),
            tally: Tally::default(),
            ended: None,
        }
    }

    async fn run(&mut self, body: Body) -> Result<(), Problem> {
        let read = self.read(body).await;
        // What was begun is finished, whatever ended the reading: the counts are to be true.
        while !self.running.is_empty() {
            self.join_one().await;
        }
        read?;
        self.ended.take().map_or(Ok(()), Err)
    }

    async fn read(&mut self, body: Body) -> Result<(), Problem> {
        let mut pieces = body.into_data_stream();
        loop {
            let piece = timeout(PAUSE_MAX, pieces.next()).await.map_err(|_| {
                let detail = "the upload has paused for a minute; repeat it with the same Idempotency-Key";
                Problem::new(Code::InvalidField, detail).at("body")
            })?;
            let end = piece.is_none();
            if let Some(piece) = piece {
                let cut_off = |_| Problem::new(Code::InvalidField, "the upload ended early; repeat it").at("body");
                self.splitter.push(&piece.map_err(cut_off)?);
            }
            while let Some(chunk) = self.splitter.next(end) {
                self.start(chunk).await?;
                if self.ended.is_some() {
                    return Ok(());
                }
            }
            if end {
                return Ok(());
            }
        }
    }

    async fn start(&mut self, mut chunk: Chunk) -> Result<(), Problem> {
        let job = match &self.job {
            Some(job) => Arc::clone(job),
            None => {
                let shape = self.shape(&mut chunk)?;
                let (api, client_key) = (self.api.clone(), self.client_key.take());
                Arc::clone(self.job.insert(Arc::new(Job { api, tenant: self.tenant, client_key, shape })))
            }
        };
        while self.running.len() >= IN_FLIGHT {
            self.join_one().await;
        }
        let number = self.chunks;
        self.chunks += 1;
        self.running.spawn(async move { job.run(chunk, number).await });
        Ok(())
    }

    /// Takes the header off the first chunk of a CSV.
    fn shape(&self, chunk: &mut Chunk) -> Result<Shape, Problem> {
        if self.format == Format::Ndjson {
            return Ok(Shape::Ndjson);
        }
        let Lines::Whole(bytes) = &mut chunk.lines else {
            let detail = "the header can not be read; begin with a line such as to,text";
            return Err(Problem::new(Code::InvalidCsv, detail).at("header").position(1, 1));
        };
        let (table, begin, line) = Table::from_header(bytes)?;
        *bytes = bytes.slice(begin.min(bytes.len())..);
        chunk.first_line = line;
        Ok(Shape::Csv(table))
    }

    async fn join_one(&mut self) {
        match self.running.join_next().await {
            Some(Ok((tally, result))) => {
                self.tally.merge(tally);
                if let Err(problem) = result {
                    self.ended.get_or_insert(problem);
                }
            }
            Some(Err(error)) => {
                self.ended.get_or_insert_with(|| Problem::internal(&error));
            }
            None => {}
        }
    }
}

impl Job {
    /// A chunk that finds no room is parsed again when it comes back: that costs only when there is too much to do.
    async fn run(&self, chunk: Chunk, number: u64) -> (Tally, Result<(), Problem>) {
        let key = self.key(&chunk, number);
        let begin = Instant::now();
        loop {
            let now_ms = self.api.now_ms();
            let parsed = self.shape.parse(&chunk, self.api.limits.bulk_line_bytes_max, now_ms);
            let mut tally = Tally::default();
            let again = begin.elapsed() < ROOM_WAIT_MAX;
            match self.submit(parsed, key, now_ms, &mut tally).await {
                Ok(()) => return (tally, Ok(())),
                Err(Trouble::Refused(AcceptError::Busy { retry_after_ms })) if again => {
                    sleep(Duration::from_millis(retry_after_ms.clamp(5, 1000))).await;
                }
                // With a key, asking again is safe.
                Err(Trouble::Refused(AcceptError::Undecided)) if again && key.is_some() => {}
                Err(Trouble::Refused(error)) => return (Tally::default(), Err(accept_problem(error))),
                Err(Trouble::Problem(problem)) => return (Tally::default(), Err(problem)),
            }
        }
    }

    async fn submit(
        &self,
        parsed: Parsed,
        key: Option<RequestKey>,
        now_ms: u64,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        parsed.bad.into_iter().for_each(|bad| tally.reject(bad));
        let known = match key {
            Some(key) => look_up(&self.api, self.tenant, key).await?,
            None => None,
        };
        if let Some(ids) = known {
            tally.accepted += ids.len() as u64;
            tally.replayed += ids.len() as u64;
            tally.segments += parsed.good.iter().map(|(_, checked)| u64::from(checked.segments)).sum::<u64>();
            return Ok(());
        }
        let mut submissions = Vec::with_capacity(parsed.good.len());
        let mut pins = FxHashMap::default();
        for (line, checked) in parsed.good {
            if let Err(problem) = plans::check(&self.api, self.tenant, checked.plan.as_deref()).await {
                if problem.code() != Code::InvalidField {
                    return Err(problem.into());
                }
                tally.reject(BadLine { line, problem });
                continue;
            }
            match self.pin(&mut pins, checked.wish, checked.sender.as_deref()).await? {
                Ok(pin) => checked.submissions(self.tenant, pin, || fresh_id(now_ms), &mut submissions),
                Err(problem) => tally.reject(BadLine { line, problem }),
            }
        }
        if submissions.is_empty() {
            return Ok(());
        }
        tally.segments += submissions.iter().map(|message| u64::from(message.segments)).sum::<u64>();
        let acceptance = accept(&self.api, self.tenant, key, submissions).await?;
        let messages = acceptance.ids.len() as u64;
        tally.accepted += messages;
        tally.replayed += if acceptance.replayed { messages } else { 0 };
        Ok(())
    }

    /// Each wish of a chunk is looked up once. The outer error ends the upload, the inner one is a bad line.
    async fn pin(
        &self,
        known: &mut KnownPins,
        wish: Wish,
        sender: Option<&str>,
    ) -> Result<Result<Pin, Problem>, Problem> {
        if wish == Wish::Any && sender.is_none() {
            return Ok(Ok(Pin::Any));
        }
        if let Some(pin) = known.get(&(wish, sender.map(Into::into))) {
            return Ok(pin.clone());
        }
        let pin = match self.api.pins.resolve(self.tenant, wish, sender).await {
            Err(problem) if problem.code() != Code::InvalidField => return Err(problem),
            pin => pin,
        };
        known.insert((wish, sender.map(Into::into)), pin.clone());
        Ok(pin)
    }

    /// Chunks are cut by their bytes alone, so the same upload has the same chunks and the same keys.
    fn key(&self, chunk: &Chunk, number: u64) -> Option<RequestKey> {
        let client_key = self.client_key.as_deref()?;
        let Lines::Whole(bytes) = &chunk.lines else { return None };
        let key = half_hash(&[b"bulk\0".as_slice(), &number.to_be_bytes(), client_key].concat());
        Some(RequestKey { key, request: half_hash(bytes) })
    }
}

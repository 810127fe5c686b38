//! `flotilla messages bulk`: a file or a pipe of any length, sent as it is read.
//!
//! It is read by a thread of its own: the runtime would wait for a read of the terminal or of a silent pipe even when the
//! controller has long said no.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::{CliError, Problem};
use super::http::{Answer, read};
use super::send::fresh_key;
use super::show::{Column, Screen};
use super::{Session, note, print};

pub(super) const EXAMPLE: &str = "Example:\n  flotilla messages bulk recipients.csv\n  \
    make-lines | flotilla messages bulk - --format ndjson\n\n\
    Lines are like {\"to\": \"+255712345678\", \"text\": \"Hello\"}, or CSV that begins with to,text. A bad line stops nothing; \
    the exit code is 1 when there was one.";

const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks between the disk and the network.
const CHUNKS_AHEAD: usize = 4;
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub struct Bulk {
    /// Messages; - for standard input
    file: PathBuf,
    /// Found out from the file's name or its first character when left out
    #[arg(long)]
    format: Option<Format>,
    /// The same upload with the same key sends nothing twice
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Ndjson,
    Csv,
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
        }
    }

    fn of_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            _ => None,
        }
    }

    fn of_bytes(first: &[u8]) -> Self {
        let first = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
        match first.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => Self::Ndjson,
            _ => Self::Csv,
        }
    }
}

type Pieces = ReceiverStream<std::io::Result<Bytes>>;

impl Bulk {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let path = self.file.display().to_string();
        let failed = |cause| CliError::File { path: path.clone(), cause };
        let (mut pieces, total) = open(&self.file).map_err(failed)?;
        let first = match pieces.next().await {
            None => return Err(CliError::Usage(format!("{path}: there is nothing in it"))),
            Some(first) => first.map_err(failed)?,
        };
        let named = self.format.or_else(|| Format::of_name(&self.file));
        let format = named.unwrap_or_else(|| Format::of_bytes(&first));
        let key = self.idempotency_key.unwrap_or_else(fresh_key);
        let mut progress = Progress::new(total);
        let pieces = stream::once(async { Ok(first) }).chain(pieces).inspect(move |piece| {
            if let Ok(piece) = piece {
                progress.add(piece);
            }
        });
        let ask = session.client.post(&["messages", "bulk"]).header("content-type", format.media_type())?;
        let ended = match ask.idempotent(&key)?.upload(reqwest::Body::wrap_stream(pieces)).await {
            Ok(response) => read(response).await,
            Err(error) => Err(error),
        };
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
        let again = |error| CliError::Interrupted { cause: Box::new(error), key: key.clone() };
        finish(session, &ended.map_err(&again)?).map_err(|error| match error {
            CliError::Problem(problem) if problem.may_be_repeated() => again(CliError::Problem(problem)),
            error => error,
        })
    }
}

/// What is read, piece by piece, and how much there is where that is known.
fn open(path: &Path) -> std::io::Result<(Pieces, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((read_aside(std::io::stdin()), None));
    }
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(std::io::Error::new(ErrorKind::IsADirectory, "this is a folder; give a file"));
    }
    Ok((read_aside(file), meta.is_file().then_some(meta.len())))
}

fn read_aside(mut input: impl Read + Send + 'static) -> Pieces {
    let (pieces, receiver) = mpsc::channel(CHUNKS_AHEAD);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => Ok(Bytes::copy_from_slice(&buffer[..read])),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = piece.is_err();
            if pieces.blocking_send(piece).is_err() || last {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// One line on stderr that is written over, for those who watch.
struct Progress {
    total: Option<u64>,
    bytes: u64,
    lines: u64,
    begin: Instant,
    shown: Option<Instant>,
    watched: bool,
}

impl Progress {
    fn new(total: Option<u64>) -> Self {
        let watched = std::io::stderr().is_terminal();
        Self { total, bytes: 0, lines: 0, begin: Instant::now(), shown: None, watched }
    }

    fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        if !self.watched {
            return;
        }
        self.lines += memchr::memchr_iter(b'\n', piece).count() as u64;
        let done = self.total.is_some_and(|total| self.bytes >= total);
        if done || self.shown.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            eprint!("\r{}\u{1b}[K", self.line(self.begin.elapsed()));
            self.shown = Some(Instant::now());
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let mib = self.bytes as f64 / f64::from(1 << 20);
        let share = match self.total {
            Some(total) if total > 0 => format!(" ({} %)", (self.bytes * 100 / total).min(100)),
            _ => String::new(),
        };
        let per_s = self.lines as f64 / elapsed.as_secs_f64().max(0.001);
        format!("{mib:.1} MiB{share}, {} lines, {per_s:.0} lines/s", self.lines)
    }
}

#[derive(Deserialize)]
pub(super) struct Report {
    lines: u64,
    accepted: u64,
    replayed: u64,
    segments: u64,
    rejected: u64,
    errors: Vec<BadLine>,
    errors_left_out: u64,
}

#[derive(Deserialize)]
struct BadLine {
    line: u64,
    code: String,
    field: Option<String>,
    detail: String,
}

/// An upload that was ended says what had become of it.
#[derive(Deserialize)]
struct Ended {
    #[serde(flatten)]
    problem: Problem,
    report: Option<Report>,
}

fn finish(session: &Session, answer: &Answer) -> Result<ExitCode, CliError> {
    if let Ok(Ended { problem, report }) = serde_json::from_slice::<Ended>(&answer.body) {
        if session.json {
            print(&answer.line())?;
        } else if let Some(report) = report.filter(|report| report.lines > 0) {
            note("the upload was ended; until then:");
            print(&report.text(&session.screen))?;
        }
        return Err(CliError::Problem(problem));
    }
    let report: Report = answer.view()?;
    let clean = report.rejected == 0;
    session.print(answer, |screen| Ok(report.text(screen)))?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    pub(super) fn text(self, screen: &Screen) -> String {
        let replayed = match self.replayed {
            0 => String::new(),
            replayed => format!(", {replayed} of them by an earlier upload with this key"),
        };
        let mut text = screen.facts([
            ("lines", self.lines.to_string()),
            ("accepted", format!("{}{replayed}", self.accepted)),
            ("segments", self.segments.to_string()),
            ("rejected", self.rejected.to_string()),
        ]);
        if self.errors.is_empty() {
            return text;
        }
        text.push('\n');
        let columns = [Column::Number("line"), Column::Whole("field"), Column::Cut("detail"), Column::Whole("code")];
        let cells = |bad: BadLine| vec![bad.line.to_string(), bad.field.unwrap_or_default(), bad.detail, bad.code];
        text.push_str(&screen.table(&columns, self.errors.into_iter().map(cells)));
        if self.errors_left_out > 0 {
            text.push_str(&format!("and {} more\n", self.errors_left_out));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_out() {
        assert_eq!(Format::of_name(Path::new("a.CSV")), Some(Format::Csv));
        assert_eq!(Format::of_name(Path::new("a.jsonl")), Some(Format::Ndjson));
        assert_eq!(Format::of_name(Path::new("-")), None);
        assert_eq!(Format::of_bytes(b"\xef\xbb\xbf\n {\"to\""), Format::Ndjson);
        assert_eq!(Format::of_bytes(b"to,text\n"), Format::Csv);
    }

    #[test]
    fn progress_is_a_line() {
        let mut progress = Progress { watched: false, ..Progress::new(Some(4 << 20)) };
        progress.add(&[b'\n'; 1 << 20]);
        progress.lines = 500;
        assert_eq!(progress.line(Duration::from_secs(2)), "1.0 MiB (25 %), 500 lines, 250 lines/s");
        let endless = Progress { total: None, ..progress };
        assert_eq!(endless.line(Duration::from_secs(2)), "1.0 MiB, 500 lines, 250 lines/s");
    }

    #[tokio::test]
    async fn a_reader_is_read_to_its_end() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let pieces: Vec<_> = read_aside(std::io::Cursor::new(bytes.clone())).collect().await;
        let read: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap()).collect();
        assert_eq!(read, bytes);
    }
}

//! From a chunk's bytes to checked messages and bad lines. Runs on whatever thread is free: a line costs about as much as
//! everything else that is done for it.

use std::borrow::Cow;

use flotilla_protocol::id::{DeviceId, SimId};

use super::report::BadLine;
use super::split::{Chunk, Lines};
use crate::api::json;
use crate::api::messages::request::{Recipients, SendRequest, Text};
use crate::api::messages::validate::{Checked, check};
use crate::api::problem::{Code, Problem};
use crate::domain::message::{Duplicates, Priority};

/// What a bulk message gets that names no priority.
const PRIORITY: Priority = Priority::Bulk;
const TAG_SEPARATOR: char = ';';

/// How lines are read.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Ndjson,
    Csv(Table),
}

/// A CSV upload's header.
#[derive(Clone, Debug)]
pub(super) struct Table {
    delimiter: u8,
    columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    To,
    Text,
    Data,
    Port,
    From,
    Route,
    MaxCost,
    CallbackUrl,
    Priority,
    SendAt,
    ValidForS,
    Duplicates,
    Sim,
    Device,
    Campaign,
    Tags,
    ClientRef,
    Flash,
}

impl Column {
    const NAMES: [(&str, Self); 18] = [
        ("to", Self::To),
        ("text", Self::Text),
        ("data", Self::Data),
        ("port", Self::Port),
        ("from", Self::From),
        ("route", Self::Route),
        ("max_cost", Self::MaxCost),
        ("callback_url", Self::CallbackUrl),
        ("priority", Self::Priority),
        ("send_at", Self::SendAt),
        ("valid_for_s", Self::ValidForS),
        ("duplicates", Self::Duplicates),
        ("sim", Self::Sim),
        ("device", Self::Device),
        ("campaign", Self::Campaign),
        ("tags", Self::Tags),
        ("client_ref", Self::ClientRef),
        ("flash", Self::Flash),
    ];
}

/// A chunk, read.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) good: Vec<(u64, Checked)>,
    pub(super) bad: Vec<BadLine>,
}

impl Parsed {
    fn add(&mut self, line: u64, result: Result<Checked, Problem>) {
        match result {
            Ok(checked) => self.good.push((line, checked)),
            Err(problem) => self.bad.push(BadLine { line, problem }),
        }
    }
}

impl Shape {
    pub(super) fn parse(&self, chunk: &Chunk, line_bytes_max: usize, now_ms: u64) -> Parsed {
        let mut parsed = Parsed::default();
        match (&chunk.lines, self) {
            (Lines::TooLong, _) => {
                let detail = format!("the line is over {line_bytes_max} bytes; shorten it or send it alone");
                parsed.add(chunk.first_line, Err(Problem::new(Code::BodyTooLarge, detail)));
            }
            (Lines::OpenQuote, _) => {
                let detail = "a quote is opened and not closed; double the quotes inside a field";
                parsed.add(chunk.first_line, Err(Problem::new(Code::InvalidCsv, detail)));
            }
            (Lines::Whole(bytes), Self::Ndjson) => ndjson(bytes, chunk.first_line, now_ms, &mut parsed),
            (Lines::Whole(bytes), Self::Csv(table)) => table.parse(bytes, chunk.first_line, now_ms, &mut parsed),
        }
        parsed
    }
}

fn ndjson(bytes: &[u8], first_line: u64, now_ms: u64, parsed: &mut Parsed) {
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', bytes).chain(std::iter::once(bytes.len()));
    for (line, end) in (first_line..).zip(ends) {
        let text = bytes[start..end].trim_ascii();
        start = end + 1;
        if !text.is_empty() {
            let request = json::parse::<SendRequest<'_>>(text);
            parsed.add(line, request.and_then(|request| check_one(request, now_ms)));
        }
    }
}

fn check_one(request: SendRequest<'_>, now_ms: u64) -> Result<Checked, Problem> {
    if matches!(request.to, Recipients::Many(_)) {
        return Err(Problem::field("to", "one number for each line; give the others lines of their own"));
    }
    check(request, PRIORITY, now_ms)
}

impl Table {
    /// Reads the header off the first chunk's front, and answers where the records begin and on which line.
    pub(super) fn from_header(bytes: &[u8]) -> Result<(Self, usize, u64), Problem> {
        let bom = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let first = bytes[bom..].split(|byte| *byte == b'\n').next().unwrap_or_default();
        // Spreadsheets of many countries write semicolons.
        let delimiter = if first.contains(&b';') && !first.contains(&b',') { b';' } else { b',' };
        let mut reader = reader(&bytes[bom..], delimiter);
        let mut header = csv::StringRecord::new();
        let wrong = |detail: String| Problem::new(Code::InvalidCsv, detail).at("header").position(1, 1);
        let read =
            reader.read_record(&mut header).map_err(|error| wrong(format!("the header can not be read: {error}")))?;
        if !read {
            return Err(wrong("the upload is empty; begin with a header line such as to,text".to_owned()));
        }
        let mut columns = Vec::with_capacity(header.len());
        for name in &header {
            let name = name.trim().to_ascii_lowercase();
            let Some((_, column)) = Column::NAMES.iter().find(|(known, _)| *known == name) else {
                let known: Vec<_> = Column::NAMES.iter().map(|(name, _)| *name).collect();
                return Err(wrong(format!("no column is called {name:?}; use {}", known.join(", "))));
            };
            if columns.contains(column) {
                return Err(wrong(format!("the column {name} is there twice; remove one")));
            }
            columns.push(*column);
        }
        if !columns.contains(&Column::To) {
            return Err(wrong("the column to is missing; the first line has to name the columns".to_owned()));
        }
        let begin = skip_line_ends(bytes, bom + reader.position().byte() as usize);
        Ok((Self { delimiter, columns }, begin, 1 + line_ends(&bytes[..begin])))
    }

    fn parse(&self, bytes: &[u8], first_line: u64, now_ms: u64, parsed: &mut Parsed) {
        let mut reader = reader(bytes, self.delimiter);
        let mut record = csv::ByteRecord::new();
        // The reader counts records' ends, of which there may be none, one or two characters; we count lines.
        let (mut line, mut counted) = (first_line, 0);
        loop {
            match reader.read_byte_record(&mut record) {
                Ok(false) => return,
                Ok(true) => {
                    let start = record.position().map_or(counted, |at| skip_line_ends(bytes, at.byte() as usize));
                    line += line_ends(&bytes[counted..start]);
                    counted = start;
                    let request = self.request(&record);
                    parsed.add(line, request.and_then(|request| check(request, PRIORITY, now_ms)));
                }
                // Reading memory can not fail, and records are flexible: there is nothing else it could be.
                Err(error) => {
                    let detail = format!("not readable as CSV: {error}");
                    parsed.add(line, Err(Problem::new(Code::InvalidCsv, detail)));
                    return;
                }
            }
        }
    }

    fn request<'a>(&self, record: &'a csv::ByteRecord) -> Result<SendRequest<'a>, Problem> {
        if record.len() != self.columns.len() {
            let (found, wanted) = (record.len(), self.columns.len());
            let detail = format!("{found} fields, but the header has {wanted}; put quotes around fields with commas");
            return Err(Problem::new(Code::InvalidCsv, detail));
        }
        let mut request = SendRequest {
            to: Recipients::One(Text(Cow::Borrowed(""))),
            text: None,
            data: None,
            port: None,
            from: None,
            route: None,
            max_cost: None,
            callback_url: None,
            priority: None,
            send_at: None,
            valid_for_s: None,
            duplicates: None,
            sim: None,
            device: None,
            campaign: None,
            tags: Vec::new(),
            client_ref: None,
            encoding: None,
            flash: false,
        };
        for (column, field) in self.columns.iter().zip(record) {
            if field.is_empty() {
                continue;
            }
            let text = std::str::from_utf8(field).map_err(|_| {
                Problem::new(Code::InvalidCsv, "not UTF-8; save the file as UTF-8").at(name_of(*column))
            })?;
            set(&mut request, *column, text)?;
        }
        Ok(request)
    }
}

/// The first place from `at` on that is no line's end.
fn skip_line_ends(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| !b"\r\n".contains(byte)).map_or(bytes.len(), |more| at + more)
}

fn line_ends(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

fn reader(bytes: &[u8], delimiter: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(bytes)
}

fn name_of(column: Column) -> &'static str {
    Column::NAMES.iter().find(|(_, known)| *known == column).map_or("", |(name, _)| name)
}

fn set<'a>(request: &mut SendRequest<'a>, column: Column, field: &'a str) -> Result<(), Problem> {
    let text = Text(Cow::Borrowed(field));
    let wrong = |remedy: &'static str| Problem::field(name_of(column), remedy);
    match column {
        Column::To => request.to = Recipients::One(text),
        Column::Text => request.text = Some(text),
        Column::Data => request.data = Some(text),
        Column::Port => request.port = Some(field.parse().map_err(|_| wrong("give 0 to 65535"))?),
        Column::From => request.from = Some(text),
        Column::Route => request.route = Some(text),
        Column::MaxCost => {
            request.max_cost = Some(field.parse().map_err(|_| wrong("give an amount such as 0.05, with a point"))?);
        }
        Column::CallbackUrl => request.callback_url = Some(text),
        Column::Priority => {
            request.priority = Some(match field {
                "urgent" => Priority::Urgent,
                "high" => Priority::High,
                "normal" => Priority::Normal,
                "bulk" => Priority::Bulk,
                _ => return Err(wrong("give urgent, high, normal or bulk")),
            });
        }
        Column::SendAt => request.send_at = Some(text),
        Column::ValidForS => {
            request.valid_for_s = Some(field.parse().map_err(|_| wrong("give seconds, 60 to 604800"))?)
        }
        Column::Duplicates => {
            request.duplicates = Some(match field {
                "never" => Duplicates::Never,
                "allowed" => Duplicates::Allowed,
                _ => return Err(wrong("give never or allowed")),
            });
        }
        Column::Sim => request.sim = Some(SimId::parse(field).map_err(|_| wrong("give a SIM's id, such as sim_..."))?),
        Column::Device => {
            request.device = Some(DeviceId::parse(field).map_err(|_| wrong("give a device's id, such as dev_..."))?);
        }
        Column::Campaign => request.campaign = Some(text),
        Column::Tags => request.tags = field.split(TAG_SEPARATOR).map(|tag| Text(Cow::Borrowed(tag.trim()))).collect(),
        Column::ClientRef => request.client_ref = Some(text),
        Column::Flash => {
            request.flash = match field {
                "true" | "1" | "yes" => true,
                "false" | "0" | "no" => false,
                _ => return Err(wrong("give true or false")),
            };
        }
    }
    Ok(())
}

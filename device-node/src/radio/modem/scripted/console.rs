//! `flotilla-node scripted-modem`: a scripted modem on a pseudo-terminal, driven by lines on standard input.
//!
//! The first line of output is the port's path. Each PDU that is handed over is appended to the transcript as one line of
//! JSON. Lines on standard input:
//!
//! ```text
//! inbound <number or name> <text>   the network brings a message, in as many parts as it takes
//! notice <line>                     the modem says something of its own accord
//! fail <+CMS ERROR: n>              the network refuses the next message
//! mute | noprompt                   the next message gets no answer | no prompt
//! unplug | plug                     the cable, under the same path when a link was given
//! quit
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flotilla_protocol::address::Address;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::sms::tpdu::{DataCoding, Deliver, Submit};
use flotilla_protocol::sms::{EncodeOptions, plan, segments};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::super::at::to_hex;
use super::machine::{Fault, Log, Machine};
use super::play::Scripted;
use super::profile::Profile;
use super::pty::Pty;

#[derive(Clone, Debug)]
pub struct ConsoleOptions {
    /// A name of [`Profile::names`].
    pub profile: String,
    /// Where PDUs are written to.
    pub transcript: PathBuf,
    /// A symbolic link to the port, which survives `unplug` and `plug`. It is replaced if it exists.
    pub link: Option<PathBuf>,
    pub report_delay_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error("profile {0} is not known; use one of {1}")]
    Profile(String, String),
    #[error("the pseudo-terminal, its link or the transcript can not be used")]
    Io(#[from] io::Error),
}

/// Plays until `lines` ends or says `quit`.
pub async fn run_console(
    options: &ConsoleOptions,
    lines: impl AsyncBufRead + Unpin,
    mut out: impl Write,
) -> Result<(), ConsoleError> {
    let profile = Profile::named(&options.profile).ok_or_else(|| {
        ConsoleError::Profile(options.profile.clone(), Profile::names().collect::<Vec<_>>().join(", "))
    })?;
    let mut transcript = OpenOptions::new().create(true).append(true).open(&options.transcript)?;
    let scripted = Scripted::new(profile);
    let delay_ms = options.report_delay_ms;
    scripted.with(|machine| machine.report = Some((0, delay_ms)));
    let path = plug(options, &scripted)?;
    writeln!(out, "{}", options.link.as_deref().unwrap_or(&path).display())?;
    out.flush()?;
    let (mut lines, mut written) = (lines.lines(), 0);
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                None => return Ok(()),
                Some(line) if line.trim() == "quit" => return Ok(()),
                Some(line) if line.trim() == "plug" => {
                    scripted.with(Machine::plug);
                    plug(options, &scripted)?;
                }
                Some(line) => {
                    if let Err(complaint) = scripted.with(|machine| act(machine, line.trim())) {
                        writeln!(out, "? {complaint}")?;
                        out.flush()?;
                    }
                }
            },
            () = scripted.until(|machine| (machine.log().len() > written).then_some(())) => {
                let news = scripted.with(|machine| machine.log()[written..].to_vec());
                written += news.len();
                news.iter().try_for_each(|entry| write_entry(&mut transcript, entry))?;
            }
        }
    }
}

/// Puts the modem on a new pseudo-terminal, until its cable is pulled.
fn plug(options: &ConsoleOptions, scripted: &Scripted) -> io::Result<PathBuf> {
    let port = open(options)?;
    let path = port.path().to_owned();
    let scripted = scripted.clone();
    tokio::spawn(async move {
        if let Err(error) = scripted.play(port).await {
            tracing::error!(%error, "the scripted modem has lost its port");
        }
    });
    Ok(path)
}

fn open(options: &ConsoleOptions) -> io::Result<Pty> {
    let port = Pty::open()?;
    if let Some(link) = &options.link {
        relink(link, port.path())?;
    }
    Ok(port)
}

fn relink(link: &Path, target: &Path) -> io::Result<()> {
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::os::unix::fs::symlink(target, link),
    }
}

fn act(machine: &mut Machine, line: &str) -> Result<(), String> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "inbound" => {
            let (from, text) = rest.split_once(' ').ok_or("inbound needs a sender and a text")?;
            for tpdu in deliveries(machine, &sender(from), text)? {
                machine.bring(tpdu);
            }
        }
        "notice" => machine.notice(rest),
        // Told to the machine for its whole life: a console has few of them.
        "fail" => machine.fault(Fault::Refused(rest.to_owned().leak())),
        "mute" => machine.fault(Fault::Mute),
        "noprompt" => machine.fault(Fault::NoPrompt),
        "unplug" => machine.unplug(),
        "" => {}
        _ => return Err(format!("{verb} is not known")),
    }
    Ok(())
}

fn sender(text: &str) -> Address {
    match Msisdn::parse(text) {
        Ok(number) => Address::International(number),
        Err(_) if text.bytes().all(|byte| byte.is_ascii_digit()) => Address::Short(text.to_owned()),
        Err(_) => Address::Alphanumeric(text.to_owned()),
    }
}

/// A message from the network, in parts if need be.
pub(in crate::radio::modem) fn deliveries(
    machine: &Machine,
    from: &Address,
    text: &str,
) -> Result<Vec<Vec<u8>>, String> {
    let plan = plan(text, &EncodeOptions::default()).map_err(|error| error.to_string())?;
    let sent = machine.timestamp();
    let reference = (sent.unix_ms / 1000) as u16;
    let deliver = |segment: flotilla_protocol::sms::Segment| {
        let coding = DataCoding::new(segment.encoding, None);
        let deliver = Deliver {
            more_messages: false,
            loop_prevention: false,
            reply_path: false,
            status_report: false,
            from: from.clone(),
            protocol_id: 0,
            coding,
            sent: Some(sent),
            user_data: segment.into(),
        };
        deliver.encode().map_err(|error| error.to_string())
    };
    segments(text, &plan, reference).into_iter().map(deliver).collect()
}

fn write_entry(transcript: &mut File, entry: &Log) -> io::Result<()> {
    let Log::Submitted { tpdu, reference } = entry else { return Ok(()) };
    let submit = Submit::decode(tpdu).map_err(io::Error::other)?;
    let content = submit.user_data.content(submit.coding).map_err(io::Error::other)?;
    let (number, total) = content.udh.concatenation.map_or((1, 1), |part| (part.number, part.total));
    let line = serde_json::json!({
        "tpdu": to_hex(tpdu),
        "reference": reference,
        "to": submit.to.to_string(),
        "text": content.text(),
        "segment": number,
        "segments": total,
        "report": submit.status_report,
    });
    writeln!(transcript, "{line}")?;
    transcript.flush()
}

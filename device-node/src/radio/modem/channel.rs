//! The port with the chat on it: one command at a time, notices set aside meanwhile.
//!
//! After a write has failed, or a command got no answer, what the modem says next may belong to something older;
//! [`Channel::resync`] finds a clean start again.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, sleep, timeout, timeout_at};

use super::at::{Chat, Command, Event, Final, Urc, fields, number, to_hex};
use super::settings::Timing;

/// Notices kept while a command runs. More is noise: the next look at the storage finds what was lost.
const NOTICES_MAX: usize = 256;
/// `AT+CMGL` of a full storage of 255 places answers with twice as many lines.
const ANSWER_LINES_MAX: usize = 1024;

/// Tries to find a clean start, after which a modem is held to be wedged.
pub(super) const RESYNC_TRIES: u32 = 3;
const WAKE_WAIT: Duration = Duration::from_secs(1);

const ESC: u8 = 0x1b;
const CTRL_Z: u8 = 0x1a;

pub(super) trait Port: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Port for T {}

/// Opens the port, again and again.
pub(super) trait Opener: Send + Sync + 'static {
    fn open(&self) -> io::Result<Box<dyn Port>>;
}

pub(super) struct SerialOpener {
    pub(super) path: PathBuf,
    pub(super) baud: u32,
}

impl Opener for SerialOpener {
    fn open(&self) -> io::Result<Box<dyn Port>> {
        let port = serial2_tokio::SerialPort::open(&self.path, self.baud)?;
        // Some modems answer only a terminal that is ready; a pseudo-terminal has no such line.
        let _ = port.set_dtr(true);
        let _ = port.discard_buffers();
        Ok(Box::new(port))
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    #[error("the modem's port failed")]
    Gone(#[from] io::Error),
    #[error("the modem does not answer")]
    Silent,
}

/// What a command brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) end: Final,
    pub(super) lines: Vec<String>,
}

impl Answer {
    pub(super) fn is_ok(&self) -> bool {
        self.end == Final::Ok
    }

    /// The first line of the answer, if the command ended with `OK`.
    pub(super) fn first(&self) -> Option<&str> {
        self.lines.first().map(String::as_str).filter(|_| self.is_ok())
    }
}

/// How the submission of one segment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Submitted {
    /// The network has it. The TP-MR, unless the modem kept it for itself.
    Accepted { reference: Option<u8> },
    /// Refused before the PDU was handed over.
    NotSetUp(Final),
    /// The prompt did not come in time; the modem was told to forget the command.
    NoPrompt,
    /// Given up by the caller's wish when the prompt came.
    Withheld,
    /// Refused after the PDU was handed over.
    Refused(Final),
    /// Handed over, and then no answer.
    Unclear,
}

pub(super) struct Channel {
    port: Box<dyn Port>,
    chat: Chat,
    timing: Timing,
    fresh: VecDeque<Event>,
    notices: VecDeque<Urc>,
    notices_lost: bool,
    last_answer: Instant,
}

impl Channel {
    pub(super) fn new(port: Box<dyn Port>, timing: Timing) -> Self {
        Self {
            port,
            chat: Chat::default(),
            timing,
            fresh: VecDeque::new(),
            notices: VecDeque::new(),
            notices_lost: false,
            last_answer: Instant::now() - timing.gap,
        }
    }

    /// The oldest notice that was set aside.
    pub(super) fn notice(&mut self) -> Option<Urc> {
        self.notices.pop_front()
    }

    /// The oldest direct delivery among the notices: it goes before all others.
    pub(super) fn direct_notice(&mut self) -> Option<Vec<u8>> {
        let at = self.notices.iter().position(|urc| urc.direct().is_some())?;
        self.notices.remove(at)?.direct().map(<[u8]>::to_vec)
    }

    /// True once after notices were dropped.
    pub(super) fn take_notices_lost(&mut self) -> bool {
        std::mem::take(&mut self.notices_lost)
    }

    /// Waits until there is a notice. May be dropped at any time without losing one.
    pub(super) async fn wait_notice(&mut self) -> Result<(), ChannelError> {
        while self.notices.is_empty() {
            let event = match self.fresh.pop_front() {
                Some(event) => event,
                None => {
                    self.read().await?;
                    continue;
                }
            };
            self.set_aside(event);
        }
        Ok(())
    }

    /// Runs an ordinary command.
    pub(super) async fn ask(&mut self, text: &str) -> Result<Answer, ChannelError> {
        self.command(Command::new(text), self.timing.command).await
    }

    /// Runs a command. One that is not answered by a modem that otherwise answers counts as refused: some makers swallow
    /// what they do not know.
    pub(super) async fn command(&mut self, command: Command, within: Duration) -> Result<Answer, ChannelError> {
        match self.exchange(command, within).await {
            Err(ChannelError::Silent) => {
                self.resync(RESYNC_TRIES).await?;
                Ok(Answer { end: Final::Error, lines: Vec::new() })
            }
            answer => answer,
        }
    }

    /// Hands one segment to the modem. `tpdu` goes with an empty SMSC address: the SIM's own is used. `allowed` is asked
    /// at the last moment before the PDU is written.
    pub(super) async fn submit(&mut self, tpdu: &[u8], allowed: impl Fn() -> bool) -> Result<Submitted, ChannelError> {
        self.start(Command::new(format!("AT+CMGS={}", tpdu.len())).with_prompt()).await?;
        let submitted = match self.prompt(Instant::now() + self.timing.prompt).await {
            Ok(None) if allowed() => Ok(self.hand_over(tpdu).await),
            Ok(None) => self.give_up().await.map(|()| Submitted::Withheld),
            Ok(Some(end)) => Ok(Submitted::NotSetUp(end)),
            Err(ChannelError::Silent) => self.give_up().await.map(|()| Submitted::NoPrompt),
            Err(error) => Err(error),
        };
        self.chat.abandon();
        self.last_answer = Instant::now();
        submitted
    }

    /// Finds a clean start: leaves a prompt that may be open, lets old answers run out, and has `AT` answered.
    pub(super) async fn resync(&mut self, tries: u32) -> Result<(), ChannelError> {
        for _ in 0..tries {
            self.chat.abandon();
            // The CR keeps a modem that was at no prompt from reading the ESC as the first letter of the next command.
            self.write(&[ESC, b'\r']).await?;
            self.quiet().await?;
            match self.exchange(Command::new("AT"), self.timing.command.min(WAKE_WAIT)).await {
                Ok(_) => return self.quiet().await,
                Err(ChannelError::Silent) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ChannelError::Silent)
    }

    /// For commands that look through storage or ask the network.
    pub(super) fn slow(&self) -> Duration {
        self.timing.slow_command
    }

    /// Tells a modem that does not answer to start anew. Whether it listens shows when it comes back.
    pub(super) async fn reset(&mut self) -> Result<(), ChannelError> {
        self.chat.abandon();
        self.write(&[ESC, b'\r']).await?;
        self.write(b"AT+CFUN=1,1\r").await
    }

    async fn exchange(&mut self, command: Command, within: Duration) -> Result<Answer, ChannelError> {
        self.start(command).await?;
        let answer = self.answer(Instant::now() + within).await;
        self.chat.abandon();
        self.last_answer = Instant::now();
        answer
    }

    async fn start(&mut self, command: Command) -> Result<(), ChannelError> {
        let pause = self.timing.gap.saturating_sub(self.last_answer.elapsed());
        if !pause.is_zero() {
            sleep(pause).await;
        }
        while let Some(event) = self.fresh.pop_front() {
            self.set_aside(event);
        }
        tracing::trace!(command = command.text().split('=').next(), "command");
        let line = format!("{}\r", command.text());
        self.chat.begin(command);
        self.write(line.as_bytes()).await
    }

    async fn answer(&mut self, deadline: Instant) -> Result<Answer, ChannelError> {
        let mut lines = Vec::new();
        loop {
            match self.event(deadline).await? {
                Event::Info(line) if lines.len() < ANSWER_LINES_MAX => lines.push(line),
                Event::Done(end) => return Ok(Answer { end, lines }),
                event => self.set_aside(event),
            }
        }
    }

    /// `None` when the prompt has come, else how the command ended without it.
    async fn prompt(&mut self, deadline: Instant) -> Result<Option<Final>, ChannelError> {
        loop {
            match self.event(deadline).await? {
                Event::Prompt => return Ok(None),
                Event::Done(end) => return Ok(Some(end)),
                event => self.set_aside(event),
            }
        }
    }

    /// From here on every failure leaves the outcome open.
    async fn hand_over(&mut self, tpdu: &[u8]) -> Submitted {
        let mut pdu = format!("00{}", to_hex(tpdu));
        self.chat.payload(&pdu);
        pdu.push(char::from(CTRL_Z));
        if self.write(pdu.as_bytes()).await.is_err() {
            return Submitted::Unclear;
        }
        let deadline = Instant::now() + self.timing.send;
        let mut accepted = None;
        loop {
            match self.event(deadline).await {
                // The network's answer; the `OK` behind it says nothing more.
                Ok(Event::Info(line)) if line.starts_with("+CMGS") => accepted = Some(number(&fields(&line), 0)),
                Ok(Event::Done(Final::Ok)) => return Submitted::Accepted { reference: accepted.flatten() },
                Ok(Event::Done(end)) if accepted.is_none() => return Submitted::Refused(end),
                Ok(Event::Done(_)) | Err(_) => {
                    return accepted.map_or(Submitted::Unclear, |reference| Submitted::Accepted { reference });
                }
                Ok(event) => self.set_aside(event),
            }
        }
    }

    /// Leaves the prompt, or a command that waits for one, without handing anything over.
    async fn give_up(&mut self) -> Result<(), ChannelError> {
        self.write(&[ESC]).await?;
        match self.answer(Instant::now() + self.timing.quiet).await {
            Ok(_) | Err(ChannelError::Silent) => self.resync(RESYNC_TRIES).await,
            Err(error) => Err(error),
        }
    }

    /// Reads until nothing has come for a while; a modem that never falls silent is given up at the bound.
    async fn quiet(&mut self) -> Result<(), ChannelError> {
        let bound = Instant::now() + self.timing.quiet * 20;
        while Instant::now() < bound {
            match timeout(self.timing.quiet, self.read()).await {
                Ok(read) => read?,
                Err(_) => break,
            }
            while let Some(event) = self.fresh.pop_front() {
                self.set_aside(event);
            }
        }
        Ok(())
    }

    async fn event(&mut self, deadline: Instant) -> Result<Event, ChannelError> {
        loop {
            if let Some(event) = self.fresh.pop_front() {
                return Ok(event);
            }
            timeout_at(deadline, self.read()).await.map_err(|_| ChannelError::Silent)??;
        }
    }

    fn set_aside(&mut self, event: Event) {
        let Event::Urc(urc) = event else { return };
        if let Urc::Other(name) = &urc {
            tracing::trace!(name, "notice");
        } else if self.notices.len() < NOTICES_MAX {
            self.notices.push_back(urc);
        } else {
            self.notices_lost = true;
        }
    }

    async fn read(&mut self) -> Result<(), ChannelError> {
        let mut buffer = [0; 512];
        let count = self.port.read(&mut buffer).await?;
        if count == 0 {
            return Err(ChannelError::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut events = Vec::new();
        self.chat.push(&buffer[..count], &mut events);
        self.fresh.extend(events);
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        // A wedged USB modem takes no more bytes: that is silence too.
        timeout(self.timing.command, self.port.write_all(bytes)).await.map_err(|_| ChannelError::Silent)??;
        Ok(())
    }
}

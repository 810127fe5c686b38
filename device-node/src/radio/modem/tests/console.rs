//! A node with a scripted modem on a pty, driven by the console as a person would.

use std::io::Write;
use std::sync::mpsc;

use tokio::io::{AsyncWriteExt, BufReader};

use super::super::scripted::{ConsoleOptions, run_console};
use super::*;
use crate::clock::SystemClock;
use crate::radio::Delivery;

/// Lines written to it come out of a channel.
struct Told(mpsc::Sender<String>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a node with `[[modem]]` and `flotilla-node scripted-modem` do together.
#[tokio::test]
async fn a_node_s_modem_and_the_console() {
    let dir = tempfile::tempdir().unwrap();
    let options = ConsoleOptions {
        profile: "quectel".to_owned(),
        transcript: dir.path().join("transcript.jsonl"),
        link: Some(dir.path().join("port")),
        report_delay_ms: 20,
    };
    let (mut hand, lines) = tokio::io::duplex(1024);
    let (told, _out) = mpsc::channel();
    let played = options.clone();
    let console = tokio::spawn(async move { run_console(&played, BufReader::new(lines), Told(told)).await });
    let config = ModemConfig::new(dir.path().join("port"));
    let clock = Arc::new(SystemClock);
    let modem = Modem::start(&config, 3, &dir.path().join("modem"), clock).unwrap();
    let (scripted, clock) = (Scripted::new(Profile::named("quectel").unwrap()), Arc::new(TokioClock(Instant::now())));
    let mut rig = Rig { modem, scripted, clock, passed: VecDeque::new(), messages: 0 };
    rig.until_state(SimState::Ready).await;

    let outcome = rig.send("Привет, как дела?").await;
    let SendOutcome::Sent { segments: 1, .. } = outcome else { panic!("{outcome:?}") };
    let delivered = |event: &RadioEvent| match event {
        RadioEvent::StatusReport { delivery, token, .. } => Some((delivery.clone(), *token)),
        _ => None,
    };
    let (delivery, token) = rig.until(delivered).await;
    assert_eq!(delivery, Delivery::Delivered);
    rig.modem.stored(3, token);
    hand.write_all("nonsense\ninbound VODACOM Karibu sana\n".as_bytes()).await.unwrap();
    let received = rig.inbound().await;
    assert_eq!((received.text.as_str(), received.from), ("Karibu sana", Address::Alphanumeric("VODACOM".to_owned())));

    hand.write_all(b"quit\n").await.unwrap();
    console.await.unwrap().unwrap();
    let transcript = std::fs::read_to_string(&options.transcript).unwrap();
    let entry: serde_json::Value = serde_json::from_str(transcript.lines().next().unwrap()).unwrap();
    assert_eq!(entry["text"], "Привет, как дела?");
    assert_eq!((entry["to"].as_str(), &entry["segments"]), (Some("+255754000001"), &serde_json::json!(1)));
}

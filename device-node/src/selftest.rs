//! Everything that sending needs, looked at one by one, with a remedy for what is wrong.

use std::future::poll_fn;
use std::path::Path;
use std::time::Duration;

use flotilla_protocol::wire::{Hello, Refusal, SimInfo, SimState};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::agent::{AgentStatus, LineStatus};
use crate::clock::{Clock, SystemClock};
use crate::identity::{Identity, IdentityStore};
use crate::link::{ConnectError, Links, Transport};
use crate::radio::{Radio, RadioEvent};

/// Enough for a modem that has just been plugged in.
const RADIO_PATIENCE: Duration = Duration::from_secs(45);
/// When this program was written; no clock is right that says less.
const BUILT_S: u64 = 1_760_000_000;
const FREE_BYTES_MIN: u64 = 64 << 20;
const DAY_S: u64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Warning,
    Failed,
}

#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub what: String,
    pub verdict: Verdict,
    pub detail: String,
}

/// One finding.
pub fn check(what: &str, verdict: Verdict, detail: impl Into<String>) -> Check {
    Check { what: what.into(), verdict, detail: detail.into() }
}

pub fn folder(data_dir: &Path) -> Check {
    let what = "data folder";
    let probe = data_dir.join(".selftest");
    let written = std::fs::create_dir_all(data_dir).and_then(|()| std::fs::write(&probe, b"x"));
    if let Err(error) = written.and_then(|()| std::fs::remove_file(&probe)) {
        return check(what, Verdict::Failed, format!("{} can not be written: {error}", data_dir.display()));
    }
    match rustix::fs::statvfs(data_dir).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)) {
        Ok(free) if free < FREE_BYTES_MIN => {
            check(what, Verdict::Warning, format!("only {} MiB are free: make room", free >> 20))
        }
        Ok(free) => check(what, Verdict::Ok, format!("{}, {} MiB free", data_dir.display(), free >> 20)),
        Err(error) => check(what, Verdict::Warning, format!("free space is unknown: {error}")),
    }
}

pub fn clock() -> Check {
    let now_s = SystemClock.now().unix_ms / 1000;
    match now_s {
        past if past < BUILT_S => check("clock", Verdict::Failed, "the clock is in the past: set it, or start NTP"),
        _ => check("clock", Verdict::Ok, format!("{now_s} s since 1970")),
    }
}

pub fn certificate(store: &IdentityStore) -> (Check, Option<Identity>) {
    let what = "certificate";
    let identity = match store.load() {
        Ok(Some(identity)) => identity,
        Ok(None) => {
            return (check(what, Verdict::Failed, "not enrolled: run `flotilla-node enroll` with a code"), None);
        }
        Err(error) => return (check(what, Verdict::Failed, error.to_string()), None),
    };
    let now_s = SystemClock.now().unix_ms / 1000;
    let credential = &identity.credential;
    let left_h = credential.not_after_s.saturating_sub(now_s) / 3600;
    let found = match () {
        () if now_s < credential.not_before_s => {
            check(what, Verdict::Failed, "not valid yet: this machine's clock is behind")
        }
        () if credential.is_over(now_s) => {
            check(what, Verdict::Warning, "expired: the node will ask for a new one with its key when it runs")
        }
        () if credential.not_after_s < now_s + DAY_S => check(what, Verdict::Warning, format!("ends in {left_h} h")),
        () => check(what, Verdict::Ok, format!("{} of {}, ends in {left_h} h", identity.device, identity.tenant_name)),
    };
    (found, Some(identity))
}

/// One check for each controller: up to its welcome, for a handshake succeeds before anybody has looked whether this device
/// is revoked. `hello` takes the place of a running node's session, so no node may run meanwhile; and the controllers
/// believe its inventory. What this device holds is not told, so they give it no work.
pub async fn controllers(identity: &Identity, hello: &Hello) -> Vec<Check> {
    let links = match Links::bind(1) {
        Ok(links) => links,
        Err(error) => return vec![check("controllers", Verdict::Failed, format!("no UDP socket: {error}"))],
    };
    let config = match links.link_config(&identity.credential, &identity.roots_der) {
        Ok(config) => config,
        Err(error) => return vec![check("controllers", Verdict::Failed, error.to_string())],
    };
    let (mut checks, mut met) = (Vec::new(), false);
    for controller in &identity.controllers {
        let what = format!("controller {controller}");
        let start = Instant::now();
        let hello = || Hello { device_ms: SystemClock.now().boot_ms, ..hello.clone() };
        checks.push(match links.connect(&config, std::slice::from_ref(controller), hello).await {
            Ok((session, _)) => {
                let transport = session.transport();
                session.hang_up();
                met = true;
                welcomed(&what, transport, start.elapsed())
            }
            Err(error) => turned_away(&what, &error),
        });
    }
    links.close().await;
    if !met {
        checks.iter_mut().for_each(|check| check.verdict = Verdict::Failed);
    }
    checks
}

fn welcomed(what: &str, transport: Transport, after: Duration) -> Check {
    let word = format!("welcomes this device in {} ms", after.as_millis());
    match transport {
        Transport::Quic => check(what, Verdict::Ok, format!("{word}, over QUIC")),
        Transport::Tcp => {
            let remedy = "over TCP, because UDP does not pass: open UDP on the way there";
            check(what, Verdict::Warning, format!("{word}, {remedy}"))
        }
    }
}

/// One controller may send a device to others, as long as one of them welcomes it.
fn turned_away(what: &str, error: &ConnectError) -> Check {
    match error {
        ConnectError::Redirected(_) | ConnectError::Refused { reason: Refusal::Busy | Refusal::ShuttingDown, .. } => {
            check(what, Verdict::Warning, error.to_string())
        }
        ConnectError::Timeout | ConnectError::Connection(_) | ConnectError::Tcp(_) => {
            check(what, Verdict::Failed, format!("{error}; is UDP, or at least TCP, open on the way there?"))
        }
        _ => check(what, Verdict::Failed, error.to_string()),
    }
}

/// Waits until every SIM is ready, or for long enough.
pub async fn radios(mut radio: Box<dyn Radio>) -> Vec<SimInfo> {
    let end = Instant::now() + RADIO_PATIENCE;
    let mut sims = radio.sims();
    while sims.iter().any(|sim| sim.state != SimState::Ready) {
        match timeout_at(end, poll_fn(|cx| radio.poll_event(cx))).await {
            Ok(Some(RadioEvent::Sims(changed))) => sims = changed,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    sims
}

/// The word of a running node about its line and its SIMs: both are its own, and it knows best.
pub fn running(device: &AgentStatus) -> Vec<Check> {
    let sims = device.sims.iter().map(|one| verdict(one.slot, one.state, &one.operator));
    std::iter::once(line(&device.line)).chain(sims).collect()
}

fn line(line: &LineStatus) -> Check {
    let (verdict, word) = match (&line.controller, &line.last_error) {
        (Some(controller), _) if line.transport == Some(Transport::Tcp) => {
            (Verdict::Warning, format!("connected to {controller} over TCP: UDP does not pass"))
        }
        (Some(controller), _) => (Verdict::Ok, format!("connected to {controller}")),
        (None, Some(error)) => (Verdict::Failed, format!("not connected: {error}")),
        (None, None) => (Verdict::Failed, "not connected yet, try again in a moment".to_owned()),
    };
    check("controllers", verdict, format!("{word} (says the running node, whose session a test would end)"))
}

/// What there is to say about one SIM.
pub fn sim(sim: &SimInfo) -> Check {
    verdict(sim.slot, sim.state, &sim.operator)
}

fn verdict(slot: u8, state: SimState, operator: &str) -> Check {
    let what = format!("SIM in slot {slot}");
    let remedy = match state {
        SimState::Ready => return check(&what, Verdict::Ok, operator),
        SimState::Absent => "no modem or no SIM: look at port, cable and tray",
        SimState::PinRequired => "locked: set `pin` in the configuration",
        SimState::PukRequired => "locked by wrong PINs: unlock it in a phone with its PUK",
        SimState::Blocked => "blocked by its operator",
        SimState::NotRegistered => "no network: look at antenna and coverage",
        SimState::Faulty => "the modem does not answer as it should: unplug it and plug it in",
    };
    check(&what, Verdict::Failed, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_not_be_written_fails() {
        let folder_here = tempfile::tempdir().unwrap();
        assert_ne!(folder(folder_here.path()).verdict, Verdict::Failed);
        let file = folder_here.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(folder(&file).verdict, Verdict::Failed);
        assert_eq!(clock().verdict, Verdict::Ok);
    }

    #[test]
    fn who_is_not_enrolled_is_told_how() {
        let folder = tempfile::tempdir().unwrap();
        let (check, identity) = certificate(&IdentityStore::fleeting(folder.path().join("identity")));
        assert!(identity.is_none());
        assert!(check.detail.contains("flotilla-node enroll"));
    }

    #[test]
    fn a_running_node_is_taken_at_its_word() {
        let up = LineStatus { connected: true, controller: Some("c:1".into()), ..LineStatus::default() };
        assert_eq!(line(&up).verdict, Verdict::Ok);
        let fallback = LineStatus { transport: Some(Transport::Tcp), ..up };
        assert_eq!(line(&fallback).verdict, Verdict::Warning);
        let down = LineStatus { last_error: Some("no answer".into()), ..LineStatus::default() };
        assert_eq!(line(&down).verdict, Verdict::Failed);
        assert!(line(&down).detail.contains("no answer") && line(&down).detail.contains("running node"));
        assert_eq!(line(&LineStatus::default()).verdict, Verdict::Failed);
    }

    #[test]
    fn every_state_of_a_sim_has_a_remedy() {
        let info = |state| SimInfo {
            slot: 3,
            state,
            iccid: None,
            imsi: None,
            msisdn: None,
            home: None,
            operator: "Net".into(),
            depth: 1,
        };
        assert_eq!(sim(&info(SimState::Ready)).verdict, Verdict::Ok);
        let locked = sim(&info(SimState::PinRequired));
        assert_eq!((locked.verdict, locked.what.as_str()), (Verdict::Failed, "SIM in slot 3"));
    }
}

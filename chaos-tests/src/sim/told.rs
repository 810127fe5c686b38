//! Frames in the words of the log.

use flotilla_protocol::wire::{Attempt, Down, Report, ReportKind, Up};

use super::writes::tail;

fn attempt(attempt: &Attempt) -> String {
    format!("{}/{}", tail(attempt.message), attempt.number)
}

fn attempts<'a>(all: impl IntoIterator<Item = &'a Attempt>) -> String {
    all.into_iter().map(attempt).collect::<Vec<_>>().join(" ")
}

pub(super) fn down(frame: &Down) -> String {
    match frame {
        Down::Dispatch(one) => format!("dispatch {} granted={}", attempt(&one.attempt), one.granted),
        Down::Go { attempts: some, .. } => format!("go {}", attempts(some)),
        Down::Cancel { attempts: some } => format!("cancel {}", attempts(some)),
        Down::AckReports { position } => format!("acknowledges reports to {position}"),
        Down::Refused { reason, .. } => format!("refused {reason:?}"),
        Down::Welcome(welcome) => format!("welcome, epoch {}", welcome.epoch),
        Down::Redirect { controllers } => format!("go to {controllers:?}"),
        Down::Resume => "resume".into(),
        Down::Pong { .. } => "pong".into(),
        _ => "other".into(),
    }
}

pub(super) fn up(frame: &Up) -> String {
    match frame {
        Up::Hello(hello) => format!("hello, seen epoch {}", hello.epoch_seen),
        Up::Report(one) => report(one),
        Up::Accepted { attempt: one } => format!("has {}", attempt(one)),
        Up::Holding { held, last } => {
            format!("holds {} last={last}", attempts(held.iter().map(|held| &held.attempt)))
        }
        Up::Ping { .. } => "ping".into(),
        Up::Sims { .. } => "sims".into(),
        _ => "other".into(),
    }
}

pub(super) fn report(report: &Report) -> String {
    let position = report.position % 1_000_000;
    match &report.kind {
        ReportKind::Sent { attempt: one, .. } => format!("report {position}: sent {}", attempt(one)),
        ReportKind::NotSent { attempt: one, reason } => format!("report {position}: {reason:?} {}", attempt(one)),
        ReportKind::Failed { attempt: one, .. } => format!("report {position}: failed {}", attempt(one)),
        ReportKind::Unknown { attempt: one } => format!("report {position}: unknown {}", attempt(one)),
        ReportKind::Delivered { attempt: one, segment } => {
            format!("report {position}: delivered {} segment {segment}", attempt(one))
        }
        ReportKind::Undelivered { attempt: one, .. } => format!("report {position}: undelivered {}", attempt(one)),
        ReportKind::Inbound(_) => format!("report {position}: inbound"),
    }
}

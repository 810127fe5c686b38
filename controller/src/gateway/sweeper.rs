//! One task for what would otherwise be a timer in each session: cuts those that do not read their last words, or nothing
//! at all, notices those that have gone silent, and writes now and then who was seen.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::wire::Refusal;
use tokio::time::{MissedTickBehavior, interval};

use super::Context;
use crate::fleet::certificates;

/// What is silent is noticed so late at most.
const EVERY: Duration = Duration::from_millis(500);
/// From the refusal of a session to its end, whatever the device does.
const CLOSING_MS_MAX: u64 = 3_000;
/// A device that takes in nothing for so long is not there.
const WRITING_MS_MAX: u64 = 30_000;
const SEEN_EVERY_MS: u64 = 300_000;
const PRUNE_EVERY_MS: u64 = 86_400_000;

pub(super) async fn run(context: Arc<Context>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start_ms = context.clock.now().mono_ms;
    let (mut seen_ms, mut pruned_ms) = (start_ms, start_ms);
    loop {
        ticks.tick().await;
        let now_ms = context.clock.now().mono_ms;
        cut(&context, now_ms);
        for peer in context.sessions.watched(now_ms) {
            peer.listen(now_ms);
        }
        write_left(&context).await;
        if now_ms.saturating_sub(seen_ms) >= SEEN_EVERY_MS {
            seen_ms = now_ms;
            write_present(&context).await;
        }
        if now_ms.saturating_sub(pruned_ms) >= PRUNE_EVERY_MS {
            pruned_ms = now_ms;
            if let Err(error) = certificates::prune(&*context.catalog, context.clock.now().unix_ms / 1000).await {
                tracing::warn!(%error, "cannot forget old certificates");
            }
        }
    }
}

fn cut(context: &Context, now_ms: u64) {
    let over = |since_ms: u64, limit_ms: u64| now_ms.saturating_sub(since_ms) > limit_ms;
    for peer in context.sessions.unfinished() {
        match (peer.closing(), peer.outbox.writing_since_ms()) {
            (Some((end, since_ms)), _) if over(since_ms, CLOSING_MS_MAX) => peer.cut(end),
            (None, Some(since_ms)) if over(since_ms, WRITING_MS_MAX) => {
                peer.refuse(Refusal::Busy, "the device does not read", now_ms);
            }
            _ => {}
        }
    }
}

async fn write_left(context: &Context) {
    let left = context.sessions.take_left();
    if !left.is_empty() {
        write(context, left).await;
    }
}

async fn write_present(context: &Context) {
    let now_ms = context.clock.now().unix_ms;
    let present = context.sessions.all().iter().map(|peer| (peer.device(), now_ms)).collect();
    write(context, present).await;
}

async fn write(context: &Context, seen: Vec<(flotilla_protocol::id::DeviceId, u64)>) {
    if let Err(error) = context.devices.touch(seen).await {
        tracing::warn!(%error, "cannot write when devices were seen");
    }
}

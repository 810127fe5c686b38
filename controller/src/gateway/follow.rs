//! Devices follow their shard. When it is led by another controller, its sessions here end with `Redirect`.
//!
//! They go at a pace, so that the next controller gets no storm of handshakes. While nobody is known to lead the shard its
//! devices stay: with no leader there is nothing that another controller could give them. Only when this controller has had
//! no word of the cluster for a while it may be cut off from it alone; then they are sent to the others, which may know more.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, TenantId};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Context;
use super::limits::{Bucket, Rate};
use super::peer::Peer;
use crate::fleet::controllers::{Controllers, spread_of};

/// Between two looks when no change of the view has been heard of.
const EVERY: Duration = Duration::from_secs(1);
/// Sessions that are sent away in a second: half of what a controller's door takes in.
const PACE: Rate = Rate { burst: 32, per_s: 1_000 };
/// So long nobody may be known to lead, without fresh word of the cluster, until the others are asked.
const PATIENCE_MS: u64 = 10_000;

pub(super) async fn run(context: Arc<Context>) {
    let mut views = context.controllers.views();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    told.news(&context.controllers);
    let mut homeless = FxHashMap::default();
    let mut heard = true;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // An error: there is no source of views any more, so the last one is the last.
            changed = views.changed(), if heard => heard = changed.is_ok(),
        }
        if told.news(&context.controllers) {
            for peer in context.sessions.all() {
                peer.tell_controllers(context.controllers.all(spread_of(peer.device())));
            }
        }
        let moving = moving(&context, &mut homeless);
        send_on(&context, moving).await;
    }
}

/// The addresses that devices have been told of.
#[derive(Default)]
struct Told(FxHashSet<String>);

impl Told {
    /// Whether there is an address that was not there before. That one is missing is no news: devices that keep the address
    /// of a controller which is away for a while lose nothing.
    fn news(&mut self, controllers: &Controllers) -> bool {
        let now: FxHashSet<String> = controllers.others(0).into_iter().collect();
        let news = !now.is_subset(&self.0);
        self.0 = now;
        news
    }
}

/// Where a session belongs.
enum Place {
    Here,
    At(Vec<String>),
    Unknown,
}

fn place(context: &Context, peer: &Peer) -> Place {
    let spread = spread_of(peer.device());
    match context.shards.of(peer.tenant()) {
        Some(door) if door.epoch() == peer.epoch => Place::Here,
        // Lost and won back: the session belongs to the leadership before, and begins anew.
        Some(_) => Place::At(context.controllers.all(spread)),
        None => context.controllers.leader_elsewhere(peer.tenant(), spread).map_or(Place::Unknown, Place::At),
    }
}

/// Sessions that have to go. `homeless` keeps since when a session's shard has no leader that is known.
fn moving(context: &Context, homeless: &mut FxHashMap<u64, u64>) -> Vec<Arc<Peer>> {
    let now_ms = context.clock.now().mono_ms;
    let mut still = FxHashMap::default();
    // Sessions of one tenant have one answer, and there are many of them.
    let mut here: FxHashMap<(TenantId, Epoch), bool> = FxHashMap::default();
    let mut moving = Vec::new();
    for peer in context.sessions.all() {
        let key = (peer.tenant(), peer.epoch);
        let is_here = *here.entry(key).or_insert_with(|| matches!(place(context, &peer), Place::Here));
        if is_here || peer.closing().is_some() {
            continue;
        }
        let since_ms = *homeless.get(&peer.session).unwrap_or(&now_ms);
        if destination(context, &peer, now_ms.saturating_sub(since_ms)).is_some() {
            moving.push(peer);
        } else {
            still.insert(peer.session, since_ms);
        }
    }
    *homeless = still;
    moving
}

fn destination(context: &Context, peer: &Peer, homeless_ms: u64) -> Option<Vec<String>> {
    match place(context, peer) {
        Place::Here => None,
        Place::At(controllers) => Some(controllers),
        Place::Unknown if homeless_ms >= PATIENCE_MS && !context.controllers.is_fresh() => elsewhere(context, peer),
        Place::Unknown => None,
    }
}

/// The other controllers, the leader of the device's shard first if another one leads it. `None` when this one is alone.
pub(super) fn elsewhere(context: &Context, peer: &Peer) -> Option<Vec<String>> {
    let spread = spread_of(peer.device());
    let leader = context.controllers.leader_elsewhere(peer.tenant(), spread);
    leader.or_else(|| Some(context.controllers.others(spread)).filter(|others| !others.is_empty()))
}

async fn send_on(context: &Context, moving: Vec<Arc<Peer>>) {
    if moving.is_empty() {
        return;
    }
    tracing::info!(sessions = moving.len(), "devices follow their shards to other controllers");
    let mut pace = Bucket::new(PACE, context.clock.now().mono_ms);
    for peer in moving {
        while !pace.take(1, context.clock.now().mono_ms) {
            sleep(Duration::from_millis(pace.wait_ms(context.clock.now().mono_ms).max(1))).await;
        }
        // The world may have changed in the meantime.
        if let Some(controllers) = destination(context, &peer, PATIENCE_MS) {
            peer.redirect(controllers, context.clock.now().mono_ms);
        }
    }
}

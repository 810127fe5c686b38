//! Tells the journal what nobody needs any more: what every follower that keeps something has made durable, of the shards
//! that this node leads. A shard's leader alone knows that.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::ShardId;
use tokio_util::sync::CancellationToken;

use super::FollowHandle;
use crate::store::Journal;

const EVERY: Duration = Duration::from_secs(1);

/// Runs until `shutdown`. Give it every follower whose data come from the journal alone.
pub async fn trim_behind(followers: Vec<FollowHandle>, journal: Arc<dyn Journal>, shutdown: CancellationToken) {
    let mut told = vec![0; usize::from(journal.shards())];
    loop {
        trim_once(&followers, journal.as_ref(), &mut told).await;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// `told`: what each shard was trimmed to before.
pub(super) async fn trim_once(followers: &[FollowHandle], journal: &dyn Journal, told: &mut [u64]) {
    for (number, told) in told.iter_mut().enumerate() {
        let shard = ShardId(number as u16);
        // `None` is less than any position.
        let Some(up_to) = followers.iter().map(|follower| follower.durable(shard)).min().flatten() else { continue };
        if up_to <= *told {
            continue;
        }
        match journal.trim(shard, up_to).await {
            Ok(()) => *told = up_to,
            Err(error) => tracing::warn!(%shard, %error, "the journal cannot be trimmed"),
        }
    }
}

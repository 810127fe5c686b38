//! What other controllers have changed in the catalog and live links here have to feel: revoked devices, disabled tenants, a
//! rotated CA. Each look is a few small queries; at `Hello` the catalog is asked anyway.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::TenantId;
use flotilla_protocol::wire::Refusal;
use rustc_hash::FxHashSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Context;
use super::hello::TENANT_DISABLED;
use crate::ca::CaError;
use crate::fleet::tenants;
use crate::store::SqlError;

const EVERY: Duration = Duration::from_secs(2);
const CATALOG_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Ca(#[from] CaError),
}

pub(super) async fn run(context: Arc<Context>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut blind = false;
    loop {
        ticks.tick().await;
        let failed = match timeout(CATALOG_DEADLINE, look(&context)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(error) = failed.as_ref().filter(|_| !blind) {
            tracing::warn!(error, "what other controllers change is not seen at the moment");
        }
        blind = failed.is_some();
    }
}

async fn look(context: &Context) -> Result<(), LookError> {
    let now = context.clock.now();
    context.ca.refresh(now.unix_ms / 1000).await?;
    for (device, serial) in context.deny.refresh(&*context.catalog, now.unix_ms / 1000).await? {
        let peer = context.sessions.get(device).filter(|peer| peer.identity.serial == serial);
        if let Some(peer) = peer {
            peer.refuse(Refusal::Revoked, "revoked by its owner", now.mono_ms);
        }
    }
    if context.sessions.len() == 0 {
        return Ok(());
    }
    let disabled: FxHashSet<TenantId> = tenants::disabled(&*context.catalog).await?.into_iter().collect();
    if disabled.is_empty() {
        return Ok(());
    }
    for peer in context.sessions.all().into_iter().filter(|peer| disabled.contains(&peer.tenant())) {
        // Passes, unlike a revocation: the device comes back when the tenant is enabled.
        peer.refuse(Refusal::Busy, TENANT_DISABLED, now.mono_ms);
    }
    Ok(())
}

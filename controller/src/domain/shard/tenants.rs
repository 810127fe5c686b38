//! What tenants have set, and what devices tell about their state: both only change what is chosen from now on.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::wire::Telemetry;
use flotilla_routing::settings::TenantRouting;

use super::{Machine, Now};

impl Machine {
    pub(super) fn set_tenant(&mut self, tenant: TenantId, routing: Arc<TenantRouting>, _now: Now) {
        self.tenants.insert(tenant, routing);
    }

    /// Kept for the choice; one of an earlier link says nothing any more.
    pub(super) fn telemetry(&mut self, id: DeviceId, session: u64, telemetry: &Telemetry, _now: Now) {
        let Some(device) = self.session_mut(id, session) else { return };
        device.telemetry = Some(Box::new(telemetry.clone()));
    }
}

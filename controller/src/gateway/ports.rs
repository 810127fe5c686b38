//! What the gateway needs of the rest of the controller, as small traits, so that it can be run and tested without it.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, EnrollmentId, Epoch, ProviderId, SimId, TenantId};
use flotilla_protocol::wire::{Held, Report, Telemetry};
use flotilla_routing::Micros;
use flotilla_routing::table::Notice;

use crate::fleet::sims::SimChange;
use crate::providers::account::NotedBalance;
use crate::shard::{DeviceSink, Link, RouteSim, ShardHandle, Shards};

/// Finds the shard of a tenant; `None` while this node does not lead it.
pub trait ShardDoors: Send + Sync + 'static {
    fn of(&self, tenant: TenantId) -> Option<Arc<dyn ShardDoor>>;
}

/// One shard, as a session sees it. Nothing here waits.
pub trait ShardDoor: Send + Sync + 'static {
    fn epoch(&self) -> Epoch;
    fn device_up(&self, link: Link, sink: Arc<dyn DeviceSink>);
    fn device_changed(&self, device: DeviceId, session: u64, sims: Vec<RouteSim>, accepts_work: bool);
    fn device_down(&self, device: DeviceId, session: u64);
    fn telemetry(&self, device: DeviceId, session: u64, telemetry: Telemetry);
    fn reports(&self, device: DeviceId, session: u64, reports: Vec<Report>);
    fn held(&self, device: DeviceId, session: u64, held: Vec<Held>, last: bool);
}

impl ShardDoors for Shards {
    fn of(&self, tenant: TenantId) -> Option<Arc<dyn ShardDoor>> {
        Shards::of(self, tenant).ok().map(|handle| Arc::new(handle) as Arc<dyn ShardDoor>)
    }
}

impl ShardDoor for ShardHandle {
    fn epoch(&self) -> Epoch {
        ShardHandle::epoch(self)
    }

    fn device_up(&self, link: Link, sink: Arc<dyn DeviceSink>) {
        ShardHandle::device_up(self, link, sink);
    }

    fn device_changed(&self, device: DeviceId, session: u64, sims: Vec<RouteSim>, accepts_work: bool) {
        ShardHandle::device_changed(self, device, session, sims, accepts_work);
    }

    fn device_down(&self, device: DeviceId, session: u64) {
        ShardHandle::device_down(self, device, session);
    }

    fn telemetry(&self, device: DeviceId, session: u64, telemetry: Telemetry) {
        ShardHandle::telemetry(self, device, session, telemetry);
    }

    fn reports(&self, device: DeviceId, session: u64, reports: Vec<Report>) {
        ShardHandle::reports(self, device, session, reports);
    }

    fn held(&self, device: DeviceId, session: u64, held: Vec<Held>, last: bool) {
        ShardHandle::held(self, device, session, held, last);
    }
}

/// What watchers of the fleet are told. None of it is in the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum FleetEvent {
    Online {
        device: DeviceId,
        software: String,
    },
    Offline {
        device: DeviceId,
    },
    Sim {
        device: DeviceId,
        sim: SimId,
        change: SimChange,
    },
    Telemetry {
        device: DeviceId,
        telemetry: Box<Telemetry>,
    },
    /// A route rests, works again, or may soon be blocked; a budget is nearly spent, or spent.
    Routing(Notice),
    /// A balance was told that is not above what was set for it.
    LowBalance {
        sim: SimId,
        amount: Micros,
    },
    /// Somebody came with a code that `device` had used before.
    EnrollmentReused {
        enrollment: EnrollmentId,
        device: Option<DeviceId>,
    },
    /// The account is at work, or has answered again.
    ProviderUp {
        provider: ProviderId,
    },
    ProviderDown {
        provider: ProviderId,
        reason: String,
    },
    /// It has fallen below what its account asks for.
    ProviderLowBalance {
        provider: ProviderId,
        balance: NotedBalance,
    },
}

/// Where they go. Never blocks.
pub trait FleetEvents: Send + Sync + 'static {
    fn publish(&self, tenant: TenantId, event: FleetEvent);
}

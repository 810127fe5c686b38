//! What can carry a message.

use flotilla_protocol::id::{DeviceId, ProviderId, SenderId, SimId};
use serde::{Deserialize, Serialize};

/// Classes of service, served strictly in this order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Urgent,
    High,
    #[default]
    Normal,
    Bulk,
}

impl Priority {
    pub const ALL: [Self; 4] = [Self::Urgent, Self::High, Self::Normal, Self::Bulk];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// A SIM in an enrolled device.
    Sim,
    /// A sender of a provider account.
    Provider,
}

/// What an attempt is made on: a SIM of a device, or a sender of a provider account. A provider account takes the place of a
/// device everywhere (it has a session, a window, attempts that it holds), and a sender that of a SIM, with the same bytes
/// as ids; `kind` says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    pub kind: RouteKind,
    pub device: DeviceId,
    pub sim: SimId,
}

impl Route {
    pub const fn sim(device: DeviceId, sim: SimId) -> Self {
        Self { kind: RouteKind::Sim, device, sim }
    }

    pub const fn provider(provider: ProviderId, sender: SenderId) -> Self {
        Self {
            kind: RouteKind::Provider,
            device: DeviceId::from_bytes(provider.to_bytes()),
            sim: SimId::from_bytes(sender.to_bytes()),
        }
    }

    pub fn is_provider(&self) -> bool {
        self.kind == RouteKind::Provider
    }

    /// The account and its sender, when it is one.
    pub fn as_provider(&self) -> Option<(ProviderId, SenderId)> {
        self.is_provider()
            .then(|| (ProviderId::from_bytes(self.device.to_bytes()), SenderId::from_bytes(self.sim.to_bytes())))
    }
}

/// What a route is to the API: a SIM in a device, or a sender of a provider account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RouteIds {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub device: Option<DeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sim: Option<SimId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub provider: Option<ProviderId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sender: Option<SenderId>,
}

impl RouteIds {
    /// None of them where there is no route.
    pub fn of(route: Option<Route>) -> Self {
        route.map(Self::from).unwrap_or_default()
    }
}

impl From<Route> for RouteIds {
    fn from(route: Route) -> Self {
        match route.as_provider() {
            Some((provider, sender)) => Self { provider: Some(provider), sender: Some(sender), ..Self::default() },
            None => Self { device: Some(route.device), sim: Some(route.sim), ..Self::default() },
        }
    }
}

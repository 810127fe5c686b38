//! News of routes and budgets, as their tenant's subscribers see them. What concerns a SIM is `sim.*`, what concerns a sender of
//! a provider account `provider.*`.

use flotilla_protocol::id::TenantId;
use flotilla_routing::Micros;
use flotilla_routing::circuit::Because;
use flotilla_routing::health::Warning;
use flotilla_routing::route::Route;
use flotilla_routing::route::RouteIds;
use flotilla_routing::table::Notice;
use serde::Serialize;

use super::Live;
use super::render::Time;

pub(super) fn publish(live: &Live, tenant: TenantId, at_ms: u64, notice: &Notice) {
    let (kind, data) = render(at_ms, notice);
    live.publish(tenant, kind, at_ms, &data);
}

fn render(at_ms: u64, notice: &Notice) -> (&'static str, Data) {
    let of = |route: &Route, sim: &'static str, provider: &'static str| {
        let kind = if route.is_provider() { provider } else { sim };
        (kind, Data { route: Some((*route).into()), ..Data::at(at_ms) })
    };
    match notice {
        Notice::Quarantined { route, until_ms, because, .. } => {
            let (kind, data) = of(route, "sim.quarantined", "provider.quarantined");
            (kind, Data { until: Some(Time(*until_ms)), because: Some(*because), ..data })
        }
        Notice::Recovered { route, .. } => of(route, "sim.recovered", "provider.recovered"),
        Notice::BlockPredicted { route, warning, .. } => {
            let (kind, data) = of(route, "sim.block_predicted", "provider.block_predicted");
            (kind, Data { warning: Some(*warning), ..data })
        }
        Notice::WarmUp { route, stage, .. } => {
            let (kind, data) = of(route, "sim.warm_up", "provider.warm_up");
            // People count days from 1.
            (kind, Data { day: stage.map(|stage| stage + 1), over: stage.is_none(), ..data })
        }
        Notice::BudgetWarned { cost, budget, .. } => ("tenant.budget_warned", Data::money(at_ms, *cost, *budget)),
        Notice::BudgetSpent { cost, budget, stopped, .. } => {
            ("tenant.budget_spent", Data { stopped: *stopped, ..Data::money(at_ms, *cost, *budget) })
        }
    }
}

#[derive(Serialize)]
struct Data {
    at: Time,
    #[serde(flatten)]
    route: Option<RouteIds>,
    /// It rests until then; afterwards one message shows whether it works again.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<Because>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<Warning>,
    /// Of its warm-up, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    over: bool,
    /// Of the month, in the tenant's currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<Micros>,
    /// Nothing that costs anything leaves until the next month.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stopped: bool,
}

impl Data {
    fn at(at_ms: u64) -> Self {
        Self {
            at: Time(at_ms),
            route: None,
            until: None,
            because: None,
            warning: None,
            day: None,
            over: false,
            cost: None,
            budget: None,
            stopped: false,
        }
    }

    fn money(at_ms: u64, cost: Micros, budget: Micros) -> Self {
        Self { cost: Some(cost), budget: Some(budget), ..Self::at(at_ms) }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::id::{DeviceId, ProviderId, SenderId, SimId};
    use serde_json::json;

    use super::*;

    #[test]
    fn news_are_named_after_what_they_concern() {
        let tenant = TenantId::new(1, [1; 10]);
        let sim = Route::sim(DeviceId::new(2, [2; 10]), SimId::new(3, [3; 10]));
        let account = Route::provider(ProviderId::new(4, [4; 10]), SenderId::new(5, [5; 10]));
        let shown = |notice: Notice| {
            let (kind, data) = render(1_000, &notice);
            (kind, serde_json::to_value(data).unwrap())
        };
        let at = "1970-01-01T00:00:01.000Z";
        let because = Because::Failures;
        assert_eq!(
            shown(Notice::Quarantined { tenant, route: sim, until_ms: 2_000, because }),
            (
                "sim.quarantined",
                json!({"at": at, "device": sim.device, "sim": sim.sim, "because": because,
                    "until": "1970-01-01T00:00:02.000Z"})
            )
        );
        let (provider, sender) = account.as_provider().unwrap();
        assert_eq!(
            shown(Notice::Recovered { tenant, route: account }),
            ("provider.recovered", json!({"at": at, "provider": provider, "sender": sender}))
        );
        assert_eq!(shown(Notice::WarmUp { tenant, route: sim, stage: Some(0) }).1["day"], 1);
        assert_eq!(shown(Notice::WarmUp { tenant, route: sim, stage: None }).1["over"], true);
        let (cost, budget) = (Micros(1_500_000), Micros(1_000_000));
        assert_eq!(
            shown(Notice::BudgetSpent { tenant, cost, budget, stopped: true }),
            ("tenant.budget_spent", json!({"at": at, "cost": "1.5", "budget": "1", "stopped": true}))
        );
        assert_eq!(shown(Notice::BudgetWarned { tenant, cost, budget }).0, "tenant.budget_warned");
    }
}

//! What people are told about routes and budgets, each once. What was so when a shard starts is not news.

use flotilla_protocol::id::TenantId;

use super::Table;
use super::entry::Key;
use super::merit::fresh_score;
use crate::circuit::{Because, Shift};
use crate::health::Warning;
use crate::ledger::{Applied, Scope};
use crate::limits::stage;
use crate::route::Route;
use crate::{Micros, Now};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Notice {
    /// A route's circuit has opened: it rests until this time (Unix ms), then one message shows whether it works again.
    Quarantined {
        tenant: TenantId,
        route: Route,
        until_ms: u64,
        because: Because,
    },
    Recovered {
        tenant: TenantId,
        route: Route,
    },
    /// The route still works, and looks as if it will be blocked.
    BlockPredicted {
        tenant: TenantId,
        route: Route,
        warning: Warning,
    },
    /// The month has cost the share of the budget at which the tenant wants to be told.
    BudgetWarned {
        tenant: TenantId,
        cost: Micros,
        budget: Micros,
    },
    /// The month has cost all of it. With `stopped` nothing leaves that costs anything, until the next month.
    BudgetSpent {
        tenant: TenantId,
        cost: Micros,
        budget: Micros,
        stopped: bool,
    },
    /// A new SIM has come to this stage of its warm-up, from 0; none when that is over.
    WarmUp {
        tenant: TenantId,
        route: Route,
        stage: Option<usize>,
    },
}

impl Notice {
    /// Whom it concerns.
    pub const fn tenant(&self) -> TenantId {
        match self {
            Self::Quarantined { tenant, .. }
            | Self::Recovered { tenant, .. }
            | Self::BlockPredicted { tenant, .. }
            | Self::BudgetWarned { tenant, .. }
            | Self::BudgetSpent { tenant, .. }
            | Self::WarmUp { tenant, .. } => *tenant,
        }
    }
}

impl Table {
    pub(super) fn note_applied(&mut self, tenant: TenantId, route: Route, applied: Applied) {
        match applied.circuit {
            // Each probe that fails opens it once more: it was told already.
            Some(Shift::Opened { because: Because::Probe, .. }) | None => {}
            Some(Shift::Opened { until_ms, because }) => {
                self.notices.push(Notice::Quarantined { tenant, route, until_ms, because });
            }
            Some(Shift::Closed) => self.notices.push(Notice::Recovered { tenant, route }),
        }
        if let Some(warning) = applied.warning {
            self.notices.push(Notice::BlockPredicted { tenant, route, warning });
        }
    }

    /// A tenant's month has cost something more.
    pub(super) fn charged(&mut self, id: TenantId, now: Now) {
        let Some((cost, month)) = self.spent(id, now) else { return };
        let Some(tenant) = self.tenants.get_mut(&id) else { return };
        let Some(budget) = tenant.routing.budget else { return };
        let (all, part) = (budget.per_month, budget.warn_percent);
        if cost >= all && tenant.spent_month != Some(month) {
            tenant.spent_month = Some(month);
            tenant.warned_month = Some(month);
            self.notices.push(Notice::BudgetSpent { tenant: id, cost, budget: all, stopped: budget.stop });
        } else if cost >= share(all, part) && tenant.warned_month != Some(month) {
            tenant.warned_month = Some(month);
            self.notices.push(Notice::BudgetWarned { tenant: id, cost, budget: all });
        }
    }

    /// The settings of a tenant are new: what is over its budget by now was told, or is what it was set to.
    pub(super) fn know_budget(&mut self, id: TenantId, now: Now) {
        let Some((cost, month)) = self.spent(id, now) else { return };
        let Some(tenant) = self.tenants.get_mut(&id) else { return };
        let Some(budget) = tenant.routing.budget else { return };
        tenant.spent_month = (cost >= budget.per_month).then_some(month);
        tenant.warned_month = (cost >= share(budget.per_month, budget.warn_percent)).then_some(month);
    }

    fn spent(&self, id: TenantId, now: Now) -> Option<(Micros, i32)> {
        let tenant = self.tenants.get(&id).filter(|tenant| tenant.routing.budget.is_some())?;
        let month = tenant.today(now).month;
        Some((self.ledger.counters(Scope::Tenant(id)).cost(month), month))
    }

    /// The stage of a SIM's warm-up, told when it is another one than before.
    pub(super) fn note_stage(&mut self, key: Key, now: Now, tell: bool) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(warm_up) = &entry.settings.warm_up else { return };
        let day = entry.calendar.at(&entry.terms.zone, now.unix_ms).day;
        let present = stage(warm_up, self.ledger.counters(Scope::Route(entry.route)), day);
        let former = std::mem::replace(&mut entry.stage, present);
        if tell && former != present {
            self.notices.push(Notice::WarmUp { tenant: entry.tenant, route: entry.route, stage: present });
        }
    }

    /// Keeps the score in the route's history.
    pub(super) fn note_score(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.get(key).filter(|entry| entry.online) else { return };
        let (route, value) = (entry.route, fresh_score(self.ledger.health(&entry.route), entry, now));
        self.ledger.note_score(&route, now.unix_ms, value);
    }
}

fn share(all: Micros, percent: u8) -> Micros {
    Micros((u128::from(all.0) * u128::from(percent.min(100)) / 100) as u64)
}

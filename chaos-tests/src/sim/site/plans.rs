//! How tenants route: rules, pools, chains over SIMs and accounts, recipient limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_controller::domain::message::Priority;
use flotilla_protocol::id::ProviderId;
use flotilla_routing::route::Route;
use flotilla_routing::settings::{Conditions, Plan, RecipientLimit, RouteSettings, Rule, Select, Step, TenantRouting};

use super::Site;
use crate::sim::Flaw;
use crate::sim::device;
use crate::sim::plan::Submit;
use crate::sim::rng::Rng;

/// The steps of a plan, each with its routes.
pub(in crate::sim) type Way = Arc<[Vec<Route>]>;

pub(super) fn draw(seed: u64, tenant: usize, site: &Site) -> TenantRouting {
    let mut rng = Rng::new(seed, "routing", tenant);
    let accounts: Vec<ProviderId> =
        site.accounts.iter().filter(|account| account.tenant == tenant).map(|account| account.provider()).collect();
    let mut routing = TenantRouting::default();
    if rng.percent(25) {
        let messages = rng.between(1, 3) as u16;
        routing.recipient_limit = Some(RecipientLimit { messages, window_s: rng.between(60, 150) as u32 });
    }
    if rng.percent(40) {
        // The built-in ones.
        let plans = ["sims-first", "providers-first", "providers-first", "providers-only"];
        let name = plans[rng.index(plans.len())];
        routing.default_plan = (!accounts.is_empty() && rng.percent(70)).then(|| name.into());
        return routing;
    }
    routing.plans = chains(tenant, site, &accounts, &mut rng);
    routing.rules = rules(&mut rng);
    routing.default_plan = rng.percent(50).then(|| "chain".into());
    routing
}

/// SIM, other SIM, account, other account; and the other way round.
fn chains(tenant: usize, site: &Site, accounts: &[ProviderId], rng: &mut Rng) -> BTreeMap<Box<str>, Plan> {
    let mut step =
        |routes: Vec<Select>| Step { routes, patience_s: Some(rng.between(1, 20) as u32), cheapest: rng.percent(20) };
    let mut chain = vec![step(vec![Select::Pool("even".into())]), step(vec![Select::Sims])];
    chain.extend(accounts.iter().map(|account| step(vec![Select::Provider(*account)])));
    let mut reverse: Vec<Step> = accounts.iter().rev().map(|account| step(vec![Select::Provider(*account)])).collect();
    reverse.extend([step(vec![Select::Pool("odd".into())]), step(vec![Select::Sims, Select::Providers])]);
    let first = site.devices_of(tenant).next().map(|first| Select::Device(device::id(first)));
    let own = vec![step(first.into_iter().collect()), step(vec![Select::Providers]), step(vec![Select::Sims])];
    let plans = [("chain", chain), ("reverse", reverse), ("own", own)];
    plans.into_iter().map(|(name, steps)| (name.into(), Plan { steps })).collect()
}

fn rules(rng: &mut Rng) -> Vec<Rule> {
    let rule = |name: &str, when, plan: &str, share_percent| Rule {
        name: name.into(),
        when,
        plan: plan.into(),
        share_percent,
    };
    let urgent = Conditions { priorities: vec![Priority::Urgent, Priority::High], ..Conditions::default() };
    let tagged = Conditions { tags: vec!["tagged".into()], ..Conditions::default() };
    let all = [
        rule("urgent", urgent, "chain", None),
        rule("tagged", tagged, "reverse", None),
        rule("share", Conditions::default(), "own", Some(30)),
    ];
    all.into_iter().filter(|_| rng.percent(60)).collect()
}

/// As it reaches a shard: deliberate bugs change it.
pub(super) fn spoiled(routing: &Arc<TenantRouting>, flaw: Option<Flaw>) -> Arc<TenantRouting> {
    let mut spoiled = TenantRouting::clone(routing);
    match flaw {
        Some(Flaw::NoRecipientLimit) => spoiled.recipient_limit = None,
        Some(Flaw::NoRules) => spoiled.rules.clear(),
        Some(Flaw::StepsReversed) => spoiled.plans.values_mut().for_each(|plan| plan.steps.reverse()),
        _ => return Arc::clone(routing),
    }
    Arc::new(spoiled)
}

/// The plans of a tenant as routes, and which of them a message may follow.
#[derive(Debug)]
pub(super) struct Ways {
    plans: BTreeMap<Box<str>, Way>,
    rules: Vec<Rule>,
    default: Box<str>,
}

impl Ways {
    pub(super) fn new(tenant: usize, routing: &TenantRouting, site: &Site) -> Self {
        let routes = site.routes_of(tenant);
        let way = |steps: &[Vec<Select>]| -> Way { steps.iter().map(|step| selected(step, &routes)).collect() };
        let (sims, providers) = (|| vec![Select::Sims], || vec![Select::Providers]);
        let mut plans: BTreeMap<Box<str>, Way> = BTreeMap::new();
        plans.insert("sims-first".into(), way(&[sims(), providers()]));
        plans.insert("providers-first".into(), way(&[providers(), sims()]));
        plans.insert("providers-only".into(), way(&[providers()]));
        for (name, plan) in &routing.plans {
            let steps: Vec<Vec<Select>> = plan.steps.iter().map(|step| step.routes.clone()).collect();
            plans.insert(name.clone(), way(&steps));
        }
        let default = routing.default_plan.clone().unwrap_or_else(|| "sims-first".into());
        Self { plans, rules: routing.rules.clone(), default }
    }

    /// More than one where a rule takes a share.
    pub(super) fn of(&self, submit: &Submit) -> Vec<Way> {
        let mut names: Vec<&str> = Vec::new();
        let mut settled = false;
        let named = submit.names_plan && self.plans.contains_key("chain");
        if named {
            names.push("chain");
            settled = true;
        }
        for rule in self.rules.iter().filter(|_| !named) {
            let when = &rule.when;
            let fits = (when.priorities.is_empty() || when.priorities.contains(&submit.priority))
                && (when.tags.is_empty() || submit.tagged);
            if fits && !settled {
                names.push(&rule.plan);
                settled = rule.share_percent.is_none();
            }
        }
        if !settled {
            names.push(&self.default);
        }
        names.into_iter().filter_map(|name| self.plans.get(name)).cloned().collect()
    }
}

fn selected(selects: &[Select], routes: &[(Route, RouteSettings)]) -> Vec<Route> {
    let means = |select: &Select, route: &Route, settings: &RouteSettings| match select {
        Select::Sims => !route.is_provider(),
        Select::Providers => route.is_provider(),
        Select::Pool(name) => settings.pools.contains(name),
        Select::Provider(id) => route.as_provider().is_some_and(|(provider, _)| provider == *id),
        Select::Device(id) => route.device == *id && !route.is_provider(),
        Select::Sim(id) => route.sim == *id,
    };
    let of = |(route, settings): &(Route, RouteSettings)| {
        selects.iter().any(|select| means(select, route, settings)).then_some(*route)
    };
    routes.iter().filter_map(of).collect()
}

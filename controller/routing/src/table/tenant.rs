//! A tenant's settings, compiled, and what is on its way for it.

use std::cell::Cell;
use std::sync::Arc;

use flotilla_protocol::number::Region;
use jiff::tz::TimeZone;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::entry::{Entries, Entry, Key};
use super::sets::{FamilyId, PRICES_MAX, Sets};
use crate::choice::{Classify, PlanRef};
use crate::limits::{Calendar, zone};
use crate::plan;
use crate::price::cost;
use crate::rules::Compiled;
use crate::settings::{Limits, Plan, Price, TenantRouting};
use crate::{Micros, Now};

/// The way of messages whose client has named a plan that does not exist.
pub(super) const NO_WAY: PlanRef = PlanRef(u16::MAX);

/// How messages come to a plan. The first is for those that no rule fits, then come the rules, then the plans by name.
#[derive(Debug)]
struct Way {
    rule: Option<Box<str>>,
    plan: u16,
}

#[derive(Debug)]
pub(super) struct Steps {
    pub(super) name: Box<str>,
    pub(super) steps: SmallVec<[FamilyId; 4]>,
}

#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) routing: Arc<TenantRouting>,
    zone: TimeZone,
    calendar: Cell<Calendar>,
    rules: Box<[Compiled]>,
    ways: Vec<Way>,
    by_name: FxHashMap<Box<str>, u16>,
    plans: Vec<Steps>,
    pub(super) sets: Sets,
    /// All routes that are known, there or away.
    pub(super) routes: Vec<Key>,
    /// Prices that are told apart where the cheapest goes first: and whether the month's bundle still pays.
    prices: Vec<(Price, bool)>,
    /// The highest price of a segment among them.
    pub(super) dearest: Micros,
    pub(super) limited: bool,
    /// The monthly budget, if it stops messages.
    pub(super) stops_at: Option<Micros>,
    /// Segments on their way, what they may cost at most, and recipients that have messages on their way.
    pub(super) segments: u32,
    pub(super) flight_cost: u64,
    pub(super) flying: FxHashMap<u64, u16>,
    /// Messages wait for a limit or the budget of the tenant: an attempt that lands may make room there.
    pub(super) waits: Cell<bool>,
    /// Months for which the budget's warning and its end were told.
    pub(super) warned_month: Option<i32>,
    pub(super) spent_month: Option<i32>,
    reach: FxHashMap<FamilyId, Reach>,
}

/// What the routes of a step could ever carry: a message beyond it need not wait.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) routes: usize,
    /// None for all.
    countries: Option<FxHashSet<Region>>,
    unicode: bool,
    any_sender: bool,
    senders: FxHashSet<u64>,
    bundled: bool,
    /// The lowest price of a segment by country, as far as it was asked for.
    floors: FxHashMap<Option<Region>, Micros>,
}

impl Tenant {
    pub(super) fn new(routing: Arc<TenantRouting>) -> Self {
        let zone = zone("timezone", &routing.timezone).unwrap_or(TimeZone::UTC);
        let mut tenant = Self {
            zone,
            calendar: Cell::default(),
            rules: Box::default(),
            ways: Vec::new(),
            by_name: FxHashMap::default(),
            plans: Vec::new(),
            sets: Sets::default(),
            routes: Vec::new(),
            prices: Vec::new(),
            dearest: Micros::ZERO,
            limited: routing.limits != Limits::default(),
            stops_at: routing.budget.filter(|budget| budget.stop).map(|budget| budget.per_month),
            segments: 0,
            flight_cost: 0,
            flying: FxHashMap::default(),
            waits: Cell::new(false),
            warned_month: None,
            spent_month: None,
            reach: FxHashMap::default(),
            routing,
        };
        tenant.compile();
        tenant
    }

    /// New settings; what is on its way stays counted. The caller gives the routes their places again.
    pub(super) fn change(&mut self, routing: Arc<TenantRouting>) {
        let fresh = Self::new(routing);
        let old = std::mem::replace(self, fresh);
        self.routes = old.routes;
        self.segments = old.segments;
        self.flight_cost = old.flight_cost;
        self.flying = old.flying;
        self.warned_month = old.warned_month;
        self.spent_month = old.spent_month;
    }

    fn compile(&mut self) {
        let routing = Arc::clone(&self.routing);
        self.rules = routing.rules.iter().map(|rule| Compiled::new(rule, &self.zone)).collect();
        for (name, plan) in &routing.plans {
            self.add_plan(name, plan);
        }
        for name in plan::BUILT_IN {
            if let Some(plan) = plan::built_in(name).filter(|_| !routing.plans.contains_key(name)) {
                self.add_plan(name, &plan);
            }
        }
        let of_name = |name: &str| self.plans.iter().position(|plan| &*plan.name == name).map(|plan| plan as u16);
        let built_in = of_name(plan::DEFAULT).unwrap_or(0);
        let default = routing.default_plan.as_deref().and_then(of_name).unwrap_or(built_in);
        let mut ways = vec![Way { rule: None, plan: default }];
        ways.extend(routing.rules.iter().map(|rule| {
            let plan = of_name(&rule.plan).unwrap_or(default);
            Way { rule: Some(rule.name.clone()), plan }
        }));
        let mut by_name = FxHashMap::default();
        for (plan, steps) in self.plans.iter().enumerate() {
            by_name.insert(steps.name.clone(), ways.len() as u16);
            ways.push(Way { rule: None, plan: plan as u16 });
        }
        self.ways = ways;
        self.by_name = by_name;
    }

    fn add_plan(&mut self, name: &str, plan: &Plan) {
        let steps =
            plan.steps.iter().map(|step| self.sets.family_of(&step.routes, plan::patience_ms(step), step.cheapest));
        let steps = steps.collect();
        self.plans.push(Steps { name: name.into(), steps });
    }

    pub(super) fn classify(&self, message: &Classify<'_>, unix_ms: u64) -> PlanRef {
        if let Some(name) = message.plan {
            return self.by_name.get(name).map_or(NO_WAY, |way| PlanRef(*way));
        }
        let fits = self.rules.iter().position(|rule| rule.unmet(message, unix_ms).is_none());
        fits.map_or(PlanRef(0), |rule| PlanRef(rule as u16 + 1))
    }

    pub(super) fn rules(&self) -> &[Compiled] {
        &self.rules
    }

    /// When the answer of a rule to the time of day changes next (Unix ms).
    pub(super) fn reclassify_at(&self, unix_ms: u64) -> Option<u64> {
        self.rules.iter().filter_map(|rule| rule.changes_at(unix_ms)).min()
    }

    /// The plan of a message, and the rule that chose it.
    pub(super) fn way(&self, plan: PlanRef) -> Option<(&Steps, Option<&str>)> {
        let way = self.ways.get(usize::from(plan.0))?;
        Some((self.plans.get(usize::from(way.plan))?, way.rule.as_deref()))
    }

    pub(super) fn today(&self, now: Now) -> Calendar {
        let today = self.calendar.get().at(&self.zone, now.unix_ms);
        self.calendar.set(today);
        today
    }

    /// Mostly of a moment that is nearly now: what is found is kept, as it costs far more than to look.
    pub(super) fn day_of(&self, unix_ms: u64) -> i32 {
        let day = self.calendar.get().at(&self.zone, unix_ms);
        self.calendar.set(day);
        day.day
    }

    /// The number of a price, for the sets of steps that begin with the cheapest.
    pub(super) fn price_number(&mut self, price: &Price, bundle_pays: bool) -> u8 {
        let known = self.prices.iter().position(|(known, pays)| *pays == bundle_pays && known == price);
        let number = known.unwrap_or_else(|| {
            if self.prices.len() < PRICES_MAX {
                self.prices.push((price.clone(), bundle_pays));
                self.prices.len() - 1
            } else {
                PRICES_MAX
            }
        });
        number as u8
    }

    /// What the routes of a family could carry, if anything had room. Made anew when routes have come or changed.
    pub(super) fn reach(&mut self, family: FamilyId, entries: &Entries) -> &mut Reach {
        let means = |entry: &&Entry| entry.places.iter().any(|place| self.sets.family_of_set(place.set) == family);
        let routes = &self.routes;
        self.reach.entry(family).or_insert_with(|| {
            let mut reach = Reach { countries: Some(FxHashSet::default()), ..Reach::default() };
            routes.iter().filter_map(|key| entries.get(*key)).filter(means).for_each(|entry| reach.add(entry));
            reach
        })
    }

    /// The lowest price of a segment to a country on any route of a family; none when a bundle may pay it.
    pub(super) fn floor(&mut self, family: FamilyId, country: Option<Region>, entries: &Entries) -> Option<Micros> {
        let reach = self.reach(family, entries);
        if reach.bundled {
            return None;
        }
        if let Some(known) = reach.floors.get(&country) {
            return Some(*known);
        }
        let of_family = |entry: &&Entry| entry.places.iter().any(|place| self.sets.family_of_set(place.set) == family);
        let routes = self.routes.iter().filter_map(|key| entries.get(*key)).filter(of_family);
        let country_text = country.as_ref().map(Region::as_str);
        let floor = routes.map(|entry| cost(&entry.settings.price, 1, country_text, u32::MAX)).min()?;
        if let Some(reach) = self.reach.get_mut(&family) {
            reach.floors.insert(country, floor);
        }
        Some(floor)
    }

    /// Routes have come, gone or changed.
    pub(super) fn forget_reach(&mut self) {
        self.reach.clear();
    }
}

impl Reach {
    fn add(&mut self, entry: &Entry) {
        if !entry.described {
            return;
        }
        self.routes += 1;
        if entry.terms.countries.is_empty() {
            self.countries = None;
        } else if let Some(countries) = &mut self.countries {
            countries.extend(entry.terms.countries.iter().copied());
        }
        self.unicode |= entry.settings.unicode;
        match entry.terms.sender {
            Some(sender) => {
                self.senders.insert(sender);
            }
            None => self.any_sender |= entry.is_provider(),
        }
        self.bundled |= entry.settings.price.bundle_per_month.is_some();
    }

    pub(super) fn serves(&self, country: Option<Region>) -> bool {
        self.countries.as_ref().is_none_or(|all| country.is_some_and(|country| all.contains(&country)))
    }

    pub(super) fn serves_unicode(&self) -> bool {
        self.unicode
    }

    pub(super) fn shows(&self, sender: u64) -> bool {
        self.any_sender || self.senders.contains(&sender)
    }
}

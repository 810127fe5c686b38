//! The choice. Steps of the plan in order; in a step two routes with room are drawn by the message's number, and the better
//! one is taken. Where neither suits this message, two more are drawn, then a few are looked through, others with each try.
//!
//! A step whose routes are all away, out of budget or resting is passed over at once. One whose routes are only busy keeps
//! the message until its patience is over.

use smallvec::SmallVec;

use super::Table;
use super::blocks::{Lasts, Obstacle, View, kind, lasts, mono_ms};
use super::entry::{Entry, Key};
use super::merit::{Compared, Drawn};
use super::sets::{Family, SetId};
use super::tenant::Tenant;
use crate::choice::{Because, Candidate, Choice, Pin, Why};
use crate::fact::recipient_hash;
use crate::ledger::Scope;
use crate::limits::{Ask, Room, room};
use crate::route::Priority;
use crate::seed;
use crate::{Micros, Now};

/// How long a message that cannot use the room there is waits for other room, when nothing says how long.
pub(super) const RETRY_MS: u64 = 5_000;
/// And how long at most, when something does: settings may change meanwhile.
const RETRY_MAX_MS: u64 = 600_000;
/// Routes that are looked through when those that were drawn do not suit.
const SCAN_MAX: usize = 64;
/// How often a choice begins anew because what it found was not true any more.
const TRIES: usize = 4;

/// Routes in a list that turned out to have no room.
pub(super) type Stale = SmallVec<[Key; 4]>;

/// What one choice has found out so far.
pub(super) struct Search<'a> {
    pub(super) table: &'a Table,
    pub(super) tenant: &'a Tenant,
    pub(super) view: View<'a>,
    pub(super) candidate: &'a Candidate,
    pub(super) kind: usize,
    pub(super) cheapest: bool,
    number: u64,
    stale: Stale,
    /// Routes had room, and did not suit.
    unfit: bool,
    /// All of them because the tenant's budget is spent.
    only_budget: bool,
    /// When the first of them may suit (monotonic).
    until_ms: Option<u64>,
}

fn refuse(code: &'static str, text: &str) -> Choice {
    Choice::Refuse { code, text: text.into() }
}

impl Table {
    pub(super) fn by_plan(&mut self, candidate: &Candidate, now: Now) -> Choice {
        for _ in 0..TRIES {
            let (choice, stale) = self.try_plan(candidate, now);
            if stale.is_empty() {
                return choice;
            }
            for key in stale {
                self.refresh(key, now);
            }
            if matches!(choice, Choice::Take(..)) {
                return choice;
            }
        }
        Choice::Unfit { until_ms: now.mono_ms + RETRY_MS }
    }

    pub(super) fn try_plan(&self, candidate: &Candidate, now: Now) -> (Choice, Stale) {
        let Some(tenant) = self.tenants.get(&candidate.tenant) else {
            return (Choice::Wait { until_ms: None }, Stale::new());
        };
        let Some((plan, rule)) = tenant.way(candidate.plan) else {
            return (refuse("no-such-plan", "the tenant has no plan of this name"), Stale::new());
        };
        if let Some(held) = self.gate(candidate, tenant, now) {
            return (held, Stale::new());
        }
        let mut search = Search::new(self, tenant, candidate, now);
        let mut patience_ms = candidate.waits_since_ms;
        for (step, family) in plan.steps.iter().enumerate() {
            let family = tenant.sets.family(*family);
            let (rooms, busy) = tenant.sets.counts(family, search.kind);
            search.cheapest = family.cheapest;
            if let Some((drawn, because)) = search.step(step, family) {
                return (search.take(&drawn, step, rooms, rule, because), search.stale);
            }
            patience_ms = patience_ms.saturating_add(if busy > 0 { family.patience_ms[search.kind] } else { 0 });
            if busy > 0 && step + 1 < plan.steps.len() && patience_ms > now.mono_ms {
                return (search.nothing(Some(patience_ms)), search.stale);
            }
        }
        (search.nothing(None), search.stale)
    }

    /// What holds a message back whatever the route.
    pub(super) fn gate(&self, candidate: &Candidate, tenant: &Tenant, now: Now) -> Option<Choice> {
        if candidate.max_cost.is_some_and(|most| candidate.spent > most) {
            return Some(refuse("max-cost", "its attempts have cost more than its max_cost already"));
        }
        let recipient = recipient_hash(candidate.to.as_u64());
        if tenant.limited
            && let Some(held) = self.tenant_limit(candidate, tenant, recipient, now)
        {
            return Some(held);
        }
        let limit = tenant.routing.recipient_limit.filter(|_| candidate.class != Priority::Urgent)?;
        let flying = tenant.flying.get(&recipient).copied().unwrap_or(0);
        let room = self.ledger.recipient_room(candidate.tenant, recipient, limit, u32::from(flying), now.unix_ms);
        lasts(room, now).map(|lasts| Choice::Unfit { until_ms: retry_ms(lasts, now) })
    }

    fn tenant_limit(&self, candidate: &Candidate, tenant: &Tenant, recipient: u64, now: Now) -> Option<Choice> {
        let today = tenant.today(now);
        let counters = self.ledger.counters(Scope::Tenant(candidate.tenant));
        let ask = |ask| room(&tenant.routing.limits, counters, tenant.segments, ask, &today);
        let until_ms = match ask(Ask { segments: 1, recipient: None }) {
            Room::Yes => None,
            Room::Until { unix_ms } => Some(Some(mono_ms(unix_ms, now))),
            Room::InFlight | Room::Never => Some(None),
        };
        if let Some(until_ms) = until_ms {
            tenant.waits.set(true);
            return Some(Choice::Wait { until_ms });
        }
        match ask(Ask { segments: candidate.segments, recipient: Some(recipient) }) {
            Room::Yes => None,
            Room::Never => {
                Some(refuse("tenant-limit", "it has more segments than a limit of the tenant ever lets through"))
            }
            room => lasts(room, now).map(|lasts| Choice::Unfit { until_ms: retry_ms(lasts, now) }),
        }
    }

    /// A message that its client has bound to a SIM or a device.
    pub(super) fn by_pin(&mut self, candidate: &Candidate, now: Now) -> Choice {
        let (choice, stale) = self.try_pin(candidate, now);
        for key in stale {
            self.refresh(key, now);
        }
        choice
    }

    pub(super) fn try_pin(&self, candidate: &Candidate, now: Now) -> (Choice, Stale) {
        let Some(tenant) = self.tenants.get(&candidate.tenant) else {
            return (Choice::Wait { until_ms: None }, Stale::new());
        };
        if let Some(held) = self.gate(candidate, tenant, now) {
            return (held, Stale::new());
        }
        let of_sim;
        let keys: &[Key] = match candidate.pin {
            Pin::Sim(sim) => {
                of_sim = self.by_sim.get(&sim).copied();
                of_sim.as_slice()
            }
            Pin::Device(device) => self.devices.get(&device).map_or(&[], |device| &device.routes),
            Pin::Any => &[],
        };
        let mut search = Search::new(self, tenant, candidate, now);
        let mut best: Option<Drawn> = None;
        let first = seed::place(search.number, keys.len().max(1));
        let keys = keys[first..].iter().chain(&keys[..first]);
        for key in keys.filter(|key| self.entries.get(**key).is_some_and(|entry| entry.tenant == candidate.tenant)) {
            if let Some(drawn) = search.consider(*key) {
                best = Some(best.map_or(drawn, |best| search.better(best, drawn).0));
            }
        }
        let choice = match best {
            Some(drawn) => search.take_pinned(&drawn),
            None => search.nothing(None),
        };
        (choice, search.stale)
    }

    /// Whether no route could ever carry it, while the settings are what they are.
    pub(super) fn never(&mut self, candidate: &Candidate, now: Now) -> Option<Choice> {
        if self.began_ms.is_none_or(|began_ms| now.mono_ms.saturating_sub(began_ms) < self.settings.known_after_ms) {
            return None;
        }
        let families = match candidate.pin {
            Pin::Any => self.tenants.get(&candidate.tenant)?.way(candidate.plan)?.0.steps.clone(),
            Pin::Sim(_) | Pin::Device(_) => return None,
        };
        let country = candidate.to.region();
        let Self { tenants, entries, .. } = self;
        let tenant = tenants.get_mut(&candidate.tenant)?;
        let (mut routes, mut code) = (0, None);
        for family in families {
            let reach = tenant.reach(family, entries);
            if reach.routes == 0 {
                continue;
            }
            routes += reach.routes;
            let lacks = if !reach.serves(country) {
                Some(Obstacle::CountryNotServed)
            } else if candidate.unicode && !reach.serves_unicode() {
                Some(Obstacle::UnicodeNotServed)
            } else if candidate.sender.is_some_and(|sender| !reach.shows(sender)) {
                Some(Obstacle::SenderNotServed)
            } else {
                let floor = candidate.max_cost.and_then(|_| tenant.floor(family, country, entries));
                let least = floor.unwrap_or(Micros::ZERO).times(candidate.segments);
                let dear = candidate.max_cost.is_some_and(|most| candidate.spent.saturating_add(least) > most);
                dear.then_some(Obstacle::MaxCost)
            };
            code = Some(lacks?);
        }
        let code = code.filter(|_| routes > 0)?;
        let text = match code {
            Obstacle::CountryNotServed => "no route of its plan sends to this country",
            Obstacle::UnicodeNotServed => "no route of its plan carries other than GSM-7 text",
            Obstacle::SenderNotServed => "no route of its plan shows the sender that it names",
            _ => "every route of its plan costs more than its max_cost",
        };
        Some(refuse(code.code(), text))
    }
}

/// When to ask again about something that is in the way.
fn retry_ms(lasts: Lasts, now: Now) -> u64 {
    match lasts {
        Lasts::Until(at_ms) => at_ms.clamp(now.mono_ms + 1, now.mono_ms + RETRY_MAX_MS),
        Lasts::Busy | Lasts::Away | Lasts::Ever => now.mono_ms + RETRY_MS,
    }
}

impl<'a> Search<'a> {
    pub(super) fn new(table: &'a Table, tenant: &'a Tenant, candidate: &'a Candidate, now: Now) -> Self {
        Self {
            table,
            tenant,
            view: View { ledger: &table.ledger, pauses: &table.pauses, now },
            candidate,
            kind: kind(candidate.class),
            cheapest: false,
            number: seed::of_message(candidate.message, u64::from(candidate.attempt)),
            stale: Stale::new(),
            unfit: false,
            only_budget: true,
            until_ms: None,
        }
    }

    /// The route of a step that the message takes, if any suits.
    pub(super) fn step(&mut self, step: usize, family: &'a Family) -> Option<(Drawn, Because)> {
        let number = seed::mix(self.number ^ step as u64);
        if !family.cheapest {
            let set = *family.sets.first()?;
            return self.draw(number, set);
        }
        let mut sets: SmallVec<[(Micros, SetId); 8]> = SmallVec::new();
        for set in &family.sets {
            if let Some(key) = self.tenant.sets.set(*set).rooms[self.kind].first()
                && let Some(entry) = self.table.entries.get(*key)
            {
                sets.push((self.cost(entry), *set));
            }
        }
        sets.sort_unstable();
        sets.into_iter().find_map(|(_, set)| self.draw(number, set))
    }

    fn draw(&mut self, number: u64, set: SetId) -> Option<(Drawn, Because)> {
        let rooms = &self.tenant.sets.set(set).rooms[self.kind];
        let count = rooms.len();
        if count == 0 {
            return None;
        }
        let sticky = self.sticky(set);
        let first = seed::place(number, count);
        let mut best = self.best_of(rooms, [first, self.other(number, first, count)]);
        if best.is_none() && count > 2 {
            let third = seed::place(seed::mix(number ^ 1), count);
            best = self.best_of(rooms, [third, self.other(seed::mix(number ^ 2), third, count)]);
        }
        if best.is_none() && count > 2 {
            // Each time it is tried again the next ones are looked through: all have been after some tries.
            let tries = (self.view.now.mono_ms / RETRY_MS) as usize;
            let begin = first.wrapping_add(tries.wrapping_mul(SCAN_MAX)) % count;
            let scanned = (0..count.min(SCAN_MAX)).map(|n| rooms[(begin + n) % count]);
            best = scanned.into_iter().find_map(|key| self.consider(key)).map(|drawn| (drawn, Compared::Score));
        }
        match (sticky, best) {
            (Some(sticky), Some((best, _))) if !sticky.stays(&best, self.tenant.routing.sticky_points) => {
                best_because(best, Compared::Score)
            }
            (Some(sticky), _) => Some((sticky, Because::Sticky)),
            (None, Some((best, compared))) => best_because(best, compared),
            (None, None) => None,
        }
    }

    /// Another place than the first.
    fn other(&self, number: u64, first: usize, count: usize) -> usize {
        if count < 2 {
            return first;
        }
        let second = seed::place(seed::mix(number ^ 0xa5a5), count - 1);
        second + usize::from(second >= first)
    }

    fn best_of(&mut self, rooms: &[Key], [a, b]: [usize; 2]) -> Option<(Drawn, Compared)> {
        let first = self.consider(rooms[a]);
        let second = if a == b { None } else { self.consider(rooms[b]) };
        match (first, second) {
            (Some(first), Some(second)) => Some(self.better(first, second)),
            (Some(one), None) | (None, Some(one)) => Some((one, Compared::Score)),
            (None, None) => None,
        }
    }

    /// The route that the recipient had its last message from, if it has room in this set and suits.
    fn sticky(&mut self, set: SetId) -> Option<Drawn> {
        if self.tenant.routing.sticky_points == 0 {
            return None;
        }
        let recipient = recipient_hash(self.candidate.to.as_u64());
        let sim = self.table.ledger.sticky(self.candidate.tenant, recipient)?;
        let (key, entry) = self.table.key_of(sim)?;
        let listed = entry.places.iter().any(|place| place.set == set && place.has_room(self.kind));
        if !listed { None } else { self.consider(key) }
    }

    /// A route with its merit, if it has room and suits; otherwise what is in the way is kept.
    pub(super) fn consider(&mut self, key: Key) -> Option<Drawn> {
        let entry = self.table.entries.get(key)?;
        let device = self.table.devices.get(&entry.route.device)?;
        let mut closed = false;
        self.view.of_route(entry, device, self.kind, &mut |_, _| closed = true);
        if closed {
            if entry.open[self.kind] {
                self.stale.push(key);
            }
            return None;
        }
        let (mut fits, mut until_ms, mut budget) = (true, Some(0), false);
        self.view.of_message(self.candidate, self.tenant, entry, device, &mut |obstacle, lasts| {
            fits = false;
            budget |= obstacle == Obstacle::Budget;
            until_ms = match (until_ms, lasts) {
                (Some(known), Lasts::Until(at_ms)) => Some(at_ms.max(known)),
                _ => None,
            };
        });
        if !fits {
            self.unfit = true;
            self.only_budget &= budget;
            self.until_ms = [self.until_ms, until_ms].into_iter().flatten().min();
            return None;
        }
        Some(self.drawn(key, entry, device))
    }

    pub(super) fn cost(&self, entry: &Entry) -> Micros {
        let country = self.candidate.to.region();
        self.view.cost(entry, country.as_ref().map(|is| is.as_str()), self.candidate.segments)
    }

    fn take(&self, drawn: &Drawn, step: usize, rooms: u32, rule: Option<&str>, because: Because) -> Choice {
        let because = if because == Because::Score && step > 0 { Because::Fallback } else { because };
        let why = Why {
            rule: rule.map(Into::into),
            step: (step + 1).min(usize::from(u8::MAX)) as u8,
            score: drawn.parts.score(),
            room: rooms,
            because,
        };
        self.taken(drawn, why)
    }

    fn take_pinned(&self, drawn: &Drawn) -> Choice {
        let why = Why { rule: None, step: 0, score: drawn.parts.score(), room: 1, because: Because::Pinned };
        self.taken(drawn, why)
    }

    fn taken(&self, drawn: &Drawn, why: Why) -> Choice {
        match self.table.entries.get(drawn.key) {
            Some(entry) => Choice::Take(entry.route, why),
            None => Choice::Wait { until_ms: None },
        }
    }

    /// No route: for this message, or for all that wait with it.
    fn nothing(&self, patience_ms: Option<u64>) -> Choice {
        let now = self.view.now;
        if self.unfit && self.only_budget {
            self.tenant.waits.set(true);
            return Choice::Wait { until_ms: Some(now.mono_ms + RETRY_MS) };
        }
        if !self.unfit {
            return Choice::Wait { until_ms: patience_ms };
        }
        let lasts = self.until_ms.map_or(Lasts::Away, Lasts::Until);
        let until_ms = retry_ms(lasts, now).min(patience_ms.unwrap_or(u64::MAX)).max(now.mono_ms + 1);
        Choice::Unfit { until_ms }
    }
}

fn best_because(best: Drawn, compared: Compared) -> Option<(Drawn, Because)> {
    let because = match compared {
        _ if best.probe => Because::Probe,
        Compared::Learned => Because::Learned,
        Compared::Score => Because::Score,
    };
    Some((best, because))
}

//! Random fleets, settings, messages, outcomes and clocks. After each step the lists are compared with what looking at every
//! route afresh finds, and every message that is taken or lands with an exact log of all segments. At the end each message
//! that any route could carry has to leave, by marks and told times alone. A failure names its seed.
//!
//! Worlds from seed [`RICH`] on have time zones, windows over midnight, months, warm-ups, and clocks that are put back; they
//! begin where clocks change, or a month ends.

mod log;
mod make;

use super::*;
use crate::table::blocks::{State, View, kind};
use crate::table::sets::means;
use log::Log;
use make::{Random, World};

const WORLDS: u64 = 40;
const RICH: u64 = 10_000;
/// Seeds that found something: midnight made room while attempts were in flight, and nobody was woken.
const FOUND: [u64; 1] = [91];
const STEPS: usize = 250;
const DAY_MS: u64 = 86_400_000;

/// An attempt on its way.
#[derive(Clone, Debug)]
struct Flight {
    message: Queued,
    route: Route,
    segments: u8,
    since: Now,
}

/// A message that waits.
#[derive(Clone, Debug)]
struct Queued {
    candidate: Candidate,
    /// When it may be asked for again without a mark (monotonic).
    ask_ms: Option<u64>,
}

struct Run {
    seed: u64,
    random: Random,
    world: World,
    table: Table,
    now: Now,
    queue: Vec<Queued>,
    flights: Vec<Flight>,
    /// Attempts in doubt: charged, and still in the way.
    doubts: Vec<Flight>,
    log: Log,
    /// When the clock was put back last (monotonic).
    put_back_ms: Option<u64>,
    /// What was chosen.
    story: Vec<String>,
    made: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let world = World::new(&mut random, seed >= RICH);
        let mut table = table();
        let unix_ms =
            if seed >= RICH { make::eventful(&mut random) } else { 1_795_262_400_000 + random.below(30 * DAY_MS) };
        let now = Now { unix_ms, mono_ms: random.below(1_000) };
        for (tenant, routing) in &world.tenants {
            table.set_tenant(*tenant, Arc::clone(routing), now);
        }
        // Each is there once: what the table does not know of, it may refuse after a while.
        for device in &world.devices {
            table.set_device(device.clone(), now);
            table.remove_device(device.device, now);
        }
        let (queue, flights, doubts) = (vec![], vec![], vec![]);
        Self {
            seed,
            random,
            world,
            table,
            now,
            queue,
            flights,
            doubts,
            log: Log::default(),
            put_back_ms: None,
            story: vec![],
            made: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(14) {
            0..=3 => self.accept(),
            4..=8 => self.land_one(),
            9 => self.come(),
            10 => self.go(),
            11 => self.world.change(&mut self.random),
            12 if self.world.puts_clock_back => {
                let back_ms = [5_000, 200_000, 7_200_000][self.random.below(3) as usize];
                self.now.unix_ms -= self.random.below(back_ms);
                self.put_back_ms = Some(self.now.mono_ms);
            }
            _ => {}
        }
        let pass = match self.random.below(20) {
            0 => self.random.below(2 * DAY_MS),
            1..=3 => self.random.below(3_600_000),
            4..=12 => self.random.below(5_000),
            _ => 0,
        };
        self.pass(pass);
        self.serve();
        self.check_lists();
    }

    fn pass(&mut self, ms: u64) {
        self.now = Now { unix_ms: self.now.unix_ms + ms, mono_ms: self.now.mono_ms + ms };
    }

    fn come(&mut self) {
        let n = self.random.below(self.world.devices.len() as u64) as usize;
        self.table.set_device(self.world.devices[n].clone(), self.now);
        self.world.online[n] = true;
    }

    fn go(&mut self) {
        let n = self.random.below(self.world.devices.len() as u64) as usize;
        self.table.remove_device(self.world.devices[n].device, self.now);
        self.world.online[n] = false;
    }

    fn accept(&mut self) {
        self.made += 1;
        let candidate = self.world.message(&mut self.random, self.made, self.now);
        self.queue.push(Queued { candidate, ask_ms: Some(0) });
    }

    /// As a machine does: asks for whom it was told to, and for whom a time has come.
    fn serve(&mut self) {
        let mut marked = vec![];
        self.table.advance(self.now, &mut marked);
        for mark in marked {
            let tenant = match mark {
                Marked::Route { tenant, .. } | Marked::Tenant(tenant) => tenant,
            };
            self.queue.iter_mut().filter(|one| one.candidate.tenant == tenant).for_each(|one| one.ask_ms = Some(0));
        }
        let mut n = 0;
        while n < self.queue.len() {
            if self.queue[n].ask_ms.is_none_or(|at_ms| at_ms > self.now.mono_ms) {
                n += 1;
                continue;
            }
            let candidate = self.queue[n].candidate;
            match self.table.choose(&candidate, self.now) {
                Choice::Take(route, why) => {
                    self.story.push(format!("{} {route:?} {why:?}", self.made));
                    self.check_taken(&candidate, route);
                    let message = self.queue.remove(n);
                    let segments = candidate.segments;
                    let recipient = recipient_hash(candidate.to.as_u64());
                    self.table.reserve(route, candidate.tenant, segments, recipient, self.now);
                    self.flights.push(Flight { message, route, segments, since: self.now });
                }
                Choice::Wait { until_ms } => {
                    self.queue[n].ask_ms = until_ms;
                    n += 1;
                }
                Choice::Unfit { until_ms } => {
                    assert!(until_ms > self.now.mono_ms, "seed {}", self.seed);
                    self.queue[n].ask_ms = Some(until_ms);
                    n += 1;
                }
                Choice::Refuse { code, .. } => {
                    assert!(!self.world.may_leave(&candidate), "seed {}: {code} for {candidate:?}", self.seed);
                    self.queue.remove(n);
                }
            }
        }
    }

    fn land_one(&mut self) {
        if self.flights.is_empty() || self.random.below(8) == 0 {
            if !self.doubts.is_empty() {
                let doubt = self.doubts.swap_remove(0);
                self.table.release(doubt.route, doubt.message.candidate.tenant, 0, 0, self.now);
            }
            return;
        }
        let n = self.random.below(self.flights.len() as u64) as usize;
        let flight = self.flights.swap_remove(n);
        let left = self.random.below(10);
        self.land(flight, left);
    }

    fn land(&mut self, mut flight: Flight, how: u64) {
        let (route, candidate) = (flight.route, flight.message.candidate);
        let recipient = recipient_hash(candidate.to.as_u64());
        let outcome = match how {
            0 => Outcome::Failed { class: ErrorClass::Route },
            1 => Outcome::Failed { class: ErrorClass::Permanent },
            2 => Outcome::Doubted,
            _ => Outcome::Sent { took_ms: 1_000 },
        };
        if matches!(outcome, Outcome::Sent { .. } | Outcome::Doubted) {
            // By its device's clock, held between dispatch and now as the machine does.
            let after_ms = self.random.below(self.now.mono_ms - flight.since.mono_ms + 1);
            let at_ms = (flight.since.unix_ms + after_ms).min(self.now.unix_ms);
            let charge = self.table.charge(route, candidate.tenant, flight.segments, at_ms, candidate.to);
            let urgent = candidate.class == Priority::Urgent;
            self.log.add(&self.world, candidate.tenant, &charge, flight.since.mono_ms + after_ms, urgent);
            self.table.fact(&Fact::Charged { tenant: candidate.tenant, charge }, self.now);
            self.log.check_landed(&self.world, candidate.tenant, &charge, self.seed);
        }
        let region = candidate.to.region();
        self.table.fact(&Fact::Outcome { route, at_ms: self.now.unix_ms, outcome, region }, self.now);
        self.table.release(route, candidate.tenant, flight.segments, recipient, self.now);
        match outcome {
            Outcome::Doubted => {
                self.table.reserve(route, candidate.tenant, 0, 0, self.now);
                flight.segments = 0;
                self.doubts.push(flight);
            }
            Outcome::Failed { class: ErrorClass::Route } => {
                self.table.pause(route.sim, self.now);
                let again = Candidate { attempt: candidate.attempt + 1, waits_since_ms: self.now.mono_ms, ..candidate };
                self.queue.push(Queued { candidate: again, ask_ms: Some(0) });
            }
            Outcome::Sent { .. } => self.table.succeeded(route.sim, self.now),
            _ => {}
        }
    }

    /// The lists are what looking at every route finds.
    fn check_lists(&self) {
        let table = &self.table;
        let view = View { ledger: &table.ledger, pauses: &table.pauses, now: self.now };
        for (id, tenant) in &table.tenants {
            for key in &tenant.routes {
                let entry = table.entries.get(*key).unwrap();
                let device = &table.devices[&entry.route.device];
                assert_eq!(entry.tenant, *id);
                assert!(!entry.closed || table.is_closed(&entry.route), "seed {}: its circuit", self.seed);
                let states = view.states(entry, device);
                for (kind, opened) in entry.open.iter().enumerate() {
                    let open = states[kind] == State::Open;
                    let mut obstacles = 0;
                    view.of_route(entry, device, kind, &mut |_, _| obstacles += 1);
                    assert_eq!(open, obstacles == 0, "seed {}: {:?}", self.seed, entry.route);
                    let late = match self.put_back_ms {
                        // A choice finds out that the route is closed again; what has opened is seen within a minute.
                        Some(at_ms) => *opened || self.now.mono_ms < at_ms + deadlines::WALL_CHECK_MS,
                        None => false,
                    };
                    if late && *opened != open {
                        continue;
                    }
                    assert_eq!(*opened, open, "seed {}: {:?}", self.seed, entry.route);
                    for place in &entry.places {
                        let listed = tenant.sets.set(place.set).rooms[kind].contains(key);
                        assert_eq!(listed, open, "seed {}: {:?}", self.seed, entry.route);
                    }
                }
                let flights = self.flights.iter().chain(&self.doubts).filter(|flight| flight.route == entry.route);
                let (count, segments) = flights.fold((0, 0), |(n, s), one| (n + 1, s + u32::from(one.segments)));
                assert_eq!((entry.used, entry.segments), (count, segments), "seed {}", self.seed);
            }
            for name in tenant.routing.plans.values().flat_map(|plan| &plan.steps) {
                for key in &tenant.routes {
                    let entry = table.entries.get(*key).unwrap();
                    if name.routes.iter().any(|select| means(select, &entry.route, &entry.settings)) {
                        assert!(!entry.places.is_empty(), "seed {}: it is in the sets of its steps", self.seed);
                    }
                }
            }
        }
    }

    /// A message may take a route: asked without the table's own counts.
    fn check_taken(&self, candidate: &Candidate, route: Route) {
        let seed = self.seed;
        let (n, device) = self.world.device(route);
        let sim = device.sims.iter().find(|sim| sim.sim == route.sim).expect("a route that is there");
        assert_eq!(device.tenant, candidate.tenant, "seed {seed}: another tenant's route");
        assert!(self.world.online[n] && device.accepts_work && sim.ready, "seed {seed}: offline");
        assert!(!sim.settings.held && !self.table.is_paused(route.sim, self.now), "seed {seed}: at rest");
        let flights = || self.flights.iter().chain(&self.doubts);
        let on_device = flights().filter(|flight| flight.route.device == route.device).count();
        let kept = if device.window < 3 || kind(candidate.class) == 0 { 0 } else { (device.window / 8).max(1) };
        assert!(on_device < usize::from(device.window - kept), "seed {seed}: past the window, or into the reserve");
        let settings = &sim.settings;
        let country = candidate.to.region().unwrap().to_string();
        assert!(settings.countries.is_empty() || settings.countries.iter().any(|is| **is == *country), "seed {seed}");
        assert!(settings.unicode || !candidate.unicode, "seed {seed}");
        assert!(make::is_open(settings, self.now.unix_ms), "seed {seed}: outside its windows");
        match candidate.pin {
            Pin::Any => assert_ne!(candidate.avoid, Some(route), "seed {seed}"),
            Pin::Sim(pinned) => assert_eq!(pinned, route.sim, "seed {seed}"),
            Pin::Device(pinned) => assert_eq!(pinned, route.device, "seed {seed}"),
        }
        self.log.check_taken(&self.world, candidate, route, &self.flights, self.now, seed);
    }

    /// Everything comes back, everything is sent, and nothing new arrives: whatever can leave does.
    fn drain(&mut self) {
        self.world.heal();
        for n in 0..self.world.devices.len() {
            self.table.set_device(self.world.devices[n].clone(), self.now);
            self.world.online[n] = true;
        }
        let end_ms = self.now.mono_ms + 12 * DAY_MS;
        loop {
            self.serve();
            while let Some(flight) = self.flights.pop() {
                self.pass(700);
                self.land(flight, 9);
            }
            while let Some(doubt) = self.doubts.pop() {
                self.table.release(doubt.route, doubt.message.candidate.tenant, 0, 0, self.now);
            }
            self.serve();
            if !self.flights.is_empty() {
                continue;
            }
            let can_leave = |queued: &&Queued| self.world.may_leave(&queued.candidate);
            let left: Vec<&Queued> = self.queue.iter().filter(can_leave).collect();
            if left.is_empty() {
                return;
            }
            let asked = self.queue.iter().filter_map(|queued| queued.ask_ms);
            let next_ms = asked.chain(self.table.next_deadline()).filter(|at_ms| *at_ms > self.now.mono_ms).min();
            let next_ms = next_ms.filter(|at_ms| *at_ms <= end_ms);
            assert!(next_ms.is_some(), "seed {}: nobody asks for them any more: {left:?}", self.seed);
            self.pass(next_ms.map_or(0, |at_ms| at_ms - self.now.mono_ms));
        }
    }
}

fn story(seed: u64) -> Vec<String> {
    let mut run = Run::new(seed);
    for _ in 0..STEPS {
        run.step();
    }
    run.drain();
    run.story
}

#[test]
fn nothing_passes_a_limit_and_whatever_can_leave_does() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("FLOTILLA_SEED");
    let seeds = first.map_or(0..number("FLOTILLA_WORLDS").unwrap_or(WORLDS), |seed| seed..seed + 1);
    let found = FOUND.into_iter().filter(|_| first.is_none());
    let rich = seeds.clone().map(|seed| RICH + seed).filter(|_| first.is_none());
    let mut taken = 0;
    for seed in seeds.chain(rich).chain(found) {
        taken += story(seed).len();
    }
    assert!(taken > 100 || first.is_some(), "the worlds are not empty: {taken}");
}

#[test]
fn the_same_seed_makes_the_same_choices() {
    for seed in [3, 77, 1_003, RICH + 7] {
        assert_eq!(story(seed), story(seed), "seed {seed}");
    }
}

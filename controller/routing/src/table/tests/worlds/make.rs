//! How random worlds are made.

use super::*;
use crate::settings::{Budget, Limits, Plan, Price, RecipientLimit, Select, Step, WarmUp, Window};
use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::seed::mix(self.0)
    }

    pub(super) fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn maybe(&mut self, one_in: u64, least: u32, span: u64) -> Option<u32> {
        self.one_in(one_in).then(|| least + self.below(span) as u32)
    }
}

/// Limits stay what they are; other settings of SIMs change.
pub(super) struct World {
    pub(super) tenants: Vec<(TenantId, Arc<TenantRouting>)>,
    pub(super) devices: Vec<RouteDevice>,
    pub(super) online: Vec<bool>,
    pub(super) puts_clock_back: bool,
}

/// An hour at night, none, half an hour, none.
const ZONES: [&str; 5] = ["", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Kiritimati"];

/// Days in which clocks change in those zones, or a month ends.
const EVENTFUL_MS: [u64; 6] = [
    1_792_800_000_000, // 2026-10-24
    1_806_105_600_000, // 2027-03-27
    1_790_985_600_000, // 2026-10-03
    1_806_710_400_000, // 2027-04-03
    1_798_588_800_000, // 2026-12-30
    1_803_686_400_000, // 2027-02-27
];

pub(super) fn eventful(random: &mut Random) -> u64 {
    EVENTFUL_MS[random.below(6) as usize] + random.below(3 * DAY_MS)
}

/// As the table does where the name is not known.
fn zone(name: &str) -> TimeZone {
    if name.is_empty() { TimeZone::UTC } else { TimeZone::get(name).unwrap_or(TimeZone::UTC) }
}

fn local(name: &str, unix_ms: u64) -> jiff::Zoned {
    Timestamp::from_millisecond(unix_ms as i64).unwrap().to_zoned(zone(name))
}

/// Days since 1970, and months, by the clock of the zone.
pub(super) fn day_and_month(name: &str, unix_ms: u64) -> (i32, i32) {
    let date = local(name, unix_ms).date();
    let since = date.since((jiff::Unit::Day, jiff::civil::date(1970, 1, 1))).unwrap();
    (since.get_days(), (i32::from(date.year()) - 1970) * 12 + i32::from(date.month()) - 1)
}

/// Whether the wall clock is in one of the route's windows.
pub(super) fn is_open(settings: &RouteSettings, unix_ms: u64) -> bool {
    let clock = local(&settings.timezone, unix_ms).strftime("%H:%M").to_string();
    let inside = |window: &Window| {
        let (from, to) = (&*window.from, &*window.to);
        if from < to { (from..to).contains(&&*clock) } else { &*clock >= from || &*clock < to }
    };
    settings.windows.is_empty() || settings.windows.iter().any(inside)
}

const NUMBERS: [u64; 5] = [255_712_345_678, 255_712_345_679, 255_754_000_001, 254_712_345_678, 12_125_550_123];

fn limits(random: &mut Random) -> Limits {
    Limits {
        per_minute: random.maybe(3, 3, 10),
        per_hour: random.maybe(4, 5, 30),
        per_day: random.maybe(4, 15, 60),
        per_month: None,
        recipients_per_month: random.maybe(12, 1, 3),
        gap_ms: random.maybe(5, 1, 20_000),
        gap_jitter_ms: random.maybe(8, 1, 5_000),
    }
}

fn few_limits(random: &mut Random, one_in: u64) -> Limits {
    if random.one_in(one_in) { limits(random) } else { Limits::default() }
}

impl World {
    pub(super) fn new(random: &mut Random, rich: bool) -> Self {
        let tenants =
            (1..=1 + random.below(2)).map(|n| (TenantId::from_bytes([n as u8; 16]), Arc::new(routing(random))));
        let tenants: Vec<_> = tenants.collect();
        let count = 1 + random.below(6);
        let devices: Vec<_> = (1..=count).map(|n| make_device(random, n as u8, tenants.len())).collect();
        let mut world = Self { online: vec![false; devices.len()], tenants, devices, puts_clock_back: false };
        if rich {
            world.enrich(random);
        }
        world
    }

    /// Zones, windows over midnight, months and warm-ups.
    fn enrich(&mut self, random: &mut Random) {
        self.puts_clock_back = random.one_in(3);
        for (_, routing) in &mut self.tenants {
            let mut limits = routing.limits.clone();
            limits.per_month = random.maybe(5, 40, 80);
            let timezone = ZONES[random.below(5) as usize].into();
            *routing = Arc::new(TenantRouting { limits, timezone, ..(**routing).clone() });
        }
        for device in &mut self.devices {
            // A device's own limits are in the zone of each of its SIMs: one zone, so that they mean the same.
            let timezone: Box<str> = ZONES[random.below(5) as usize].into();
            for sim in &mut device.sims {
                let mut settings = (*sim.settings).clone();
                settings.timezone = timezone.clone();
                settings.limits.per_month = random.maybe(4, 20, 60);
                let first = 3 + random.below(6) as u32;
                settings.warm_up = random.one_in(3).then(|| WarmUp { per_day: vec![first, first + 4, first + 9] });
                if random.one_in(4) {
                    let from = 18 + random.below(6);
                    let (from, to) = (format!("{from:02}:30"), format!("{:02}:15", 1 + random.below(6)));
                    settings.windows = vec![Window { days: vec![], from: from.into(), to: to.into() }];
                }
                sim.settings = Arc::new(settings);
            }
        }
    }

    pub(super) fn routing(&self, tenant: TenantId) -> &TenantRouting {
        &self.tenants.iter().find(|(id, _)| *id == tenant).unwrap().1
    }

    pub(super) fn device(&self, route: Route) -> (usize, &RouteDevice) {
        self.devices.iter().enumerate().find(|(_, device)| device.device == route.device).unwrap()
    }

    pub(super) fn sim(&self, route: Route) -> &RouteSim {
        self.device(route).1.sims.iter().find(|sim| sim.sim == route.sim).unwrap()
    }

    /// Changes how a device will be when it is heard of next.
    pub(super) fn change(&mut self, random: &mut Random) {
        let n = random.below(self.devices.len() as u64) as usize;
        let online = self.online[n];
        let device = &mut self.devices[n];
        if online {
            // What is checked against has to be what the table was told.
            return;
        }
        device.accepts_work = !random.one_in(5);
        for sim in &mut device.sims {
            sim.ready = !random.one_in(5);
            let settings = RouteSettings { held: random.one_in(6), ..(*sim.settings).clone() };
            sim.settings = Arc::new(settings);
        }
    }

    /// Nothing is held, drained or not ready any more.
    pub(super) fn heal(&mut self) {
        for device in &mut self.devices {
            device.accepts_work = true;
            for sim in &mut device.sims {
                sim.ready = true;
                sim.settings = Arc::new(RouteSettings { held: false, ..(*sim.settings).clone() });
            }
        }
    }

    pub(super) fn message(&self, random: &mut Random, number: u64, now: Now) -> Candidate {
        let tenant = self.tenants[random.below(self.tenants.len() as u64) as usize].0;
        let device = &self.devices[random.below(self.devices.len() as u64) as usize];
        let pin = match random.below(12) {
            0 => Pin::Device(device.device),
            1 => Pin::Sim(device.sims[0].sim),
            _ => Pin::Any,
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Candidate {
            message: MessageId::from_bytes(bytes),
            tenant,
            class: Priority::ALL[random.below(4) as usize],
            pin,
            plan: PlanRef(random.below(2) as u16),
            to: Msisdn::from_u64(NUMBERS[random.below(5) as usize]).unwrap(),
            segments: 1 + random.below(3) as u8,
            unicode: random.one_in(5),
            avoid: random.one_in(8).then(|| self.route_of(random)),
            waits_since_ms: now.mono_ms,
            max_cost: random.one_in(6).then(|| Micros(random.below(4) * 1_000)),
            ..candidate(Priority::Normal, Pin::Any, None)
        }
    }

    fn route_of(&self, random: &mut Random) -> Route {
        let device = &self.devices[random.below(self.devices.len() as u64) as usize];
        Route { kind: device.kind, device: device.device, sim: device.sims[0].sim }
    }

    /// Whether a route could carry it in a day or two, were all of them there and well: by settings that do not change.
    pub(super) fn may_leave(&self, candidate: &Candidate) -> bool {
        let routing = self.routing(candidate.tenant);
        let segments = u32::from(candidate.segments);
        let holds = |limits: &Limits| {
            let all = [limits.per_minute, limits.per_hour, limits.per_day];
            let months = limits.recipients_per_month.is_some() || limits.per_month.is_some();
            all.iter().flatten().all(|limit| *limit >= segments) && !months
        };
        let country = candidate.to.region().unwrap().to_string();
        let suits = |device: &RouteDevice, sim: &RouteSim| {
            let route = Route { kind: device.kind, device: device.device, sim: sim.sim };
            let settings = &sim.settings;
            let price = settings.price.per_segment.times(candidate.segments);
            let pinned = match candidate.pin {
                Pin::Any => candidate.avoid != Some(route),
                Pin::Sim(pinned) => pinned == sim.sim,
                Pin::Device(pinned) => pinned == device.device && candidate.avoid != Some(route),
            };
            let weighs = settings.countries.is_empty() || settings.countries.iter().any(|is| **is == *country);
            let paid = candidate.max_cost.is_none_or(|most| candidate.spent.saturating_add(price) <= most);
            let affordable = routing.budget.is_none() || price == Micros::ZERO;
            pinned
                && weighs
                && paid
                && affordable
                && holds(&settings.limits)
                && holds(&settings.device_limits)
                && (settings.unicode || !candidate.unicode)
        };
        let own = self.devices.iter().filter(|device| device.tenant == candidate.tenant);
        let mut routes = own.flat_map(|device| device.sims.iter().map(move |sim| (device, sim)));
        holds(&routing.limits) && routes.any(|(device, sim)| suits(device, sim))
    }
}

fn routing(random: &mut Random) -> TenantRouting {
    let all = vec![Select::Sims, Select::Providers];
    let step = |routes: Vec<Select>, patience_s, cheapest| Step { routes, patience_s, cheapest };
    let steps = match random.below(4) {
        0 => vec![step(all, None, true)],
        1 => vec![step(vec![Select::Pool("a".into())], Some(10), false), step(all, None, false)],
        2 => vec![step(vec![Select::Providers], Some(0), true), step(vec![Select::Sims], None, false)],
        _ => vec![step(vec![Select::Sims], Some(40), false), step(vec![Select::Providers], None, false)],
    };
    let limit = random
        .one_in(3)
        .then(|| RecipientLimit { messages: 1 + random.below(3) as u16, window_s: 60 + random.below(3_600) as u32 });
    let budget = random.one_in(4).then(|| Budget {
        per_month: Micros(2_000 + random.below(60_000)),
        stop: true,
        warn_percent: 80,
    });
    TenantRouting {
        budget,
        limits: few_limits(random, 4),
        recipient_limit: limit,
        plans: [("mine".into(), Plan { steps })].into_iter().collect(),
        default_plan: random.one_in(2).then(|| "mine".into()),
        rules: vec![crate::settings::Rule {
            name: "half".into(),
            when: crate::settings::Conditions::default(),
            plan: "sims-first".into(),
            share_percent: Some(50),
        }],
        sticky_points: [0, 20][random.below(2) as usize],
        learn: random.one_in(2),
        ..TenantRouting::default()
    }
}

fn make_device(random: &mut Random, n: u8, tenants: usize) -> RouteDevice {
    let kind = if random.one_in(3) { RouteKind::Provider } else { RouteKind::Sim };
    let device_limits = few_limits(random, 6);
    let sims = (0..1 + random.below(3)).map(|slot| {
        let settings = RouteSettings {
            limits: few_limits(random, 2),
            device_limits: device_limits.clone(),
            windows: windows(random),
            pools: random.one_in(2).then(|| "a".into()).into_iter().collect(),
            countries: if random.one_in(4) { vec!["TZ".into()] } else { vec![] },
            price: Price { per_segment: Micros(random.below(4) * 1_000), ..Price::default() },
            unicode: !random.one_in(4),
            weight: [100, 100, 40, 0][random.below(4) as usize],
            ..RouteSettings::default()
        };
        let sim = SimId::from_bytes([n * 8 + slot as u8; 16]);
        RouteSim { slot: slot as u8, sim, depth: 1 + random.below(3) as u8, ready: true, settings: Arc::new(settings) }
    });
    RouteDevice {
        kind,
        device: device(n),
        sims: sims.collect(),
        tenant: TenantId::from_bytes([1 + random.below(tenants as u64) as u8; 16]),
        window: 1 + random.below(12) as u16,
        accepts_work: true,
    }
}

fn windows(random: &mut Random) -> Vec<Window> {
    if !random.one_in(5) {
        return vec![];
    }
    let from = random.below(22);
    vec![Window { days: vec![], from: format!("{from:02}:15").into(), to: format!("{:02}:45", from + 1).into() }]
}

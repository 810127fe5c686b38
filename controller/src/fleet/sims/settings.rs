//! What people set about a SIM. What they leave out comes from its tenant, its carrier and the kind of its device; see
//! `fleet::routing::resolve`.

use flotilla_protocol::number::{Plmn, Region};
use flotilla_routing::Micros;
use flotilla_routing::limits::{Invalid, check_limits, check_price, check_warm_up, check_windows, zone};
use flotilla_routing::presets;
use flotilla_routing::settings::{Limits, Price, WarmUp, Window};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::cut;

/// Of one SIM.
const POOLS_MAX: usize = 8;
const POOL_BYTES_MAX: usize = 32;
const COUNTRIES_MAX: usize = 250;
const PREFIXES_MAX: usize = 32;
/// The preset that is none.
const NO_CARRIER: &str = "none";
const WEIGHT_MAX: u8 = 100;

/// A SIM's own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SimSettings {
    /// Where it has none of its own, those of the tenant, the carrier and the device's kind count.
    pub limits: Limits,
    /// When it may send; empty for always.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// IANA name, for its days, months and windows; the tenant's unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub timezone: Option<Box<str>>,
    pub price: Price,
    /// Names by which plans select it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub pools: Vec<Box<str>>,
    /// Its share of new work beside equals, 0 to 100; 100 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUp>,
    /// The carrier whose known limits count, by name, instead of that of its home network; `none` for no carrier's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub preset: Option<Box<str>>,
    /// Countries (ISO 3166) that it may send to; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub countries: Vec<Box<str>>,
    /// Beginnings of numbers of its own network, digits without `+`: it is preferred for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub own_prefixes: Vec<Box<str>>,
    /// An event when the balance is told and not above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub low_balance: Option<Micros>,
}

impl SimSettings {
    /// The limits that its carrier is known for, unless it is not to be held to them.
    pub fn carrier_limits(&self, home: Option<Plmn>) -> Option<&'static Limits> {
        let carrier = match self.preset.as_deref() {
            None => home.and_then(presets::carrier),
            Some(NO_CARRIER) => None,
            Some(name) => presets::carriers().iter().find(|carrier| carrier.name == name),
        };
        carrier.map(|carrier| &carrier.limits)
    }

    /// Everything that has a bound or a form.
    pub fn check(&self) -> Result<(), Invalid> {
        check_limits("limits", &self.limits)?;
        check_windows("windows", &self.windows)?;
        check_price("price", &self.price)?;
        self.timezone.iter().try_for_each(|name| zone("timezone", name).map(drop))?;
        self.warm_up.iter().try_for_each(|warm_up| check_warm_up("warm_up", warm_up))?;
        few("pools", self.pools.len(), POOLS_MAX)?;
        for (place, pool) in self.pools.iter().enumerate() {
            let fits = !pool.is_empty() && cut(pool, POOL_BYTES_MAX) == **pool;
            let repeated = self.pools[..place].contains(pool);
            need(fits && !repeated, || {
                let remedy =
                    format!("has to be 1 to {POOL_BYTES_MAX} bytes without control characters, and there once");
                Invalid::new(format!("pools[{place}]"), remedy)
            })?;
        }
        few("countries", self.countries.len(), COUNTRIES_MAX)?;
        for (place, country) in self.countries.iter().enumerate() {
            let known = Region::parse(country).is_ok_and(|region| region.as_str() == &**country);
            need(known, || Invalid::new(format!("countries[{place}]"), "has to be two capital letters, such as TZ"))?;
        }
        few("own_prefixes", self.own_prefixes.len(), PREFIXES_MAX)?;
        for (place, prefix) in self.own_prefixes.iter().enumerate() {
            let fits = (1..=15).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_digit());
            let remedy = "has to be 1 to 15 digits without +, such as 25571";
            need(fits, || Invalid::new(format!("own_prefixes[{place}]"), remedy))?;
        }
        if let Some(name) = self.preset.as_deref().filter(|name| *name != NO_CARRIER) {
            let known: Vec<_> = presets::carriers().iter().map(|carrier| carrier.name).collect();
            let remedy = || format!("has to be {NO_CARRIER}, or one of: {}", known.join(", "));
            need(known.contains(&name), || Invalid::new("preset", remedy()))?;
        }
        let weight = self.weight.is_none_or(|weight| weight <= WEIGHT_MAX);
        need(weight, || Invalid::new("weight", format!("has to be 0 to {WEIGHT_MAX}")))
    }
}

fn need(good: bool, error: impl FnOnce() -> Invalid) -> Result<(), Invalid> {
    if good { Ok(()) } else { Err(error()) }
}

fn few(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    need(count <= max, || Invalid::new(field, format!("may have at most {max} entries")))
}

/// What to change: `None` leaves it, `Some(None)` goes back to the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsChange {
    pub limits: Option<Option<Limits>>,
    pub windows: Option<Option<Vec<Window>>>,
    pub timezone: Option<Option<Box<str>>>,
    pub price: Option<Option<Price>>,
    pub pools: Option<Option<Vec<Box<str>>>>,
    pub weight: Option<Option<u8>>,
    pub warm_up: Option<Option<WarmUp>>,
    pub preset: Option<Option<Box<str>>>,
    pub countries: Option<Option<Vec<Box<str>>>>,
    pub own_prefixes: Option<Option<Vec<Box<str>>>>,
    pub low_balance: Option<Option<Micros>>,
}

impl SettingsChange {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn apply(self, to: &mut SimSettings) {
        fn whole<T: Default>(to: &mut T, new: Option<Option<T>>) {
            if let Some(new) = new {
                *to = new.unwrap_or_default();
            }
        }
        fn maybe<T>(to: &mut Option<T>, new: Option<Option<T>>) {
            if let Some(new) = new {
                *to = new;
            }
        }
        whole(&mut to.limits, self.limits);
        whole(&mut to.windows, self.windows);
        maybe(&mut to.timezone, self.timezone);
        whole(&mut to.price, self.price);
        whole(&mut to.pools, self.pools);
        maybe(&mut to.weight, self.weight);
        maybe(&mut to.warm_up, self.warm_up);
        maybe(&mut to.preset, self.preset);
        whole(&mut to.countries, self.countries);
        whole(&mut to.own_prefixes, self.own_prefixes);
        maybe(&mut to.low_balance, self.low_balance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_name_their_field() {
        let with = |change: fn(&mut SimSettings)| {
            let mut settings = SimSettings::default();
            change(&mut settings);
            settings.check().map_err(|error| error.field)
        };
        assert_eq!(SimSettings::default().check(), Ok(()));
        let good = with(|sim| {
            sim.pools = vec!["otp".into(), "bulk".into()];
            sim.countries = vec!["TZ".into()];
            sim.own_prefixes = vec!["25571".into()];
            sim.weight = Some(100);
        });
        assert_eq!(good, Ok(()));
        type Change = fn(&mut SimSettings);
        let cases: [(Change, &str); 13] = [
            (|sim| sim.preset = Some("Nobody".into()), "preset"),
            (|sim| sim.limits.gap_ms = Some(u32::MAX), "limits.gap_ms"),
            (|sim| sim.timezone = Some("Africa/Nowhere".into()), "timezone"),
            (|sim| sim.warm_up = Some(WarmUp::default()), "warm_up.per_day"),
            (|sim| sim.windows = vec![Window { days: vec![], from: "8".into(), to: "9".into() }], "windows[0].from"),
            (|sim| sim.pools = vec!["a".into(); 9], "pools"),
            (|sim| sim.pools = vec!["a".into(), "a".into()], "pools[1]"),
            (|sim| sim.pools = vec!["".into()], "pools[0]"),
            (|sim| sim.countries = vec!["TZ".into(), "Tanzania".into()], "countries[1]"),
            (|sim| sim.countries = vec!["tz".into()], "countries[0]"),
            (|sim| sim.own_prefixes = vec!["+25571".into()], "own_prefixes[0]"),
            (|sim| sim.own_prefixes = vec!["1".repeat(16).into()], "own_prefixes[0]"),
            (|sim| sim.weight = Some(101), "weight"),
        ];
        for (change, field) in cases {
            assert_eq!(with(change), Err(field.to_owned()));
        }
    }

    #[test]
    fn a_carrier_is_known_by_its_network_or_named() {
        let carrier = &presets::carriers()[0];
        let home = Plmn::parse("310260").unwrap();
        let with = |preset: Option<&str>| SimSettings { preset: preset.map(Into::into), ..SimSettings::default() };
        assert_eq!(with(None).carrier_limits(None), None);
        assert_eq!(with(None).carrier_limits(Some(home)), presets::carrier(home).map(|carrier| &carrier.limits));
        assert_eq!(with(Some("none")).carrier_limits(Some(home)), None);
        assert_eq!(with(Some(carrier.name)).carrier_limits(None), Some(&carrier.limits));
        assert_eq!(with(Some(carrier.name)).check(), Ok(()));
        assert_eq!(with(Some("none")).check(), Ok(()));
    }

    #[test]
    fn a_change_replaces_what_it_names_and_leaves_the_rest() {
        let mut settings = SimSettings { weight: Some(50), pools: vec!["a".into()], ..SimSettings::default() };
        let limits = Limits { per_day: Some(100), ..Limits::default() };
        let change = SettingsChange { limits: Some(Some(limits.clone())), weight: Some(None), ..Default::default() };
        assert!(!change.is_empty() && SettingsChange::default().is_empty());
        change.apply(&mut settings);
        assert_eq!(settings, SimSettings { limits, pools: vec!["a".into()], ..SimSettings::default() });
        let cleared = SettingsChange { pools: Some(None), limits: Some(None), ..Default::default() };
        cleared.apply(&mut settings);
        assert_eq!(settings, SimSettings::default());
    }

    #[test]
    fn settings_come_back_from_the_catalog() {
        let settings = SimSettings {
            limits: Limits { per_day: Some(7), ..Limits::default() },
            low_balance: Some(Micros(1_500_000)),
            warm_up: Some(WarmUp { per_day: vec![20, 50] }),
            ..SimSettings::default()
        };
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<SimSettings>(&text).unwrap(), settings);
        assert_eq!(serde_json::from_str::<SimSettings>("{}").unwrap(), SimSettings::default());
    }
}

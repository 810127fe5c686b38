//! `flotilla sims change`: what is named on the command line, over what the SIM has.

use std::str::FromStr;

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(super) const EXAMPLE: &str = "Example:\n  flotilla sims change sim_01kaqmpxm0e8xs6bhkrg5jrqzt --per-day 300 --gap-ms 4000 \
    --window mon-fri@08:00-20:00\n\n`none` takes a setting away: then the tenant's, the carrier's or the device's counts.";

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const NONE: &str = "none";

#[derive(Debug, Args)]
pub struct ChangeSim {
    /// sim_...
    id: String,
    /// Segments in any 60 seconds
    #[arg(long, value_name = "N")]
    per_minute: Option<Number>,
    /// Segments in any 60 minutes
    #[arg(long, value_name = "N")]
    per_hour: Option<Number>,
    /// Segments of a day
    #[arg(long, value_name = "N")]
    per_day: Option<Number>,
    /// Segments of a month
    #[arg(long, value_name = "N")]
    per_month: Option<Number>,
    /// Different recipients of a month
    #[arg(long, value_name = "N")]
    recipients_per_month: Option<Number>,
    /// Pause between two messages, milliseconds
    #[arg(long, value_name = "MS")]
    gap_ms: Option<Number>,
    /// A random addition to each pause, at most, milliseconds
    #[arg(long, value_name = "MS")]
    gap_jitter_ms: Option<Number>,
    /// When it may send, such as mon-fri@08:00-20:00 or 09:00-17:00; repeatable
    #[arg(long = "window", value_name = "HOURS")]
    windows: Vec<Hours>,
    /// Such as Africa/Dar_es_Salaam
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Of a segment, in your currency
    #[arg(long, value_name = "AMOUNT")]
    price: Option<String>,
    /// Segments of a month that are paid with the plan
    #[arg(long, value_name = "N")]
    bundle_per_month: Option<Number>,
    /// A name by which plans select it; repeatable
    #[arg(long = "pool", value_name = "NAME")]
    pools: Vec<String>,
    /// Its share of new work beside equals, 0 to 100
    #[arg(long, value_name = "N")]
    weight: Option<Number>,
    /// Segments of its first days, such as 20,50,100
    #[arg(long, value_name = "LIST")]
    warm_up: Option<Numbers>,
    /// The carrier whose known limits count, instead of that of its home network
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// A country (ISO 3166) that it may send to; repeatable
    #[arg(long = "country", value_name = "CODE")]
    countries: Vec<String>,
    /// The beginning of its own network's numbers, such as 25571; repeatable
    #[arg(long = "own-prefix", value_name = "DIGITS")]
    own_prefixes: Vec<String>,
    /// What is left on the card, in your currency
    #[arg(long, value_name = "AMOUNT")]
    balance: Option<String>,
    /// Tell when the balance is not above this
    #[arg(long, value_name = "AMOUNT")]
    low_balance: Option<String>,
}

/// A number, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number(Option<u32>);

impl FromStr for Number {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            NONE => Ok(Self(None)),
            text => text.parse().map(|number| Self(Some(number))).map_err(|_| "give a whole number, or none"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Numbers(Option<Vec<u32>>);

impl FromStr for Numbers {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NONE {
            return Ok(Self(None));
        }
        let numbers: Result<Vec<u32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
        numbers.map(|numbers| Self(Some(numbers))).map_err(|_| "give numbers such as 20,50,100, or none")
    }
}

/// `mon-fri@08:00-20:00`; none for no hours at all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hours(Option<Value>);

impl FromStr for Hours {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const REMEDY: &str = "give days and hours such as mon-fri@08:00-20:00, or hours only, or none";
        if text == NONE {
            return Ok(Self(None));
        }
        let (days, hours) = text.split_once('@').unwrap_or(("", text));
        let (from, to) = hours.split_once('-').ok_or(REMEDY)?;
        let place = |day: &str| DAYS.iter().position(|known| *known == day).ok_or(REMEDY);
        let days: Vec<&str> = match days.split_once('-') {
            _ if days.is_empty() => Vec::new(),
            Some((first, last)) => DAYS.get(place(first)?..=place(last)?).ok_or(REMEDY)?.to_vec(),
            None => days.split(',').map(|day| place(day).map(|at| DAYS[at])).collect::<Result<_, _>>()?,
        };
        Ok(Self(Some(json!({"days": days, "from": from, "to": to}))))
    }
}

/// What the SIM has, of what is only changed as a whole.
#[derive(Default, Deserialize)]
pub(super) struct Present {
    #[serde(default)]
    settings: PresentSettings,
}

#[derive(Default, Deserialize)]
struct PresentSettings {
    #[serde(default)]
    limits: Map<String, Value>,
    #[serde(default)]
    price: Map<String, Value>,
}

impl ChangeSim {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The change as the API takes it.
    pub(super) fn body(&self, present: Present) -> Value {
        let PresentSettings { limits, price } = present.settings;
        let mut body = Map::new();
        merge(
            &mut body,
            "limits",
            limits,
            [
                ("per_minute", number(self.per_minute)),
                ("per_hour", number(self.per_hour)),
                ("per_day", number(self.per_day)),
                ("per_month", number(self.per_month)),
                ("recipients_per_month", number(self.recipients_per_month)),
                ("gap_ms", number(self.gap_ms)),
                ("gap_jitter_ms", number(self.gap_jitter_ms)),
            ],
        );
        let per_segment = self.price.as_deref().map(|price| if price == NONE { "0".into() } else { price.into() });
        let bundle = number(self.bundle_per_month);
        merge(&mut body, "price", price, [("per_segment", per_segment), ("bundle_per_month", bundle)]);
        let windows = self.windows.iter().map(|hours| hours.0.clone()).collect::<Option<Vec<_>>>();
        let plain = [
            ("windows", (!self.windows.is_empty()).then(|| json!(windows))),
            ("timezone", text(self.timezone.as_ref())),
            ("pools", list(&self.pools)),
            ("weight", number(self.weight)),
            ("warm_up", self.warm_up.as_ref().map(|days| json!(days.0.as_ref().map(|days| json!({"per_day": days}))))),
            ("preset", self.preset.as_ref().map(|name| json!(name))),
            ("countries", list(&self.countries)),
            ("own_prefixes", list(&self.own_prefixes)),
            ("balance", text(self.balance.as_ref())),
            ("low_balance", text(self.low_balance.as_ref())),
        ];
        body.extend(plain.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Value::Object(body)
    }
}

/// A group that the API changes as a whole: the named parts over those that are there.
fn merge<const N: usize>(
    body: &mut Map<String, Value>,
    name: &str,
    mut present: Map<String, Value>,
    parts: [(&str, Option<Value>); N],
) {
    if parts.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    present.extend(parts.into_iter().filter_map(|(part, value)| Some((part.to_owned(), value?))));
    body.insert(name.to_owned(), Value::Object(present));
}

fn number(given: Option<Number>) -> Option<Value> {
    given.map(|Number(number)| json!(number))
}

fn text(given: Option<&String>) -> Option<Value> {
    given.map(|text| if text == NONE { Value::Null } else { json!(text) })
}

fn list(given: &[String]) -> Option<Value> {
    match given {
        [] => None,
        [none] if none == NONE => Some(Value::Null),
        given => Some(json!(given)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        change: ChangeSim,
    }

    fn body(words: &[&str], present: Value) -> Value {
        let words = ["change", "sim_1"].iter().chain(words);
        let command = Command::try_parse_from(words).unwrap();
        command.change.body(serde_json::from_value(present).unwrap())
    }

    #[test]
    fn limits_that_are_not_named_stay() {
        let present =
            json!({"settings": {"limits": {"per_day": 300, "per_minute": 5}, "price": {"per_segment": "0.1"}}});
        assert_eq!(body(&[], present.clone()), json!({}));
        assert_eq!(
            body(&["--per-day", "none", "--gap-ms", "4000", "--bundle-per-month", "100"], present),
            json!({"limits": {"per_day": null, "per_minute": 5, "gap_ms": 4000},
                "price": {"per_segment": "0.1", "bundle_per_month": 100}})
        );
    }

    #[test]
    fn settings_are_given_or_taken_away() {
        let words = ["--window", "mon-fri@08:00-20:00", "--window", "sat,sun@10:00-12:00", "--window", "22:00-23:00"];
        assert_eq!(
            body(&words, json!({})),
            json!({"windows": [
                {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "20:00"},
                {"days": ["sat", "sun"], "from": "10:00", "to": "12:00"},
                {"days": [], "from": "22:00", "to": "23:00"}]})
        );
        let words = ["--pool", "a", "--pool", "b", "--warm-up", "20, 50", "--balance", "12.50", "--timezone", "none"];
        assert_eq!(
            body(&words, json!({})),
            json!({"pools": ["a", "b"], "warm_up": {"per_day": [20, 50]}, "balance": "12.50", "timezone": null})
        );
        let words = ["--window", "none", "--pool", "none", "--warm-up", "none", "--weight", "none", "--price", "none"];
        assert_eq!(
            body(&words, json!({})),
            json!({"windows": null, "pools": null, "warm_up": null, "weight": null, "price": {"per_segment": "0"}})
        );
        for wrong in [["--window", "fri-mon@08:00-20:00"], ["--window", "always"], ["--per-day", "many"]] {
            assert!(Command::try_parse_from(["change", "sim_1"].iter().chain(&wrong)).is_err(), "{wrong:?}");
        }
    }
}

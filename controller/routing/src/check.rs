//! What a tenant may set about routing. Checked once, whole, before it is kept; an error names its field as the API does, and
//! the remedy. Whatever passes here compiles in `rules` and `table`.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use flotilla_protocol::number::{Msisdn, Region};

use crate::Micros;
use crate::limits::{Invalid, check_limits, check_recipient_limit, check_windows, zone};
use crate::plan;
use crate::rules::pattern;
use crate::settings::{Budget, Conditions, Plan, Rule, Select, Step, TenantRouting};

pub const RULES_MAX: usize = 200;
/// Rules with a pattern over the text: each may take some hundred kilobytes of memory.
pub const PATTERNS_MAX: usize = 50;
pub const PLANS_MAX: usize = 50;
pub const STEPS_MAX: usize = 8;
pub const SELECTS_MAX: usize = 32;
pub const NAME_MAX: usize = 64;
pub const PATTERN_MAX: usize = 500;
pub const PREFIXES_MAX: usize = 1_000;
const LIST_MAX: usize = 250;
/// A day.
pub const PATIENCE_S_MAX: u32 = 86_400;
/// A milliard of the currency.
const BUDGET_MAX: Micros = Micros(1_000_000_000_000_000);

pub fn check(routing: &TenantRouting) -> Result<(), Invalid> {
    let currency = routing.currency.as_bytes();
    if currency.len() != 3 || !currency.iter().all(u8::is_ascii_uppercase) {
        return Err(Invalid::new("currency", "has to be three capital letters of ISO 4217, such as TZS"));
    }
    check_limits("limits", &routing.limits)?;
    check_limits("sim_limits", &routing.sim_limits)?;
    zone("timezone", &routing.timezone)?;
    routing.recipient_limit.as_ref().map_or(Ok(()), |limit| check_recipient_limit("recipient_limit", limit))?;
    routing.budget.as_ref().map_or(Ok(()), budget)?;
    plans(routing)?;
    rules(routing)?;
    if let Some(name) = &routing.default_plan {
        exists(routing, "default_plan", name)?;
    }
    if routing.sticky_points > 100 {
        return Err(Invalid::new("sticky_points", "may be at most 100; 0 switches it off"));
    }
    Ok(())
}

fn budget(budget: &Budget) -> Result<(), Invalid> {
    if budget.per_month == Micros::ZERO || budget.per_month > BUDGET_MAX {
        return Err(Invalid::new("budget.per_month", format!("has to be above 0 and at most {BUDGET_MAX}")));
    }
    if !(1..=100).contains(&budget.warn_percent) {
        return Err(Invalid::new("budget.warn_percent", "has to be 1 to 100; 100 warns when the budget is spent"));
    }
    Ok(())
}

fn plans(routing: &TenantRouting) -> Result<(), Invalid> {
    at_most("plans", routing.plans.len(), PLANS_MAX)?;
    for (name, plan) in &routing.plans {
        let field = format!("plans.{}", shown(name));
        check_name(&field, name)?;
        if plan::BUILT_IN.contains(&&**name) {
            return Err(Invalid::new(field, "is the name of a built-in plan; choose another one"));
        }
        check_plan(&field, plan)?;
    }
    Ok(())
}

fn check_plan(field: &str, plan: &Plan) -> Result<(), Invalid> {
    let field = format!("{field}.steps");
    if plan.steps.is_empty() {
        return Err(Invalid::new(field, "has to have at least one step"));
    }
    at_most(&field, plan.steps.len(), STEPS_MAX)?;
    plan.steps.iter().enumerate().try_for_each(|(n, step)| check_step(&format!("{field}[{n}]"), step))
}

fn check_step(field: &str, step: &Step) -> Result<(), Invalid> {
    let routes = format!("{field}.routes");
    if step.routes.is_empty() {
        return Err(Invalid::new(routes, "has to name at least one group of routes, such as sims or providers"));
    }
    at_most(&routes, step.routes.len(), SELECTS_MAX)?;
    for (n, select) in step.routes.iter().enumerate() {
        if let Select::Pool(name) = select {
            check_name(&format!("{routes}[{n}].pool"), name)?;
        }
    }
    if step.patience_s.is_some_and(|patience_s| patience_s > PATIENCE_S_MAX) {
        return Err(Invalid::new(format!("{field}.patience_s"), format!("may be at most {PATIENCE_S_MAX}, a day")));
    }
    Ok(())
}

fn rules(routing: &TenantRouting) -> Result<(), Invalid> {
    at_most("rules", routing.rules.len(), RULES_MAX)?;
    let patterns = routing.rules.iter().filter(|rule| rule.when.text.is_some()).count();
    if patterns > PATTERNS_MAX {
        let remedy =
            format!("may have at most {PATTERNS_MAX} rules with a pattern for the text; join some of them by |");
        return Err(Invalid::new("rules", remedy));
    }
    let mut names = BTreeSet::new();
    for (n, rule) in routing.rules.iter().enumerate() {
        let field = format!("rules[{n}]");
        check_rule(&field, routing, rule)?;
        if !names.insert(&rule.name) {
            return Err(Invalid::new(format!("{field}.name"), "is the name of an earlier rule; choose another one"));
        }
    }
    Ok(())
}

fn check_rule(field: &str, routing: &TenantRouting, rule: &Rule) -> Result<(), Invalid> {
    check_name(&format!("{field}.name"), &rule.name)?;
    exists(routing, &format!("{field}.plan"), &rule.plan)?;
    if rule.share_percent.is_some_and(|share| !(1..=100).contains(&share)) {
        return Err(Invalid::new(format!("{field}.share_percent"), "has to be 1 to 100; leave it out for all"));
    }
    check_conditions(&format!("{field}.when"), &rule.when)
}

fn check_conditions(field: &str, when: &Conditions) -> Result<(), Invalid> {
    let list = |name: &str, list: &[Box<str>], max: usize, holds: &dyn Fn(&str) -> Option<&'static str>| {
        let field = format!("{field}.{name}");
        at_most(&field, list.len(), max)?;
        let wrong = list.iter().enumerate().find_map(|(n, entry)| Some((n, holds(entry)?)));
        wrong.map_or(Ok(()), |(n, remedy)| Err(Invalid::new(format!("{field}[{n}]"), remedy)))
    };
    list("prefixes", &when.prefixes, PREFIXES_MAX, &|prefix| {
        let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let fits = (1..=15).contains(&prefix.len()) && digits && !prefix.starts_with('0');
        (!fits).then_some("has to be the first digits of international numbers without +, such as 25571")
    })?;
    list("countries", &when.countries, LIST_MAX, &country)?;
    let text = |text: &str| (text.is_empty() || text.len() > NAME_MAX).then_some("has to have 1 to 64 characters");
    list("senders", &when.senders, LIST_MAX, &text)?;
    list("tags", &when.tags, LIST_MAX, &text)?;
    at_most(&format!("{field}.priorities"), when.priorities.len(), 4)?;
    check_windows(&format!("{field}.times"), &when.times)?;
    let Some(text) = &when.text else { return Ok(()) };
    let field = format!("{field}.text");
    if text.is_empty() || text.len() > PATTERN_MAX {
        return Err(Invalid::new(field, format!("has to have 1 to {PATTERN_MAX} characters")));
    }
    pattern(text).map(drop).map_err(|error| {
        let why = match error {
            regex::Error::CompiledTooBig(_) => "is too large when compiled; make it simpler".to_owned(),
            error => {
                format!("is no regular expression: {}", error.to_string().lines().last().unwrap_or_default().trim())
            }
        };
        Invalid::new(field, why)
    })
}

/// Countries are told by their calling code, which some share.
fn country(text: &str) -> Option<&'static str> {
    static MAIN: OnceLock<BTreeSet<Region>> = OnceLock::new();
    let main = MAIN.get_or_init(|| {
        let numbers = (100..1_000).filter_map(|prefix| Msisdn::from_u64(prefix * 100_000_000).ok());
        numbers.filter_map(Msisdn::region).collect()
    });
    match Region::parse(text) {
        Err(_) => Some("has to be two letters of ISO 3166, such as TZ"),
        Ok(region) if main.contains(&region) => None,
        Ok(_) => Some("has no calling code of its own; give the beginnings of its numbers in prefixes"),
    }
}

fn exists(routing: &TenantRouting, field: &str, name: &str) -> Result<(), Invalid> {
    match plan::find(routing, name) {
        Some(_) => Ok(()),
        None => {
            let built_in = plan::BUILT_IN.join(", ");
            Err(Invalid::new(field, format!("has to be the name of one of the plans here, or of {built_in}")))
        }
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let fits = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    match fits {
        true => Ok(()),
        false => Err(Invalid::new(field, "has to have 1 to 64 letters, digits or signs, and no spaces")),
    }
}

/// A name that is not checked yet, for the path of an error.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

fn at_most(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    if count <= max { Ok(()) } else { Err(Invalid::new(field, format!("may have at most {max} entries"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Priority;

    fn rule(when: Conditions) -> Rule {
        Rule { name: "night".into(), when, plan: "cheapest".into(), share_percent: None }
    }

    fn with_rule(rule: Rule) -> TenantRouting {
        TenantRouting { rules: vec![rule], ..TenantRouting::default() }
    }

    fn when(set: impl FnOnce(&mut Conditions)) -> TenantRouting {
        let mut when = Conditions::default();
        set(&mut when);
        with_rule(rule(when))
    }

    fn with_plan(name: &str, steps: Vec<Step>) -> TenantRouting {
        TenantRouting { plans: [(name.into(), Plan { steps })].into_iter().collect(), ..TenantRouting::default() }
    }

    fn step(routes: Vec<Select>) -> Step {
        Step { routes, patience_s: None, cheapest: false }
    }

    fn set(set: impl FnOnce(&mut TenantRouting)) -> TenantRouting {
        let mut routing = TenantRouting::default();
        set(&mut routing);
        routing
    }

    #[test]
    fn what_is_usual_passes() {
        let full = when(|when| {
            when.prefixes = vec!["25571".into()];
            when.countries = vec!["TZ".into(), "us".into()];
            when.senders = vec!["ACME".into()];
            when.text = Some("(?i)code [0-9]{4}".into());
            when.priorities = vec![Priority::Urgent];
            when.tags = vec!["otp".into()];
        });
        let planned = with_plan("mine", vec![step(vec![Select::Pool("vip".into())]), step(vec![Select::Sims])]);
        for routing in [TenantRouting::default(), full, planned] {
            assert_eq!(check(&routing), Ok(()));
        }
    }

    #[test]
    fn each_wrong_value_is_named_by_its_path() {
        let long: Box<str> = "x".repeat(NAME_MAX + 1).into();
        let budget = |per_month, warn_percent| Budget { per_month: Micros(per_month), stop: true, warn_percent };
        let wrong = [
            (set(|routing| routing.currency = "usd".into()), "currency"),
            (set(|routing| routing.timezone = "Mars/Olympus".into()), "timezone"),
            (set(|routing| routing.limits.gap_ms = Some(u32::MAX)), "limits.gap_ms"),
            (set(|routing| routing.budget = Some(budget(0, 80))), "budget.per_month"),
            (set(|routing| routing.budget = Some(budget(1, 0))), "budget.warn_percent"),
            (set(|routing| routing.sticky_points = 101), "sticky_points"),
            (set(|routing| routing.default_plan = Some("none".into())), "default_plan"),
            (set(|routing| routing.rules = vec![rule(Conditions::default()); 201]), "rules"),
            (set(|routing| routing.rules = vec![rule(Conditions::default()); 2]), "rules[1].name"),
            (with_rule(Rule { name: "".into(), ..rule(Conditions::default()) }), "rules[0].name"),
            (with_rule(Rule { plan: "none".into(), ..rule(Conditions::default()) }), "rules[0].plan"),
            (with_rule(Rule { share_percent: Some(0), ..rule(Conditions::default()) }), "rules[0].share_percent"),
            (when(|when| when.prefixes = vec!["1".into(), "+2".into()]), "rules[0].when.prefixes[1]"),
            (when(|when| when.countries = vec!["TZA".into()]), "rules[0].when.countries[0]"),
            (when(|when| when.countries = vec!["CA".into()]), "rules[0].when.countries[0]"),
            (when(|when| when.senders = vec![long.clone()]), "rules[0].when.senders[0]"),
            (when(|when| when.tags = vec!["".into()]), "rules[0].when.tags[0]"),
            (when(|when| when.text = Some("(".into())), "rules[0].when.text"),
            (when(|when| when.text = Some(r"\w{1000}".into())), "rules[0].when.text"),
            (with_plan("cheapest", vec![step(vec![Select::Sims])]), "plans.cheapest"),
            (with_plan("two words", vec![step(vec![Select::Sims])]), "plans.two words"),
            (with_plan("mine", vec![]), "plans.mine.steps"),
            (with_plan("mine", vec![step(vec![Select::Sims]); 9]), "plans.mine.steps"),
            (with_plan("mine", vec![step(vec![])]), "plans.mine.steps[0].routes"),
            (with_plan("mine", vec![step(vec![Select::Sims; 33])]), "plans.mine.steps[0].routes"),
            (with_plan("mine", vec![step(vec![Select::Pool(long.clone())])]), "plans.mine.steps[0].routes[0].pool"),
            (
                with_plan("mine", vec![Step { patience_s: Some(90_000), ..step(vec![Select::Sims]) }]),
                "plans.mine.steps[0].patience_s",
            ),
        ];
        for (routing, field) in wrong {
            let error = check(&routing).expect_err(field);
            assert_eq!(error.field, field, "{error}");
            assert!(!error.remedy.is_empty());
        }
    }
}

//! Plans by name: those of the tenant and the built-in ones. Which of them a message follows is settled once, by its client
//! or by the rules; the table turns their steps into index sets.

use std::borrow::Cow;

use crate::settings::{Plan, Select, Step, TenantRouting};

/// The plan of tenants that have set none.
pub const DEFAULT: &str = "sims-first";

/// Names that tenants cannot give to their own plans.
pub const BUILT_IN: [&str; 5] = ["sims-first", "providers-first", "sims-only", "providers-only", "cheapest"];

/// How long a message waits for room in a step, unless the step says something else.
pub const PATIENCE_S: u32 = 30;

/// Urgent messages wait this part of it.
pub const URGENT_PATIENCE_PART: u64 = 10;

/// A built-in plan.
pub fn built_in(name: &str) -> Option<Plan> {
    let step = |routes: &[Select]| Step { routes: routes.to_vec(), patience_s: None, cheapest: false };
    let steps = match name {
        "sims-first" => vec![step(&[Select::Sims]), step(&[Select::Providers])],
        "providers-first" => vec![step(&[Select::Providers]), step(&[Select::Sims])],
        "sims-only" => vec![step(&[Select::Sims])],
        "providers-only" => vec![step(&[Select::Providers])],
        "cheapest" => vec![Step { cheapest: true, ..step(&[Select::Sims, Select::Providers]) }],
        _ => return None,
    };
    Some(Plan { steps })
}

/// A plan of the tenant, or a built-in one.
pub fn find<'a>(routing: &'a TenantRouting, name: &str) -> Option<Cow<'a, Plan>> {
    let own = routing.plans.get(name).map(Cow::Borrowed);
    own.or_else(|| built_in(name).map(Cow::Owned))
}

/// The patience of a step in milliseconds, for urgent messages and for others.
pub(crate) fn patience_ms(step: &Step) -> [u64; 2] {
    let ms = u64::from(step.patience_s.unwrap_or(PATIENCE_S)) * 1_000;
    [ms / URGENT_PATIENCE_PART, ms]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_plans_are_those_that_are_named() {
        for name in BUILT_IN {
            assert!(built_in(name).is_some_and(|plan| !plan.steps.is_empty()), "{name}");
        }
        assert!(BUILT_IN.contains(&DEFAULT));
        assert_eq!(built_in("mine"), None);
    }

    #[test]
    fn a_tenants_plan_is_found_by_its_name() {
        let mut routing = TenantRouting::default();
        assert_eq!(find(&routing, "night"), None);
        routing.plans.insert("night".into(), built_in("sims-only").unwrap());
        assert_eq!(find(&routing, "night").unwrap().steps.len(), 1);
        assert_eq!(find(&routing, "cheapest").unwrap().steps.len(), 1);
    }

    #[test]
    fn urgent_messages_wait_a_tenth() {
        let step = |patience_s| Step { routes: vec![Select::Sims], patience_s, cheapest: false };
        assert_eq!(patience_ms(&step(None)), [3_000, 30_000]);
        assert_eq!(patience_ms(&step(Some(0))), [0, 0]);
    }
}

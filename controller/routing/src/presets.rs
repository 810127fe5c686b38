//! Limits that are known without anybody setting them: of the kind of device, and of the SIM's carrier.
//!
//! A carrier is in the table with the limit it is publicly known for and where that was read. Such limits are of consumer
//! plans, and change; a tenant whose plan allows more switches the preset off for its SIMs. Carriers of which nothing was found
//! are left out: no limit is better than an invented one.

use flotilla_protocol::number::Plmn;

use crate::settings::Limits;

/// What a SIM is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// An Android phone.
    Phone,
    /// A modem on a node.
    Modem,
    Simulated,
}

/// Segments per minute that Android lets an app send on a SIM without asking its user (AOSP `SmsUsageMonitor`, 4.2 and later).
pub const ANDROID_PER_MINUTE: u32 = 30;

/// The limits of a kind of device.
pub fn platform_limits(platform: Platform) -> Limits {
    match platform {
        Platform::Phone => Limits { per_minute: Some(ANDROID_PER_MINUTE), ..Limits::default() },
        Platform::Modem | Platform::Simulated => Limits::default(),
    }
}

/// The limits of a SIM. The most specific value of each counts: its own, else the tenant's default, else that of its platform;
/// but never more than its carrier allows.
pub fn resolve(platform: Platform, carrier: Option<&Limits>, tenant: &Limits, own: &Limits) -> Limits {
    let preset = platform_limits(platform);
    let none = Limits::default();
    let carrier = carrier.unwrap_or(&none);
    let of = |field: fn(&Limits) -> Option<u32>| {
        let chosen = field(own).or(field(tenant)).or(field(&preset));
        chosen.into_iter().chain(field(carrier)).min()
    };
    // A longer pause is the stricter one.
    let pause = |field: fn(&Limits) -> Option<u32>| {
        let chosen = field(own).or(field(tenant)).or(field(&preset));
        chosen.into_iter().chain(field(carrier)).max()
    };
    Limits {
        per_minute: of(|limits| limits.per_minute),
        per_hour: of(|limits| limits.per_hour),
        per_day: of(|limits| limits.per_day),
        per_month: of(|limits| limits.per_month),
        recipients_per_month: of(|limits| limits.recipients_per_month),
        gap_ms: pause(|limits| limits.gap_ms),
        gap_jitter_ms: pause(|limits| limits.gap_jitter_ms),
    }
}

/// A carrier, or all of a country whose regulator has set the limit.
#[derive(Clone, Debug)]
pub struct Carrier {
    pub name: &'static str,
    /// Country codes, with network codes where not all of the country's networks are meant.
    networks: &'static [(u16, Option<u16>)],
    pub limits: Limits,
    /// Where the limit was read.
    pub source: &'static str,
}

const NONE: Limits = Limits {
    per_minute: None,
    per_hour: None,
    per_day: None,
    per_month: None,
    recipients_per_month: None,
    gap_ms: None,
    gap_jitter_ms: None,
};

static CARRIERS: [Carrier; 10] = [
    Carrier {
        name: "Proximus (BE)",
        networks: &[(206, Some(1))],
        limits: Limits { per_day: Some(500), per_month: Some(10_000), recipients_per_month: Some(250), ..NONE },
        source: "lavenir.net, 2022-04-26, on the carrier's terms: what is normal personal use",
    },
    Carrier {
        name: "Orange (FR)",
        networks: &[(208, Some(1)), (208, Some(2))],
        limits: Limits { recipients_per_month: Some(250), ..NONE },
        source: "the carrier's tariff sheet of 2010-06 (docplayer.fr/9512657); ariase.com, 2020-11-30",
    },
    Carrier {
        name: "SFR (FR)",
        networks: &[(208, Some(9)), (208, Some(10)), (208, Some(11))],
        limits: Limits { recipients_per_month: Some(200), ..NONE },
        source: "grokipedia.com, SMS Sending Limits for French Mobile Operators, 2026; sfr.fr, RED, 2014 (200 in 24 hours)",
    },
    Carrier {
        name: "TIM (IT)",
        networks: &[(222, Some(1))],
        limits: Limits { per_month: Some(18_000), ..NONE },
        source: "tuttoandroid.net, 2020-07, on the carrier's rules of use of 2020-06",
    },
    Carrier {
        name: "Vodafone (IT)",
        networks: &[(222, Some(10))],
        limits: Limits { per_day: Some(200), per_month: Some(2_000), ..NONE },
        source: "blitzquotidiano.it, 2022-06",
    },
    Carrier {
        name: "WindTre (IT)",
        networks: &[(222, Some(88)), (222, Some(99))],
        limits: Limits { per_day: Some(200), per_month: Some(2_000), ..NONE },
        source: "blitzquotidiano.it, 2022-06",
    },
    Carrier {
        name: "all carriers (US)",
        networks: &[(310, None), (311, None), (312, None), (313, None), (314, None), (315, None), (316, None)],
        limits: Limits { per_minute: Some(60), per_day: Some(1_000), recipients_per_month: Some(200), ..NONE },
        source: "CTIA, Messaging Principles and Best Practices, typical consumer operation (blog.textit.com, docs.ytel.com)",
    },
    Carrier {
        name: "all carriers (IN)",
        networks: &[(404, None), (405, None)],
        limits: Limits { per_day: Some(100), ..NONE },
        source: "what consumer plans include; indiatvnews.com, 2020-06, on the regulator's 65th tariff amendment",
    },
    Carrier {
        name: "all carriers (PK)",
        networks: &[(410, None)],
        // 200 in 15 minutes get a SIM blocked.
        limits: Limits { per_minute: Some(13), ..NONE },
        source: "the regulator's spam threshold; technologytimes.pk, 2012-05-09; propakistani.pk, 2014-02-28",
    },
    Carrier {
        name: "all carriers (CN)",
        networks: &[(460, None)],
        limits: Limits { per_hour: Some(200), per_day: Some(1_000), ..NONE },
        source: "the ministry's rule on working days (glnlw.com)",
    },
];

/// What is known of the carrier of a home network: an entry of its own before one of all its country.
pub fn carrier(home: Plmn) -> Option<&'static Carrier> {
    let with = |mnc: Option<u16>| CARRIERS.iter().find(|carrier| carrier.networks.contains(&(home.mcc(), mnc)));
    with(Some(home.mnc())).or_else(|| with(None))
}

/// The whole table, for people.
pub fn carriers() -> &'static [Carrier] {
    &CARRIERS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::check_limits;

    fn per_day(limits: Limits) -> Option<u32> {
        limits.per_day
    }

    #[test]
    fn the_most_specific_value_counts_and_the_carrier_caps_it() {
        let day = |per_day: Option<u32>| Limits { per_day, ..Limits::default() };
        for (carrier, tenant, own, expected) in [
            (None, None, None, None),
            (None, Some(500), None, Some(500)),
            (None, Some(500), Some(800), Some(800)),
            (Some(200), None, None, Some(200)),
            (Some(200), Some(500), None, Some(200)),
            (Some(200), Some(500), Some(150), Some(150)),
            (Some(200), Some(100), Some(800), Some(200)),
            (Some(200), None, Some(0), Some(0)),
        ] {
            let carrier = carrier.map(|carrier| day(Some(carrier)));
            let resolved = resolve(Platform::Modem, carrier.as_ref(), &day(tenant), &day(own));
            assert_eq!(per_day(resolved), expected, "{carrier:?} {tenant:?} {own:?}");
        }
    }

    #[test]
    fn phones_have_androids_limit_unless_another_is_set() {
        let none = Limits::default();
        assert_eq!(resolve(Platform::Phone, None, &none, &none).per_minute, Some(30));
        let own = Limits { per_minute: Some(100), ..Limits::default() };
        assert_eq!(resolve(Platform::Phone, None, &none, &own).per_minute, Some(100));
        assert_eq!(resolve(Platform::Modem, None, &none, &none), none);
        assert_eq!(resolve(Platform::Simulated, None, &none, &none), none);
    }

    #[test]
    fn the_longer_pause_is_the_stricter_one() {
        let gap = |gap_ms| Limits { gap_ms: Some(gap_ms), ..Limits::default() };
        assert_eq!(resolve(Platform::Modem, Some(&gap(5_000)), &gap(9_000), &gap(2_000)).gap_ms, Some(5_000));
        assert_eq!(resolve(Platform::Modem, Some(&gap(5_000)), &gap(9_000), &Limits::default()).gap_ms, Some(9_000));
    }

    #[test]
    fn carriers_are_found_by_network_then_by_country() {
        let of = |plmn: &str| carrier(Plmn::parse(plmn).unwrap()).map(|carrier| carrier.name);
        assert_eq!(of("20601"), Some("Proximus (BE)"));
        assert_eq!(of("20610"), None);
        assert_eq!(of("310260"), Some("all carriers (US)"));
        assert_eq!(of("40445"), Some("all carriers (IN)"));
        assert_eq!(of("64004"), None);
    }

    #[test]
    fn each_is_valid_and_explained_with_its_source() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/routing.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for carrier in carriers() {
            check_limits("limits", &carrier.limits).unwrap();
            assert!(carrier.limits != NONE && !carrier.source.is_empty(), "{}", carrier.name);
            for network in carrier.networks {
                assert!(seen.insert(*network), "{network:?} twice");
            }
            assert!(page.contains(&format!("| {} |", carrier.name)), "docs/routing.md lacks {}", carrier.name);
            assert!(page.contains(carrier.source), "docs/routing.md lacks the source of {}", carrier.name);
        }
    }
}

//! What a message costs on a route.

use crate::Micros;
use crate::settings::Price;

/// The price of so many segments to a country (ISO 3166), with so much of the month's bundle used.
///
/// The most specific price counts: a country's own, else the bundle, else the price per segment. A bundle pays a message
/// whole or not at all, so its last segments may be left for a shorter one; a country with its own price never uses it.
pub fn cost(price: &Price, segments: u8, country: Option<&str>, bundle_used: u32) -> Micros {
    if let Some(own) = country.and_then(|country| price.by_country.get(country)) {
        return own.times(segments);
    }
    let covered =
        price.bundle_per_month.is_some_and(|bundle| bundle_used.saturating_add(u32::from(segments)) <= bundle);
    if covered { Micros::ZERO } else { price.per_segment.times(segments) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price() -> Price {
        let by_country = [("KE".into(), Micros(50_000))].into_iter().collect();
        Price { per_segment: Micros(20_000), by_country, bundle_per_month: Some(100) }
    }

    #[test]
    fn the_country_counts_first_then_the_bundle_then_the_segment() {
        let price = price();
        for (segments, country, bundle_used, expected) in [
            (2, Some("KE"), 0, 100_000),
            (2, Some("TZ"), 0, 0),
            (2, None, 98, 0),
            (2, None, 99, 40_000),
            (1, None, 99, 0),
            (1, Some("TZ"), 100, 20_000),
            (255, Some("TZ"), u32::MAX, 5_100_000),
        ] {
            assert_eq!(
                cost(&price, segments, country, bundle_used),
                Micros(expected),
                "{segments} to {country:?} with {bundle_used} used"
            );
        }
    }

    #[test]
    fn without_a_bundle_every_segment_costs() {
        let price = Price { bundle_per_month: None, ..price() };
        assert_eq!(cost(&price, 3, Some("TZ"), 0), Micros(60_000));
        assert_eq!(cost(&Price::default(), 3, None, 0), Micros::ZERO);
    }
}

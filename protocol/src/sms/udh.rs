//! The user data header: what stands in front of the text of a segment (3GPP TS 23.040 clause 9.2.3.24).

use super::gsm7::{Language, Shift};

/// Information element identifiers of clause 9.2.3.24.
mod element {
    pub(super) const CONCATENATION_8: u8 = 0x00;
    pub(super) const PORTS_8: u8 = 0x04;
    pub(super) const PORTS_16: u8 = 0x05;
    pub(super) const CONCATENATION_16: u8 = 0x08;
    pub(super) const SINGLE_SHIFT: u8 = 0x24;
    pub(super) const LOCKING_SHIFT: u8 = 0x25;
}

/// The elements that matter here. Others are skipped when reading, as the standard asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Udh {
    pub concatenation: Option<Concatenation>,
    pub ports: Option<Ports>,
    pub shift: Shift,
}

/// Which segment of which message this is (clauses 9.2.3.24.1 and 9.2.3.24.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Concatenation {
    /// The same in all segments of a message; only the low 8 bits count unless `wide`.
    pub reference: u16,
    pub wide: bool,
    /// 1 to 255.
    pub total: u8,
    /// 1 to `total`.
    pub number: u8,
}

impl Concatenation {
    /// For asking how long a header is.
    pub(super) fn any(wide: bool) -> Self {
        Self { reference: 0, wide, total: 1, number: 1 }
    }
}

/// Application ports (clauses 9.2.3.24.3 and 9.2.3.24.4). Written with 16 bits, read with 8 as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    pub destination: u16,
    pub source: u16,
}

impl Ports {
    /// From nowhere in particular.
    pub fn to(destination: u16) -> Self {
        Self { destination, source: 0 }
    }
}

impl Udh {
    /// Octets of the header with its length octet; 0 when there is nothing to say.
    pub fn octets(&self) -> usize {
        let concatenation = self.concatenation.map_or(0, |concatenation| if concatenation.wide { 6 } else { 5 });
        let ports = if self.ports.is_some() { 6 } else { 0 };
        let shift = 3 * (usize::from(self.shift.locking.is_some()) + usize::from(self.shift.single.is_some()));
        match concatenation + ports + shift {
            0 => 0,
            elements => elements + 1,
        }
    }

    /// Appends the header with its length octet, or nothing when there is nothing to say.
    pub fn encode(&self, octets: &mut Vec<u8>) {
        let Some(length) = self.octets().checked_sub(1) else { return };
        // At most 6 + 6 + 3 + 3.
        octets.push(length as u8);
        if let Some(Concatenation { reference, wide, total, number }) = self.concatenation {
            let [high, low] = reference.to_be_bytes();
            if wide {
                octets.extend([element::CONCATENATION_16, 4, high, low, total, number]);
            } else {
                octets.extend([element::CONCATENATION_8, 3, low, total, number]);
            }
        }
        if let Some(Ports { destination, source }) = self.ports {
            octets.extend([element::PORTS_16, 4]);
            octets.extend(destination.to_be_bytes());
            octets.extend(source.to_be_bytes());
        }
        if let Some(language) = self.shift.single {
            octets.extend([element::SINGLE_SHIFT, 1, language.identifier()]);
        }
        if let Some(language) = self.shift.locking {
            octets.extend([element::LOCKING_SHIFT, 1, language.identifier()]);
        }
    }

    /// Reads the header at the start of `user_data`; gives it with the count of its octets. None when it is longer than
    /// the user data.
    ///
    /// An element that makes no sense is ignored, and of a repeated one the last counts; when the elements do not fill the
    /// header exactly, all are ignored (clause 9.2.3.24).
    pub fn decode(user_data: &[u8]) -> Option<(Self, usize)> {
        let (length, rest) = user_data.split_first()?;
        let octets = usize::from(*length) + 1;
        let mut rest = rest.get(..usize::from(*length))?;
        let mut udh = Self::default();
        while !rest.is_empty() {
            let element = rest.split_at_checked(2).and_then(|(head, rest)| {
                let (data, rest) = rest.split_at_checked(usize::from(head[1]))?;
                Some((head[0], data, rest))
            });
            let Some((identifier, data, after)) = element else {
                return Some((Self::default(), octets));
            };
            udh.take(identifier, data);
            rest = after;
        }
        Some((udh, octets))
    }

    fn take(&mut self, identifier: u8, data: &[u8]) {
        match (identifier, data) {
            (element::CONCATENATION_8, [reference, total, number]) => {
                self.take_concatenation(u16::from(*reference), false, *total, *number);
            }
            (element::CONCATENATION_16, [high, low, total, number]) => {
                self.take_concatenation(u16::from_be_bytes([*high, *low]), true, *total, *number);
            }
            (element::PORTS_8, [destination, source]) => {
                self.ports = Some(Ports { destination: u16::from(*destination), source: u16::from(*source) });
            }
            (element::PORTS_16, [d1, d0, s1, s0]) => {
                let (destination, source) = (u16::from_be_bytes([*d1, *d0]), u16::from_be_bytes([*s1, *s0]));
                self.ports = Some(Ports { destination, source });
            }
            (element::SINGLE_SHIFT, [language]) => self.shift.single = Language::from_identifier(*language),
            (element::LOCKING_SHIFT, [language]) => {
                self.shift.locking =
                    Language::from_identifier(*language).filter(|language| language.has_locking_table());
            }
            _ => {}
        }
    }

    fn take_concatenation(&mut self, reference: u16, wide: bool, total: u8, number: u8) {
        if (1..=total).contains(&number) {
            self.concatenation = Some(Concatenation { reference, wide, total, number });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(udh: Udh) -> Vec<u8> {
        let mut octets = Vec::new();
        udh.encode(&mut octets);
        octets
    }

    #[test]
    fn known_headers() {
        let concatenation = Some(Concatenation { reference: 0xcc, wide: false, total: 2, number: 1 });
        let udh = Udh { concatenation, ..Udh::default() };
        assert_eq!(encoded(udh), [0x05, 0x00, 0x03, 0xcc, 0x02, 0x01]);
        let concatenation = Some(Concatenation { reference: 0x1234, wide: true, total: 3, number: 3 });
        let shift = Shift { locking: Some(Language::Turkish), single: Some(Language::Urdu) };
        let udh = Udh { concatenation, shift, ports: Some(Ports { destination: 0x0b84, source: 0x23f0 }) };
        assert_eq!(encoded(udh), [18, 8, 4, 0x12, 0x34, 3, 3, 5, 4, 0x0b, 0x84, 0x23, 0xf0, 0x24, 1, 13, 0x25, 1, 1]);
        assert_eq!(encoded(Udh::default()), []);
    }

    #[test]
    fn nonsense_is_ignored() {
        let decode = |octets: &[u8]| Udh::decode(octets);
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[5, 0, 3, 1, 2]), None, "longer than the user data");
        assert_eq!(decode(&[0]), Some((Udh::default(), 1)));
        assert_eq!(decode(&[5, 0, 3, 1, 2, 3]), Some((Udh::default(), 6)), "number 3 of 2");
        assert_eq!(decode(&[5, 0, 3, 1, 0, 0]), Some((Udh::default(), 6)));
        assert_eq!(decode(&[5, 0, 3, 1, 2, 0]), Some((Udh::default(), 6)));
        assert_eq!(decode(&[5, 0, 9, 1, 2, 1]), Some((Udh::default(), 6)), "an element beyond the header");
        assert_eq!(decode(&[4, 0x70, 0, 0x24, 1, 1]).map(|(_, octets)| octets), Some(5));
        let (udh, _) = decode(&[8, 0x70, 1, 9, 0, 3, 1, 2, 1]).unwrap();
        assert_eq!(
            udh.concatenation.map(|c| (c.reference, c.total, c.number)),
            Some((1, 2, 1)),
            "unknown elements are skipped"
        );
        let (udh, _) = decode(&[6, 0x25, 1, 2, 0x24, 1, 99]).unwrap();
        assert_eq!(udh.shift, Shift::NONE, "no such tables");
        let (udh, _) = decode(&[4, 4, 2, 0x50, 0x51]).unwrap();
        assert_eq!(udh.ports, Some(Ports { destination: 0x50, source: 0x51 }));
    }

    fn any_udh() -> impl Strategy<Value = Udh> {
        let concatenation =
            (any::<u16>(), any::<bool>(), 1u8.., any::<u8>()).prop_map(|(reference, wide, total, number)| {
                let reference = if wide { reference } else { reference & 0xff };
                Concatenation { reference, wide, total, number: number % total + 1 }
            });
        let ports = (any::<u16>(), any::<u16>()).prop_map(|(destination, source)| Ports { destination, source });
        let language = || prop::option::of(prop::sample::select(Language::ALL.to_vec()));
        (prop::option::of(concatenation), prop::option::of(ports), language(), language()).prop_map(
            |(concatenation, ports, locking, single)| {
                let locking = locking.filter(|language| language.has_locking_table());
                Udh { concatenation, ports, shift: Shift { locking, single } }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn round_trips(udh in any_udh(), tail in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut octets = encoded(udh);
            prop_assert_eq!(octets.len(), udh.octets());
            if !octets.is_empty() {
                let length = octets.len();
                octets.extend(tail);
                prop_assert_eq!(Udh::decode(&octets), Some((udh, length)));
            }
        }

        #[test]
        fn any_octets(octets in prop::collection::vec(any::<u8>(), 0..160)) {
            if let Some((_, length)) = Udh::decode(&octets) {
                prop_assert!(length <= octets.len());
            }
        }
    }
}

//! Septets in octets (3GPP TS 23.038 clause 6.1.2.1.1): the first septet in the lowest bits, no gaps.

/// Zero bits between a user data header of `header_octets` (its length octet included) and the first septet, which
/// starts at a septet boundary counted from the start of the user data (3GPP TS 23.040 clause 9.2.3.24).
pub fn fill_bits(header_octets: usize) -> u8 {
    ((7 - header_octets * 8 % 7) % 7) as u8
}

/// Octets that `fill_bits` and `septets` septets take.
pub fn octets_for(septets: usize, fill_bits: u8) -> usize {
    (septets * 7 + usize::from(fill_bits)).div_ceil(8)
}

/// Appends `septets` after `fill_bits` zero bits. Unused bits of the last octet are zero.
pub fn pack(septets: &[u8], fill_bits: u8, octets: &mut Vec<u8>) {
    octets.reserve(octets_for(septets.len(), fill_bits));
    let mut pending = 0u32;
    let mut bits = u32::from(fill_bits);
    for septet in septets {
        pending |= u32::from(septet & 0x7f) << bits;
        bits += 7;
        while bits >= 8 {
            octets.push(pending as u8);
            pending >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        octets.push(pending as u8);
    }
}

/// The `count` septets after `fill_bits` bits of `octets`; None when the octets hold fewer.
pub fn unpack(octets: &[u8], fill_bits: u8, count: usize) -> Option<Vec<u8>> {
    if octets_for(count, fill_bits) > octets.len() {
        return None;
    }
    let septet = |index: usize| {
        let bit = index * 7 + usize::from(fill_bits);
        let low = u16::from(octets[bit / 8]);
        let high = octets.get(bit / 8 + 1).copied().map_or(0, u16::from);
        ((low | high << 8) >> (bit % 8)) as u8 & 0x7f
    };
    Some((0..count).map(septet).collect())
}

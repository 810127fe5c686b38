//! What rows are found by: each property of a row is a term, and the terms of each block of 65,536 rows are an index of their
//! own. A term is one number, `block | hash of the property | row in the block`, so that all rows of a block with a property lie
//! side by side, in order. Hashes may collide: who finds a row by a term looks at the row itself.

use crate::store::search::{HASH_BITS, Property};

const ROW_BITS: u32 = 16;
/// Rows are numbered below this, so that a term is a positive number.
pub(super) const N_MAX: i64 = 1 << (63 - HASH_BITS);

pub(super) fn block_of(n: i64) -> i64 {
    n >> ROW_BITS
}

/// The term that says that row `n` has a property.
pub(super) fn term(n: i64, property: Property) -> i64 {
    let row = n & ((1 << ROW_BITS) - 1);
    (block_of(n) << (HASH_BITS + ROW_BITS)) | (i64::from(property.0) << ROW_BITS) | row
}

/// The row of a term.
pub(super) fn row_of(term: i64) -> i64 {
    ((term >> (HASH_BITS + ROW_BITS)) << ROW_BITS) | (term & ((1 << ROW_BITS) - 1))
}

/// The terms of a property in a block, first and last possible.
pub(super) fn range(block: i64, property: Property) -> (i64, i64) {
    let first = block << ROW_BITS;
    (term(first, property), term(first | ((1 << ROW_BITS) - 1), property))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_keeps_row_and_block_apart() {
        let property = Property((1 << HASH_BITS) - 1);
        for n in [0, 1, 65_535, 65_536, N_MAX - 1] {
            let term = term(n, property);
            assert!(term >= 0);
            assert_eq!(row_of(term), n);
            let (first, last) = range(block_of(n), property);
            assert!((first..=last).contains(&term));
            assert_eq!(last - first, 65_535);
        }
    }
}

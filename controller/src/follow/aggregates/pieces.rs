//! Rows packed for the store: pieces of bounded size, compressed, each readable alone. The bytes are a disk format that
//! other nodes read, perhaps older or newer ones: see [`CODEC`].

use super::counters::decode_row;
use super::key::PREFIX_LEN;

/// The number of this format; never reused.
pub(super) const CODEC: u8 = 1;
/// Bytes of rows in a piece, before compression. A row that is longer has a piece of its own.
const PIECE_BYTES: usize = 1 << 20;
/// What a piece may say that it holds: a full one and a last row of the longest kind.
const PLAIN_MAX: usize = 2 * PIECE_BYTES;

/// A piece's bytes are not what this program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a piece of a snapshot of the statistics can not be read")]
pub(super) struct PieceError;

/// Collects rows into pieces: `key length (1) | key | row length (4, little endian) | row`, one after the other, then lz4 behind
/// the plain length.
#[derive(Default)]
pub(super) struct Packer {
    plain: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    bytes: usize,
}

impl Packer {
    pub(super) fn add(&mut self, key: &[u8], row: &[u8]) -> Result<(), PieceError> {
        let key_len = u8::try_from(key.len()).map_err(|_| PieceError)?;
        let row_len = u32::try_from(row.len()).map_err(|_| PieceError)?;
        if row.len() > PIECE_BYTES / 2 {
            return Err(PieceError);
        }
        self.plain.push(key_len);
        self.plain.extend_from_slice(key);
        self.plain.extend_from_slice(&row_len.to_le_bytes());
        self.plain.extend_from_slice(row);
        if self.plain.len() >= PIECE_BYTES {
            self.close();
        }
        Ok(())
    }

    /// Packed bytes so far, without the piece that is open.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.plain.is_empty() {
            self.close();
        }
        self.pieces
    }

    fn close(&mut self) {
        let piece = lz4_flex::compress_prepend_size(&self.plain);
        self.plain.clear();
        self.bytes += piece.len();
        self.pieces.push(piece);
    }
}

/// A key and its row, as they are stored.
pub(super) type StoredRow = (Vec<u8>, Vec<u8>);

/// The rows of a piece. Every row has been checked.
pub(super) fn unpack(piece: &[u8]) -> Result<Vec<StoredRow>, PieceError> {
    let said = piece.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize).ok_or(PieceError)?;
    if said > PLAIN_MAX {
        return Err(PieceError);
    }
    let plain = lz4_flex::decompress_size_prepended(piece).map_err(|_| PieceError)?;
    if plain.len() != said {
        return Err(PieceError);
    }
    let mut rest = plain.as_slice();
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let key_len = usize::from(take(&mut rest, 1)?[0]);
        let key = take(&mut rest, key_len)?.to_vec();
        let row_len = take(&mut rest, 4)?.first_chunk::<4>().map(|len| u32::from_le_bytes(*len)).ok_or(PieceError)?;
        let row = take(&mut rest, row_len as usize)?.to_vec();
        if key.len() < PREFIX_LEN || decode_row(&row).is_err() {
            return Err(PieceError);
        }
        rows.push((key, row));
    }
    Ok(rows)
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], PieceError> {
    let (taken, after) = rest.split_at_checked(n).ok_or(PieceError)?;
    *rest = after;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::super::counters::{Counter, Counts, encode_row};
    use super::*;

    fn row(n: u64) -> StoredRow {
        let mut counts = Counts::default();
        counts.count(Counter::Accepted, n);
        let mut bytes = Vec::new();
        encode_row(n, &counts, &mut bytes);
        let mut key = vec![7; PREFIX_LEN];
        key.extend_from_slice(&n.to_be_bytes());
        (key, bytes)
    }

    fn pack(rows: &[StoredRow]) -> Vec<Vec<u8>> {
        let mut packer = Packer::default();
        rows.iter().for_each(|(key, row)| packer.add(key, row).unwrap());
        packer.finish()
    }

    #[test]
    fn rows_come_back_from_pieces_of_bounded_size() {
        let rows: Vec<_> = (0..60_000).map(row).collect();
        let pieces = pack(&rows);
        assert!(pieces.len() > 1);
        let back: Vec<_> = pieces.iter().flat_map(|piece| unpack(piece).unwrap()).collect();
        assert!(back == rows);
        assert!(pack(&[]).is_empty());
    }

    #[test]
    fn golden_bytes() {
        let piece = pack(&[(vec![7; PREFIX_LEN], row(1).1)]).remove(0);
        let plain = lz4_flex::decompress_size_prepended(&piece).unwrap();
        assert_eq!(plain, [&[22][..], &[7; 22], &[6, 0, 0, 0, 1, 1, 1, 1, 0, 0]].concat(), "other versions read it");
    }

    #[test]
    fn what_is_cut_changed_or_too_large_is_refused() {
        let piece = pack(&[row(1), row(2)]).remove(0);
        for len in 0..piece.len() {
            assert_eq!(unpack(&piece[..len]), Err(PieceError), "{len}");
        }
        let mut huge = piece.clone();
        huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(unpack(&huge), Err(PieceError));
        for (key, row) in [(vec![7; PREFIX_LEN - 1], row(1).1), (row(1).0, vec![9, 9])] {
            assert_eq!(unpack(&pack(&[(key, row)])[0]), Err(PieceError));
        }
    }
}

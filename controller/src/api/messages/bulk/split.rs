//! Cuts an upload into chunks of whole lines, whatever pieces the network delivers it in.
//!
//! A chunk's end depends on the bytes alone, never on how they arrived: the same upload has the same chunks each time, which
//! is what makes a repetition with an idempotency key safe. Memory is bounded by a chunk and a line.

use bytes::{Bytes, BytesMut};

/// Lines of a chunk: one commit's worth, and below what a shard takes at once.
pub(super) const CHUNK_LINES: u32 = 500;
/// A chunk also ends after the line that passes this.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Ndjson,
    /// A record may go over several lines inside quotes.
    Csv,
}

/// Whole lines, or a line that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Number of the first line, from 1.
    pub(super) first_line: u64,
    pub(super) lines: Lines,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lines {
    Whole(Bytes),
    /// One line over the limit; its bytes are gone.
    TooLong,
    /// A quote that is never closed within the limit, in a record that begins on this line.
    OpenQuote,
}

/// Feed it with [`Splitter::push`], take from it with [`Splitter::next`].
pub(super) struct Splitter {
    format: Format,
    line_bytes_max: usize,
    buffer: BytesMut,
    /// Everything before is looked at.
    scanned: usize,
    /// End of the last whole record in the buffer.
    whole: usize,
    /// Records before `whole`, and lines before it.
    records: u32,
    lines: u64,
    /// Lines seen within the record under way, and whether a quote is open.
    record_lines: u64,
    quoted: bool,
    /// The rest of a line over the limit is thrown away.
    skipping: bool,
    /// Number of the first line in the buffer.
    line: u64,
}

impl Splitter {
    pub(super) fn new(format: Format, line_bytes_max: usize) -> Self {
        Self {
            format,
            line_bytes_max,
            buffer: BytesMut::new(),
            scanned: 0,
            whole: 0,
            records: 0,
            lines: 0,
            record_lines: 0,
            quoted: false,
            skipping: false,
            line: 1,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next chunk, if the bytes so far (`end`: all there will be) hold one.
    pub(super) fn next(&mut self, end: bool) -> Option<Chunk> {
        loop {
            if self.skipping && !self.skip(end) {
                return None;
            }
            let found = match self.format {
                Format::Ndjson => memchr::memchr(b'\n', &self.buffer[self.scanned..]),
                Format::Csv => memchr::memchr2(b'\n', b'"', &self.buffer[self.scanned..]),
            };
            match found.map(|at| self.scanned + at) {
                Some(at) if at - self.whole > self.line_bytes_max => return Some(self.overlong()),
                Some(at) if self.buffer[at] == b'"' => {
                    self.quoted = !self.quoted;
                    self.scanned = at + 1;
                }
                Some(at) => {
                    self.scanned = at + 1;
                    self.record_lines += 1;
                    if !self.quoted && self.end_record() {
                        return Some(self.cut());
                    }
                }
                None => {
                    self.scanned = self.buffer.len();
                    if self.scanned - self.whole > self.line_bytes_max {
                        return Some(self.overlong());
                    }
                    return if end { self.last() } else { None };
                }
            }
        }
    }

    /// Takes the record that ends where we are. True when the chunk is full.
    fn end_record(&mut self) -> bool {
        self.whole = self.scanned;
        self.records += 1;
        self.lines += std::mem::take(&mut self.record_lines);
        self.records >= CHUNK_LINES || self.whole >= CHUNK_BYTES
    }

    fn cut(&mut self) -> Chunk {
        let bytes = self.buffer.split_to(self.whole).freeze();
        let chunk = Chunk { first_line: self.line, lines: Lines::Whole(bytes) };
        self.line += self.lines;
        self.scanned -= self.whole;
        (self.whole, self.records, self.lines) = (0, 0, 0);
        chunk
    }

    /// The record under way is too long. What stands before it is a chunk of its own.
    fn overlong(&mut self) -> Chunk {
        if self.whole > 0 {
            return self.cut();
        }
        let first_line = self.line;
        let newline = memchr::memchr(b'\n', &self.buffer).filter(|at| *at <= self.line_bytes_max);
        let lines = match newline {
            // Its first line ends, so a quote keeps it open: only that line is lost.
            Some(at) => {
                let _ = self.buffer.split_to(at + 1);
                self.line += 1;
                Lines::OpenQuote
            }
            None if self.buffer.len() <= self.line_bytes_max => {
                self.buffer.clear();
                Lines::OpenQuote
            }
            None => {
                self.skipping = true;
                Lines::TooLong
            }
        };
        (self.scanned, self.record_lines, self.quoted) = (0, 0, false);
        Chunk { first_line, lines }
    }

    /// Throws away up to the next line. False when more bytes are needed.
    fn skip(&mut self, end: bool) -> bool {
        match memchr::memchr(b'\n', &self.buffer) {
            Some(at) => {
                let _ = self.buffer.split_to(at + 1);
                self.line += 1;
                self.skipping = false;
                true
            }
            None => {
                self.buffer.clear();
                if end {
                    self.skipping = false;
                }
                end
            }
        }
    }

    /// All there will be: the last line may lack its end.
    fn last(&mut self) -> Option<Chunk> {
        if self.whole < self.buffer.len() && self.quoted {
            return Some(self.overlong());
        }
        if self.whole < self.buffer.len() {
            self.record_lines += 1;
            self.end_record();
        }
        (self.whole > 0).then(|| self.cut())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(format: Format, text: &[u8], piece: usize) -> Vec<Chunk> {
        let mut splitter = Splitter::new(format, 64);
        let mut chunks = Vec::new();
        for piece in text.chunks(piece.max(1)) {
            splitter.push(piece);
            chunks.extend(std::iter::from_fn(|| splitter.next(false)));
        }
        chunks.extend(std::iter::from_fn(|| splitter.next(true)));
        chunks
    }

    fn whole(chunk: &Chunk) -> &[u8] {
        match &chunk.lines {
            Lines::Whole(bytes) => bytes,
            _ => &[],
        }
    }

    #[test]
    fn chunks_are_whole_lines_and_bounded() {
        let text: Vec<u8> = (0..1203).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let chunks = split(Format::Ndjson, &text, 77);
        let firsts: Vec<u64> = chunks.iter().map(|chunk| chunk.first_line).collect();
        assert_eq!(firsts, [1, 501, 1001]);
        assert_eq!(chunks.iter().flat_map(whole).copied().collect::<Vec<_>>(), text);
    }

    #[test]
    fn a_line_without_an_end_is_a_line() {
        assert_eq!(whole(&split(Format::Ndjson, b"a\nb", 1)[0]), b"a\nb");
        assert!(split(Format::Ndjson, b"", 1).is_empty());
    }

    #[test]
    fn a_long_line_costs_only_itself() {
        let text = [b"a\n".as_slice(), &[b'x'; 200], b"\nb\n", &[b'y'; 100]].concat();
        for piece in [1, 7, 64, 1000] {
            let chunks = split(Format::Ndjson, &text, piece);
            let seen: Vec<_> = chunks.iter().map(|chunk| (chunk.first_line, whole(chunk))).collect();
            assert_eq!(seen, [(1, b"a\n".as_slice()), (2, b""), (3, b"b\n"), (4, b"")], "piece {piece}");
            assert_eq!(chunks[1].lines, Lines::TooLong);
        }
    }

    #[test]
    fn quotes_hold_a_record_together_but_not_for_ever() {
        let text = b"a,\"one\ntwo\"\nb,c\n".as_slice();
        let chunks = split(Format::Csv, text, 3);
        assert_eq!((chunks.len(), whole(&chunks[0])), (1, text));
        let mut text = b"a,\"open\n".to_vec();
        text.extend(b"b,c\n".repeat(30));
        let chunks = split(Format::Csv, &text, 5);
        assert_eq!(chunks[0], Chunk { first_line: 1, lines: Lines::OpenQuote });
        assert_eq!((chunks[1].first_line, whole(&chunks[1])), (2, &text[8..]));
        let chunks = split(Format::Csv, b"a,b\nc,\"open\nd,e\n", 5);
        let seen: Vec<_> = chunks.iter().map(|chunk| (chunk.first_line, whole(chunk))).collect();
        assert_eq!(seen, [(1, b"a,b\n".as_slice()), (2, b""), (3, b"d,e\n")]);
    }

    proptest! {
        /// Same bytes, same chunks: however they arrive.
        #[test]
        fn chunks_do_not_depend_on_pieces(
            text in "[a\"\n]{0,400}", piece in 1..50usize, csv in any::<bool>()
        ) {
            let format = if csv { Format::Csv } else { Format::Ndjson };
            prop_assert_eq!(split(format, text.as_bytes(), piece), split(format, text.as_bytes(), text.len()));
        }
    }
}

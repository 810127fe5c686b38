//! One end of a link, modelled after a QUIC connection: a handshake that agrees on a key, one ordered stream with
//! acknowledgements and retransmission, keep-alive, idle timeout, close, stateless reset, migration of the client. What of
//! QUIC is left out (congestion, flow control, more streams) is left out because nothing of ours depends on it.
//!
//! Pure: datagrams in, datagrams out, time as an argument.

use std::collections::{BTreeMap, VecDeque};

use super::Ms;

const IDLE_MS: u64 = 45_000;
const KEEP_ALIVE_MS: u64 = 15_000;
const KEEP_ALIVE_AGAIN_MS: u64 = 1_000;
const RETRANSMIT_MIN_MS: u64 = 250;
const RETRANSMIT_MAX_MS: u64 = 8_000;
/// Chunks of the stream under way.
const FLIGHT_MAX: usize = 64;
/// Stream bytes in a datagram.
const CHUNK_MAX: usize = 1_100;
/// Chunks that came before one that is missing.
const AHEAD_MAX: u64 = 256;

/// A datagram. The key stands for what both ends have derived in their handshake: who does not know it is not heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub conn: u64,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Initial,
    Accept {
        key: u64,
    },
    Data {
        key: u64,
        number: u64,
        bytes: Vec<u8>,
    },
    Ack {
        key: u64,
        next: u64,
    },
    Ping {
        key: u64,
    },
    Close {
        key: u64,
    },
    /// From an end that knows nothing of the connection.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Idle,
    Closed,
    Reset,
    NoAnswer,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub id: u64,
    /// Known after the handshake.
    key: Option<u64>,
    is_client: bool,
    /// Written, in chunks, not yet acknowledged: the first has the number `first`.
    outgoing: VecDeque<Vec<u8>>,
    first: u64,
    /// Chunks of `outgoing` that were sent at least once.
    sent: usize,
    retransmit_at: Option<Ms>,
    backoff_ms: u64,
    /// The next chunk to be read, and those that came too early.
    next_in: u64,
    early: BTreeMap<u64, Vec<u8>>,
    heard_at: Ms,
    spoke_at: Ms,
    started_at: Ms,
    packets: Vec<Packet>,
}

impl Conn {
    pub(super) fn dial(id: u64, now: Ms) -> Self {
        let mut conn = Self::new(id, None, true, now);
        conn.push(Body::Initial, now);
        conn.retransmit_at = Some(now + 4 * RETRANSMIT_MIN_MS);
        conn
    }

    /// The answer to an `Initial`.
    pub(super) fn accept(id: u64, key: u64, now: Ms) -> Self {
        let mut conn = Self::new(id, Some(key), false, now);
        conn.push(Body::Accept { key }, now);
        conn
    }

    fn new(id: u64, key: Option<u64>, is_client: bool, now: Ms) -> Self {
        Self {
            id,
            key,
            is_client,
            outgoing: VecDeque::new(),
            first: 0,
            sent: 0,
            retransmit_at: None,
            backoff_ms: RETRANSMIT_MIN_MS,
            next_in: 0,
            early: BTreeMap::new(),
            heard_at: now,
            spoke_at: now,
            started_at: now,
            packets: Vec::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.key.is_some()
    }

    /// Bytes that wait to be acknowledged.
    pub(super) fn queued(&self) -> usize {
        self.outgoing.iter().map(Vec::len).sum()
    }

    pub(super) fn write(&mut self, bytes: &[u8], now: Ms) {
        self.outgoing.extend(bytes.chunks(CHUNK_MAX).map(<[u8]>::to_vec));
        self.send_new(now);
    }

    /// A moment before the peer is forgotten: it is told, once.
    pub(super) fn close(&mut self, now: Ms) {
        if let Some(key) = self.key {
            self.push(Body::Close { key }, now);
        }
    }

    pub(super) fn take_packets(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.packets)
    }

    /// A datagram of this connection. Answers the stream's next bytes.
    pub(super) fn receive(&mut self, body: Body, now: Ms) -> Result<Vec<u8>, Lost> {
        let mut read = Vec::new();
        match body {
            Body::Initial if !self.is_client => {
                let Some(key) = self.key else { return Ok(read) };
                self.push(Body::Accept { key }, now);
                return Ok(read);
            }
            Body::Accept { key } if self.is_client && self.key.is_none() => {
                self.key = Some(key);
                self.retransmit_at = None;
                self.send_new(now);
            }
            Body::Reset => return Err(Lost::Reset),
            Body::Data { key, number, bytes } if self.key == Some(key) => {
                if number >= self.next_in && number < self.next_in + AHEAD_MAX {
                    self.early.insert(number, bytes);
                }
                while let Some(chunk) = self.early.remove(&self.next_in) {
                    read.extend_from_slice(&chunk);
                    self.next_in += 1;
                }
                self.push(Body::Ack { key, next: self.next_in }, now);
            }
            Body::Ack { key, next } if self.key == Some(key) => self.acknowledged(next, now),
            Body::Ping { key } if self.key == Some(key) => {
                self.push(Body::Ack { key, next: self.next_in }, now);
            }
            Body::Close { key } if self.key == Some(key) => return Err(Lost::Closed),
            // Of another connection with this id, or late, or not meant for this end.
            _ => return Ok(read),
        }
        self.heard_at = now;
        Ok(read)
    }

    pub(super) fn next_deadline(&self) -> Ms {
        let keep_alive = if self.is_client && self.key.is_some() { self.keep_alive_at() } else { Ms::MAX };
        self.retransmit_at.unwrap_or(Ms::MAX).min(self.heard_at + IDLE_MS).min(keep_alive)
    }

    pub(super) fn tick(&mut self, now: Ms) -> Result<(), Lost> {
        if now >= self.heard_at + IDLE_MS {
            return Err(if self.key.is_some() { Lost::Idle } else { Lost::NoAnswer });
        }
        if self.retransmit_at.is_some_and(|at| at <= now) {
            self.backoff_ms = (2 * self.backoff_ms).min(RETRANSMIT_MAX_MS);
            self.retransmit_at = Some(now + self.backoff_ms);
            match self.key {
                None => self.push(Body::Initial, now),
                Some(key) => {
                    let (number, bytes) = (self.first, self.outgoing.front().cloned());
                    if let Some(bytes) = bytes {
                        self.push(Body::Data { key, number, bytes }, now);
                    }
                }
            }
        }
        if self.is_client
            && now >= self.keep_alive_at()
            && let Some(key) = self.key
        {
            self.push(Body::Ping { key }, now);
        }
        Ok(())
    }

    pub(super) fn age(&self, now: Ms) -> u64 {
        now - self.started_at
    }

    /// After a silence, and then every second until the other end is heard.
    fn keep_alive_at(&self) -> Ms {
        (self.heard_at + KEEP_ALIVE_MS).max(self.spoke_at + KEEP_ALIVE_AGAIN_MS)
    }

    fn acknowledged(&mut self, next: u64, now: Ms) {
        let done = next.saturating_sub(self.first).min(self.sent as u64) as usize;
        if done == 0 {
            return;
        }
        self.outgoing.drain(..done);
        self.first += done as u64;
        self.sent -= done;
        self.backoff_ms = RETRANSMIT_MIN_MS;
        self.retransmit_at = (self.sent > 0).then_some(now + self.backoff_ms);
        self.send_new(now);
    }

    fn send_new(&mut self, now: Ms) {
        let Some(key) = self.key else { return };
        while self.sent < self.outgoing.len().min(FLIGHT_MAX) {
            let number = self.first + self.sent as u64;
            let bytes = self.outgoing[self.sent].clone();
            self.sent += 1;
            self.push(Body::Data { key, number, bytes }, now);
            self.retransmit_at.get_or_insert(now + self.backoff_ms);
        }
    }

    fn push(&mut self, body: Body, now: Ms) {
        self.spoke_at = now;
        self.packets.push(Packet { conn: self.id, body });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::rng::Rng;

    /// Two ends over a network that loses, doubles and reorders: the stream arrives as it was written.
    #[test]
    fn the_stream_is_whole_and_in_order() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed, "conn", 0);
            let (mut a, mut b): (Conn, Option<Conn>) = (Conn::dial(1, 0), None);
            let mut air: Vec<(Ms, bool, Packet)> = Vec::new();
            let (mut wrote, mut read, mut now) = (Vec::new(), Vec::new(), 0);
            for step in 0..4_000u64 {
                now += 20;
                if step % 7 == 0 && wrote.len() < 20_000 {
                    let bytes: Vec<u8> = (0..rng.between(1, 900)).map(|_| rng.next() as u8).collect();
                    a.write(&bytes, now);
                    wrote.extend(bytes);
                }
                assert_eq!(a.tick(now), Ok(()));
                if let Some(b) = &mut b {
                    assert_eq!(b.tick(now), Ok(()));
                }
                let from_b = b.as_mut().map(Conn::take_packets).unwrap_or_default();
                let all = a.take_packets().into_iter().map(|p| (true, p)).chain(from_b.into_iter().map(|p| (false, p)));
                for (to_b, packet) in all {
                    for _ in 0..if rng.percent(10) { 2 } else { 1 } {
                        if !rng.percent(20) {
                            air.push((now + rng.between(1, 200), to_b, packet.clone()));
                        }
                    }
                }
                let (due, rest) = air.into_iter().partition(|(at, ..)| *at <= now);
                air = rest;
                let due: Vec<(Ms, bool, Packet)> = due;
                for (_, to_b, packet) in due {
                    match (to_b, &mut b) {
                        (true, None) if packet.body == Body::Initial => b = Some(Conn::accept(1, 99, now)),
                        (true, None) => {}
                        (true, Some(b)) => read.extend(b.receive(packet.body, now).unwrap()),
                        (false, _) => assert!(a.receive(packet.body, now).unwrap().is_empty()),
                    }
                }
            }
            assert!(read == wrote, "seed {seed}: {} of {} bytes", read.len(), wrote.len());
        }
    }

    #[test]
    fn silence_ends_it_and_old_keys_are_not_heard() {
        let mut conn = Conn::accept(7, 5, 0);
        assert_eq!(conn.receive(Body::Data { key: 4, number: 0, bytes: vec![1] }, 1), Ok(vec![]));
        assert_eq!(conn.receive(Body::Data { key: 5, number: 0, bytes: vec![2] }, 2), Ok(vec![2]));
        assert_eq!(conn.receive(Body::Data { key: 5, number: 0, bytes: vec![2] }, 3), Ok(vec![]), "a duplicate");
        assert_eq!(conn.receive(Body::Close { key: 4 }, 4), Ok(vec![]));
        assert_eq!(conn.tick(IDLE_MS), Ok(()));
        assert_eq!(conn.tick(IDLE_MS + 3), Err(Lost::Idle));
        assert_eq!(conn.receive(Body::Reset, 9), Err(Lost::Reset));
    }
}

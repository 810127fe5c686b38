//! What keeps one peer, or ten thousand at once, from starving the others. Pure: time is an argument.
//!
//! A handshake costs the controller about half a millisecond of one core, most of it in signatures. So handshakes are paced
//! by rate, which leaves the rest of the cores to live sessions whatever comes in, and bounded in number, which bounds
//! memory. Under load newcomers first have to prove their address (QUIC Retry), which costs us nothing.

use std::net::IpAddr;
use std::time::Duration;

use rustc_hash::FxHashMap;

/// Bounds of the gateway. The defaults fit 2 cores and 10,000 devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections, enrolling ones among them; more are refused.
    pub connections_max: usize,
    /// Handshakes that are accepted in a second.
    pub handshakes_per_s: u32,
    /// Handshakes under way at a time, until `Welcome`.
    pub handshakes_max: usize,
    /// The same over TCP, in places of their own.
    pub handshakes_tcp_max: usize,
    /// From so many handshakes under way, an address has to be proved first.
    pub retry_above: usize,
    /// Handshakes under way from one address (IPv4) or network (IPv6 /64). Loopback has no such limit.
    pub handshakes_per_address: u16,
    /// From the end of the handshake to the first frame.
    pub first_frame_ms: u64,
    /// Enrolments under way at a time.
    pub enrollments_max: usize,
    /// Frames and bytes of one session: how many at once, and in a second.
    pub frames: Rate,
    pub bytes: Rate,
    /// Frames other than reports and acceptances.
    pub control_frames: Rate,
    /// Log lines of one session that are passed on; more are dropped.
    pub log_lines: Rate,
    /// Frames that may wait for a device that does not read; beyond it the session is closed.
    pub outgoing_frames_max: usize,
    /// Largest window of a device.
    pub window_max: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            handshakes_per_s: 2_000,
            handshakes_max: 1_024,
            handshakes_tcp_max: 256,
            retry_above: 128,
            handshakes_per_address: 128,
            first_frame_ms: 5_000,
            enrollments_max: 64,
            // The burst is what a device brings home after days without a network; the rate is far above any radio.
            frames: Rate { burst: 400_000, per_s: 40_000 },
            bytes: Rate { burst: 64 << 20, per_s: 8 << 20 },
            control_frames: Rate { burst: 256, per_s: 16 },
            log_lines: Rate { burst: 64, per_s: 8 },
            outgoing_frames_max: 16_384,
            window_max: 4_096,
        }
    }
}

impl Limits {
    pub(super) fn first_frame(&self) -> Duration {
        Duration::from_millis(self.first_frame_ms)
    }
}

/// A token bucket's size and filling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub burst: u32,
    pub per_s: u32,
}

/// A token bucket. In thousandths, so that a filling of 1/s is not lost between milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: Rate,
    milli: u64,
    filled_ms: u64,
}

impl Bucket {
    /// Full.
    pub(super) fn new(rate: Rate, now_ms: u64) -> Self {
        Self { rate, milli: u64::from(rate.burst) * 1000, filled_ms: now_ms }
    }

    /// Takes `n`, or nothing when there are fewer.
    pub(super) fn take(&mut self, n: u32, now_ms: u64) -> bool {
        self.fill(now_ms);
        let wanted = u64::from(n) * 1000;
        let enough = self.milli >= wanted;
        if enough {
            self.milli -= wanted;
        }
        enough
    }

    /// How long until there is one.
    pub(super) fn wait_ms(&mut self, now_ms: u64) -> u64 {
        self.fill(now_ms);
        1000u64.saturating_sub(self.milli).div_ceil(u64::from(self.rate.per_s.max(1)))
    }

    fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        let filled = self.milli.saturating_add(passed_ms.saturating_mul(u64::from(self.rate.per_s)));
        self.milli = filled.min(u64::from(self.rate.burst) * 1000);
        self.filled_ms = self.filled_ms.max(now_ms);
    }
}

/// What one session may still send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    frames: Bucket,
    bytes: Bucket,
    control: Bucket,
    log: Bucket,
}

impl Budget {
    pub(super) fn new(limits: &Limits, now_ms: u64) -> Self {
        Self {
            frames: Bucket::new(limits.frames, now_ms),
            bytes: Bucket::new(limits.bytes, now_ms),
            control: Bucket::new(limits.control_frames, now_ms),
            log: Bucket::new(limits.log_lines, now_ms),
        }
    }

    /// False: too fast.
    pub(super) fn read(&mut self, bytes: usize, now_ms: u64) -> bool {
        self.bytes.take(u32::try_from(bytes).unwrap_or(u32::MAX), now_ms)
    }

    /// False: too fast. `control` counts those of them that are not reports or acceptances.
    pub(super) fn decoded(&mut self, frames: u32, control: u32, now_ms: u64) -> bool {
        self.frames.take(frames, now_ms) & self.control.take(control, now_ms)
    }

    /// False: drop the line.
    pub(super) fn log_line(&mut self, now_ms: u64) -> bool {
        self.log.take(1, now_ms)
    }
}

/// What to do with an incoming handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// Prove the address first.
    Retry,
    Refuse(&'static str),
}

/// How full it is when a handshake comes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) connections: usize,
    pub(super) handshakes: usize,
    /// From the same address.
    pub(super) of_address: u16,
}

pub(super) fn judge(limits: &Limits, load: Load, address: IpAddr, validated: bool) -> Verdict {
    if load.connections >= limits.connections_max {
        return Verdict::Refuse("connections");
    }
    if load.of_address >= limits.handshakes_per_address && !address.is_loopback() {
        return Verdict::Refuse("address");
    }
    if load.handshakes >= limits.retry_above && !validated {
        return Verdict::Retry;
    }
    Verdict::Accept
}

/// Handshakes under way by address.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    counts: FxHashMap<u64, u16>,
}

impl Addresses {
    pub(super) fn count(&self, address: IpAddr) -> u16 {
        self.counts.get(&network(address)).copied().unwrap_or(0)
    }

    pub(super) fn enter(&mut self, address: IpAddr) {
        let count = self.counts.entry(network(address)).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn leave(&mut self, address: IpAddr) {
        let key = network(address);
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }
}

/// Whoever has one IPv6 address has the whole /64. The two kinds do not meet: no IPv6 network starts with 32 zero bits.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(Rate { burst: 10, per_s: 2 }, 1_000);
        assert!(bucket.take(10, 1_000));
        assert!(!bucket.take(1, 1_499));
        assert_eq!(bucket.wait_ms(1_499), 1);
        assert!(bucket.take(1, 1_500));
        assert!(!bucket.take(11, 1_000_000), "never more than the burst");
        assert!(bucket.take(10, 1_000_000));
        assert!(!bucket.take(1, 0), "a clock that goes back fills nothing");
    }

    #[test]
    fn handshakes_are_judged_by_load() {
        let limits = Limits { connections_max: 100, retry_above: 10, handshakes_per_address: 4, ..Limits::default() };
        let far: IpAddr = "203.0.113.7".parse().unwrap();
        let near: IpAddr = "127.0.0.1".parse().unwrap();
        let load = |connections, handshakes, of_address| Load { connections, handshakes, of_address };
        let table = [
            (load(0, 0, 0), far, false, Verdict::Accept),
            (load(0, 9, 3), far, false, Verdict::Accept),
            (load(0, 10, 3), far, false, Verdict::Retry),
            (load(0, 10, 3), far, true, Verdict::Accept),
            (load(0, 0, 4), far, true, Verdict::Refuse("address")),
            (load(0, 0, 4), near, true, Verdict::Accept),
            (load(100, 0, 0), near, true, Verdict::Refuse("connections")),
        ];
        for (load, address, validated, verdict) in table {
            assert_eq!(judge(&limits, load, address, validated), verdict, "{load:?} {address} {validated}");
        }
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let mut addresses = Addresses::default();
        let [a, b, c] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"].map(|a| a.parse::<IpAddr>().unwrap());
        addresses.enter(a);
        addresses.enter(b);
        assert_eq!((addresses.count(a), addresses.count(c)), (2, 0));
        addresses.leave(a);
        addresses.leave(b);
        addresses.leave(c);
        assert!(addresses.counts.is_empty());
    }
}

//! The numbers of a shard. All of them bound something.

/// A message is dispatched at most this often, so its trace is bounded.
pub const ATTEMPTS_MAX: u16 = 30;

/// Messages of one request.
pub const SUBMISSIONS_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSettings {
    /// A granted message must be handed to the radio within this time.
    pub send_within_ms: u32,
    /// The controller waits this much longer: clocks drift.
    pub lease_margin_ms: u64,
    /// Pauses before the repetitions after transient errors; one error more and the message fails.
    pub retry_delays_ms: Vec<u64>,
    /// How long a message keeps away from the SIM that could not send it, when there are others.
    pub avoid_ms: u64,
    /// The pause of a SIM that could not send: doubles from the first to the second number, until it sends again.
    pub pause_min_ms: u64,
    pub pause_max_ms: u64,
    /// Queued messages in memory; those beyond it stay in the store and come back in order.
    pub queued_max: usize,
    /// So many of each tenant and class are in memory in any case: nobody waits for the store because of others.
    pub queued_min: usize,
    /// Sent messages in memory, one at least; those beyond it come back when their reports do.
    pub sent_max: usize,
    /// Messages scheduled further ahead stay in the store.
    pub far_ms: u64,
    /// Most messages read from the store at once.
    pub page: usize,
    /// How often messages in the store are looked through for the end of their validity.
    pub overdue_every_ms: u64,
    /// How long idempotency keys are in memory, and how many. Older ones are found in the store.
    pub keys_ms: u64,
    pub keys_max: usize,
    /// For so long after its start a shard looks keys up in the store that it does not know.
    pub look_up_ms: u64,
    /// Reads of single messages at a time.
    pub loads_max: usize,
    /// Reports of one device that wait for such reads; a device repeats what is not acknowledged.
    pub reports_held_max: usize,
}

impl Default for ShardSettings {
    fn default() -> Self {
        const MINUTE: u64 = 60_000;
        Self {
            send_within_ms: 60_000,
            lease_margin_ms: 1_000,
            retry_delays_ms: vec![0, 5 * MINUTE, 30 * MINUTE, 120 * MINUTE],
            avoid_ms: 10 * MINUTE,
            pause_min_ms: 1_000,
            pause_max_ms: 10 * MINUTE,
            queued_max: 100_000,
            queued_min: 1_000,
            sent_max: 50_000,
            far_ms: 5 * MINUTE,
            page: 1_000,
            overdue_every_ms: 5_000,
            keys_ms: 15 * MINUTE,
            keys_max: 100_000,
            look_up_ms: MINUTE,
            loads_max: 256,
            reports_held_max: 10_000,
        }
    }
}

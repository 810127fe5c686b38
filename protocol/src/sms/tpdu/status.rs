//! TP-ST: what became of a segment (3GPP TS 23.040 clause 9.2.3.15).

/// The octet as it stands in a status report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u8);

/// What a status means for the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusOutcome {
    /// The transaction is complete, as far as the network can tell.
    Delivered,
    /// A temporary error; the service centre goes on trying and will report again.
    Pending,
    /// The service centre gave up, and another try would end the same.
    PermanentFailure,
    /// The service centre gave up after a temporary error; another try may succeed.
    TemporaryFailureNoRetry,
}

impl Status {
    /// By the status' range. Values from 0x80 are reserved and count as "service rejected", as the standard asks; a reserved
    /// value within a range keeps the range's meaning.
    pub fn outcome(self) -> StatusOutcome {
        match self.0 {
            0x00..=0x1f => StatusOutcome::Delivered,
            0x20..=0x3f => StatusOutcome::Pending,
            0x40..=0x5f => StatusOutcome::PermanentFailure,
            0x60.. => StatusOutcome::TemporaryFailureNoRetry,
        }
    }

    /// For people.
    pub fn reason(self) -> &'static str {
        match self.0 {
            0x00 => "received by the phone",
            0x01 => "forwarded, delivery can not be confirmed",
            0x02 => "replaced by the service centre",
            0x20 => "congestion, still trying",
            0x21 => "phone busy, still trying",
            0x22 => "no response from the phone, still trying",
            0x23 => "service rejected, still trying",
            0x24 => "quality of service not available, still trying",
            0x25 => "error in the phone, still trying",
            0x40 => "remote procedure error",
            0x41 => "incompatible destination",
            0x42 => "connection rejected by the phone",
            0x43 => "not obtainable",
            0x44 => "quality of service not available",
            0x45 => "no interworking available",
            0x46 => "validity period expired",
            0x47 => "deleted by the sender",
            0x48 => "deleted by the service centre",
            0x49 => "message does not exist",
            0x60 => "congestion",
            0x61 => "phone busy",
            0x62 => "no response from the phone",
            0x63 | 0x80.. => "service rejected",
            0x64 => "quality of service not available",
            0x65 => "error in the phone",
            0x03..=0x1f => "complete, for a reason of the network's own",
            0x26..=0x3f => "still trying, for a reason of the network's own",
            0x4a..=0x5f => "given up for good, for a reason of the network's own",
            0x66..=0x7f => "given up, for a reason of the network's own",
        }
    }
}

//! Limits that are known without anybody setting them: of the kind of device, and of the SIM's carrier.

use crate::settings::Limits;

/// What a SIM is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// An Android phone.
    Phone,
    /// A modem on a node.
    Modem,
    Simulated,
}

/// Segments per minute that Android lets an app send without asking its user.
pub const ANDROID_PER_MINUTE: u32 = 30;

/// The limits of a kind of device.
pub fn platform_limits(platform: Platform) -> Limits {
    match platform {
        Platform::Phone => Limits { per_minute: Some(ANDROID_PER_MINUTE), ..Limits::default() },
        Platform::Modem | Platform::Simulated => Limits::default(),
    }
}

/// The limits of a SIM. The most specific value of each counts: its own, else the tenant's default, else that of its platform;
/// but never more than its carrier allows.
pub fn resolve(platform: Platform, carrier: Option<&Limits>, tenant: &Limits, own: &Limits) -> Limits {
    let preset = platform_limits(platform);
    let none = Limits::default();
    let carrier = carrier.unwrap_or(&none);
    let of = |field: fn(&Limits) -> Option<u32>| {
        let chosen = field(own).or(field(tenant)).or(field(&preset));
        chosen.into_iter().chain(field(carrier)).min()
    };
    // A longer pause is the stricter one.
    let pause = |field: fn(&Limits) -> Option<u32>| {
        let chosen = field(own).or(field(tenant)).or(field(&preset));
        chosen.into_iter().chain(field(carrier)).max()
    };
    Limits {
        per_minute: of(|limits| limits.per_minute),
        per_hour: of(|limits| limits.per_hour),
        per_day: of(|limits| limits.per_day),
        per_month: of(|limits| limits.per_month),
        recipients_per_month: of(|limits| limits.recipients_per_month),
        gap_ms: pause(|limits| limits.gap_ms),
        gap_jitter_ms: pause(|limits| limits.gap_jitter_ms),
    }
}

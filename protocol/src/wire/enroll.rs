//! The enrolment dialogue: one request, or the recovery of a device whose certificate has ended.

use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, EnrollmentId, TenantId};

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Name the owner will see; at most 64 bytes are kept.
    pub name: String,
    pub model: String,
    pub os: String,
    /// Program and version, such as `flotilla-node/0.1.0`.
    pub software: String,
}

/// From a device. The first frame of the stream is `Request` or `Recover`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrollUp {
    /// Redeem a token: the certificate request carries the device's public key and its proof of possession.
    Request { protocol: u16, token: EnrollmentId, secret: [u8; 16], csr_der: Vec<u8>, info: DeviceInfo },
    /// A device with a bound key whose certificate is no longer accepted asks for a challenge.
    Recover { protocol: u16, device: DeviceId, tenant: TenantId },
    /// The answer to `Challenge`: ECDSA P-256 (ASN.1) with the bound key over [`recovery_statement`].
    Proof { signature: Vec<u8>, csr_der: Vec<u8> },
}

impl std::fmt::Debug for EnrollUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request { token, .. } => f.debug_struct("Request").field("token", token).finish_non_exhaustive(),
            Self::Recover { device, .. } => f.debug_struct("Recover").field("device", device).finish_non_exhaustive(),
            Self::Proof { .. } => f.debug_struct("Proof").finish_non_exhaustive(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrollDown {
    Issued(Issued),
    Challenge { nonce: [u8; 32] },
    Refused { reason: EnrollRefusal, detail: String },
}

/// The device's new identity and all it needs to connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    pub device: DeviceId,
    pub tenant: TenantId,
    pub tenant_name: String,
    /// Leaf first, DER.
    pub chain_der: Vec<Vec<u8>>,
    /// The CA certificates a device trusts for controllers: the present one, and the next while one is prepared. DER.
    pub roots_der: Vec<Vec<u8>>,
    /// `host:port` of every controller.
    pub controllers: Vec<String>,
}

/// Why no certificate was issued. Only `Busy` is worth another try with the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrollRefusal {
    UnknownToken,
    ExpiredToken,
    /// Redeemed before, with another key.
    UsedToken,
    WrongSecret,
    BadRequest,
    UnsupportedProtocol,
    Revoked,
    RecoveriesUsedUp,
    Busy,
}

/// What a recovering device signs: bound to this protocol, this device and this nonce.
pub fn recovery_statement(device: DeviceId, nonce: &[u8; 32]) -> Vec<u8> {
    [b"flotilla recovery v1\0".as_slice(), &device.to_bytes(), nonce].concat()
}

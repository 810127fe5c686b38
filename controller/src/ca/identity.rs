//! Who a certificate is: trust domain, SPIFFE URI, serial number, and the key of a certificate request.

use std::fmt;
use std::str::FromStr;

use flotilla_protocol::id::{DeviceId, TenantId};
use ring::digest;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A request for a P-256 key is below 400 bytes; whatever a device adds to it is ignored.
pub const CSR_BYTES_MAX: usize = 4096;
/// An uncompressed point (SEC 1, 2.3.3).
const POINT_BYTES: usize = 65;
const TRUST_DOMAIN_BYTES_MAX: usize = 128;

/// The authority part of all SPIFFE ids of one installation, such as `sms.example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(Box<str>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a trust domain is 1 to {TRUST_DOMAIN_BYTES_MAX} of the characters a-z 0-9 . - _, such as `sms.example.org`")]
pub struct TrustDomainError;

impl TrustDomain {
    pub fn parse(text: &str) -> Result<Self, TrustDomainError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > TRUST_DOMAIN_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(TrustDomainError);
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://<domain>/tenant/<t>/device/<d>`.
    pub fn device_uri(&self, tenant: TenantId, device: DeviceId) -> String {
        format!("spiffe://{}/tenant/{tenant}/device/{device}", self.0)
    }

    /// `spiffe://<domain>/controller/<name>`.
    pub fn controller_uri(&self, name: &str) -> String {
        format!("spiffe://{}/controller/{name}", self.0)
    }

    fn parse_device(&self, uri: &str) -> Option<(TenantId, DeviceId)> {
        let rest = uri.strip_prefix("spiffe://")?.strip_prefix(&*self.0)?.strip_prefix("/tenant/")?;
        let (tenant, device) = rest.split_once("/device/")?;
        Some((TenantId::parse(tenant).ok()?, DeviceId::parse(device).ok()?))
    }
}

/// Number of a certificate: 126 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    /// From random bytes. Positive and not zero, as RFC 5280 4.1.2.2 asks.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[0] = (bytes[0] & 0x7f) | 0x40;
        Self(bytes)
    }

    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    fn from_der(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a serial number is 32 hexadecimal digits")]
pub struct SerialError;

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| SerialError)?;
        bytes.try_into().map(Self).map_err(|_| SerialError)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names a CA key: the first eight bytes of its pin, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(super) [u8; 8]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a CA key id is 16 hexadecimal digits")]
pub struct KeyIdError;

impl KeyId {
    pub fn of_pin(pin: &[u8; 32]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&pin[..8]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| KeyIdError)?;
        bytes.try_into().map(Self).map_err(|_| KeyIdError)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// SHA-256 of a SubjectPublicKeyInfo in DER: what QR codes pin.
pub(super) fn pin_of(spki_der: &[u8]) -> [u8; 32] {
    sha256(spki_der)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Whom an accepted client certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceIdentity {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub serial: Serial,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate cannot be parsed")]
    Malformed,
    #[error("the certificate does not hold exactly one URI of a device of this trust domain")]
    NotADevice,
    #[error("the certificate's serial number is not one of ours")]
    Serial,
}

impl DeviceIdentity {
    /// From a leaf certificate whose chain has been verified already.
    pub fn of_certificate(der: &[u8], trust_domain: &TrustDomain) -> Result<Self, IdentityError> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| IdentityError::Malformed)?;
        if !rest.is_empty() {
            return Err(IdentityError::Malformed);
        }
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let [GeneralName::URI(uri)] = names else { return Err(IdentityError::NotADevice) };
        let (tenant, device) = trust_domain.parse_device(uri).ok_or(IdentityError::NotADevice)?;
        let serial = Serial::from_der(certificate.raw_serial()).ok_or(IdentityError::Serial)?;
        Ok(Self { tenant, device, serial })
    }
}

/// A device's public key: a point on P-256, of which its owner has proved to hold the private half.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceKey {
    point: [u8; POINT_BYTES],
    hash: [u8; 32],
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({})", KeyId::of_pin(&self.hash))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the certificate request is longer than {CSR_BYTES_MAX} bytes")]
    TooLong,
    #[error("the certificate request is not PKCS #10 in DER")]
    Malformed,
    #[error("the certificate request must be for an ECDSA P-256 key, signed with SHA-256")]
    Algorithm,
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

impl DeviceKey {
    /// The only thing that is taken from a request; subject and extensions in it are ignored.
    pub fn from_csr(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLong);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(CsrError::Algorithm);
        }
        let info = &request.certification_request_info;
        let key = Self::from_spki(&info.subject_pki).ok_or(CsrError::Algorithm)?;
        if !key.verifies(info.raw, &request.signature_value.data) {
            return Err(CsrError::Signature);
        }
        Ok(key)
    }

    fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        if spki.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
            return None;
        }
        Self::from_point(&spki.subject_public_key.data)
    }

    /// From the stored form.
    pub fn from_point(point: &[u8]) -> Option<Self> {
        let point: [u8; POINT_BYTES] = point.try_into().ok()?;
        (point[0] == 4).then(|| Self { point, hash: sha256(&point) })
    }

    pub fn point(&self) -> &[u8; POINT_BYTES] {
        &self.point
    }

    /// What an enrolment token is bound to.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// ECDSA with SHA-256, signature in ASN.1.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(message, signature).is_ok()
    }
}

impl rcgen::PublicKeyData for DeviceKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

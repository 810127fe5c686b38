//! One CA key with its self-signed certificate: makes and uses them. What it signs is decided here, never by a request.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;

use super::identity::{DeviceKey, KeyId, Serial, pin_of};
use super::{CONTROLLER_DNS_NAME, CaError};

const CA_LIFETIME_S: u64 = 10 * 365 * 86_400;
/// How far a peer's clock may be behind ours.
pub const CLOCK_SKEW_S: u64 = 3600;

pub(super) struct Authority {
    pub(super) id: KeyId,
    pub(super) pin: [u8; 32],
    pub(super) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_after_s: u64,
}

/// Unix seconds, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before_s: u64,
    pub not_after_s: u64,
}

impl Authority {
    pub(super) fn generate(now_s: u64) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let pin = pin_of(&key.subject_public_key_info());
        let id = KeyId::of_pin(&pin);
        let certificate = ca_params(id, now_s).self_signed(&key)?;
        Self::from_parts(certificate.der().clone(), key)
    }

    /// From a certificate and a private key (PKCS #8), both in DER.
    pub(super) fn from_der(certificate_der: Vec<u8>, key_der: &[u8]) -> Result<Self, CaError> {
        let key = KeyPair::try_from(key_der).map_err(|_| CaError::Certificate)?;
        Self::from_parts(CertificateDer::from(certificate_der), key)
    }

    /// PKCS #8 in DER: the secret.
    pub(super) fn key_der(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    pub(super) fn from_parts(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, CaError> {
        let pin = pin_of(&key.subject_public_key_info());
        let not_after_s = {
            let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|_| CaError::Certificate)?;
            if parsed.public_key().raw != key.subject_public_key_info() {
                return Err(CaError::Certificate);
            }
            u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| CaError::Certificate)?
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { id: KeyId::of_pin(&pin), pin, certificate, issuer, not_after_s })
    }

    /// A device's certificate: the key is the request's, everything else is ours.
    pub(super) fn sign_device(
        &self,
        key: &DeviceKey,
        uri: &str,
        common_name: &str,
        serial: Serial,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, CaError> {
        let mut params = leaf_params(common_name, serial, self.within(validity));
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }

    pub(super) fn sign_controller(
        &self,
        key: &KeyPair,
        uri: &str,
        common_name: &str,
        serial: Serial,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, CaError> {
        let mut params = leaf_params(common_name, serial, self.within(validity));
        params.subject_alt_names =
            vec![SanType::DnsName(CONTROLLER_DNS_NAME.try_into()?), SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }

    /// The certificate of `other` as signed by this key: with it a peer that trusts only this one accepts what `other` issues.
    pub(super) fn sign_cross(
        &self,
        other: &Authority,
        serial: Serial,
        now_s: u64,
    ) -> Result<CertificateDer<'static>, CaError> {
        let mut params = ca_params(other.id, now_s);
        params.serial_number = Some(SerialNumber::from_slice(&serial.to_bytes()));
        params.use_authority_key_identifier_extension = true;
        let not_after_s = other.not_after_s.min(self.not_after_s);
        set_validity(&mut params, Validity { not_before_s: now_s.saturating_sub(CLOCK_SKEW_S), not_after_s });
        Ok(params.signed_by(other.issuer.key(), &self.issuer)?.der().clone())
    }

    /// A certificate must not outlive its issuer.
    fn within(&self, validity: Validity) -> Validity {
        Validity { not_after_s: validity.not_after_s.min(self.not_after_s), ..validity }
    }
}

fn ca_params(id: KeyId, now_s: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let not_before_s = now_s.saturating_sub(CLOCK_SKEW_S);
    set_validity(&mut params, Validity { not_before_s, not_after_s: now_s + CA_LIFETIME_S });
    params.distinguished_name = name(&format!("Flotilla CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(common_name: &str, serial: Serial, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    set_validity(&mut params, validity);
    params.serial_number = Some(SerialNumber::from_slice(&serial.to_bytes()));
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// rcgen takes the `time` crate's type, which adds a standard duration to a date.
fn set_validity(params: &mut CertificateParams, validity: Validity) {
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(validity.not_before_s);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(validity.not_after_s);
}

//! The device's private key, wherever it lives: in a file here, in the Keystore on a phone.

use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::SignatureScheme;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key can not be made: {0}")]
    Create(String),
    #[error("the stored key can not be used: {0}")]
    Open(String),
    #[error("the key does not sign: {0}")]
    Sign(String),
}

/// An ECDSA P-256 key.
pub trait DeviceKey: Send + Sync + 'static {
    /// The public point, uncompressed (SEC 1, 2.3.3).
    fn public_point(&self) -> &[u8];

    /// ECDSA with SHA-256, ASN.1.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// What an identity file keeps to find the key again. A secret when the key is software.
    fn handle(&self) -> &[u8];
}

/// Where keys are made and found.
pub trait KeyStore: Send + Sync + 'static {
    fn create(&self) -> Result<Arc<dyn DeviceKey>, KeyError>;
    fn open(&self, handle: &[u8]) -> Result<Arc<dyn DeviceKey>, KeyError>;
    /// A key that is not needed any more.
    fn discard(&self, handle: &[u8]);
}

/// Keys whose handle is the key itself (PKCS#8); the identity's file is their safe.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoftwareKeys;

struct SoftwareKey {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    random: SystemRandom,
}

impl KeyStore for SoftwareKeys {
    fn create(&self) -> Result<Arc<dyn DeviceKey>, KeyError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyError::Create("no randomness".into()))?;
        self.open(pkcs8.as_ref())
    }

    fn open(&self, handle: &[u8]) -> Result<Arc<dyn DeviceKey>, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, handle, &random)
            .map_err(|error| KeyError::Open(error.to_string()))?;
        Ok(Arc::new(SoftwareKey { pair, pkcs8: handle.to_vec(), random }))
    }

    fn discard(&self, _handle: &[u8]) {}
}

impl DeviceKey for SoftwareKey {
    fn public_point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&self.random, message).map_err(|_| KeyError::Sign("no randomness".into()))?;
        Ok(signature.as_ref().to_vec())
    }

    fn handle(&self) -> &[u8] {
        &self.pkcs8
    }
}

/// A certificate request (PKCS#10, DER) that proves possession of the key. The controller decides what the certificate says.
pub fn certificate_request(key: &Arc<dyn DeviceKey>) -> Result<Vec<u8>, KeyError> {
    let request = rcgen::CertificateParams::default().serialize_request(&RequestKey(key.clone()));
    request.map(|csr| csr.der().to_vec()).map_err(|error| KeyError::Sign(error.to_string()))
}

struct RequestKey(Arc<dyn DeviceKey>);

impl rcgen::PublicKeyData for RequestKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for RequestKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// The key as TLS wants it.
#[derive(Clone)]
pub(crate) struct TlsKey(pub(crate) Arc<dyn DeviceKey>);

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsKey")
    }
}

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        let signs = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        signs.then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

//! Whether a report comes from whom it should, by what the account's settings say. Constant time throughout.

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use ring::hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, HMAC_SHA512};

use super::settings::{Algorithm, Encoding, Place, Signature};
use crate::account::Account;
use crate::http_call::Callback;
use crate::maker::CallbackError;
use crate::makers::kit::{fresh, header, pairs, same, signed_by, value_of};

/// Signatures of one request that are looked at: while a secret is replaced there are two.
const SIGNATURES_MAX: usize = 8;

pub(super) fn verify(
    signature: &Signature,
    account: &Account,
    request: &Callback,
    now_ms: u64,
) -> Result<(), CallbackError> {
    match signature {
        Signature::None if account.unsigned_callbacks => Ok(()),
        Signature::None => Err(CallbackError::Unsigned),
        Signature::Shared { place, name, secret } => {
            let query = pairs(request.url.query().unwrap_or_default().as_bytes());
            let given = match place {
                Place::Header => header(&request.headers, name),
                Place::Query => value_of(&query, name),
            };
            let given = given.ok_or(CallbackError::Unsigned)?;
            right(same(given.as_bytes(), key(account, secret)?.as_bytes()))
        }
        Signature::Hmac { algorithm, encoding, header: name, prefix, secret } => {
            let given = header(&request.headers, name).ok_or(CallbackError::Unsigned)?;
            something(request)?;
            let tag = given.trim().strip_prefix(prefix.as_str()).ok_or(CallbackError::Signature)?;
            let tag = match encoding {
                Encoding::Hex => HEXLOWER_PERMISSIVE.decode(tag.as_bytes()),
                Encoding::Base64 => BASE64.decode(tag.as_bytes()),
            };
            let tag = tag.map_err(|_| CallbackError::Signature)?;
            right(signed_by(ring_algorithm(*algorithm), key(account, secret)?.as_bytes(), &request.body, &tag))
        }
        Signature::StandardWebhooks { secret } => standard(key(account, secret)?, request, now_ms),
    }
}

/// <https://github.com/standard-webhooks/standard-webhooks>: HMAC-SHA256 of `id.timestamp.body`, several separated by spaces.
fn standard(secret: &str, request: &Callback, now_ms: u64) -> Result<(), CallbackError> {
    let part = |name| header(&request.headers, name).ok_or(CallbackError::Unsigned);
    let (id, at, given) = (part("webhook-id")?, part("webhook-timestamp")?, part("webhook-signature")?);
    something(request)?;
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret).trim_end_matches('=');
    let key = BASE64_NOPAD.decode(encoded.as_bytes()).map_err(|_| CallbackError::Signature)?;
    let mut signed = format!("{id}.{at}.").into_bytes();
    signed.extend_from_slice(&request.body);
    let fits = |tag: &str| {
        let tag = tag.strip_prefix("v1,").and_then(|tag| BASE64.decode(tag.as_bytes()).ok());
        tag.is_some_and(|tag| signed_by(HMAC_SHA256, &key, &signed, &tag))
    };
    right(given.split(' ').take(SIGNATURES_MAX).any(fits))?;
    let at_ms = at.parse::<u64>().ok().and_then(|at_s| at_s.checked_mul(1000)).ok_or(CallbackError::Signature)?;
    if fresh(at_ms, now_ms) { Ok(()) } else { Err(CallbackError::Replayed) }
}

/// A signature over nothing is the same for all requests: whoever has seen one could name any message in the address.
fn something(request: &Callback) -> Result<(), CallbackError> {
    right(!request.body.is_empty())
}

fn ring_algorithm(algorithm: Algorithm) -> hmac::Algorithm {
    match algorithm {
        Algorithm::Sha1 => HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Algorithm::Sha256 => HMAC_SHA256,
        Algorithm::Sha512 => HMAC_SHA512,
    }
}

/// An account whose secret is gone takes no reports: an empty key would let everybody sign.
fn key<'a>(account: &'a Account, name: &str) -> Result<&'a str, CallbackError> {
    account
        .secrets
        .get(name)
        .map(|secret| &**secret)
        .filter(|secret| !secret.is_empty())
        .ok_or(CallbackError::Signature)
}

fn right(right: bool) -> Result<(), CallbackError> {
    if right { Ok(()) } else { Err(CallbackError::Signature) }
}

//! The endpoint's own secrets, kept over restarts.
//!
//! With the same reset key a restarted controller answers a packet of a connection that it does not know with a stateless
//! reset that the device believes, so that the device reconnects within seconds instead of waiting for its idle timeout
//! (RFC 9000 10.3). Connection ids are random and not keyed: quinn drops unknown ids that its own keyed generator does not
//! recognise, and that key cannot be given to it from outside.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use ring::{hkdf, hmac};

use crate::ca::{SecretFileError, ensure_private_dir, read_private, write_private};

const FILE: &str = "quic.keys";
const RESET_BYTES: usize = 64;
const TOKEN_BYTES: usize = 64;
const ALL_BYTES: usize = RESET_BYTES + TOKEN_BYTES;
/// quinn's own pause of 20 ms would take minutes to tell 10,000 devices of a restart.
const RESET_PAUSE: Duration = Duration::from_micros(200);

pub(super) struct EndpointKeys([u8; ALL_BYTES]);

impl EndpointKeys {
    /// Blocks on files. A file that is not ours is replaced: the only loss is that devices notice this restart later.
    pub(super) fn load_or_create(dir: &Path) -> Result<Self, SecretFileError> {
        ensure_private_dir(dir)?;
        let path = dir.join(FILE);
        if let Some(bytes) = read_private(&path)? {
            match bytes.try_into() {
                Ok(bytes) => return Ok(Self(bytes)),
                Err(_) => tracing::warn!(path = %path.display(), "the file of QUIC keys is damaged: making new ones"),
            }
        }
        let bytes: [u8; ALL_BYTES] = rand::random();
        write_private(&path, &bytes)?;
        Ok(Self(bytes))
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.0[..RESET_BYTES])));
        config.cid_generator(|| Box::new(RandomIds));
        config.min_reset_interval(RESET_PAUSE);
        config
    }

    /// For address tokens: a device that was sent a Retry by the process before may come to this one.
    pub(super) fn token_key(&self) -> Arc<hkdf::Prk> {
        Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&self.0[RESET_BYTES..]))
    }
}

struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

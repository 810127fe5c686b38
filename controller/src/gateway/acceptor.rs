//! The door: takes handshakes in at a bounded pace, and sends each connection where its protocol says.
//!
//! What waits here waits in quinn, as one datagram each and bounded in number; beyond that newcomers are refused and come
//! back with their own back-off. Sessions that are up take no part in any of this.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::wire::{ALPN_ENROLL, ALPN_LINK};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connecting, Connection, Endpoint, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::close::NO_CERTIFICATE;
use super::limits::{Bucket, Load, Rate, Verdict, judge};
use super::{Context, enroll, hello};
use crate::ca::DeviceIdentity;

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes that begin in the same moment, at most.
const BURST: u32 = 16;

/// Runs until the endpoint is closed.
pub(super) async fn run(context: Arc<Context>, endpoint: Endpoint) {
    let rate = Rate { burst: BURST, per_s: context.limits.handshakes_per_s };
    let mut pace = Bucket::new(rate, context.clock.now().mono_ms);
    while let Some(incoming) = endpoint.accept().await {
        let Some(incoming) = sorted(&context, &endpoint, incoming) else { continue };
        while !pace.take(1, context.clock.now().mono_ms) {
            sleep(Duration::from_millis(pace.wait_ms(context.clock.now().mono_ms).max(1))).await;
        }
        let Ok(permit) = context.handshaking.clone().acquire_owned().await else { return };
        let address = incoming.remote_address().ip();
        let entered = Entered::new(&context, address, permit);
        match incoming.accept() {
            Ok(connecting) => {
                tokio::spawn(handshake(context.clone(), connecting, entered));
            }
            Err(error) => tracing::debug!(%address, %error, "a handshake was malformed"),
        }
    }
}

/// `None` when the newcomer was sent away, or asked to prove its address.
fn sorted(context: &Context, endpoint: &Endpoint, incoming: Incoming) -> Option<Incoming> {
    let address = incoming.remote_address().ip();
    let load = Load {
        connections: endpoint.open_connections(),
        handshakes: context.limits.handshakes_max - context.handshaking.available_permits(),
        of_address: context.addresses.lock().count(address),
    };
    match judge(&context.limits, load, address, incoming.remote_address_validated()) {
        Verdict::Accept => Some(incoming),
        Verdict::Retry => match incoming.retry() {
            Ok(()) => {
                metrics::counter!("flotilla_handshakes_total", "result" => "retry").increment(1);
                None
            }
            Err(error) => Some(error.into_incoming()),
        },
        Verdict::Refuse(why) => {
            metrics::counter!("flotilla_handshakes_total", "result" => "refused", "why" => why).increment(1);
            incoming.refuse();
            None
        }
    }
}

/// One handshake under way, counted until it is dropped.
struct Entered {
    context: Arc<Context>,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Entered {
    fn new(context: &Arc<Context>, address: IpAddr, permit: OwnedSemaphorePermit) -> Self {
        context.addresses.lock().enter(address);
        Self { context: context.clone(), address, _permit: permit }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.context.addresses.lock().leave(self.address);
    }
}

async fn handshake(context: Arc<Context>, connecting: Connecting, entered: Entered) {
    let connection = match timeout(HANDSHAKE_DEADLINE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            metrics::counter!("flotilla_handshakes_total", "result" => "failed").increment(1);
            return tracing::debug!(address = %entered.address, %error, "a handshake has failed");
        }
        Err(_) => return metrics::counter!("flotilla_handshakes_total", "result" => "slow").increment(1),
    };
    match protocol(&connection).as_deref() {
        Some(ALPN_LINK) => match identity(&context, &connection) {
            Some(identity) => hello::start(context, connection, identity).await,
            None => {
                metrics::counter!("flotilla_handshakes_total", "result" => "no_certificate").increment(1);
                connection.close(NO_CERTIFICATE, b"a device's certificate is required: enrol first");
            }
        },
        Some(ALPN_ENROLL) => enroll::run(context, connection).await,
        // rustls lets no handshake through without a protocol that both sides speak.
        _ => connection.close(NO_CERTIFICATE, b"unknown protocol"),
    }
    drop(entered);
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// The device that the certificate names. rustls has verified it; without one there is no identity.
fn identity(context: &Context, connection: &Connection) -> Option<DeviceIdentity> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let identity = DeviceIdentity::of_certificate(chain.first()?, context.ca.trust_domain());
    identity.inspect_err(|error| tracing::warn!(%error, "a certificate of our CA is not a device's")).ok()
}

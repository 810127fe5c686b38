//! The door for QUIC: takes handshakes in at a bounded pace. And, for both transports, sends each connection where its
//! protocol says.
//!
//! What waits here waits in quinn, as one datagram each and bounded in number; beyond that newcomers are refused and come
//! back with their own back-off. Sessions that are up take no part in any of this.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_protocol::wire::{ALPN_ENROLL, ALPN_LINK, Down, Refusal};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connecting, Endpoint, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::close::NO_CERTIFICATE;
use super::limits::{Load, Verdict, judge};
use super::link::Connection;
use super::{Context, enroll, hello};
use crate::ca::DeviceIdentity;

pub(super) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Runs until the endpoint is closed.
pub(super) async fn run(context: Arc<Context>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let Some(incoming) = sorted(&context, &endpoint, incoming) else { continue };
        context.paced().await;
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
        connections: endpoint.open_connections() + context.tcp_open.load(Ordering::Relaxed),
        handshakes: context.limits.handshakes_max - context.handshaking.available_permits(),
        of_address: context.addresses.lock().count(address),
    };
    match judge(&context.limits, load, address, incoming.remote_address_validated()) {
        Verdict::Accept => Some(incoming),
        Verdict::Retry => match incoming.retry() {
            Ok(()) => {
                metrics::counter!("flotilla_handshakes_total", "result" => "retry", "transport" => "quic").increment(1);
                None
            }
            Err(error) => Some(error.into_incoming()),
        },
        Verdict::Refuse(why) => {
            metrics::counter!("flotilla_handshakes_total", "result" => "refused", "why" => why, "transport" => "quic")
                .increment(1);
            incoming.refuse();
            None
        }
    }
}

/// One handshake under way, counted until it is dropped.
pub(super) struct Entered {
    context: Arc<Context>,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Entered {
    pub(super) fn new(context: &Arc<Context>, address: IpAddr, permit: OwnedSemaphorePermit) -> Self {
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
    let count = |result| metrics::counter!("flotilla_handshakes_total", "result" => result, "transport" => "quic");
    let connection = match timeout(HANDSHAKE_DEADLINE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            count("failed").increment(1);
            return tracing::debug!(address = %entered.address, %error, "a handshake has failed");
        }
        Err(_) => return count("slow").increment(1),
    };
    let (protocol, certificate) = (protocol(&connection), certificate(&connection));
    serve(context, Connection::Quic(connection), protocol, certificate, entered).await;
}

fn protocol(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

fn certificate(connection: &quinn::Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

/// What both transports come to: a connection goes where its protocol says. `certificate` was verified by rustls.
pub(super) async fn serve(
    context: Arc<Context>,
    connection: Connection,
    protocol: Option<Vec<u8>>,
    certificate: Option<CertificateDer<'static>>,
    entered: Entered,
) {
    match protocol.as_deref() {
        Some(ALPN_LINK) => match certificate.and_then(|leaf| identity(&context, &leaf)) {
            Some(identity) => hello::start(context, connection, identity).await,
            None => {
                let count = metrics::counter!("flotilla_handshakes_total",
                    "result" => "no_certificate", "transport" => connection.transport().as_str());
                count.increment(1);
                let detail = "a device's certificate is required: enrol first";
                let frame = Down::Refused { reason: Refusal::UnknownDevice, detail: detail.to_owned() };
                connection.turn_away(NO_CERTIFICATE, detail.as_bytes(), &frame).await;
            }
        },
        Some(ALPN_ENROLL) => enroll::run(context, connection).await,
        // Over QUIC no handshake gets this far without a protocol that both sides speak; over TCP it may.
        _ => connection.close(NO_CERTIFICATE, b"unknown protocol"),
    }
    drop(entered);
}

/// The device that the certificate names.
fn identity(context: &Context, certificate: &CertificateDer<'_>) -> Option<DeviceIdentity> {
    let identity = DeviceIdentity::of_certificate(certificate, context.ca.trust_domain());
    identity.inspect_err(|error| tracing::warn!(%error, "a certificate of our CA is not a device's")).ok()
}

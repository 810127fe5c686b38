//! The TCP side of the door. What a stranger may cost has the bounds of QUIC's handshakes, in places of its own: whoever
//! opens connections and says nothing keeps nobody away who comes over QUIC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Counted, Link};
use crate::gateway::Context;
use crate::gateway::acceptor::{Entered, HANDSHAKE_DEADLINE, serve};
use crate::gateway::limits::{Load, Verdict, judge};
use crate::gateway::link::Connection;

/// After a failed accept, which is a lack of file descriptors or memory: others have to give some back first.
const PAUSE: Duration = Duration::from_millis(100);

pub(in crate::gateway) struct Door {
    pub(in crate::gateway) listener: TcpListener,
    pub(in crate::gateway) tls: Arc<ServerConfig>,
    pub(in crate::gateway) quic: quinn::Endpoint,
}

/// Runs until it is aborted.
pub(in crate::gateway) async fn run(context: Arc<Context>, door: Door) {
    let Door { listener, tls, quic } = door;
    let tls = TlsAcceptor::from(tls);
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a TCP connection");
                sleep(PAUSE).await;
                continue;
            }
        };
        let counted = Counted::new(&context.tcp_open);
        if !welcome(&context, remote, quic.open_connections()) {
            continue;
        }
        context.paced().await;
        let Ok(permit) = context.handshaking_tcp.clone().acquire_owned().await else { return };
        let entered = Entered::new(&context, remote.ip(), permit);
        tokio::spawn(handshake(context.clone(), tls.clone(), stream, remote, counted, entered));
    }
}

/// False: closed again at once. A TCP peer has proved its address by being here.
fn welcome(context: &Context, remote: SocketAddr, quic_open: usize) -> bool {
    let address = remote.ip();
    let load = Load {
        connections: quic_open + context.tcp_open.load(Ordering::Relaxed).saturating_sub(1),
        handshakes: 0,
        of_address: context.addresses.lock().count(address),
    };
    match judge(&context.limits, load, address, true) {
        Verdict::Accept | Verdict::Retry => true,
        Verdict::Refuse(why) => {
            let labels = [("result", "refused"), ("why", why), ("transport", "tcp")];
            metrics::counter!("flotilla_handshakes_total", &labels).increment(1);
            false
        }
    }
}

async fn handshake(
    context: Arc<Context>,
    tls: TlsAcceptor,
    stream: TcpStream,
    remote: SocketAddr,
    counted: Counted,
    entered: Entered,
) {
    // Frames are written as whole as they are; nothing is gained by waiting for more.
    let accepted = async {
        stream.set_nodelay(true)?;
        tls.accept(stream).await
    };
    let stream = match timeout(HANDSHAKE_DEADLINE, accepted).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics::counter!("flotilla_handshakes_total", "result" => "failed", "transport" => "tcp").increment(1);
            return tracing::debug!(address = %remote.ip(), %error, "a handshake has failed");
        }
        Err(_) => {
            let slow = metrics::counter!("flotilla_handshakes_total", "result" => "slow", "transport" => "tcp");
            return slow.increment(1);
        }
    };
    let (_, session) = stream.get_ref();
    let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
    let certificate = session.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.clone().into_owned());
    let connection = Connection::Tcp(Link::new(remote, stream, counted));
    serve(context, connection, protocol, certificate, entered).await;
}

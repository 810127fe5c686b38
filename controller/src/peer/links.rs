//! The links that this node has opened: one to each member it has had to talk to.
//!
//! A link is dialled by the first request for its peer, under a lock, so that a hundred requests make one handshake. It is
//! given up when the peer has left the view or has begun anew, and dialled again when somebody needs it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use flotilla_cluster::{Member, NodeName, View, Views};
use parking_lot::Mutex;
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig};
use rustc_hash::FxHashMap;
use tokio::time::timeout;

use super::call::PeerCall;
use super::stream::PeerStream;
use super::{PeerError, code, tls, transport};
use crate::ca::{CONTROLLER_DNS_NAME, Ca, LiveCertificate};

/// For name, handshake and certificates. Controllers are near each other.
const DIAL_DEADLINE: Duration = Duration::from_secs(1);
/// For room among the streams of a link.
const ROOM_DEADLINE: Duration = Duration::from_secs(1);

/// Why a peer could not be given a request. It knows nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    #[error("{0} is not in the cluster now")]
    NotAMember(NodeName),
    #[error("{peer} does not answer at {address}: {cause}")]
    Dial { peer: NodeName, address: String, cause: String },
    #[error("too many requests are under way to {0}")]
    Full(NodeName),
}

/// The links to the other controllers. Cheap to clone.
#[derive(Clone)]
pub struct PeerLinks {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    own: NodeName,
    pub(super) ca: Arc<Ca>,
    certificate: Arc<LiveCertificate>,
    pub(super) endpoint: Endpoint,
    local_addr: SocketAddr,
    transport: Arc<TransportConfig>,
    views: Views,
    links: Mutex<FxHashMap<NodeName, Arc<Link>>>,
}

#[derive(Default)]
struct Link {
    open: Mutex<Option<Opened>>,
    /// One handshake at a time.
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Opened {
    connection: Connection,
    /// The peer's address and when its run began: others than these are another peer under the same name.
    address: String,
    since_ms: u64,
}

impl Opened {
    fn serves(&self, member: &Member) -> bool {
        self.since_ms == member.since_ms && self.address == member.peer && self.connection.close_reason().is_none()
    }
}

impl PeerLinks {
    /// Begins to listen on the socket. Nobody is served before [`PeerLinks::serve`].
    pub fn open(socket: UdpSocket, own: NodeName, ca: Arc<Ca>, views: Views) -> Result<Self, PeerError> {
        let certificate = Arc::new(LiveCertificate::new(ca.clone(), own.as_str())?);
        let transport = Arc::new(transport());
        let mut server = ServerConfig::with_crypto(Arc::new(tls::server(ca.clone(), certificate.clone())?));
        server.transport_config(transport.clone());
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let local_addr = socket.local_addr().map_err(|source| PeerError::Bind { addr: unknown, source })?;
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))
            .map_err(|source| PeerError::Bind { addr: local_addr, source })?;
        let links = Mutex::default();
        let inner = Arc::new(Inner { own, ca, certificate, endpoint, local_addr, transport, views, links });
        tokio::spawn(forget_those_who_left(Arc::downgrade(&inner), inner.views.clone()));
        Ok(Self { inner })
    }

    /// A stream to a member. The peer has heard nothing of the request when this fails.
    pub async fn call(&self, to: &NodeName) -> Result<PeerCall, Unreached> {
        // A link that broke a moment ago may not know it before it is used; a second one is new.
        for _ in 0..2 {
            let connection = self.connection(to).await?;
            match timeout(ROOM_DEADLINE, connection.open_bi()).await {
                Ok(Ok(streams)) => {
                    return Ok(PeerCall::new(self.inner.own.clone(), to.clone(), PeerStream::new(streams)));
                }
                Ok(Err(error)) => tracing::debug!(peer = %to, %error, "a link is over"),
                Err(_) => return Err(Unreached::Full(to.clone())),
            }
        }
        let address = self.member(to)?.peer;
        Err(Unreached::Dial { peer: to.clone(), address, cause: "the link broke at once".to_owned() })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// The present round trip to a peer, if there is a link to it.
    pub fn rtt(&self, to: &NodeName) -> Option<Duration> {
        let link = self.inner.links.lock().get(to).cloned()?;
        let open = link.open.lock();
        open.as_ref().map(|opened| opened.connection.rtt())
    }

    fn member(&self, name: &NodeName) -> Result<Member, Unreached> {
        let view = self.inner.views.borrow();
        view.member(name).cloned().ok_or_else(|| Unreached::NotAMember(name.clone()))
    }

    async fn connection(&self, to: &NodeName) -> Result<Connection, Unreached> {
        let member = self.member(to)?;
        let link = Arc::clone(self.inner.links.lock().entry(to.clone()).or_default());
        let usable = || link.open.lock().as_ref().filter(|opened| opened.serves(&member)).map(|o| o.connection.clone());
        if let Some(connection) = usable() {
            return Ok(connection);
        }
        let _one_at_a_time = link.dialling.lock().await;
        if let Some(connection) = usable() {
            return Ok(connection);
        }
        let mut views = self.inner.views.clone();
        let is_it = |view: &Arc<View>| view.member(to).is_some_and(|now| now.since_ms == member.since_ms);
        let dialled = tokio::select! {
            biased;
            dialled = timeout(DIAL_DEADLINE, self.inner.dial(&member)) => dialled,
            // It has died, and who waits for it shall learn that now.
            Ok(_) = views.wait_for(|view| !is_it(view)) => return Err(Unreached::NotAMember(to.clone())),
        };
        let failed = |cause: String| Unreached::Dial { peer: to.clone(), address: member.peer.clone(), cause };
        let connection = dialled.map_err(|_| failed("no answer".to_owned()))?.map_err(failed)?;
        metrics::counter!("flotilla_peer_links_opened_total").increment(1);
        tracing::debug!(peer = %to, address = %member.peer, "opened a link to a controller");
        let opened = Opened { connection: connection.clone(), address: member.peer.clone(), since_ms: member.since_ms };
        if let Some(former) = link.open.lock().replace(opened) {
            former.connection.close(code::DONE, b"replaced");
        }
        Ok(connection)
    }
}

impl Inner {
    async fn dial(&self, member: &Member) -> Result<Connection, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let own = self.local_addr;
        let mut found = tokio::net::lookup_host(&member.peer).await.map_err(|error| text(&error))?;
        let address = found.find(|address| address.is_ipv4() == own.is_ipv4());
        let address = address.ok_or("its name has no address of the kind that cluster.peer_addr has")?;
        let tls = tls::client(self.ca.clone(), self.certificate.clone(), member.name.clone());
        let mut config = ClientConfig::new(Arc::new(tls.map_err(|error| text(&error))?));
        config.transport_config(self.transport.clone());
        let connecting = self.endpoint.connect_with(config, address, CONTROLLER_DNS_NAME);
        connecting.map_err(|error| text(&error))?.await.map_err(|error| text(&error))
    }
}

/// A link to a controller that has left is closed, so that whoever waits for an answer over it learns it now. Ends with the
/// last handle, or with the views.
async fn forget_those_who_left(inner: std::sync::Weak<Inner>, mut views: Views) {
    while views.changed().await.is_ok() {
        let view = Arc::clone(&views.borrow_and_update());
        let Some(inner) = inner.upgrade() else { return };
        inner.links.lock().retain(|name, link| {
            let mut open = link.open.lock();
            let stays = view.member(name).is_some();
            let same = |opened: &mut Opened| view.member(name).is_some_and(|member| member.since_ms == opened.since_ms);
            if let Some(over) = open.take_if(|opened| !same(opened)) {
                over.connection.close(code::DONE, b"not a member");
            }
            stays
        });
    }
}

//! The device's line to its controllers: connecting, waiting, recovering, renewing. It decides when to try and with
//! which certificate; what is said on it is the agent's business.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::wire::{Hello, Issued, PROTOCOL, PROTOCOL_MIN, Refusal, Welcome};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::enroll::{EnrollError, recover};
use crate::identity::{Credential, DeviceKey, Identity, IdentityError, IdentityStore};
use crate::link::{ConnectError, Dialer, Links, Session, StreamError, Transport, Turn};

type Connecting = Pin<Box<dyn Future<Output = Result<(Session, Welcome), ConnectError>> + Send>>;
type Recovering = Pin<Box<dyn Future<Output = Result<(Arc<dyn DeviceKey>, Issued), EnrollError>> + Send>>;

/// What has happened on the line.
pub(super) enum LineEvent {
    /// It is time to say hello: call [`Line::dial`].
    Due,
    Connected(Box<Welcome>),
    /// There may be frames to read, or room to write.
    Moved,
    /// No link any more; another try follows by itself.
    Lost,
    /// The controller wants nothing to do with this device any more.
    Revoked(String),
    Nothing,
}

enum Phase {
    Waiting { until: Instant },
    Dialing(Connecting),
    Recovering(Recovering),
    Up { session: Box<Session>, since: Instant },
}

/// What an outsider may know of the line.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct LineStatus {
    pub connected: bool,
    pub controller: Option<String>,
    /// `tcp` where UDP does not pass.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// Why the last link, or the last try for one, has ended.
    pub last_error: Option<String>,
    pub certificate_not_after_s: u64,
    pub rtt_ms: Option<u64>,
}

pub(super) struct Line {
    links: Links,
    store: IdentityStore,
    clock: Arc<dyn Clock>,
    identity: Identity,
    dialer: Dialer,
    phase: Phase,
    rng: SmallRng,
    /// The renewed credential was not accepted: the one before it may be.
    use_previous: bool,
    /// The frame set for the next `Hello`.
    protocol: u16,
    last_error: Option<String>,
}

impl Line {
    pub(super) fn new(
        links: Links,
        store: IdentityStore,
        clock: Arc<dyn Clock>,
        identity: Identity,
        seed: u64,
    ) -> Self {
        let dialer = Dialer::new(&identity.controllers);
        let phase = Phase::Waiting { until: Instant::now() };
        let rng = SmallRng::seed_from_u64(seed);
        Self {
            links,
            store,
            clock,
            identity,
            dialer,
            phase,
            rng,
            use_previous: false,
            protocol: PROTOCOL,
            last_error: None,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn protocol(&self) -> u16 {
        self.protocol
    }

    pub(super) fn random(&mut self) -> f64 {
        self.rng.random()
    }

    pub(super) fn random_bytes(&mut self) -> [u8; 10] {
        self.rng.random()
    }

    pub(super) fn session(&mut self) -> Option<&mut Session> {
        match &mut self.phase {
            Phase::Up { session, .. } => Some(session),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> LineStatus {
        let session = match &self.phase {
            Phase::Up { session, .. } => Some(session),
            _ => None,
        };
        LineStatus {
            connected: session.is_some(),
            controller: session.map(|session| session.controller.clone()),
            transport: session.map(|session| session.transport()),
            last_error: self.last_error.clone(),
            certificate_not_after_s: self.identity.credential.not_after_s,
            rtt_ms: session.map(|session| session.rtt().as_millis() as u64),
        }
    }

    pub(super) fn learn(&mut self, controllers: &[String]) {
        self.dialer.learn(controllers);
    }

    /// The controller will go: next time another one first.
    pub(super) fn prefer_others(&mut self) {
        self.dialer.avoid_current();
    }

    /// `None` without a link.
    pub(super) fn transport(&self) -> Option<Transport> {
        match &self.phase {
            Phase::Up { session, .. } => Some(session.transport()),
            _ => None,
        }
    }

    /// Where the agent's own frames have to keep the link alive.
    pub(super) fn ping_every(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Up { session, .. } => session.ping_every(),
            _ => None,
        }
    }

    pub(super) fn dial(&mut self, clock: Arc<dyn Clock>, hello: Hello) {
        let targets = self.dialer.targets();
        let credential = match &self.identity.previous {
            Some(previous) if self.use_previous => previous,
            _ => &self.identity.credential,
        };
        let (links, config) = (self.links.clone(), self.links.link_config(credential, &self.identity.roots_der));
        self.phase = Phase::Dialing(Box::pin(async move {
            let config = config?;
            let tell_the_time = || Hello { device_ms: clock.now().boot_ms, ..hello.clone() };
            links.connect(&config, &targets, tell_the_time).await
        }));
    }

    /// Waits for the next thing to happen; may be given up and called again.
    pub(super) async fn turn(&mut self) -> LineEvent {
        match &mut self.phase {
            Phase::Waiting { until } => {
                sleep_until(*until).await;
                LineEvent::Due
            }
            Phase::Dialing(connecting) => {
                let done = connecting.await;
                self.dialed(done)
            }
            Phase::Recovering(recovering) => {
                let done = recovering.await;
                self.recovered(done)
            }
            Phase::Up { session, .. } => match session.turn().await {
                Ok(Turn::Moved) => LineEvent::Moved,
                Ok(Turn::QuicPasses) => {
                    tracing::info!(device = %self.identity.device, "UDP passes: from TCP to QUIC");
                    self.reconnect();
                    LineEvent::Lost
                }
                Err(error) => self.lost(&error),
            },
        }
    }

    /// The stream has said something that ends the link.
    pub(super) fn lost(&mut self, error: &StreamError) -> LineEvent {
        let (lived_ms, controller) = match &self.phase {
            Phase::Up { since, session } => (since.elapsed().as_millis() as u64, Some(session.controller.clone())),
            _ => (0, None),
        };
        self.hang_up();
        self.note(error);
        // The next one may be newer than the one before.
        self.protocol = PROTOCOL;
        let silent = matches!(error, StreamError::Silent | StreamError::Connection(quinn::ConnectionError::TimedOut));
        let random = self.random();
        let pause_ms = match controller.filter(|_| silent) {
            Some(controller) => self.dialer.fell_silent(&controller, lived_ms, random),
            None => self.dialer.lost(lived_ms, random),
        };
        self.wait(pause_ms);
        LineEvent::Lost
    }

    /// A refusal on a link that was up.
    pub(super) fn refused(&mut self, reason: Refusal, detail: &str) -> LineEvent {
        self.hang_up();
        match self.refusal(reason, detail) {
            LineEvent::Nothing => LineEvent::Lost,
            event => event,
        }
    }

    /// On a link that was up: the tenant's shard is led elsewhere now.
    pub(super) fn redirected(&mut self, controllers: Vec<String>) -> LineEvent {
        self.hang_up();
        self.last_error = Some(format!("redirected to {}", controllers.join(", ")));
        self.follow(controllers);
        LineEvent::Lost
    }

    fn follow(&mut self, controllers: Vec<String>) {
        let random = self.random();
        let pause_ms = self.dialer.redirected(controllers, random);
        self.wait(pause_ms);
    }

    /// Connects again at once, because something here has changed.
    pub(super) fn reconnect(&mut self) {
        self.hang_up();
        self.wait(0);
    }

    /// Says no more, and lets the other side read what was said.
    pub(super) async fn end(&mut self, patience: Duration) {
        if let Phase::Up { session, .. } = &mut self.phase {
            let say = async {
                if session.stream.flush().await.is_ok() {
                    session.stream.finish().await;
                }
            };
            // Whatever was not read is repeated after the next start.
            let _ = tokio::time::timeout(patience, say).await;
        }
        self.hang_up();
    }

    /// A renewed certificate came: it is stored beside the present one, then used.
    pub(super) fn renewed(
        &mut self,
        key: Arc<dyn DeviceKey>,
        chain_der: Vec<Vec<u8>>,
        roots_der: Vec<Vec<u8>>,
    ) -> Result<(), IdentityError> {
        let credential = Credential::new(key, chain_der)?;
        let mut identity = self.identity.clone();
        identity.renewed(credential, roots_der);
        self.store.save(&identity)?;
        self.identity = identity;
        self.use_previous = false;
        self.reconnect();
        Ok(())
    }

    pub(super) fn new_key(&self) -> Result<Arc<dyn DeviceKey>, IdentityError> {
        Ok(self.store.keys().create()?)
    }

    fn dialed(&mut self, done: Result<(Session, Welcome), ConnectError>) -> LineEvent {
        let (mut session, welcome) = match done {
            Ok(done) => done,
            Err(error) => return self.not_connected(error),
        };
        self.dialer.connected(&session.controller);
        session.be_patient(self.dialer.patience());
        self.last_error = None;
        if !self.use_previous {
            self.settle_credential();
        }
        self.phase = Phase::Up { session: Box::new(session), since: Instant::now() };
        LineEvent::Connected(Box::new(welcome))
    }

    /// The newest credential has connected: the one before it is not needed any more.
    fn settle_credential(&mut self) {
        let Some(previous) = self.identity.previous.take() else { return };
        match self.store.save(&self.identity) {
            Ok(()) => self.store.keys().discard(previous.key.handle()),
            Err(error) => {
                tracing::warn!(%error, "the old certificate stays in the identity file");
                self.identity.previous = Some(previous);
            }
        }
    }

    fn not_connected(&mut self, error: ConnectError) -> LineEvent {
        self.note(&error);
        match error {
            ConnectError::Redirected(controllers) => {
                self.follow(controllers);
                LineEvent::Nothing
            }
            ConnectError::Refused { reason, detail } => self.refusal(reason, &detail),
            ConnectError::NotAccepted(_) if self.identity.previous.is_some() && !self.use_previous => {
                self.use_previous = true;
                self.back_off();
                LineEvent::Nothing
            }
            ConnectError::NotAccepted(_) => {
                self.begin_recovery();
                LineEvent::Nothing
            }
            _ => {
                self.back_off();
                LineEvent::Nothing
            }
        }
    }

    fn refusal(&mut self, reason: Refusal, detail: &str) -> LineEvent {
        self.last_error = Some(format!("refused ({reason:?}): {detail}"));
        match reason {
            Refusal::Revoked => return LineEvent::Revoked(detail.to_owned()),
            Refusal::StaleCertificate if self.use_previous => {
                self.use_previous = false;
                self.back_off();
            }
            Refusal::UnsupportedProtocol if self.protocol > PROTOCOL_MIN => {
                self.protocol -= 1;
                self.back_off();
            }
            // Another one may lead, or be up to date.
            Refusal::ShuttingDown | Refusal::Busy => {
                self.dialer.avoid_current();
                let random = self.random();
                let pause_ms = self.dialer.declined(random);
                self.wait(pause_ms);
            }
            Refusal::TooFast | Refusal::BadFrame => self.back_off(),
            Refusal::UnknownDevice | Refusal::UnsupportedProtocol | Refusal::Superseded | Refusal::StaleCertificate => {
                // Nothing that a quick retry could mend, and two copies of one device must not chase each other.
                tracing::warn!(?reason, detail, "the controller refuses this device");
                let random = self.random();
                let pause_ms = self.dialer.sent_away(random);
                self.wait(pause_ms);
            }
        }
        LineEvent::Nothing
    }

    fn begin_recovery(&mut self) {
        tracing::warn!(device = %self.identity.device, "the certificate is not accepted: recovering with its key");
        let (links, identity, targets) = (self.links.clone(), self.identity.clone(), self.dialer.targets());
        let keys = self.store.keys().clone();
        self.phase = Phase::Recovering(Box::pin(async move { recover(&links, &identity, &targets, &*keys).await }));
    }

    fn recovered(&mut self, done: Result<(Arc<dyn DeviceKey>, Issued), EnrollError>) -> LineEvent {
        use flotilla_protocol::wire::EnrollRefusal::{RecoveriesUsedUp, Revoked};
        let stored = done.and_then(|(key, issued)| {
            let credential = Credential::new(key, issued.chain_der)?;
            let mut identity = self.identity.clone();
            identity.renewed(credential, issued.roots_der);
            self.store.save(&identity)?;
            Ok((identity, issued.controllers))
        });
        match stored {
            Ok((identity, controllers)) => {
                self.identity = identity;
                self.use_previous = false;
                self.dialer.learn(&controllers);
                self.wait(0);
            }
            Err(EnrollError::Refused { reason: Revoked, detail }) => return LineEvent::Revoked(detail),
            Err(error) => {
                self.note(&error);
                let used_up = matches!(error, EnrollError::Refused { reason: RecoveriesUsedUp, .. });
                let random = self.random();
                let pause_ms = if used_up { self.dialer.sent_away(random) } else { self.dialer.failed(random) };
                self.wait(pause_ms);
            }
        }
        LineEvent::Nothing
    }

    fn back_off(&mut self) {
        let random = self.random();
        let pause_ms = self.dialer.failed(random);
        self.wait(pause_ms);
    }

    fn wait(&mut self, pause_ms: u64) {
        self.phase = Phase::Waiting { until: Instant::now() + Duration::from_millis(pause_ms) };
    }

    fn hang_up(&mut self) {
        if matches!(self.phase, Phase::Up { .. }) {
            let waiting = Phase::Waiting { until: Instant::now() };
            if let Phase::Up { session, .. } = std::mem::replace(&mut self.phase, waiting) {
                session.hang_up();
            }
        }
    }

    fn note(&mut self, error: &dyn std::error::Error) {
        tracing::debug!(device = %self.identity.device, %error, "no link");
        self.last_error = Some(error.to_string());
    }

    /// Wall clock, Unix seconds.
    pub(super) fn now_s(&self) -> u64 {
        self.clock.now().unix_ms / 1000
    }
}

//! A link that stands: its frames, what carries them, over QUIC the look for an end in silence, and over TCP the look for the
//! way back to QUIC.

use std::pin::Pin;
use std::time::Duration;

use quinn::VarInt;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::choice::Look;
use super::silence::{LOOK_EVERY, Silence};
use super::{FrameStream, LinkConfig, Links, StreamError, Transport};

/// A link on which nothing moved for so long is idle enough to be exchanged.
const QUIET: Duration = Duration::from_secs(1);
/// One that is never idle is exchanged all the same: what is not acknowledged is repeated.
const PATIENCE: Duration = Duration::from_secs(60);
/// Links that wait for the same look do not all act on it at once.
const SPREAD: Duration = Duration::from_secs(5);

/// A link on which `Welcome` was said, or an enrolment's dialogue.
pub struct Session {
    pub stream: FrameStream,
    /// As it was named in the list of targets.
    pub controller: String,
    carrier: Carrier,
}

enum Carrier {
    Quic { connection: quinn::Connection, watch: Box<Watch> },
    Tcp { rtt: Duration, way_back: Box<WayBack> },
}

/// What [`Session::turn`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There may be frames to read, or room to write.
    Moved,
    /// QUIC could carry this link again: it is time to connect anew.
    QuicPasses,
}

impl Session {
    pub(super) fn quic(
        stream: FrameStream,
        controller: String,
        connection: quinn::Connection,
        silence: Duration,
    ) -> Self {
        let watch = Box::new(Watch::new(silence));
        Self { stream, controller, carrier: Carrier::Quic { connection, watch } }
    }

    /// The controller may be silent so many times as long as usual.
    pub fn be_patient(&mut self, times: u32) {
        if let Carrier::Quic { watch, .. } = &mut self.carrier {
            **watch = Watch::new(watch.patience * times);
        }
    }

    pub(super) fn tcp(
        stream: FrameStream,
        controller: String,
        rtt: Duration,
        links: Links,
        config: LinkConfig,
    ) -> Self {
        let way_back = Box::new(WayBack { links, config, state: State::Fresh });
        Self { stream, controller, carrier: Carrier::Tcp { rtt, way_back } }
    }

    pub fn transport(&self) -> Transport {
        match &self.carrier {
            Carrier::Quic { .. } => Transport::Quic,
            Carrier::Tcp { .. } => Transport::Tcp,
        }
    }

    /// The present round trip; over TCP that of the moment when it connected.
    pub fn rtt(&self) -> Duration {
        match &self.carrier {
            Carrier::Quic { connection, .. } => connection.rtt(),
            Carrier::Tcp { rtt, .. } => *rtt,
        }
    }

    /// How often somebody has to say something, where the transport does not do so by itself. The controller gives a peer up
    /// that is silent for 45 s, and answers each `Ping`, so that we can give it up as well.
    pub fn ping_every(&self) -> Option<Duration> {
        match &self.carrier {
            Carrier::Quic { .. } => None,
            Carrier::Tcp { way_back, .. } => Some(way_back.links.tcp_keep_alive()),
        }
    }

    /// Waits for the next thing to happen; may be given up and called again.
    pub async fn turn(&mut self) -> Result<Turn, StreamError> {
        let moved = self.stream.moved();
        match &mut self.carrier {
            Carrier::Quic { connection, watch } => tokio::select! {
                biased;
                turned = self.stream.turn() => turned.map(|()| Turn::Moved),
                () = watch.silent(connection) => Err(StreamError::Silent),
            },
            Carrier::Tcp { way_back, .. } => tokio::select! {
                biased;
                turned = self.stream.turn() => turned.map(|()| Turn::Moved),
                () = way_back.passes(&self.controller, moved) => Ok(Turn::QuicPasses),
            },
        }
    }

    /// Ends the link at once: what is still on its way may be lost.
    pub fn hang_up(self) {
        if let Carrier::Quic { connection, .. } = &self.carrier {
            connection.close(VarInt::from_u32(0), b"");
        }
        self.stream.hang_up();
    }
}

/// Looks now and then at what the transport has counted.
struct Watch {
    patience: Duration,
    silence: Silence,
    next: Pin<Box<Sleep>>,
}

impl Watch {
    fn new(patience: Duration) -> Self {
        Self { patience, silence: Silence::new(patience), next: Box::pin(sleep(LOOK_EVERY)) }
    }

    /// Ends when the controller has been silent for too long. May be given up and called again.
    async fn silent(&mut self, connection: &quinn::Connection) {
        loop {
            self.next.as_mut().await;
            let stats = connection.stats();
            // Of what we send on a link, these ask for an acknowledgement; the last is what quinn repeats them by.
            let sent = stats.frame_tx.stream + stats.frame_tx.ping + stats.frame_tx.immediate_ack;
            if self.silence.look(sent, stats.udp_rx.datagrams) {
                return;
            }
            self.next.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
    }
}

/// From the fallback to QUIC: waits, looks whether UDP passes, and picks the moment.
struct WayBack {
    links: Links,
    config: LinkConfig,
    state: State,
}

enum State {
    Fresh,
    Waiting(Pin<Box<Sleep>>),
    Looking(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// UDP passes: at the next quiet moment, or at the end of this time.
    Ready {
        until: Instant,
    },
}

impl WayBack {
    /// Ends when the link should be exchanged. `moved` is when a byte came or went last.
    async fn passes(&mut self, controller: &str, moved: Option<Instant>) {
        loop {
            match &mut self.state {
                State::Fresh => self.state = self.next(controller),
                State::Waiting(wait) => {
                    wait.await;
                    self.state = self.next(controller);
                }
                State::Looking(look) => {
                    look.await;
                    self.state = self.next(controller);
                }
                State::Ready { until } => {
                    let quiet = moved.map_or(*until, |moved| moved + QUIET);
                    return sleep_until(quiet.min(*until)).await;
                }
            }
        }
    }

    fn next(&self, controller: &str) -> State {
        match self.links.look(controller) {
            Look::Passes => State::Ready { until: Instant::now() + PATIENCE },
            Look::At(at_ms) => {
                let at = self.links.instant(at_ms) + SPREAD.mul_f64(rand::random());
                State::Waiting(Box::pin(sleep_until(at)))
            }
            Look::Now => {
                let (links, config, controller) = (self.links.clone(), self.config.clone(), controller.to_owned());
                State::Looking(Box::pin(async move { links.look_now(&config, &controller).await }))
            }
        }
    }
}

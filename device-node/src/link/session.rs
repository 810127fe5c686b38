//! A link that stands: its frames, what carries them, and over TCP the look for the way back to QUIC.

use std::pin::Pin;
use std::time::Duration;

use quinn::VarInt;
use tokio::time::{Instant, Sleep, sleep_until};

use super::choice::Look;
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
    Quic(quinn::Connection),
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
    pub(super) fn quic(stream: FrameStream, controller: String, connection: quinn::Connection) -> Self {
        Self { stream, controller, carrier: Carrier::Quic(connection) }
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
            Carrier::Quic(_) => Transport::Quic,
            Carrier::Tcp { .. } => Transport::Tcp,
        }
    }

    /// The present round trip; over TCP that of the moment when it connected.
    pub fn rtt(&self) -> Duration {
        match &self.carrier {
            Carrier::Quic(connection) => connection.rtt(),
            Carrier::Tcp { rtt, .. } => *rtt,
        }
    }

    /// How often somebody has to say something, where the transport does not do so by itself. The controller gives a peer up
    /// that is silent for 45 s, and answers each `Ping`, so that we can give it up as well.
    pub fn ping_every(&self) -> Option<Duration> {
        match &self.carrier {
            Carrier::Quic(_) => None,
            Carrier::Tcp { way_back, .. } => Some(way_back.links.0.keep_alive),
        }
    }

    /// Waits for the next thing to happen; may be given up and called again.
    pub async fn turn(&mut self) -> Result<Turn, StreamError> {
        let Carrier::Tcp { way_back, .. } = &mut self.carrier else {
            return self.stream.turn().await.map(|()| Turn::Moved);
        };
        let moved = self.stream.moved();
        tokio::select! {
            biased;
            turned = self.stream.turn() => turned.map(|()| Turn::Moved),
            () = way_back.passes(&self.controller, moved) => Ok(Turn::QuicPasses),
        }
    }

    /// Ends the link at once: what is still on its way may be lost.
    pub fn hang_up(self) {
        if let Carrier::Quic(connection) = &self.carrier {
            connection.close(VarInt::from_u32(0), b"");
        }
        self.stream.hang_up();
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

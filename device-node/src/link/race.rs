//! The attempts to reach one of some controllers, over either transport: who completes the handshake first is used.
//!
//! One connection at a time says `Hello`. Two of them would take each other's place at the controller.

use std::net::SocketAddr;
use std::time::Duration;

use flotilla_protocol::wire::CONTROLLER_NAME;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::choice::{Round, Transport, Try};
use super::stream::Carrier;
use super::{ConnectError, FrameStream, LinkConfig, Links, Session, tcp};

/// Addresses of one host name that are tried.
const ADDRESSES_MAX: usize = 4;
/// For each of them but the last.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

type Dialed = (Try, Result<Session, ConnectError>);

pub(super) struct Race<'a> {
    links: &'a Links,
    config: &'a LinkConfig,
    targets: &'a [String],
    round: Round,
    begun: Instant,
    runners: JoinSet<Dialed>,
    /// The same, by target.
    running: Vec<(usize, AbortHandle)>,
    /// Targets that have not answered over QUIC, or not enough.
    unanswered: Vec<usize>,
    last_error: ConnectError,
}

impl<'a> Race<'a> {
    pub(super) fn new(links: &'a Links, config: &'a LinkConfig, targets: &'a [String]) -> Self {
        let firsts: Vec<Transport> = targets.iter().map(|target| links.first(target)).collect();
        Self {
            links,
            config,
            targets,
            round: Round::new(&firsts),
            begun: Instant::now(),
            runners: JoinSet::new(),
            running: Vec::new(),
            unanswered: Vec::new(),
            last_error: ConnectError::NoController,
        }
    }

    /// The next connection whose handshake is done on our side; the last error when there is none left. May be called again
    /// when that one was of no use.
    pub(super) async fn next(&mut self) -> Result<Session, ConnectError> {
        loop {
            while let Some(due) = self.round.due(self.now_ms()) {
                self.begin(due);
            }
            let next = self.round.next_ms().map(|at_ms| self.begun + Duration::from_millis(at_ms));
            if next.is_none() && self.runners.is_empty() {
                return Err(std::mem::replace(&mut self.last_error, ConnectError::NoController));
            }
            tokio::select! {
                Some(done) = self.runners.join_next() => match done {
                    Ok((_, Ok(session))) => return Ok(session),
                    Ok((failed, Err(error))) => self.failed(failed, error),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => self.last_error = ConnectError::Connection(error.to_string()),
                },
                () = sleep_until(next.unwrap_or(self.begun)), if next.is_some() => {}
            }
        }
    }

    /// The session was welcomed, or is of the kind that is not.
    pub(super) fn won(&self, session: &Session, welcomed: bool) {
        let target = self.targets.iter().position(|target| *target == session.controller);
        match session.transport() {
            Transport::Quic => self.links.quic_answered(&session.controller, welcomed),
            Transport::Tcp if target.is_some_and(|target| self.unanswered.contains(&target)) => {
                self.links.quic_silent(&session.controller);
            }
            Transport::Tcp => {}
        }
    }

    /// The handshake was done, and then nothing more came.
    pub(super) fn silent(&mut self, session: Session) {
        if session.transport() == Transport::Quic {
            self.unanswered.extend(self.targets.iter().position(|target| *target == session.controller));
        }
        session.hang_up();
        self.last_error = ConnectError::Timeout;
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn begin(&mut self, due: Try) {
        let (links, config, controller) = (self.links.clone(), self.config.clone(), self.targets[due.target].clone());
        let runner = self.runners.spawn(async move {
            let session = match due.transport {
                Transport::Quic => dial_quic(&links, &config, controller).await,
                Transport::Tcp => dial_tcp(links, config, controller).await,
            };
            (due, session)
        });
        self.running.push((due.target, runner));
        if due.transport == Transport::Quic {
            self.unanswered.push(due.target);
        }
    }

    fn failed(&mut self, failed: Try, error: ConnectError) {
        let answered = matches!(error, ConnectError::NotTrusted(_) | ConnectError::NotAccepted(_));
        self.round.failed(failed, answered, self.now_ms());
        if answered {
            // Nor need anybody wait for what it would say over the other transport.
            let same = self.running.iter().filter(|(target, _)| *target == failed.target);
            same.for_each(|(_, runner)| runner.abort());
        }
        self.last_error = error;
    }
}

pub(super) async fn dial_quic(links: &Links, config: &LinkConfig, controller: String) -> Result<Session, ConnectError> {
    let endpoint = links.endpoint();
    let mut addresses = resolve(&controller).await?.into_iter();
    loop {
        let Some(address) = addresses.next() else { return Err(no_address(&controller)) };
        let connecting = endpoint.connect_with(config.quic.clone(), address, CONTROLLER_NAME);
        let connecting = connecting.map_err(|error| ConnectError::Connection(error.to_string()))?;
        let connected = async {
            let connection = connecting.await?;
            let (send, recv) = connection.open_bi().await?;
            let stream = FrameStream::new(Carrier::Quic { send, recv });
            Ok(Session::quic(stream, controller.clone(), connection, links.0.silence))
        };
        match patiently(addresses.len() == 0, connected).await {
            Err(_) if addresses.len() > 0 => {}
            done => return done,
        }
    }
}

async fn dial_tcp(links: Links, config: LinkConfig, controller: String) -> Result<Session, ConnectError> {
    let mut addresses = resolve(&controller).await?.into_iter();
    loop {
        let Some(address) = addresses.next() else { return Err(no_address(&controller)) };
        match patiently(addresses.len() == 0, tcp::dial(config.tls.clone(), address, links.tcp_silence_max())).await {
            Ok((link, rtt)) => {
                let stream = FrameStream::new(Carrier::Tcp(Box::new(link)));
                return Ok(Session::tcp(stream, controller, rtt, links, config));
            }
            Err(_) if addresses.len() > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// The last address has all the time there is.
async fn patiently<T>(last: bool, dialing: impl Future<Output = Result<T, ConnectError>>) -> Result<T, ConnectError> {
    if last {
        return dialing.await;
    }
    timeout(ADDRESS_PATIENCE, dialing).await.map_err(|_| ConnectError::Timeout)?
}

async fn resolve(controller: &str) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed =
        |error: std::io::Error| ConnectError::Resolve { host: controller.to_owned(), detail: error.to_string() };
    Ok(tokio::net::lookup_host(controller).await.map_err(failed)?.take(ADDRESSES_MAX).collect())
}

fn no_address(controller: &str) -> ConnectError {
    ConnectError::Resolve { host: controller.to_owned(), detail: "no address".to_owned() }
}

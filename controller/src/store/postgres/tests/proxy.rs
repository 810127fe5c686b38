//! A proxy between store and server that loses, on demand, what a broken network loses.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What happens to the next question that contains the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// It reaches the server; the answer does not come back.
    Answer,
    /// It does not reach the server.
    Question,
    /// The client is cut off; the server gets it when the test says so.
    Delay,
}

pub(super) struct Proxy {
    pub(super) addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    plan: Mutex<Option<(&'static str, Cut)>>,
    /// New connections are refused.
    closed: watch::Sender<bool>,
    /// Delayed questions go on their way.
    release: Notify,
    /// Counts delayed questions that were answered.
    answered: watch::Sender<u32>,
}

impl Proxy {
    pub(super) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            server: SocketAddr::from(([127, 0, 0, 1], server_port)),
            plan: Mutex::new(None),
            closed: watch::Sender::new(false),
            release: Notify::new(),
            answered: watch::Sender::new(0),
        });
        let (addr, accepting) = (listener.local_addr().unwrap(), Arc::clone(&shared));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !*accepting.closed.borrow() {
                    tokio::spawn(Arc::clone(&accepting).link(client));
                }
            }
        });
        Self { addr, shared }
    }

    pub(super) fn plan(&self, word: &'static str, cut: Cut) {
        *self.shared.plan.lock() = Some((word, cut));
    }

    pub(super) fn close(&self, closed: bool) {
        self.shared.closed.send_replace(closed);
    }

    /// Lets the delayed question through and waits for its answer.
    pub(super) async fn release(&self) {
        let mut answered = self.shared.answered.subscribe();
        self.shared.release.notify_one();
        answered.changed().await.unwrap();
    }
}

impl Shared {
    async fn link(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (cut, is_cut) = watch::channel(None);
        let back = tokio::spawn(answers(from_server, to_client, is_cut, Arc::clone(&self)));
        self.questions(from_client, to_server, cut).await;
        back.abort();
    }

    async fn questions(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: watch::Sender<Option<Cut>>) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let Ok(len @ 1..) = from.read(&mut buffer).await else { return };
            let chunk = &buffer[..len];
            let planned = {
                let mut plan = self.plan.lock();
                let hit = plan.filter(|(word, _)| chunk.windows(word.len()).any(|part| part == word.as_bytes()));
                if hit.is_some() {
                    *plan = None;
                }
                hit.map(|(_, cut)| cut)
            };
            match planned {
                None => {
                    if to.write_all(chunk).await.is_err() {
                        return;
                    }
                }
                Some(Cut::Question) => return,
                Some(Cut::Answer) => {
                    cut.send_replace(Some(Cut::Answer));
                    let _ = to.write_all(chunk).await;
                    // The other half ends the link when the answer is there.
                    let _ = cut.closed().await;
                    return;
                }
                Some(Cut::Delay) => {
                    cut.send_replace(Some(Cut::Delay));
                    drop(from);
                    self.release.notified().await;
                    let _ = to.write_all(chunk).await;
                    let _ = cut.closed().await;
                    return;
                }
            }
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    mut cut: watch::Receiver<Option<Cut>>,
    shared: Arc<Shared>,
) {
    let mut to = Some(to);
    let mut buffer = vec![0; 1 << 16];
    loop {
        tokio::select! {
            biased;
            Ok(()) = cut.changed() => if *cut.borrow() == Some(Cut::Delay) {
                // Without its own half, the client's connection is gone.
                to = None;
            },
            read = from.read(&mut buffer) => {
                let Ok(len @ 1..) = read else { return };
                let now = *cut.borrow();
                match now {
                    Some(_) => {
                        shared.answered.send_modify(|n| *n += 1);
                        return;
                    }
                    None => {
                        let Some(to) = &mut to else { return };
                        if to.write_all(&buffer[..len]).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

//! Relays on loopback between one controller and what it talks to, which can be cut: while a relay is cut not a byte passes,
//! connections stay open and new ones are taken in silence. That is what a lost network looks like to programs, it needs no
//! rights, and it parts one controller from one other thing, which a cut on the machine's own loopback could not.
//!
//! A cut is stricter than a broken cable: the kernel still acknowledges what was sent, so only the programs' own deadlines
//! can notice.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A source that is silent for so long is forgotten, and gets a new port if it speaks again.
const UDP_IDLE: Duration = Duration::from_secs(120);
const DATAGRAM_MAX: usize = 65_535;
const CHUNK: usize = 64 * 1024;

#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    pub async fn tcp(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a relay's port")?;
        let address = listener.local_addr()?;
        let (cut, seen) = watch::channel(false);
        Ok(Self { address, cut, task: tokio::spawn(accept(listener, to, seen)) })
    }

    pub async fn udp(to: SocketAddr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a relay's port")?;
        let address = socket.local_addr()?;
        let (cut, seen) = watch::channel(false);
        Ok(Self { address, cut, task: tokio::spawn(forward(Arc::new(socket), to, seen)) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns once bytes may pass; never when the relay is gone.
async fn open(cut: &mut watch::Receiver<bool>) {
    if cut.wait_for(|cut| !cut).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, cut: watch::Receiver<bool>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let mut cut = cut.clone();
        tokio::spawn(async move {
            open(&mut cut).await;
            // Refused beyond the relay is refused before it: both ends are dropped.
            let Ok(far) = TcpStream::connect(to).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            // An end in one direction is an end of both: nothing here half-closes.
            tokio::select! {
                () = pump(near_in, far_out, cut.clone()) => {}
                () = pump(far_in, near_out, cut) => {}
            }
        });
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        open(&mut cut).await;
        let read = from.read(&mut buffer).await;
        // What was read as the cut came waits for its end, like a segment that is sent again.
        open(&mut cut).await;
        let Ok(count @ 1..) = read else { return };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Each source has a socket of its own towards the destination, by which the answers find back.
async fn forward(socket: Arc<UdpSocket>, to: SocketAddr, cut: watch::Receiver<bool>) {
    let mut sources: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // A refusal of an earlier datagram; nothing to do about it.
        let Ok((count, source)) = socket.recv_from(&mut buffer).await else { continue };
        if *cut.borrow() {
            continue;
        }
        if sources.get(&source).is_none_or(|(_, answers)| answers.is_finished()) {
            let Ok(far) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            if far.connect(to).await.is_err() {
                continue;
            }
            let far = Arc::new(far);
            let answers = tokio::spawn(answer(far.clone(), socket.clone(), source, cut.clone()));
            sources.insert(source, (far, answers));
        }
        if let Some((far, _)) = sources.get(&source) {
            let _ = far.send(&buffer[..count]).await;
        }
    }
}

async fn answer(far: Arc<UdpSocket>, near: Arc<UdpSocket>, source: SocketAddr, cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    // While the destination is down its port refuses datagrams, which shows here as errors.
    while let Ok(received) = timeout(UDP_IDLE, far.recv(&mut buffer)).await {
        match received {
            Ok(count) if !*cut.borrow() => drop(near.send_to(&buffer[..count], source).await),
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo_tcp() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn nothing_passes_while_tcp_is_cut_and_everything_afterwards() {
        let relay = Relay::tcp(echo_tcp().await).await.unwrap();
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        let mut answer = [0; 1];
        stream.write_all(b"a").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        relay.cut(true);
        stream.write_all(b"b").await.unwrap();
        let silent = timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await;
        assert!(silent.is_err(), "{answer:?}");
        let mut second = TcpStream::connect(relay.address()).await.unwrap();
        second.write_all(b"c").await.unwrap();
        relay.cut(false);
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"b");
        second.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"c");
    }

    #[tokio::test]
    async fn datagrams_are_lost_while_udp_is_cut() {
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::udp(far.local_addr().unwrap()).await.unwrap();
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        near.connect(relay.address()).await.unwrap();
        let mut buffer = [0; 8];
        near.send(b"a").await.unwrap();
        let (count, source) = far.recv_from(&mut buffer).await.unwrap();
        far.send_to(&buffer[..count], source).await.unwrap();
        assert_eq!(near.recv(&mut buffer).await.unwrap(), 1);
        relay.cut(true);
        near.send(b"lost").await.unwrap();
        let silent = timeout(Duration::from_millis(100), far.recv_from(&mut buffer)).await;
        assert!(silent.is_err());
        relay.cut(false);
        near.send(b"bc").await.unwrap();
        assert_eq!(far.recv(&mut buffer).await.unwrap(), 2);
    }
}

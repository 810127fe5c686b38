//! `bench link`: frames over one device link, QUIC and TCP side by side, with the controller's own endpoint, certificates and
//! transport settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::BytesMut;
use flotilla_protocol::id::{DeviceId, MessageId, TenantId};
use flotilla_protocol::wire::{ALPN_LINK, Attempt, Report, ReportKind, Up, decode_frame, encode_frame};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::report::{Report as Findings, median};
use crate::ca::{CONTROLLER_DNS_NAME, Ca, DeviceKey, TrustDomain, client_trust, provider};
use crate::clock::{Clock, SystemClock};
use crate::gateway;
use crate::secrets::ClusterKey;
use crate::store::sqlite;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct LinkOptions {
    /// Report frames of each round
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub(super) frames: u32,
    /// Rounds of each kind; the median is reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) rounds: u32,
}

/// Frames that a busy session finds ready to be written at once.
const FRAMES_PER_WRITE: u32 = 32;

pub(super) async fn run(options: LinkOptions) -> anyhow::Result<Findings> {
    let folder = tempfile::Builder::new().prefix("flotilla-bench-").tempdir()?;
    let parties = Parties::new(folder.path()).await?;
    let (controller, device) = parties.over_quic(folder.path()).await?;
    let (mut tcp_controller, mut tcp_device) = parties.over_tcp().await?;
    let mut findings = Findings::new("link");
    let (mut single, mut together) = (Vec::new(), Vec::new());
    let (mut tcp_single, mut tcp_together) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        single.push(round(&controller, &device, options.frames, 1).await?);
        tcp_single.push(round_tcp(&mut tcp_controller, &mut tcp_device, options.frames, 1).await?);
        together.push(round(&controller, &device, options.frames, FRAMES_PER_WRITE).await?);
        tcp_together.push(round_tcp(&mut tcp_controller, &mut tcp_device, options.frames, FRAMES_PER_WRITE).await?);
    }
    let (single, together) = (median(&mut single), median(&mut together));
    let (tcp_single, tcp_together) = (median(&mut tcp_single), median(&mut tcp_together));
    findings.figure(format!("report frames, {FRAMES_PER_WRITE} in a write"), together, "/s");
    findings.figure("report frames, one in a write", single, "/s");
    findings.figure("together : single", together / single, "ratio");
    findings.figure(format!("over TCP, {FRAMES_PER_WRITE} in a write"), tcp_together, "/s");
    findings.figure("over TCP, one in a write", tcp_single, "/s");
    findings.figure("TCP : QUIC, together", tcp_together / together, "ratio");
    findings.note(format!(
        "links on loopback, both ends in this process; {} frames a round, {} rounds, QUIC and TCP by turns",
        options.frames, options.rounds
    ));
    Ok(findings)
}

/// The device writes; the controller reads and decodes. Gives frames per second.
async fn round(controller: &Connection, device: &Connection, frames: u32, at_once: u32) -> anyhow::Result<f64> {
    let (mut send, _recv) = device.open_bi().await?;
    let start = Instant::now();
    let writing = async {
        let mut bytes = BytesMut::new();
        for n in 0..frames {
            encode_frame(&report(n), &mut bytes)?;
            if is_full(n, frames, at_once) {
                send.write_all(&bytes).await?;
                bytes.clear();
            }
        }
        send.finish()?;
        anyhow::Ok(())
    };
    let reading = async {
        let (_send, mut recv) = controller.accept_bi().await?;
        let (mut buffer, mut count) = (BytesMut::new(), 0);
        while let Some(chunk) = recv.read_chunk(64 * 1024, true).await? {
            buffer.extend_from_slice(&chunk.bytes);
            while decode_frame::<Up>(&mut buffer)?.is_some() {
                count += 1;
            }
        }
        anyhow::Ok(count)
    };
    let (written, count) = tokio::join!(writing, reading);
    written?;
    let count: u32 = count?;
    ensure!(count == frames, "{count} of {frames} frames arrived");
    Ok(f64::from(frames) / start.elapsed().as_secs_f64())
}

/// The same over a TCP link, whose one stream stays open.
async fn round_tcp(
    controller: &mut server::TlsStream<TcpStream>,
    device: &mut client::TlsStream<TcpStream>,
    frames: u32,
    at_once: u32,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    let writing = async {
        let mut bytes = BytesMut::new();
        for n in 0..frames {
            encode_frame(&report(n), &mut bytes)?;
            if is_full(n, frames, at_once) {
                device.write_all(&bytes).await?;
                bytes.clear();
            }
        }
        device.flush().await?;
        anyhow::Ok(())
    };
    let reading = async {
        let (mut buffer, mut count) = (BytesMut::new(), 0);
        while count < frames {
            let read = controller.fill_buf().await?;
            ensure!(!read.is_empty(), "{count} of {frames} frames arrived");
            buffer.extend_from_slice(read);
            let read = read.len();
            controller.consume(read);
            while decode_frame::<Up>(&mut buffer)?.is_some() {
                count += 1;
            }
        }
        anyhow::Ok(())
    };
    tokio::try_join!(writing, reading)?;
    Ok(f64::from(frames) / start.elapsed().as_secs_f64())
}

/// Whether the write ends with this frame.
fn is_full(n: u32, frames: u32, at_once: u32) -> bool {
    (n + 1).is_multiple_of(at_once) || n + 1 == frames
}

fn report(n: u32) -> Up {
    let attempt = Attempt { message: MessageId::new(u64::from(n), [7; 10]), number: 1 };
    Up::Report(Report { position: n.into(), at_ms: 1, kind: ReportKind::Sent { attempt, segments: 1 } })
}

/// A CA, and a device that it knows.
struct Parties {
    ca: Arc<Ca>,
    device: rustls::ClientConfig,
}

impl Parties {
    async fn new(folder: &Path) -> anyhow::Result<Self> {
        let now = SystemClock.now();
        let catalog = sqlite::open(&folder.join("store"), &sqlite::Options::default())?.catalog;
        let (secrets, domain) = (ClusterKey::generate().into(), TrustDomain::parse("bench.flotilla")?);
        let ca = Arc::new(Ca::open(catalog, secrets, domain, None, now.unix_ms / 1000).await?);
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        let (tenant, device) = (TenantId::new(now.unix_ms, [1; 10]), DeviceId::new(now.unix_ms, [2; 10]));
        let certificate = ca.issue_device(&DeviceKey::from_csr(csr.der())?, tenant, device, now.unix_ms / 1000)?;
        let mut device = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(client_trust(&ca.roots_der())?)
            .with_client_auth_cert(
                certificate.chain_der.into_iter().map(CertificateDer::from).collect(),
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        device.alpn_protocols = vec![ALPN_LINK.to_vec()];
        Ok(Self { ca, device })
    }

    /// Both ends of one link over mutual TLS, the controller's first.
    async fn over_quic(&self, folder: &Path) -> anyhow::Result<(Connection, Connection)> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = gateway::endpoint(&folder.join("gateway"), listen, self.ca.clone())?;
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(self.device.clone())?));
        let client = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let connecting = client.connect_with(config, server.local_addr()?, CONTROLLER_DNS_NAME)?;
        let accepting = async { anyhow::Ok(server.accept().await.context("the endpoint is closed")?.await?) };
        let (device, controller) = tokio::join!(connecting, accepting);
        Ok((controller?, device?))
    }

    async fn over_tcp(&self) -> anyhow::Result<(server::TlsStream<TcpStream>, client::TlsStream<TcpStream>)> {
        let acceptor = TlsAcceptor::from(gateway::tls(self.ca.clone())?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(CONTROLLER_DNS_NAME)?;
            anyhow::Ok(TlsConnector::from(Arc::new(self.device.clone())).connect(name, stream).await?)
        };
        let accepting = async {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            anyhow::Ok(acceptor.accept(stream).await?)
        };
        let (device, controller) = tokio::try_join!(connecting, accepting)?;
        Ok((controller, device))
    }
}

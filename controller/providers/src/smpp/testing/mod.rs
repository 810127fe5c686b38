//! An SMSC for tests: it answers as it is told, sends what it is told, and tells what it has seen.
//!
//! It reads with `rusmpp`, which is strict, so it also checks that what the client sends is as the specification has it.

mod receipts;
mod session;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rusmpp::Pdu;
use rusmpp::pdus::SubmitSm;
use rusmpp::types::{COctetString, OctetString};
use rusmpp::values::{DataCoding, EsmClass, Npi, Ton};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub use receipts::{Dialect, Facts};
pub use rusmpp::pdus::DeliverSm;

/// What the SMSC does about a submit, in order.
#[derive(Clone, Debug)]
pub enum Reply {
    /// With this id.
    Accept(String),
    /// With this id and a congestion_state.
    Congested(String, u8),
    Refuse(u32),
    /// Octets as they are, for an answer that is wrong.
    Raw(Vec<u8>),
    /// A request of the SMSC's own, such as a receipt.
    Send(Box<Pdu>),
    Close,
}

/// What the SMSC has seen.
#[derive(Debug)]
pub enum Seen {
    Bind {
        session: usize,
        pdu: Box<Pdu>,
        octets: Vec<u8>,
    },
    Submit {
        session: usize,
        sequence: u32,
        submit: Box<SubmitSm>,
        octets: Vec<u8>,
    },
    EnquireLink {
        session: usize,
    },
    EnquireLinkAnswer {
        session: usize,
    },
    /// Answer to what it has delivered.
    DeliverAnswer {
        session: usize,
        sequence: u32,
        status: u32,
    },
    GenericNack {
        session: usize,
        status: u32,
    },
    Unbind {
        session: usize,
    },
    UnbindAnswer {
        session: usize,
    },
    Closed {
        session: usize,
    },
}

/// Decides about the nth submit (from 0).
pub type Answerer = Box<dyn FnMut(usize, &SubmitSm) -> Vec<Reply> + Send>;

/// Status of the answer to the nth bind (from 0) with this password.
pub type Judge = Box<dyn FnMut(usize, &str) -> u32 + Send>;

pub struct Options {
    pub tls: Option<TlsAcceptor>,
    pub bind: Judge,
    pub submit: Answerer,
    /// interface_version in the answer to a bind.
    pub version: Option<u8>,
    /// Says nothing to an enquire_link when false.
    pub answers_enquire_link: bool,
    /// Says nothing to an unbind when false.
    pub answers_unbind: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: None,
            bind: Box::new(|_, password| if password == "secret" { 0 } else { 0x0e }),
            submit: Box::new(|nth, _| vec![Reply::Accept(format!("id-{nth}"))]),
            version: Some(0x34),
            answers_enquire_link: true,
            answers_unbind: true,
        }
    }
}

/// What a session is told to do.
enum Order {
    Send(Box<Pdu>),
    Raw(Vec<u8>),
    Close,
}

struct Rules {
    options: Options,
    binds: usize,
    submits: usize,
    sessions: Vec<mpsc::UnboundedSender<Order>>,
}

/// Runs until it is dropped.
pub struct Smsc {
    pub address: SocketAddr,
    /// Unbounded: a test that does not look must not change what the client sees.
    seen: mpsc::UnboundedReceiver<Seen>,
    rules: Arc<Mutex<Rules>>,
    listener: JoinHandle<()>,
}

impl Smsc {
    /// On a free port of the loopback interface.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (tell, seen) = mpsc::unbounded_channel();
        let rules = Arc::new(Mutex::new(Rules { options, binds: 0, submits: 0, sessions: Vec::new() }));
        let listener = tokio::spawn(session::accept(listener, rules.clone(), tell));
        Ok(Self { address, seen, rules, listener })
    }

    /// The next thing that happens.
    pub async fn next(&mut self) -> Option<Seen> {
        self.seen.recv().await
    }

    /// What has happened already.
    pub fn look(&mut self) -> Option<Seen> {
        self.seen.try_recv().ok()
    }

    /// The next submit; passes over everything else.
    pub async fn next_submit(&mut self) -> Option<(u32, Box<SubmitSm>, Vec<u8>)> {
        loop {
            if let Seen::Submit { sequence, submit, octets, .. } = self.next().await? {
                return Some((sequence, submit, octets));
            }
        }
    }

    /// Passes over everything until `wanted`.
    pub async fn until(&mut self, wanted: impl Fn(&Seen) -> bool) -> Option<Seen> {
        loop {
            let seen = self.next().await?;
            if wanted(&seen) {
                return Some(seen);
            }
        }
    }

    /// Sends a request over the nth session (from 0).
    pub fn send(&self, session: usize, pdu: impl Into<Pdu>) {
        self.order(session, Order::Send(Box::new(pdu.into())));
    }

    pub fn send_raw(&self, session: usize, octets: Vec<u8>) {
        self.order(session, Order::Raw(octets));
    }

    /// Cuts the connection.
    pub fn close(&self, session: usize) {
        self.order(session, Order::Close);
    }

    fn order(&self, session: usize, order: Order) {
        let rules = self.rules.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(session) = rules.sessions.get(session) {
            // A session that has ended does nothing.
            let _ = session.send(order);
        }
    }
}

impl Drop for Smsc {
    fn drop(&mut self) {
        self.listener.abort();
        let rules = self.rules.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for session in &rules.sessions {
            let _ = session.send(Order::Close);
        }
    }
}

/// A message or receipt for the client, from one number to another.
pub fn deliver(from: &str, to: &str, esm_class: u8, data_coding: u8, message: &[u8]) -> DeliverSm {
    let address = |text: &str| COctetString::from_string(text.to_owned()).unwrap_or_else(|_| COctetString::null());
    DeliverSm::builder()
        .source_addr_ton(Ton::International)
        .source_addr_npi(Npi::Isdn)
        .source_addr(address(from))
        .dest_addr_ton(Ton::International)
        .dest_addr_npi(Npi::Isdn)
        .destination_addr(address(to))
        .esm_class(EsmClass::from(esm_class))
        .data_coding(DataCoding::from(data_coding))
        .short_message(OctetString::from_slice(message).unwrap_or_else(|_| OctetString::empty()))
        .build()
}

//! One connection of the test SMSC.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use rusmpp::decode::DecodeWithLength;
use rusmpp::pdus::{BindReceiverResp, BindTransceiverResp, BindTransmitterResp, SubmitSmResp};
use rusmpp::tlvs::MessageSubmissionResponseTlvValue;
use rusmpp::tlvs::TlvTag;
use rusmpp::types::{AnyOctetString, COctetString};
use rusmpp::values::InterfaceVersion;
use rusmpp::{Command, Pdu};
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{Order, Reply, Rules, Seen};
use crate::smpp::connect::Stream;
use crate::smpp::pdu;

fn rules(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sessions are numbered as they come.
pub(super) async fn accept(listener: TcpListener, all: Arc<Mutex<Rules>>, tell: mpsc::UnboundedSender<Seen>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (orders, taken) = mpsc::unbounded_channel();
        let number = {
            let mut rules = rules(&all);
            rules.sessions.push(orders);
            rules.sessions.len() - 1
        };
        let session = Session { number, all: all.clone(), tell: tell.clone(), sequence: 0 };
        tokio::spawn(session.run(stream, taken));
    }
}

struct Session {
    number: usize,
    all: Arc<Mutex<Rules>>,
    tell: mpsc::UnboundedSender<Seen>,
    sequence: u32,
}

type Writer = WriteHalf<Box<dyn Stream>>;

impl Session {
    async fn run(mut self, stream: TcpStream, orders: mpsc::UnboundedReceiver<Order>) {
        // However it ends, the test sees that it has.
        let _ = self.carry(stream, orders).await;
        self.tell(Seen::Closed { session: self.number });
    }

    fn tell(&self, seen: Seen) {
        let _ = self.tell.send(seen);
    }

    async fn carry(&mut self, stream: TcpStream, mut orders: mpsc::UnboundedReceiver<Order>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let tls = rules(&self.all).options.tls.clone();
        let stream: Box<dyn Stream> = match tls {
            Some(tls) => Box::new(tls.accept(stream).await?),
            None => Box::new(stream),
        };
        let (mut read, mut write) = tokio::io::split(stream);
        let mut buffer = BytesMut::new();
        loop {
            tokio::select! {
                read = read.read_buf(&mut buffer) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    while let Some(octets) = take(&mut buffer) {
                        if !self.request(octets, &mut write).await? {
                            return Ok(());
                        }
                    }
                }
                Some(order) = orders.recv() => match order {
                    Order::Send(pdu) => self.send(*pdu, &mut write).await?,
                    Order::Raw(octets) => put(&octets, &mut write).await?,
                    Order::Close => return Ok(()),
                },
            }
        }
    }

    async fn send(&mut self, pdu: Pdu, write: &mut Writer) -> io::Result<()> {
        self.sequence += 1;
        put(&pdu::encode(0, self.sequence, pdu), write).await
    }

    /// False when the connection ends here.
    async fn request(&mut self, octets: Vec<u8>, write: &mut Writer) -> io::Result<bool> {
        let session = self.number;
        let mut rest = BytesMut::from(octets.get(4..).unwrap_or_default());
        let length = rest.len();
        let Ok((command, _)) = <Command as DecodeWithLength>::decode(&mut rest, length) else {
            return Err(io::Error::other("the client sent what is no PDU"));
        };
        let (sequence, status) = (command.sequence_number(), u32::from(command.status()));
        let Some(pdu) = command.pdu().cloned() else { return Ok(true) };
        match pdu {
            Pdu::BindTransmitter(_) | Pdu::BindReceiver(_) | Pdu::BindTransceiver(_) => {
                let (status, answer) = self.bind(&pdu);
                self.tell(Seen::Bind { session, pdu: Box::new(pdu), octets });
                put(&pdu::encode(status, sequence, answer), write).await?;
            }
            Pdu::SubmitSm(submit) => {
                let replies = {
                    let mut rules = rules(&self.all);
                    rules.submits += 1;
                    let nth = rules.submits - 1;
                    (rules.options.submit)(nth, &submit)
                };
                self.tell(Seen::Submit { session, sequence, submit: Box::new(submit), octets });
                for reply in replies {
                    if !self.reply(reply, sequence, write).await? {
                        return Ok(false);
                    }
                }
            }
            Pdu::EnquireLink => {
                self.tell(Seen::EnquireLink { session });
                if rules(&self.all).options.answers_enquire_link {
                    put(&pdu::encode(0, sequence, Pdu::EnquireLinkResp), write).await?;
                }
            }
            Pdu::Unbind => {
                self.tell(Seen::Unbind { session });
                if rules(&self.all).options.answers_unbind {
                    put(&pdu::encode(0, sequence, Pdu::UnbindResp), write).await?;
                }
            }
            Pdu::EnquireLinkResp => self.tell(Seen::EnquireLinkAnswer { session }),
            Pdu::UnbindResp => self.tell(Seen::UnbindAnswer { session }),
            Pdu::DeliverSmResp(_) | Pdu::DataSmResp(_) => self.tell(Seen::DeliverAnswer { session, sequence, status }),
            Pdu::GenericNack => self.tell(Seen::GenericNack { session, status }),
            _ => return Err(io::Error::other("the client sent what a client does not send")),
        }
        Ok(true)
    }

    fn bind(&self, pdu: &Pdu) -> (u32, Pdu) {
        let mut rules = rules(&self.all);
        rules.binds += 1;
        let nth = rules.binds - 1;
        let version = rules.options.version.map(InterfaceVersion::from);
        let id = COctetString::from_static_slice(b"test\0").unwrap_or_else(|_| COctetString::null());
        match pdu {
            Pdu::BindTransmitter(bind) => {
                let status = (rules.options.bind)(nth, bind.password.as_str());
                (status, BindTransmitterResp::new(id, version).into())
            }
            Pdu::BindReceiver(bind) => {
                let status = (rules.options.bind)(nth, bind.password.as_str());
                (status, BindReceiverResp::new(id, version).into())
            }
            Pdu::BindTransceiver(bind) => {
                let status = (rules.options.bind)(nth, bind.password.as_str());
                (status, BindTransceiverResp::new(id, version).into())
            }
            _ => (0x03, Pdu::GenericNack),
        }
    }

    async fn reply(&mut self, reply: Reply, sequence: u32, write: &mut Writer) -> io::Result<bool> {
        let accept = |id: String, tlvs| {
            let id = COctetString::from_string(id).unwrap_or_else(|_| COctetString::null());
            pdu::encode(0, sequence, SubmitSmResp::new(id, tlvs))
        };
        match reply {
            Reply::Accept(id) => put(&accept(id, Vec::new()), write).await?,
            Reply::Congested(id, state) => {
                let value = AnyOctetString::from_slice(&[state]);
                let tlv = MessageSubmissionResponseTlvValue::Other { tag: TlvTag::CongestionState, value };
                put(&accept(id, vec![tlv]), write).await?;
            }
            // As many do, without a body.
            Reply::Refuse(status) => {
                let command_id = rusmpp::CommandId::SubmitSmResp;
                let body = AnyOctetString::from_static_slice(&[]);
                put(&pdu::encode(status, sequence, Pdu::Other { command_id, body }), write).await?;
            }
            Reply::Raw(octets) => put(&octets, write).await?,
            Reply::Send(pdu) => self.send(*pdu, write).await?,
            Reply::Close => return Ok(false),
        }
        Ok(true)
    }
}

/// One PDU with its header, as it came.
fn take(buffer: &mut BytesMut) -> Option<Vec<u8>> {
    let length = <[u8; 4]>::try_from(buffer.get(..4)?).ok()?;
    let length = u32::from_be_bytes(length) as usize;
    (buffer.len() >= length && length >= 4).then(|| buffer.split_to(length).to_vec())
}

async fn put(octets: &[u8], write: &mut Writer) -> io::Result<()> {
    write.write_all(octets).await?;
    write.flush().await
}

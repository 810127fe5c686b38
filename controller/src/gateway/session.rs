//! The session of one device: the only writer of its stream, and the owner of its end.
//!
//! Parent: `supervisor`. Restart policy: none, a device whose session has ended connects again. A panic here, or in the
//! session's reader, ends this session only. The mailbox is bounded by its senders: one `Flush` while the session is awake
//! (see `outbox`), one `ReaderEnded` in a life.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::Context;
use super::close::{DEVICE_LEFT, INTERNAL};
use super::link::{Receiver, Sender};
use super::outbox::Next;
use super::peer::Peer;
use super::ports::FleetEvent;
use super::reader::{self, ReaderEnd};

pub(super) struct Args {
    pub(super) ending: Ending,
    pub(super) send: Sender,
    pub(super) recv: Receiver,
    /// What came behind `Hello` already.
    pub(super) buffer: bytes::BytesMut,
}

#[derive(Debug)]
pub(super) enum Message {
    /// There are frames in the outbox.
    Flush,
    ReaderEnded(ReaderEnd),
}

pub(super) struct State {
    send: Sender,
    ending: Ending,
    start: Option<Box<(Receiver, bytes::BytesMut)>>,
}

/// Ends the session when it is dropped, however that comes about.
pub(super) struct Ending {
    pub(super) context: Arc<Context>,
    pub(super) peer: Arc<Peer>,
}

pub(super) struct Session;

impl Actor for Session {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        args.ending.peer.set_actor(myself);
        let state = State { send: args.send, ending: args.ending, start: Some(Box::new((args.recv, args.buffer))) };
        std::future::ready(Ok(state)).await
    }

    async fn post_start(&self, myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let Ending { context, peer } = &state.ending;
        let software = peer.info().software;
        context.events.publish(peer.tenant(), FleetEvent::Online { device: peer.device(), software });
        Box::pin(flush(&myself, state)).await?;
        if let Some(start) = state.start.take() {
            let (recv, buffer) = *start;
            tokio::spawn(reader::run(state.ending.context.clone(), state.ending.peer.clone(), recv, buffer));
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // Boxed, so that a silent session does not hold the place for a write.
            Message::Flush => Box::pin(flush(&myself, state)).await,
            Message::ReaderEnded(ReaderEnd::Panicked) => Err("the reader has panicked".into()),
            Message::ReaderEnded(ReaderEnd::Refused) => Ok(()),
            Message::ReaderEnded(ReaderEnd::Left) => {
                state.ending.peer.connection.close(DEVICE_LEFT, b"the device has closed its stream");
                myself.stop(None);
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.ending.run();
        std::future::ready(Ok(())).await
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        _event: SupervisionEvent,
        _state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        std::future::ready(Ok(())).await
    }
}

/// Writes until the outbox is empty; several pushes become one write.
async fn flush(myself: &ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
    loop {
        let peer = &state.ending.peer;
        let now_ms = state.ending.context.clock.now().mono_ms;
        let (next, frames) = peer.outbox.next(now_ms)?;
        match next {
            Next::Write(bytes) => {
                peer.wrote(now_ms);
                metrics::counter!("flotilla_frames_out_total").increment(frames as u64);
                if !state.send.write(bytes).await {
                    // The connection is lost, or the device reads no more.
                    myself.stop(None);
                    return Ok(());
                }
            }
            Next::Close(end) => {
                state.send.finish().await;
                peer.connection.close(end.code(), end.name().as_bytes());
                myself.stop(None);
                return Ok(());
            }
            Next::Idle => return Ok(()),
        }
    }
}

impl Ending {
    fn run(&self) {
        let Self { context, peer } = self;
        if !peer.end() {
            return;
        }
        // Does nothing to a connection that was closed for a better reason.
        peer.connection.close(INTERNAL, b"the session has ended");
        peer.shard.device_down(peer.device(), peer.session);
        if context.sessions.remove(peer, context.clock.now().unix_ms) {
            context.events.publish(peer.tenant(), FleetEvent::Offline { device: peer.device() });
        }
        tracing::debug!(device = %peer.device(), session = peer.session, "a session has ended");
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.run();
    }
}

//! The parent of all sessions.
//!
//! Parent: none; the gateway stops it. Restart policy: sessions are not restarted, because their connection is gone with
//! them and the device connects again; a session that fails is counted and logged, and no other one notices. It does
//! nothing else, so that it has nothing to fail at. Its mailbox holds one event for each session that begins or ends.

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

pub(super) struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        std::future::ready(Ok(())).await
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<()>,
        event: SupervisionEvent,
        _state: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            metrics::counter!("flotilla_sessions_failed_total").increment(1);
            tracing::error!(%error, "a session has failed; its device will connect again");
        }
        std::future::ready(Ok(())).await
    }
}

//! A client and an SMSC for each test.

use std::time::Duration;

use flotilla_protocol::number::Msisdn;
use tokio::sync::mpsc;

use crate::account::Account;
use crate::maker::Outgoing;
use crate::smpp::testing::{Options, Smsc};
use crate::smpp::{Event, Handle, Settings, State, start_seeded};

pub(super) struct Client {
    pub(super) handle: Handle,
    pub(super) events: mpsc::Receiver<Event>,
}

pub(super) fn settings(smsc: &Smsc, fields: &[(&str, &str)]) -> Settings {
    let base_url = Some(format!("smpp://{}", smsc.address).parse().unwrap());
    let mut account = Account { base_url, ..Account::default() };
    // A short pause, so that a test of reconnecting does not take long.
    let given = [("system_id", "flotilla"), ("reconnect_min_ms", "10"), ("reconnect_max_ms", "40")];
    account.fields.extend(given.iter().chain(fields).map(|(name, value)| (Box::from(*name), Box::from(*value))));
    account.secrets.insert("password".into(), "secret".into());
    Settings::from_account(&account).unwrap()
}

pub(super) fn client_with(settings: Settings, room: usize) -> Client {
    let (sender, events) = mpsc::channel(room);
    Client { handle: start_seeded(settings, sender, 7), events }
}

/// An SMSC and a client that is bound to it.
pub(super) async fn bound(options: Options, fields: &[(&str, &str)]) -> (Smsc, Client) {
    let smsc = Smsc::start(options).await.unwrap();
    let client = client_with(settings(&smsc, fields), 64);
    client.until(|state| matches!(state, State::Bound { .. })).await;
    (smsc, client)
}

impl Client {
    pub(super) async fn until(&self, wanted: impl FnMut(&State) -> bool) -> State {
        let mut states = self.handle.states();
        within(states.wait_for(wanted)).await.unwrap().clone()
    }

    /// The next event that is not about the state.
    pub(super) async fn event(&mut self) -> Event {
        loop {
            match within(self.events.recv()).await.expect("the client has ended") {
                Event::State(_) => {}
                event => return event,
            }
        }
    }
}

/// Fails rather than waits for ever.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing has happened for 20 s")
}

pub(super) fn outgoing(number: usize, text: &str) -> Outgoing {
    Outgoing {
        reference: format!("msg_{number}-1").into(),
        to: Msisdn::parse("+255712345678").unwrap(),
        sender: "Flotilla".into(),
        text: text.into(),
        unicode: !text.is_ascii(),
        flash: false,
        segments: 1,
        validity_s: 3600,
    }
}

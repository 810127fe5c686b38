//! The start of a link: from an accepted client certificate to a session.
//!
//! `Hello`, then the checks (protocol, deny list, leadership, epoch, catalog) or a redirect to the tenant's leader, then the session takes the device's place
//! in the registry, the shard hears of it, and only then `Welcome` lets the device repeat its reports.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use flotilla_protocol::id::{Epoch, SimId};
use flotilla_protocol::wire::{DeviceInfo, Down, Hello, PROTOCOL, PROTOCOL_MIN, Refusal, SimInfo, Up, Welcome};
use ractor::Actor;
use tokio::time::timeout;

use super::close::{End, TOO_SLOW, code_of, name_of};
use super::link::{Connection, Receiver, Sender};
use super::peer::{NewPeer, Peer, routes_of, states_of};
use super::ports::ShardDoor;
use super::session::{Args, Ending, Session};
use super::settings::CardSettings;
use super::{Context, dialogue, inventory, reader};
use crate::ca::DeviceIdentity;
use crate::fleet::certificates::{self, Admission};
use crate::fleet::controllers::spread_of;
use crate::fleet::devices::{self, DeviceState};
use crate::fleet::sims::{self, Inventory, Plan};
use crate::store::{SqlError, Tx};

const CATALOG_DEADLINE: Duration = Duration::from_secs(5);
pub(super) const TENANT_DISABLED: &str = "the owner of this device is disabled";

/// Why a device is sent away, in the words it gets.
struct Declined(Refusal, &'static str);

/// Why a device does not get its session here.
enum Turned {
    Away(Declined),
    /// Its tenant's shard is led by the first of these.
    To(Vec<String>),
}

impl From<Declined> for Turned {
    fn from(declined: Declined) -> Self {
        Self::Away(declined)
    }
}

/// What the catalog has to say to a `Hello`.
struct Known {
    state: DeviceState,
    plan: Plan,
    settings: CardSettings,
}

/// Runs until the session is up or the device has been sent away.
pub(super) async fn start(context: Arc<Context>, connection: Connection, identity: DeviceIdentity) {
    let opening = timeout(context.limits.first_frame(), open(&connection)).await;
    let (mut send, recv, buffer, hello) = match opening {
        Ok(Ok(opened)) => opened,
        Ok(Err(None)) => return,
        Ok(Err(Some((mut send, error)))) => {
            let detail = match &error {
                dialogue::ReadError::Frame(error) => reader::bad_frame(error),
                other => other.to_string(),
            };
            return decline(&connection, &mut send, &identity, Refusal::BadFrame, &detail).await;
        }
        Err(_) => {
            count(&connection, "slow");
            let frame = Down::Refused { reason: Refusal::Busy, detail: "no Hello in time".to_owned() };
            return connection.turn_away(TOO_SLOW, b"no Hello in time", &frame).await;
        }
    };
    match admit(&context, identity, &hello).await {
        Ok((shard, known)) => begin(context, connection, identity, (send, recv, buffer), hello, shard, known).await,
        Err(Turned::Away(Declined(reason, detail))) => {
            decline(&connection, &mut send, &identity, reason, detail).await;
        }
        Err(Turned::To(controllers)) => redirect(&connection, &mut send, &identity, controllers).await,
    }
}

type Opened = (Sender, Receiver, BytesMut, Hello);

/// The device opens one stream and says `Hello`. Without a stream there is nobody to answer to.
async fn open(connection: &Connection) -> Result<Opened, Option<(Sender, dialogue::ReadError)>> {
    let (send, mut recv) = connection.stream().await.ok_or(None)?;
    let mut buffer = BytesMut::new();
    match dialogue::read::<Up>(&mut recv, &mut buffer).await {
        Ok(Up::Hello(hello)) => Ok((send, recv, buffer, hello)),
        Ok(_) => Err(Some((send, dialogue::ReadError::Frame(flotilla_protocol::wire::FrameError::Malformed)))),
        Err(dialogue::ReadError::Left) => Err(None),
        Err(error) => Err(Some((send, error))),
    }
}

fn count(connection: &Connection, result: &'static str) {
    let transport = connection.transport().as_str();
    metrics::counter!("flotilla_handshakes_total", "result" => result, "transport" => transport).increment(1);
}

async fn decline(connection: &Connection, send: &mut Sender, identity: &DeviceIdentity, reason: Refusal, detail: &str) {
    count(connection, name_of(reason));
    tracing::info!(device = %identity.device, tenant = %identity.tenant, reason = name_of(reason), detail, "sent a device away");
    if dialogue::write(send, &Down::Refused { reason, detail: detail.to_owned() }).await {
        send.finish().await;
    }
    connection.close(code_of(reason), name_of(reason).as_bytes());
}

async fn redirect(connection: &Connection, send: &mut Sender, identity: &DeviceIdentity, controllers: Vec<String>) {
    count(connection, End::Redirected.name());
    tracing::debug!(device = %identity.device, tenant = %identity.tenant, "redirected a device");
    if dialogue::write(send, &Down::Redirect { controllers }).await {
        send.finish().await;
    }
    connection.close(End::Redirected.code(), End::Redirected.name().as_bytes());
}

async fn admit(
    context: &Context,
    identity: DeviceIdentity,
    hello: &Hello,
) -> Result<(Arc<dyn ShardDoor>, Known), Turned> {
    if !(PROTOCOL_MIN..=PROTOCOL).contains(&hello.protocol) {
        let detail = "this controller speaks another version: update the older side";
        return Err(Declined(Refusal::UnsupportedProtocol, detail).into());
    }
    if context.deny.holds(&identity) {
        return Err(Declined(Refusal::Revoked, "this device is revoked: enrol it again").into());
    }
    let Some(shard) = context.shards.of(identity.tenant) else {
        let leader = context.controllers.leader_elsewhere(identity.tenant, spread_of(identity.device));
        return Err(leader.map_or(Declined(Refusal::Busy, "no leader yet: try again").into(), Turned::To));
    };
    if hello.epoch_seen > shard.epoch() {
        let detail = "this controller is behind one that the device has obeyed: try another";
        return Err(Declined(Refusal::Busy, detail).into());
    }
    match timeout(CATALOG_DEADLINE, look_up(context, identity, hello)).await {
        Ok(Ok(Ok(known))) => Ok((shard, known)),
        Ok(Ok(Err(declined))) => Err(declined.into()),
        Ok(Err(error)) => {
            tracing::warn!(device = %identity.device, %error, "cannot look a device up");
            Err(Declined(Refusal::Busy, "the controller's store does not answer: try again").into())
        }
        Err(_) => Err(Declined(Refusal::Busy, "the controller's store is slow: try again").into()),
    }
}

fn words_for(reason: Refusal) -> &'static str {
    match reason {
        Refusal::UnknownDevice => "no such device here: enrol it again",
        Refusal::Revoked => "this device is revoked: enrol it again",
        Refusal::StaleCertificate => "this certificate was replaced: use the newer one",
        _ => "try again",
    }
}

/// Reads, and writes only if there is something new: ten thousand devices that come back together cost no commit.
async fn look_up(
    context: &Context,
    identity: DeviceIdentity,
    hello: &Hello,
) -> Result<Result<Known, Declined>, SqlError> {
    let now_ms = context.clock.now().unix_ms;
    let (seen, info) = (sims::bounded(&hello.sims), devices::bounded(&hello.info));
    let (seen_again, info_again) = (seen.clone(), info.clone());
    let of = Inventory { tenant: identity.tenant, device: identity.device, hold: context.hold_new_sims, now_ms };
    let found = context.catalog.read(move |tx| find(tx, &identity, of, &seen, &info)).await?;
    let found = match found {
        Ok(found) => found,
        Err(declined) => return Ok(Err(declined)),
    };
    if !found.first_use && !found.info_differs && found.known.plan.is_empty() {
        return Ok(Ok(found.known));
    }
    context
        .catalog
        .run(move |tx| {
            let found = match find(tx, &identity, of, &seen_again, &info_again)? {
                Ok(found) => found,
                Err(declined) => return Ok(Err(declined)),
            };
            if found.first_use {
                certificates::used(tx, &identity, now_ms)?;
            }
            if found.info_differs {
                devices::set_info(tx, identity.device, &info_again)?;
            }
            sims::apply(tx, identity.device, &found.known.plan)?;
            Ok(Ok(found.known))
        })
        .await
}

struct Found {
    known: Known,
    first_use: bool,
    info_differs: bool,
}

fn find(
    tx: &mut dyn Tx,
    identity: &DeviceIdentity,
    of: Inventory,
    seen: &[SimInfo],
    info: &DeviceInfo,
) -> Result<Result<Found, Declined>, SqlError> {
    let (state, first_use) = match certificates::admit(tx, identity)? {
        Admission::Admitted { state, first_use } => (state, first_use),
        // Passes: a device that was told that it is revoked would never come back.
        Admission::Disabled => return Ok(Err(Declined(Refusal::Busy, TENANT_DISABLED))),
        Admission::Refused(reason) => return Ok(Err(Declined(reason, words_for(reason)))),
    };
    let (plan, settings) = inventory::plan(tx, of, seen)?;
    let info_differs = devices::info_differs(tx, identity.device, info)?;
    Ok(Ok(Found { known: Known { state, plan, settings }, first_use, info_differs }))
}

async fn begin(
    context: Arc<Context>,
    connection: Connection,
    identity: DeviceIdentity,
    (send, recv, buffer): (Sender, Receiver, BytesMut),
    hello: Hello,
    shard: Arc<dyn ShardDoor>,
    known: Known,
) {
    let now = context.clock.now();
    let epoch = shard.epoch();
    let controllers = context.controllers.all(spread_of(identity.device));
    let welcome = Down::Welcome(welcome(&context, &hello, epoch, known.plan.ids.clone(), controllers));
    let seen = sims::bounded(&hello.sims);
    let (sims, states) = (routes_of(&seen, &known.plan.ids, &known.settings), states_of(&seen));
    let window = hello.window.clamp(1, context.limits.window_max);
    let make = |session| {
        Peer::new(NewPeer {
            session,
            identity,
            since_ms: now.unix_ms,
            protocol: hello.protocol,
            epoch,
            connection,
            shard,
            outgoing_frames_max: context.limits.outgoing_frames_max,
            software: devices::bounded(&hello.info).software.into(),
            sims,
            settings_number: known.settings.number,
            states,
            accepts_work: known.state == DeviceState::Active,
        })
    };
    let up = |peer: &Arc<Peer>| {
        // Before the shard's own frames, which may come at once.
        peer.push(vec![welcome]);
        peer.shard.device_up(peer.link(window, hello.epoch_seen), peer.clone());
    };
    let peer = context.sessions.register(now.mono_ms, make, up);
    count(&peer.connection, "welcome");
    let transport = peer.connection.transport().as_str();
    tracing::debug!(device = %peer.device(), session = peer.session, transport, "a device has connected");
    inventory::publish(&context, &peer, &known.plan);
    let supervisor = context.supervisor.clone();
    let device = peer.device();
    let args = Args { ending: Ending { context, peer }, send, recv, buffer };
    if let Err(error) = Session::spawn_linked(None, Session, args, supervisor).await {
        // The supervisor is stopping. What the session held was dropped, which has ended it.
        tracing::warn!(%device, %error, "cannot begin a session");
    }
}

fn welcome(
    context: &Context,
    hello: &Hello,
    epoch: Epoch,
    sims: Vec<(u8, SimId)>,
    controllers: Vec<String>,
) -> Welcome {
    Welcome {
        epoch,
        device_ms: hello.device_ms,
        controller_ms: context.clock.now().mono_ms,
        sims,
        settings: context.settings.lock().clone(),
        controllers,
    }
}

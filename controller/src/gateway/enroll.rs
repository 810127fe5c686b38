//! The enrolment dialogue of one connection: a token becomes a certificate, or a device that was away too long recovers.
//!
//! Nobody has shown a certificate here, so everything is bounded and the whole has one deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::wire::{ENROLL_PROTOCOL, EnrollDown, EnrollRefusal, EnrollUp};
use quinn::VarInt;
use tokio::time::timeout;

use super::close::{DONE, NOT_ENROLLED, TOO_SLOW};
use super::link::{Connection, Receiver, Sender};
use super::ports::FleetEvent;
use super::{Context, dialogue};
use crate::fleet::enrollments::{RedeemError, Redemption};
use crate::fleet::recovery::Proof;

const DEADLINE: Duration = Duration::from_secs(15);

struct Refused(EnrollRefusal, String);

pub(super) async fn run(context: Arc<Context>, connection: Connection) {
    let Ok(_permit) = context.enrolling.clone().try_acquire_owned() else {
        count("busy");
        return turn_away(&connection, NOT_ENROLLED, "too many enrolments at a time: try again").await;
    };
    if timeout(DEADLINE, converse(&context, &connection)).await.is_err() {
        count("slow");
        connection.close(TOO_SLOW, b"no request in time");
    }
}

async fn turn_away(connection: &Connection, code: VarInt, detail: &str) {
    let frame = EnrollDown::Refused { reason: EnrollRefusal::Busy, detail: detail.to_owned() };
    connection.turn_away(code, detail.as_bytes(), &frame).await;
}

async fn converse(context: &Arc<Context>, connection: &Connection) {
    let mut buffer = BytesMut::new();
    let asked = timeout(context.limits.first_frame(), async {
        let (send, mut recv) = connection.stream().await?;
        let request = read(&mut recv, &mut buffer).await;
        Some((send, recv, request))
    });
    let (mut send, mut recv, request) = match asked.await {
        Ok(Some(asked)) => asked,
        Ok(None) => return,
        Err(_) => {
            count("slow");
            return turn_away(connection, TOO_SLOW, "no request in time").await;
        }
    };
    let answer = answer(context, &mut send, &mut recv, request, buffer).await;
    let (frame, code) = match answer {
        Ok(frame) => (frame, DONE),
        Err(Refused(reason, detail)) => {
            tracing::info!(remote = %connection.remote(), ?reason, "refused an enrolment");
            (EnrollDown::Refused { reason, detail }, NOT_ENROLLED)
        }
    };
    count(if code == DONE { "issued" } else { "refused" });
    if dialogue::write(&mut send, &frame).await {
        send.finish().await;
    }
    connection.close(code, b"");
}

async fn answer(
    context: &Arc<Context>,
    send: &mut Sender,
    recv: &mut Receiver,
    request: Result<EnrollUp, Refused>,
    mut buffer: BytesMut,
) -> Result<EnrollDown, Refused> {
    match request? {
        EnrollUp::Request { protocol, token, secret, csr_der, info } => {
            check_protocol(protocol)?;
            let redemption = Redemption { token, secret, csr_der, info };
            let issued = context.enrollments.redeem(redemption, context.clock.now().unix_ms).await;
            issued.map(EnrollDown::Issued).map_err(|error| {
                if let RedeemError::UsedToken { tenant, device } = error {
                    context.events.publish(tenant, FleetEvent::EnrollmentReused { enrollment: token, device });
                }
                Refused(error.refusal(), error.to_string())
            })
        }
        EnrollUp::Recover { protocol, device, tenant } => {
            check_protocol(protocol)?;
            recover(context, send, recv, &mut buffer, tenant, device).await
        }
        EnrollUp::Proof { .. } => Err(Refused(EnrollRefusal::BadRequest, "a proof answers a challenge".into())),
    }
}

async fn recover(
    context: &Arc<Context>,
    send: &mut Sender,
    recv: &mut Receiver,
    buffer: &mut BytesMut,
    tenant: TenantId,
    device: DeviceId,
) -> Result<EnrollDown, Refused> {
    let recoveries_max = context.recoveries_max;
    let refused = |error: crate::fleet::recovery::RecoverError| Refused(error.refusal(), error.to_string());
    context.enrollments.may_recover(tenant, device, recoveries_max).await.map_err(refused)?;
    let nonce: [u8; 32] = rand::random();
    if !dialogue::write(send, &EnrollDown::Challenge { nonce }).await {
        return Err(Refused(EnrollRefusal::BadRequest, "the device has left".into()));
    }
    let EnrollUp::Proof { signature, csr_der } = read(recv, buffer).await? else {
        return Err(Refused(EnrollRefusal::BadRequest, "a challenge is answered by a proof".into()));
    };
    let proof = Proof { tenant, device, nonce, signature, csr_der };
    let issued = context.enrollments.recover(proof, recoveries_max, context.clock.now().unix_ms).await;
    issued.map(EnrollDown::Issued).map_err(refused)
}

async fn read(recv: &mut Receiver, buffer: &mut BytesMut) -> Result<EnrollUp, Refused> {
    dialogue::read(recv, buffer).await.map_err(|error| Refused(EnrollRefusal::BadRequest, error.to_string()))
}

fn check_protocol(protocol: u16) -> Result<(), Refused> {
    if protocol == ENROLL_PROTOCOL {
        return Ok(());
    }
    let detail = format!("this controller speaks version {ENROLL_PROTOCOL}: update the older side");
    Err(Refused(EnrollRefusal::UnsupportedProtocol, detail))
}

fn count(result: &'static str) {
    metrics::counter!("flotilla_enrollments_total", "result" => result).increment(1);
}

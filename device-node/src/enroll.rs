//! Becoming somebody: redeeming an enrolment code, and coming back with the old key when the certificate has ended.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::enroll_code::{EnrollCode, EnrollCodeError};
use flotilla_protocol::id::DeviceId;
use flotilla_protocol::wire::{
    DeviceInfo, ENROLL_PROTOCOL, EnrollDown, EnrollRefusal, EnrollUp, Issued, recovery_statement,
};
use tokio::time::{sleep, timeout};

use crate::identity::{DeviceKey, Identity, IdentityError, IdentityStore, KeyError, KeyStore, certificate_request};
use crate::link::{ConnectError, Dialer, LinkConfig, Links, Session, StreamError};

/// For the dialogue after the connection stands.
const DIALOGUE_DEADLINE: Duration = Duration::from_secs(20);
const TRIES_MAX: usize = 6;

#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error(transparent)]
    Code(#[from] EnrollCodeError),
    #[error("{0} is enrolled here already: remove its identity first, or choose another data folder")]
    AlreadyEnrolled(DeviceId),
    #[error("{}", refusal_text(*.reason, .detail))]
    Refused { reason: EnrollRefusal, detail: String },
    #[error("no controller could be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("the controller's answer makes no sense: update this program, or the controller")]
    Unexpected,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<StreamError> for EnrollError {
    fn from(error: StreamError) -> Self {
        Self::Connect(error.into())
    }
}

impl EnrollError {
    /// Worth another try with the same request.
    fn is_passing(&self) -> bool {
        match self {
            Self::Refused { reason, .. } => *reason == EnrollRefusal::Busy,
            Self::Connect(error) => !matches!(error, ConnectError::NotTrusted(_) | ConnectError::Tls(_)),
            _ => false,
        }
    }
}

fn refusal_text(reason: EnrollRefusal, detail: &str) -> String {
    let text = match reason {
        EnrollRefusal::UnknownToken => "the controller does not know this code: ask for a new one",
        EnrollRefusal::ExpiredToken => "this code has expired: ask for a new one",
        EnrollRefusal::UsedToken => "this code was used already, by another device: ask for a new one, and why",
        EnrollRefusal::WrongSecret => "this code's secret is wrong: scan it again, or ask for a new one",
        EnrollRefusal::BadRequest => "the controller does not accept the request",
        EnrollRefusal::UnsupportedProtocol => "controller and device speak no common protocol: update the older one",
        EnrollRefusal::Revoked => "this device is revoked: ask for a new code",
        EnrollRefusal::RecoveriesUsedUp => "this device has recovered too often: resume it at the controller",
        EnrollRefusal::Busy => "the controller is busy: try again later",
    };
    if detail.is_empty() { text.to_owned() } else { format!("{text} ({detail})") }
}

/// Redeems `code` and stores the identity. A device that has redeemed this very code before is simply that device.
pub async fn enroll(
    links: &Links,
    store: &IdentityStore,
    code: &EnrollCode,
    info: &DeviceInfo,
) -> Result<Identity, EnrollError> {
    if let Some(identity) = store.load()? {
        return match identity.token == code.token {
            true => Ok(identity),
            false => Err(EnrollError::AlreadyEnrolled(identity.device)),
        };
    }
    let key = store.pending_key(code.token)?;
    let request = EnrollUp::Request {
        protocol: ENROLL_PROTOCOL,
        token: code.token,
        secret: code.secret,
        csr_der: certificate_request(&key)?,
        info: info.clone(),
    };
    let config = links.enrollment_config(code.ca_pins.clone()).map_err(ConnectError::from)?;
    let issued = redeem(links, &config, &code.controllers, &request).await?;
    let mut identity = Identity::from_issued(code.token, key, issued)?;
    if identity.controllers.is_empty() {
        identity.controllers = code.controllers.clone();
    }
    store.save(&identity)?;
    store.forget_pending()?;
    Ok(identity)
}

/// Gets a new credential with the key of an old one. The caller stores what comes back.
pub async fn recover(
    links: &Links,
    identity: &Identity,
    controllers: &[String],
    keys: &dyn KeyStore,
) -> Result<(Arc<dyn DeviceKey>, Issued), EnrollError> {
    let fresh = keys.create()?;
    let csr_der = certificate_request(&fresh)?;
    let config = links.recovery_config(&identity.roots_der).map_err(ConnectError::from)?;
    let mut session = links.open(&config, controllers).await?;
    let proven = timeout(DIALOGUE_DEADLINE, prove(&mut session, identity, csr_der)).await;
    session.hang_up();
    Ok((fresh, issued(proven.map_err(|_| ConnectError::Timeout)??)?))
}

async fn prove(session: &mut Session, identity: &Identity, csr_der: Vec<u8>) -> Result<EnrollDown, EnrollError> {
    let begin = EnrollUp::Recover { protocol: ENROLL_PROTOCOL, device: identity.device, tenant: identity.tenant };
    let nonce = match ask(session, &begin).await? {
        EnrollDown::Challenge { nonce } => nonce,
        other => return Ok(other),
    };
    let signature = identity.credential.key.sign(&recovery_statement(identity.device, &nonce))?;
    ask(session, &EnrollUp::Proof { signature, csr_der }).await
}

/// Asks until the answer is final.
async fn redeem(
    links: &Links,
    config: &LinkConfig,
    controllers: &[String],
    request: &EnrollUp,
) -> Result<Issued, EnrollError> {
    let mut dialer = Dialer::new(controllers);
    let mut tries = 1;
    loop {
        match ask_once(links, config, &dialer.targets(), request).await.and_then(issued) {
            Err(error) if error.is_passing() && tries < TRIES_MAX => {
                let pause_ms = dialer.failed(rand::random());
                tracing::debug!(%error, pause_ms, "enrolment is tried again");
                dialer.avoid_current();
                sleep(Duration::from_millis(pause_ms)).await;
                tries += 1;
            }
            done => return done,
        }
    }
}

async fn ask_once(
    links: &Links,
    config: &LinkConfig,
    targets: &[String],
    request: &EnrollUp,
) -> Result<EnrollDown, EnrollError> {
    let mut session = links.open(config, targets).await?;
    let answer = timeout(DIALOGUE_DEADLINE, ask(&mut session, request)).await;
    session.hang_up();
    answer.map_err(|_| ConnectError::Timeout)?
}

async fn ask(session: &mut Session, frame: &EnrollUp) -> Result<EnrollDown, EnrollError> {
    session.stream.queue(frame)?;
    session.stream.flush().await?;
    Ok(session.stream.receive().await?)
}

fn issued(answer: EnrollDown) -> Result<Issued, EnrollError> {
    match answer {
        EnrollDown::Issued(issued) => Ok(issued),
        EnrollDown::Refused { reason, detail } => Err(EnrollError::Refused { reason, detail }),
        EnrollDown::Challenge { .. } => Err(EnrollError::Unexpected),
    }
}

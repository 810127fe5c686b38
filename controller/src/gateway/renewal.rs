//! The answer to `Renew`: a new certificate for a new key, over the link that the old one has opened.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::wire::Down;
use tokio::time::timeout;

use super::Context;
use super::peer::Peer;
use crate::fleet::certificates;

const DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn renew(context: &Arc<Context>, peer: &Arc<Peer>, csr_der: &[u8]) {
    let now_ms = context.clock.now().unix_ms;
    let issued = certificates::renew(&*context.catalog, context.ca.clone(), peer.identity, csr_der, now_ms);
    let answer = match timeout(DEADLINE, issued).await {
        Ok(Ok(certificate)) => {
            tracing::debug!(device = %peer.device(), serial = %certificate.serial, "renewed a certificate");
            Down::Certificate { chain_der: certificate.chain_der, roots_der: context.ca.roots_der() }
        }
        Ok(Err(error)) => {
            tracing::warn!(device = %peer.device(), %error, "cannot renew a certificate");
            Down::RenewRefused { detail: error.to_string() }
        }
        Err(_) => Down::RenewRefused { detail: "no answer in time: try again later".to_owned() },
    };
    peer.push(vec![answer]);
}

//! What `demo --failover` adds: an account at a provider that this program plays, and words for the reader.

use std::process::ExitStatus;
use std::time::Duration;

use flotilla_protocol::id::TenantId;

use super::NODE_PROGRAM;
use super::provider::{ACCOUNT, DemoProvider};
use crate::app::Node;
use crate::fleet::audit::By;
use crate::fleet::keys::Secret;
use crate::providers::account::{Sender, Settings};
use crate::providers::accounts::NewProvider;
use crate::providers::kind::Kind;

/// How long a gateway that was killed stays away: long enough to look around.
pub(super) const AWAY: Duration = Duration::from_secs(45);

/// Messages queue up on it.
pub(super) const SLOW_SIM: &str = r#"[[group]]
window = 16
[[group.sim]]
depth = 1
latency = { min_ms = 3000, mean_ms = 3500, max_ms = 6000 }
delivery = { min_ms = 300, mean_ms = 800, max_ms = 3000 }
"#;

const NAME: &str = "demonstration";
const MAKER: &str = "twilio";

/// Plays the provider, for as long as the process lives, and gives the tenant an account there. One of an earlier run, whose
/// provider is gone, goes too.
pub(super) async fn open_account(node: &Node, tenant: TenantId) -> anyhow::Result<()> {
    let accounts = node.api.providers.accounts();
    let by = By { actor: "cli".to_owned(), at_ms: node.api.now_ms() };
    for old in accounts.list(tenant, None, usize::MAX).await?.iter().filter(|account| account.name == NAME) {
        accounts.remove(by.clone(), tenant, old.id).await?;
    }
    let token = Secret::new(rand::random()).expose().to_owned();
    let provider = DemoProvider::start(&token).await?;
    let sender = Sender { from: "+15005550006".into(), weight: 100, ..Sender::default() };
    let settings = Settings {
        base_url: Some(provider.base_url.as_str().into()),
        fields: [("account_sid".into(), ACCOUNT.into())].into(),
        senders: vec![sender],
        ..Settings::default()
    };
    let kind = Kind::by_name(MAKER).ok_or_else(|| anyhow::anyhow!("{MAKER} is no maker"))?;
    let secrets = [("auth_token".into(), token.into())].into();
    accounts.create(by, tenant, NewProvider { kind, name: NAME.to_owned(), enabled: true, settings, secrets }).await?;
    provider.serve();
    Ok(())
}

pub(super) fn invitation(url: &str, key: &str, fleet_pid: Option<u32>) -> String {
    let pid = fleet_pid.unwrap_or_default();
    format!(
        "\nWatch a failover. The gateway takes some 3 seconds for a message; behind it is an account at an online provider,\n\
        played by this program. In another terminal:\n\n  \
        export FLOTILLA_URL={url} FLOTILLA_KEY={key}\n  \
        for n in 1 2 3 4 5 6; do flotilla send +25571234567$n \"Habari $n\"; done\n  \
        kill -9 {pid}                      # the gateway dies\n\n\
        Some seconds later the provider has what had waited there, and says so here. Then:\n\n  \
        flotilla messages list\n  \
        flotilla messages get msg_...       # of one that the provider has taken: every step, with the reason for its route\n\n\
        The one that was in the gateway's hands just then is not sent again: it may be on the air.\n\
        {away} seconds after its death the gateway comes back.\n\n",
        away = AWAY.as_secs(),
    )
}

pub(super) fn died(ended: ExitStatus) -> String {
    format!("the gateway has died ({ended}): {NODE_PROGRAM} is started again in {} seconds\n", AWAY.as_secs())
}

pub(super) fn back(fleet_pid: Option<u32>) -> String {
    format!("the gateway is back; kill -9 {} ends it again\n", fleet_pid.unwrap_or_default())
}

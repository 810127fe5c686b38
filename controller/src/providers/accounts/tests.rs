//! Accounts on a real store: kept whole, sealed, of one tenant, and seen by other controllers.

use std::sync::Arc;

use flotilla_protocol::id::{ProviderId, TenantId};
use flotilla_routing::settings::Window;
use tempfile::TempDir;

use super::*;
use crate::fleet::audit;
use crate::fleet::tenants::{self, Tenant};
use crate::providers::account::{NotedBalance, Sender};
use crate::secrets::ClusterKey;
use crate::store::testing::new_stores;
use crate::store::{Catalog, Stores};

const NOW_MS: u64 = 1_763_640_000_000;

struct World {
    stores: Stores,
    key: ClusterKey,
    tenant: TenantId,
    other: TenantId,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stores = new_stores(dir.path());
        let tenant = new_tenant(&*stores.catalog, 1).await;
        let other = new_tenant(&*stores.catalog, 2).await;
        Self { stores, key: ClusterKey::generate(), tenant, other, _dir: dir }
    }

    /// As one of several controllers sees them.
    async fn accounts(&self) -> Accounts {
        let guard = NetGuard { allow_private: false };
        Accounts::open(Arc::clone(&self.stores.catalog), self.key.clone().into(), guard).await.unwrap()
    }
}

async fn new_tenant(catalog: &dyn Catalog, n: u8) -> TenantId {
    let id = TenantId::new(NOW_MS, [n; 10]);
    let tenant = Tenant { id, name: format!("tenant {n}"), disabled: false, created_ms: NOW_MS };
    tenants::create(catalog, by(), tenant).await.unwrap();
    id
}

fn by() -> By {
    By { actor: "cli".into(), at_ms: NOW_MS }
}

fn new() -> NewProvider {
    let sender = |from: &str| Sender { from: from.into(), weight: 100, ..Sender::default() };
    let settings = Settings { senders: vec![sender("+15005550006"), sender("ACME")], ..Settings::default() };
    NewProvider {
        kind: Kind::by_name("test").unwrap(),
        name: "Main".into(),
        enabled: true,
        settings,
        secrets: [("key".into(), "geheim".into())].into(),
    }
}

fn field(error: AccountError) -> String {
    match error {
        AccountError::Wrong(wrong) => wrong.field,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_account_comes_back_as_it_was_made() {
    let world = World::new().await;
    let accounts = world.accounts().await;
    let made = accounts.create(by(), world.tenant, new()).await.unwrap();
    assert!(made.settings.senders.iter().all(|sender| sender.id.is_some()));
    assert!(!format!("{made:?}").contains("geheim"));
    let elsewhere = world.accounts().await;
    let found = elsewhere.get(world.tenant, made.id).await.unwrap();
    assert_eq!((&found.name, &found.settings, &found.secrets), (&made.name, &made.settings, &made.secrets));
    assert_eq!((found.callback_token, found.version), (made.callback_token, 1));
    // The store has no readable secret.
    let sql = "SELECT secrets_sealed, settings FROM providers";
    let row = world.stores.catalog.read(move |tx| tx.query_one(sql, &[])).await.unwrap().unwrap();
    let sealed: Vec<u8> = row.get("secrets_sealed").unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("geheim"));
    assert!(!row.get::<String>("settings").unwrap().contains("geheim"));
}

#[tokio::test]
async fn nobody_sees_another_tenants_account() {
    let world = World::new().await;
    let accounts = world.accounts().await;
    let made = accounts.create(by(), world.tenant, new()).await.unwrap();
    assert!(matches!(accounts.get(world.other, made.id).await, Err(AccountError::NotFound)));
    let change = accounts.change(by(), world.other, made.id, |provider| {
        provider.enabled = false;
        Ok(())
    });
    assert!(matches!(change.await, Err(AccountError::NotFound)));
    assert!(matches!(accounts.remove(by(), world.other, made.id).await, Err(AccountError::NotFound)));
    assert!(accounts.list(world.other, None, 50).await.unwrap().is_empty());
    assert!(accounts.get(world.tenant, made.id).await.unwrap().enabled);
}

#[tokio::test]
async fn changes_are_seen_elsewhere_and_do_not_overwrite_each_other() {
    let world = World::new().await;
    let (here, there) = (world.accounts().await, world.accounts().await);
    let made = here.create(by(), world.tenant, new()).await.unwrap();
    let mut changes = there.changes();
    changes.mark_unchanged();
    there.refresh().await.unwrap();
    assert!(changes.has_changed().unwrap());
    let senders: Vec<_> = made.settings.senders.iter().map(|sender| sender.id).collect();
    let changed = there
        .change(by(), world.tenant, made.id, |provider| {
            provider.settings.senders.reverse();
            for sender in &mut provider.settings.senders {
                sender.id = None;
            }
            provider.settings.window = 32;
            provider.secrets.insert("login".into(), "auch geheim".into());
            Ok(())
        })
        .await
        .unwrap();
    let reversed: Vec<_> = changed.settings.senders.iter().rev().map(|sender| sender.id).collect();
    assert_eq!(reversed, senders, "a sender keeps its id by what it sends from");
    assert_eq!(here.known(made.id).unwrap().version, 1);
    let found = here.get(world.tenant, made.id).await.unwrap();
    assert_eq!((found.version, found.settings.window), (2, 32));
    // A noted balance is nobody's change.
    let balance = NotedBalance { micros: -1, currency: "EUR".into(), at_ms: 5 };
    let noted = Noted { balance: Some(balance), ..Noted::default() };
    here.note(made.id, noted.clone()).await.unwrap();
    assert_eq!(here.known(made.id).unwrap().noted, noted);
    assert_eq!(world.accounts().await.known(made.id).unwrap().noted, noted);
    let audit = audit::list(&*world.stores.catalog, Some(world.tenant), None, 10).await.unwrap();
    let acts: Vec<&str> = audit.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(acts[..2], ["provider.change", "provider.create"]);
    assert_eq!(audit[0].detail, r#"{"changed":["secrets.login","senders","window"]}"#);
    here.remove(by(), world.tenant, made.id).await.unwrap();
    there.refresh().await.unwrap();
    assert!(there.known(made.id).is_none());
}

#[tokio::test]
async fn wrong_settings_name_their_field() {
    let world = World::new().await;
    let accounts = world.accounts().await;
    type Change = fn(&mut NewProvider);
    let cases: &[(&str, Change)] = &[
        ("name", |new| new.name.clear()),
        ("base_url", |new| new.settings.base_url = Some("http://127.0.0.1:9".into())),
        ("base_url", |new| new.settings.base_url = Some("no address".into())),
        ("fields.colour", |new| drop(new.settings.fields.insert("colour".into(), "red".into()))),
        ("fields.key", |new| drop(new.settings.fields.insert("key".into(), "x".into()))),
        ("secrets.colour", |new| drop(new.secrets.insert("colour".into(), "red".into()))),
        ("secrets.key", |new| new.secrets.clear()),
        ("senders", |new| new.settings.senders.clear()),
        ("senders[1].from", |new| new.settings.senders[1].from = new.settings.senders[0].from.clone()),
        ("senders[0].weight", |new| new.settings.senders[0].weight = 101),
        ("senders[0].countries", |new| new.settings.senders[0].countries = vec!["tz".into()]),
        ("senders[0].id", |new| new.settings.senders[0].id = Some(SenderId::from_bytes([1; 16]))),
        ("senders[0].windows[0].from", |new| {
            let window = Window { days: vec![], from: "25:00".into(), to: "26:00".into() };
            new.settings.senders[0].windows.push(window);
        }),
        ("countries", |new| new.settings.countries = vec!["Tanzania".into()]),
        ("timezone", |new| new.settings.timezone = "Mars/Olympus".into()),
        ("window", |new| new.settings.window = 501),
        ("requests_per_second", |new| new.settings.requests_per_second = Some(0)),
        ("batch_size", |new| new.settings.batch_size = 11),
        ("timeout_ms", |new| new.settings.timeout_ms = 499),
    ];
    for (expected, change) in cases {
        let mut wrong = new();
        change(&mut wrong);
        let error = accounts.create(by(), world.tenant, wrong).await.unwrap_err();
        assert_eq!(field(error), *expected);
    }
    assert!(accounts.all().is_empty());
}

#[tokio::test]
async fn a_tenant_has_so_many_and_no_more() {
    let world = World::new().await;
    let accounts = world.accounts().await;
    for _ in 0..ACCOUNTS_MAX {
        accounts.create(by(), world.tenant, new()).await.unwrap();
    }
    assert!(matches!(accounts.create(by(), world.tenant, new()).await, Err(AccountError::TooMany)));
    accounts.create(by(), world.other, new()).await.unwrap();
    let page = accounts.list(world.tenant, None, 10).await.unwrap();
    let next = accounts.list(world.tenant, page.last().map(|last| last.id), 500).await.unwrap();
    assert_eq!((page.len(), next.len()), (10, ACCOUNTS_MAX - 10));
    assert!(next[0].id > page[9].id);
}

#[tokio::test]
async fn an_account_that_cannot_be_opened_holds_no_other_up() {
    let mut world = World::new().await;
    let made = world.accounts().await.create(by(), world.tenant, new()).await.unwrap();
    world.key = ClusterKey::generate();
    let accounts = world.accounts().await;
    assert!(accounts.known(made.id).is_none());
    let second = accounts.create(by(), world.tenant, new()).await.unwrap();
    let ids: Vec<ProviderId> =
        accounts.list(world.tenant, None, 50).await.unwrap().iter().map(|provider| provider.id).collect();
    assert_eq!(ids, [second.id]);
}

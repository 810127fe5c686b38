//! Settings in the catalog: versions, changes, and what becomes of them for one SIM. On both engines.

use flotilla_protocol::id::{DeviceId, SimId};
use flotilla_protocol::number::Iccid;
use flotilla_protocol::wire::{DeviceInfo, SimInfo, SimState};
use flotilla_routing::Micros;
use flotilla_routing::presets::Platform;
use flotilla_routing::settings::Limits;

use super::*;
use crate::fleet::devices::{self, NewDevice};
use crate::fleet::sims::{self, Change, HoldNewSims, Inventory, SettingsChange, Sims};
use crate::fleet::tenants::{self, Tenant};
use crate::store::testing::server;
use crate::store::{postgres, sqlite};

const NOW_MS: u64 = 1_763_640_000_000;
const CARD: &str = "8901410321111851072";
const OTHER: &str = "8944110068040085321";

fn by() -> By {
    By { actor: "test".into(), at_ms: NOW_MS }
}

/// Runs a check on each engine that is here.
async fn on_both<F: Future<Output = ()>>(check: impl Fn(Arc<dyn Catalog>) -> F) {
    let dir = tempfile::tempdir().unwrap();
    check(sqlite::open(&dir.path().join("data"), &sqlite::Options::default()).unwrap().catalog).await;
    if let Some(server) = server() {
        let url = server.database().unwrap();
        check(postgres::open(&postgres::Options::new(&url)).unwrap().catalog).await;
    }
}

async fn tenant(catalog: &dyn Catalog, n: u8) -> TenantId {
    let id = TenantId::new(n.into(), [n; 10]);
    let new = Tenant { id, name: format!("tenant {n}"), disabled: false, created_ms: NOW_MS };
    tenants::create(catalog, by(), new).await.unwrap().id
}

async fn device(catalog: &dyn Catalog, tenant: TenantId, n: u8, os: &'static str) -> DeviceId {
    let id = DeviceId::new(n.into(), [n; 10]);
    catalog
        .run(move |tx| {
            let info = DeviceInfo { os: os.into(), ..DeviceInfo::default() };
            devices::insert(
                tx,
                &NewDevice { id, tenant, name: "d", info: &info, key_hash: [n; 32], enrolled_ms: NOW_MS },
            )
        })
        .await
        .unwrap();
    id
}

/// The device lists a card; its id.
async fn card(catalog: &dyn Catalog, tenant: TenantId, device: DeviceId, iccid: &'static str) -> SimId {
    catalog
        .run(move |tx| {
            let seen = [SimInfo {
                slot: 0,
                state: SimState::Ready,
                iccid: Some(Iccid::parse(iccid).unwrap()),
                imsi: None,
                msisdn: None,
                home: None,
                operator: String::new(),
                depth: 1,
            }];
            let of = Inventory { tenant, device, hold: HoldNewSims::Changed, now_ms: NOW_MS };
            let plan = sims::plan_inventory(tx, of, &seen)?;
            sims::apply(tx, device, &plan)?;
            assert!(sims::plan_inventory(tx, of, &seen)?.is_empty(), "an unchanged device costs no write");
            Ok::<_, SqlError>(plan.ids[0].1)
        })
        .await
        .unwrap()
}

fn per_day(segments: u32) -> Limits {
    Limits { per_day: Some(segments), ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_update_is_refused() {
    on_both(async |catalog: Arc<dyn Catalog>| {
        let tenant = tenant(&*catalog, 1).await;
        let first = get(&*catalog, tenant).await.unwrap();
        assert_eq!((first.version, first.changed_ms, &*first.settings), (0, None, &TenantRouting::default()));
        let with = |segments| Arc::new(TenantRouting { limits: per_day(segments), ..TenantRouting::default() });
        let one = put(&*catalog, tenant, Some(0), with(1), by()).await.unwrap();
        assert_eq!((one.version, one.changed_ms), (1, Some(NOW_MS)));
        assert_eq!(get(&*catalog, tenant).await.unwrap(), one);
        let late = put(&*catalog, tenant, Some(0), with(2), by()).await;
        assert!(matches!(late, Err(PutError::Changed { version: 1 })), "{late:?}");
        assert_eq!(get(&*catalog, tenant).await.unwrap(), one);
        assert_eq!(put(&*catalog, tenant, None, with(3), by()).await.unwrap().version, 2);
        let entries = audit::list(&*catalog, Some(tenant), None, 9).await.unwrap();
        assert_eq!(entries.iter().filter(|entry| entry.action == "routing.change").count(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_numbered_over_all_tenants() {
    on_both(async |catalog: Arc<dyn Catalog>| {
        let (a, b) = (tenant(&*catalog, 1).await, tenant(&*catalog, 2).await);
        assert_eq!(changes_after(&*catalog, 0).await.unwrap(), []);
        let default = Arc::new(TenantRouting::default());
        for tenant in [a, b, a] {
            put(&*catalog, tenant, None, Arc::clone(&default), by()).await.unwrap();
        }
        assert_eq!(changes_after(&*catalog, 0).await.unwrap(), [(b, 2), (a, 3)]);
        assert_eq!(changes_after(&*catalog, 2).await.unwrap(), [(a, 3)]);
        let phone = device(&*catalog, a, 1, "Android 15").await;
        let sim = card(&*catalog, a, phone, CARD).await;
        let sims = Sims::new(Arc::clone(&catalog));
        let named = Change { name: Some("front".into()), ..Change::default() };
        let (changed, before) = sims.change(a, sim, named, by()).await.unwrap();
        assert_eq!((changed.name.as_str(), before.name.as_str()), ("front", ""));
        assert_eq!(changes_after(&*catalog, 3).await.unwrap(), [], "a name concerns no route");
        let told = Change { balance: Some(Some(Micros(5))), ..Change::default() };
        let (changed, before) = sims.change(a, sim, told.clone(), by()).await.unwrap();
        assert_eq!((changed.balance.unwrap().amount, before.balance), (Micros(5), None));
        assert_eq!(changes_after(&*catalog, 3).await.unwrap(), [(a, 4)], "it counts in the score");
        let resolved = catalog.read(move |tx| of_tenant(tx, a)).await.unwrap().1;
        assert_eq!(resolved[&sim].settings.balance, Some(Micros(5)));
        sims.change(a, sim, told, by()).await.unwrap();
        assert_eq!(changes_after(&*catalog, 4).await.unwrap(), [], "the same once more changes nothing");
        let settings = SettingsChange { weight: Some(Some(7)), ..SettingsChange::default() };
        sims.change(a, sim, Change { settings, ..Change::default() }, by()).await.unwrap();
        assert_eq!(changes_after(&*catalog, 4).await.unwrap(), [(a, 5)]);
        let wrong = SettingsChange { weight: Some(Some(101)), ..SettingsChange::default() };
        let refused =
            sims.change(a, sim, Change { settings: wrong, name: Some("x".into()), balance: None }, by()).await;
        assert!(refused.is_err());
        let kept = sims.get(a, sim).await.unwrap();
        assert_eq!((kept.name.as_str(), kept.settings.weight), ("front", Some(7)), "nothing is changed by halves");
        assert!(sims.change(b, sim, Change::default(), by()).await.is_err(), "another tenant's");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sims_limits_come_from_the_nearest_that_has_them() {
    on_both(async |catalog: Arc<dyn Catalog>| {
        let owner = tenant(&*catalog, 1).await;
        let phone = device(&*catalog, owner, 1, "Android 15").await;
        let sim = card(&*catalog, owner, phone, CARD).await;
        let of = async || catalog.read(move |tx| of_tenant(tx, owner)).await.unwrap();
        let (number, all) = of().await;
        assert_eq!(
            (number, all[&sim].settings.limits.per_minute, all[&sim].settings.weight),
            (0, Some(30), 100),
            "Android's cap"
        );

        let settings =
            TenantRouting { sim_limits: per_day(300), timezone: "Africa/Nairobi".into(), ..Default::default() };
        put(&*catalog, owner, None, Arc::new(settings), by()).await.unwrap();
        let sims = Sims::new(Arc::clone(&catalog));
        let limits = Limits { per_minute: Some(5), ..Limits::default() };
        let own =
            SettingsChange { limits: Some(Some(limits)), pools: Some(Some(vec!["otp".into()])), ..Default::default() };
        sims.change(owner, sim, Change { settings: own, ..Change::default() }, by()).await.unwrap();
        let (number, all) = of().await;
        let resolved = &*all[&sim].settings;
        assert_eq!((number, resolved.limits.per_minute, resolved.limits.per_day), (2, Some(5), Some(300)));
        assert_eq!((&*resolved.timezone, &*resolved.pools[0], resolved.held), ("Africa/Nairobi", "otp", false));

        let around = catalog.read(move |tx| of_device(tx, phone)).await.unwrap();
        assert_eq!((around.platform, around.number, around.sim_limits.per_day), (Platform::Phone, 2, Some(300)));
        let row = sims.get(owner, sim).await.unwrap();
        assert_eq!(resolve(&row, &around), *resolved, "as a device that connects sees it");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_in_anothers_place_is_held_until_it_is_confirmed() {
    on_both(async |catalog: Arc<dyn Catalog>| {
        let owner = tenant(&*catalog, 1).await;
        let modem = device(&*catalog, owner, 1, "linux 6.12").await;
        card(&*catalog, owner, modem, CARD).await;
        let swapped = card(&*catalog, owner, modem, OTHER).await;
        let held = async || catalog.read(move |tx| of_tenant(tx, owner)).await.unwrap().1[&swapped].settings.held;
        assert!(held().await);
        let sims = Sims::new(Arc::clone(&catalog));
        let (confirmed, was_held) = sims.confirm(owner, swapped, by()).await.unwrap();
        assert!(!confirmed.held && was_held && !held().await);
        assert!(!sims.confirm(owner, swapped, by()).await.unwrap().1, "there is nothing more to confirm");
        assert_eq!(changes_after(&*catalog, 0).await.unwrap(), [(owner, 1)]);
        assert!(sims.confirm(TenantId::new(9, [9; 10]), swapped, by()).await.is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_starts_with_the_settings_of_its_tenants() {
    on_both(async |catalog: Arc<dyn Catalog>| {
        let mut expected = Vec::new();
        for n in 1..=6 {
            let id = tenant(&*catalog, n).await;
            let settings = Arc::new(TenantRouting { limits: per_day(n.into()), ..TenantRouting::default() });
            if n != 3 {
                put(&*catalog, id, None, Arc::clone(&settings), by()).await.unwrap();
                expected.push((id, settings));
            }
        }
        let mut found = 0;
        for shard in 0..3 {
            let tenants = of_shard(&*catalog, ShardId(shard), 3).await.unwrap();
            found += tenants.len();
            for (id, settings) in tenants {
                assert_eq!(ShardId::of(id, 3), ShardId(shard));
                assert!(expected.contains(&(id, settings)));
            }
        }
        assert_eq!(found, expected.len());
    })
    .await;
}

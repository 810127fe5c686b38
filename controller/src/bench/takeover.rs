//! `bench takeover`: how long a shard with many open messages is nobody's when another node takes it, over one SQLite store.
//!
//! Two nodes of this process, without links and HTTP: what is measured is the followers, the store and the shard's start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flotilla_cluster::{Member, NodeName};
use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Body, TextEncoding};
use flotilla_routing::choice::Why;
use tokio_util::sync::CancellationToken;

use super::report::{Report, median};
use crate::clock::SystemClock;
use crate::domain::event::{Accepted, Change, Changed, Event, EventKind, Facts};
use crate::domain::message::{Duplicates, Pin, Priority, Route, Submission};
use crate::follow::aggregates::{self, Aggregates, Snapshots};
use crate::follow::{FollowOptions, Followers, Leads, LedgerFollower, RowsFollower, follow};
use crate::peer::local::LocalCluster;
use crate::shard::{AcceptRequest, ShardDeps, ShardSettings, ShardSupervisor};
use crate::store::{Batch, Stores, sqlite};

/// Messages of one commit.
const BATCH: u64 = 1_000;
/// A shard that does not answer by then will not.
const GIVE_UP: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, clap::Args)]
pub(super) struct TakeoverOptions {
    /// Measure on the disk of this folder; the temporary folder's otherwise
    #[arg(long, value_name = "DIR")]
    pub(super) folder: Option<PathBuf>,
    /// Open messages of the shard
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(super) messages: u64,
    /// Of these, how many have been handed to devices
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub(super) in_flight_percent: u64,
    /// Times that the shard moves
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(super) rounds: u64,
}

pub(super) async fn run(options: TakeoverOptions) -> anyhow::Result<Report> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("flotilla-bench-");
    let folder = match &options.folder {
        Some(folder) => builder.tempdir_in(folder)?,
        None => builder.tempdir()?,
    };
    let stores = sqlite::open(folder.path(), &sqlite::Options::default())?;
    let shard = ShardId::of(tenant(), stores.journal.shards());
    fill(&stores, shard, &options).await?;

    let cluster = LocalCluster::new(&stores.journal.epochs().await?);
    let nodes = [
        Node::start(&stores, &cluster, "a", folder.path()).await?,
        Node::start(&stores, &cluster, "b", folder.path()).await?,
    ];
    // The first leader finds nothing but the journal.
    let behind = nodes[0].takes(&cluster, shard).await?;
    let (mut released, mut started) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let to = &nodes[(round as usize + 1) % 2];
        let moved = to.takes(&cluster, shard).await?;
        released.push(moved.nobodys.as_secs_f64() * 1e3);
        started.push(moved.starting.as_secs_f64() * 1e3);
    }
    let mut report = Report::new("takeover");
    report.figure("handed over: drain until the next has it, median", median(&mut released), "ms");
    report.figure("handed over: gain to first accept, median", median(&mut started), "ms");
    report.figure("handed over: gain to first accept, worst", started.iter().copied().fold(0.0, f64::max), "ms");
    report.figure("rows all behind: gain to first accept", behind.starting.as_secs_f64() * 1e3, "ms");
    report.note(format!(
        "{} open messages of one tenant, {} % of them in flight; {} moves between two nodes over one SQLite store",
        options.messages, options.in_flight_percent, options.rounds
    ));
    for node in nodes {
        node.stop().await;
    }
    Ok(report)
}

/// Writes the messages into the journal, as an earlier leader has left them.
async fn fill(stores: &Stores, shard: ShardId, options: &TakeoverOptions) -> anyhow::Result<()> {
    let epoch = Epoch(1);
    let mut seq = stores.journal.take(shard, epoch).await?;
    for first in (0..options.messages).step_by(BATCH as usize) {
        let numbers = first..(first + BATCH).min(options.messages);
        let events: Vec<Event> = numbers.flat_map(|n| life(n, n % 100 < options.in_flight_percent)).collect();
        seq += 1;
        stores.journal.commit(Batch { shard, epoch, seq, events: events.into() }).await?;
    }
    Ok(())
}

/// How a shard came to a node.
struct Moved {
    /// From the wish to the gain.
    nobodys: Duration,
    /// From the gain to the first message that is accepted.
    starting: Duration,
}

struct Node {
    name: NodeName,
    supervisor: ShardSupervisor,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Node {
    async fn start(stores: &Stores, cluster: &LocalCluster, name: &str, folder: &Path) -> anyhow::Result<Self> {
        let (name, stop) = (NodeName::parse(name)?, CancellationToken::new());
        let journal = &stores.journal;
        let follower = RowsFollower::open(Arc::clone(&stores.rows)).await?;
        let reader = follower.reader();
        let (rows, rows_task) = follow(follower, Arc::clone(journal), FollowOptions::default(), stop.clone());
        let snapshots = Some(Snapshots::in_catalog(Arc::clone(&stores.catalog)));
        let options = aggregates::Options { snapshots, shutdown: stop.clone(), ..aggregates::Options::default() };
        let dir = folder.join(format!("stats-{name}"));
        let (_, follower) = Aggregates::open(dir, options, Arc::clone(journal), Arc::clone(&stores.rows))?;
        let (stats, stats_task) = follow(follower, Arc::clone(journal), FollowOptions::default(), stop.clone());
        let ledgers = LedgerFollower::new(Some(Arc::clone(&stores.catalog)), Arc::clone(journal));
        let ledger_reader = ledgers.reader();
        let (ledgers, ledgers_task) = follow(ledgers, Arc::clone(journal), FollowOptions::default(), stop.clone());
        let deps = ShardDeps {
            journal: Arc::clone(journal),
            reader: reader(rows.clone()),
            ledgers: ledger_reader(ledgers.clone()),
            followers: Followers::new([rows, stats, ledgers], Leads::none(journal.shards())),
            clock: Arc::new(SystemClock),
            settings: ShardSettings::default(),
            routing: Arc::new(crate::shard::Defaults),
            news: Arc::new(()),
            lag_events_max: u64::MAX,
        };
        let member = Member {
            name: name.clone(),
            peer: String::new(),
            quic: Vec::new(),
            version: String::new(),
            since_ms: 0,
            draining: false,
        };
        let supervisor = ShardSupervisor::start(deps, cluster.join(member)).await?;
        Ok(Self { name, supervisor, stop, tasks: vec![rows_task, stats_task, ledgers_task] })
    }

    /// Moves the shard here and sends a message to it until it is accepted.
    async fn takes(&self, cluster: &LocalCluster, shard: ShardId) -> anyhow::Result<Moved> {
        let mut views = cluster.views();
        let begin = Instant::now();
        cluster.place(shard, Some(&self.name));
        let is_ours = |view: &Arc<flotilla_cluster::View>| {
            view.leaders[usize::from(shard.0)].as_ref().is_some_and(|leader| leader.node == self.name)
        };
        views.wait_for(is_ours).await.context("the cluster has ended")?;
        let nobodys = begin.elapsed();
        let gained = Instant::now();
        while self.accept().await.is_err() {
            if gained.elapsed() > GIVE_UP {
                bail!("the shard does not accept messages");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(Moved { nobodys, starting: gained.elapsed() })
    }

    async fn accept(&self) -> anyhow::Result<()> {
        let submissions = vec![submission(u64::from(rand::random::<u32>()) << 32)];
        let request = AcceptRequest { tenant: tenant(), idempotency: None, submissions };
        self.supervisor.shards().of(tenant())?.accept(request).await?;
        Ok(())
    }

    async fn stop(self) {
        self.supervisor.shutdown().await;
        self.stop.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

fn tenant() -> TenantId {
    TenantId::from_bytes([7; 16])
}

fn submission(n: u64) -> Submission {
    let now_ms = jiff::Timestamp::now().as_millisecond().unsigned_abs();
    let mut random = [0; 10];
    random[..8].copy_from_slice(&n.to_be_bytes());
    Submission {
        id: MessageId::new(now_ms, random),
        tenant: tenant(),
        accepted_ms: now_ms,
        to: Msisdn::from_u64(255_700_000_000 + n % 100_000_000).unwrap_or_else(|_| unreachable!("twelve digits")),
        body: Body::Text("Your order has left our warehouse and will be with you on Friday.".into()),
        encoding: TextEncoding::default(),
        flash: false,
        segments: 1,
        priority: Priority::Normal,
        duplicates: Duplicates::Never,
        pin: Pin::Any,
        due_ms: now_ms,
        expires_ms: now_ms + 86_400_000,
        campaign: "friday".into(),
        tags: Vec::new(),
        client_ref: None,
        sender: None,
        plan: None,
        max_cost: None,
        callback_url: None,
    }
}

fn life(n: u64, in_flight: bool) -> Vec<Event> {
    let submission = submission(n);
    let at_ms = submission.accepted_ms;
    let device = (n % 50) as u8;
    let route = Route::sim(DeviceId::new(1, [device; 10]), SimId::new(1, [device; 10]));
    let changed = Changed {
        message: submission.id,
        tenant: submission.tenant,
        facts: Facts::of(&submission),
        change: Change::Dispatched { attempt: 1, route, session: 1, why: Why::default() },
        charge: None,
    };
    let accepted = EventKind::Accepted(Box::new(Accepted { submission, idempotency: None }));
    let mut events = vec![Event { at_ms, kind: accepted }];
    if in_flight {
        events.push(Event { at_ms, kind: EventKind::Changed(changed) });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_short_run_measures_everything() {
        let messages =
            std::env::var("FLOTILLA_TAKEOVER_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
        let options = TakeoverOptions { folder: None, messages, in_flight_percent: 10, rounds: 3 };
        let report = run(options).await.unwrap();
        assert_eq!(report.figures.len(), 4);
        assert!(report.figures.iter().all(|figure| figure.value > 0.0));
        println!("{report}");
    }
}

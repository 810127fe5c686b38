//! What is done to the keys, one transaction each. Whatever is done twice, or whose answer is lost, is done once.
//!
//! Leaders are elected by a transaction that makes the leader key if there is none, instead of etcd's own election: no call
//! waits at the server, so none can be cut off in the middle by a timeout; the key's name is the shard's and its holder is
//! seen by whoever reads it; and the answer to "did I win?" is the key itself.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use flotilla_protocol::id::{Epoch, ShardId};

use super::client::{CallError, Etcd};
use super::clock::now_ms;
use super::keys::{Contents, FORMAT_VERSION, Format, Keys, epoch_of, leader_value};
use crate::ownership::{Input, LeaseId};
use crate::{Member, NodeName};

/// More than any cluster needs; a bound on what one read can bring.
const KEYS_MAX: i64 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("another cluster with {theirs} shards uses this prefix, and this one has {ours}; give it another prefix")]
    Shards { ours: u16, theirs: u16 },
    #[error(
        "a newer version has written format {0} under this prefix, and this one reads up to {FORMAT_VERSION}; update this node"
    )]
    Newer(u32),
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A lease and when the request for it, or for its renewal, was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    pub(super) lease: i64,
    pub(super) sent_ms: u64,
    pub(super) ttl_ms: u64,
}

pub(super) struct Store {
    pub(super) etcd: Etcd,
    pub(super) keys: Keys,
    pub(super) shards: u16,
}

impl Store {
    pub(super) async fn read(&self) -> Result<Contents, CallError> {
        let options = GetOptions::new().with_prefix().with_limit(KEYS_MAX);
        let prefix = self.keys.all();
        let answer = self.etcd.call("read", |mut client| {
            let options = options.clone();
            async move { client.get(prefix, Some(options)).await }
        });
        let answer = answer.await?;
        if answer.more() {
            return Err(CallError::Refused(format!(
                "there are more than {KEYS_MAX} keys under {prefix}; use another prefix"
            )));
        }
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok(Contents::parse(&self.keys, answer.kvs(), revision, self.shards))
    }

    async fn txn(&self, name: &'static str, txn: Txn) -> Result<TxnResponse, CallError> {
        self.etcd
            .call(name, |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await
    }

    /// Makes sure that the prefix is of a cluster like this one, and that epochs to come are above `floor`.
    pub(super) async fn prepare(&self, floor: Epoch) -> Result<Contents, PrepareError> {
        loop {
            let contents = self.read().await?;
            match contents.format {
                None => self.put_if_absent(&self.keys.format(), &self.format_text()).await?,
                Some(format) if format.version > FORMAT_VERSION => return Err(PrepareError::Newer(format.version)),
                Some(format) if format.shards != self.shards => {
                    return Err(PrepareError::Shards { ours: self.shards, theirs: format.shards });
                }
                Some(_) => match contents.epoch_base {
                    None => self.put_if_absent(&self.keys.epoch_base(), &floor.0.to_string()).await?,
                    // Whatever key comes next has a higher revision than this.
                    Some(base) if base.saturating_add(contents.revision) >= floor.0 => return Ok(contents),
                    Some(base) => self.raise_base(base, floor.0).await?,
                },
            }
        }
    }

    fn format_text(&self) -> String {
        serde_json::json!(Format { version: FORMAT_VERSION, shards: self.shards }).to_string()
    }

    async fn put_if_absent(&self, key: &str, value: &str) -> Result<(), CallError> {
        let absent = Compare::create_revision(key, CompareOp::Equal, 0);
        self.txn("prepare", Txn::new().when([absent]).and_then([TxnOp::put(key, value, None)])).await.map(drop)
    }

    async fn raise_base(&self, from: u64, to: u64) -> Result<(), CallError> {
        let key = self.keys.epoch_base();
        let same = Compare::value(key.clone(), CompareOp::Equal, from.to_string());
        let put = TxnOp::put(key, to.to_string(), None);
        self.txn("prepare", Txn::new().when([same]).and_then([put])).await.map(drop)
    }

    pub(super) async fn grant(&self, ttl_s: u32) -> Result<Granted, CallError> {
        let grant = self.etcd.call("grant", |mut client| async move {
            let sent_ms = now_ms();
            let answer = client.lease_grant(ttl_s.into(), None).await?;
            Ok(Granted { lease: answer.id(), sent_ms, ttl_ms: answer.ttl().max(0) as u64 * 1_000 })
        });
        grant.await
    }

    /// Renews a lease for the time it was granted for; returns when the request was sent that etcd answered. A stream of its
    /// own for each renewal: one that was opened while etcd had another leader may never answer.
    pub(super) async fn renew(&self, lease: i64) -> Result<u64, CallError> {
        let renew = self.etcd.call("renew", |mut client| async move {
            let sent_ms = now_ms();
            // Opening the stream renews the lease once. That it is over comes as a remaining time of 0, not as an error of
            // etcd; the client makes one of it.
            client.lease_keep_alive(lease).await?;
            Ok(sent_ms)
        });
        renew.await
    }

    pub(super) async fn revoke(&self, lease: i64) -> Result<(), CallError> {
        match self.etcd.call("revoke", |mut client| async move { client.lease_revoke(lease).await }).await {
            Ok(_) | Err(CallError::LeaseGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How long a lease was made for, in seconds; 0 if it is over.
    pub(super) async fn lease_span_s(&self, lease: i64) -> Result<u64, CallError> {
        let call = self.etcd.call("lease", |mut client| async move { client.lease_time_to_live(lease, None).await });
        Ok(call.await?.granted_ttl().max(0) as u64)
    }

    /// Writes the member key if it is absent (`held` 0) or hangs on the lease `held`. False if it is neither.
    pub(super) async fn put_member(&self, member: &Member, lease: i64, held: i64) -> Result<bool, CallError> {
        let key = self.keys.member(&member.name);
        let condition = match held {
            0 => Compare::create_revision(key.clone(), CompareOp::Equal, 0),
            held => Compare::lease(key.clone(), CompareOp::Equal, held),
        };
        let value = serde_json::json!(member).to_string();
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        Ok(self.txn("member", Txn::new().when([condition]).and_then([put])).await?.succeeded())
    }

    /// Makes the shard's leader key under the lease if there is none. The epoch's base is part of the condition, so that a
    /// base that was raised meanwhile is never missed, and so is this node's membership.
    pub(super) async fn campaign(&self, shard: ShardId, node: &NodeName, lease: LeaseId, base: u64) -> Input {
        let unclear = Input::Unclear { shard, lease };
        let key = self.keys.leader(shard);
        let when = [
            Compare::create_revision(key.clone(), CompareOp::Equal, 0),
            Compare::value(self.keys.epoch_base(), CompareOp::Equal, base.to_string()),
            Compare::lease(self.keys.member(node), CompareOp::Equal, lease.0),
        ];
        let options = Some(PutOptions::new().with_lease(lease.0));
        let put = TxnOp::put(key.clone(), leader_value(node, base), options);
        let txn = Txn::new().when(when).and_then([put]).or_else([TxnOp::get(key, None)]);
        let answer = match self.txn("campaign", txn).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%shard, %error, "nobody knows whether a campaign was won");
                return unclear;
            }
        };
        let revision = answer.header().map_or(0, |header| header.revision()) as u64;
        if answer.succeeded() {
            return match base.checked_add(revision) {
                Some(epoch) => Input::Won { shard, lease, epoch: Epoch(epoch), revision },
                None => unclear,
            };
        }
        let Some(TxnOpResponse::Get(found)) = answer.op_responses().into_iter().next() else { return unclear };
        match found.kvs().first() {
            // An earlier attempt, whose answer was lost.
            Some(kv) if kv.lease() == lease.0 => match epoch_of(kv) {
                Some((_, epoch)) => Input::Won { shard, lease, epoch, revision: kv.create_revision() as u64 },
                None => unclear,
            },
            Some(_) => Input::Taken { shard, lease, revision },
            None => unclear,
        }
    }

    /// Removes the leader key if it is still the one that was made under this epoch.
    pub(super) async fn resign(&self, shard: ShardId, lease: LeaseId, epoch: Epoch) -> Result<(), CallError> {
        let key = self.keys.leader(shard);
        let found = self.etcd.call("resign", |mut client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        });
        let found = found.await?;
        let Some(kv) = found.kvs().first().filter(|kv| kv.lease() == lease.0) else { return Ok(()) };
        if epoch_of(kv).is_none_or(|(_, held)| held != epoch) {
            return Ok(());
        }
        let same = Compare::create_revision(key.clone(), CompareOp::Equal, kv.create_revision());
        self.txn("resign", Txn::new().when([same]).and_then([TxnOp::delete(key, None)])).await.map(drop)
    }

    pub(super) async fn put(&self, key: &str, value: &str) -> Result<(), CallError> {
        self.etcd.call("control", |mut client| async move { client.put(key, value, None).await }).await.map(drop)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), CallError> {
        self.etcd.call("control", |mut client| async move { client.delete(key, None).await }).await.map(drop)
    }
}

/// The pause between attempts that fail, growing with each.
pub(super) fn pause(failures: u32) -> Duration {
    let span_ms = (50_u64 << failures.min(4)).min(500);
    Duration::from_millis(span_ms / 2 + rand::random_range(0..=span_ms / 2))
}

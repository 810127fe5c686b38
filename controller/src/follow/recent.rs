//! Messages that change now, between the journal and the rows: several transitions of one message become one write, and a
//! message that is asked for by id is found without waiting for it.

use std::collections::VecDeque;
use std::sync::Arc;

use flotilla_protocol::id::{MessageId, ShardId};
use rustc_hash::FxHashMap;

use crate::domain::event::Changed;
use crate::domain::record::MessageRecord;
use crate::store::Upsert;

/// Changed messages that are held back at most; then they are written at once.
pub(super) const DIRTY_MAX: usize = 16_384;
/// Open messages that are kept after they were written, for their next change.
const CLEAN_MAX: usize = 32_768;

/// A bounded cache that knows which of its messages the rows have not yet seen.
#[derive(Default)]
pub(super) struct Recent {
    slots: FxHashMap<MessageId, Slot>,
    /// The changed ones, in the order of their first change.
    dirty: Vec<MessageId>,
    /// The written ones, the longest unchanged first. A message may be here more than once; then it goes a little early.
    clean: VecDeque<MessageId>,
}

struct Slot {
    shard: ShardId,
    record: Arc<MessageRecord>,
    dirty: bool,
    /// The rows have never seen it.
    new: bool,
}

impl Recent {
    pub(super) fn has(&self, message: MessageId) -> bool {
        self.slots.contains_key(&message)
    }

    pub(super) fn get(&self, message: MessageId) -> Option<Arc<MessageRecord>> {
        self.slots.get(&message).map(|slot| Arc::clone(&slot.record))
    }

    pub(super) fn full(&self) -> bool {
        self.dirty.len() >= DIRTY_MAX
    }

    /// How many messages are here, and how many of them are dirty.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.slots.len(), self.dirty.len())
    }

    /// A message that the rows do not have.
    pub(super) fn accept(&mut self, shard: ShardId, record: MessageRecord) {
        let id = record.submission.id;
        self.dirty.push(id);
        self.slots.insert(id, Slot { shard, record: Arc::new(record), dirty: true, new: true });
    }

    /// A message as the rows have it.
    pub(super) fn load(&mut self, shard: ShardId, record: MessageRecord) {
        let id = record.submission.id;
        self.clean.push_back(id);
        self.slots.insert(id, Slot { shard, record: Arc::new(record), dirty: false, new: false });
    }

    /// False when the message is not here.
    pub(super) fn change(&mut self, at_ms: u64, changed: &Changed) -> bool {
        let message = changed.message;
        let Some(slot) = self.slots.get_mut(&message) else { return false };
        let record = Arc::make_mut(&mut slot.record);
        record.apply(at_ms, &changed.change);
        if let Some(charge) = &changed.charge {
            record.charge(charge);
        }
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(message);
        }
        true
    }

    /// Everything of a shard, written or not.
    pub(super) fn forget(&mut self, shard: ShardId) {
        self.slots.retain(|_, slot| slot.shard != shard);
        let slots = &self.slots;
        self.dirty.retain(|message| slots.contains_key(message));
        self.clean.retain(|message| slots.contains_key(message));
    }

    /// What the rows have not seen; it stays dirty until [`Recent::written`].
    pub(super) fn to_write(&self) -> Vec<Upsert> {
        let slots = self.dirty.iter().filter_map(|message| self.slots.get(message));
        slots.map(|slot| Upsert { shard: slot.shard, record: Arc::clone(&slot.record), new: slot.new }).collect()
    }

    /// Everything dirty has been written. What is final is not needed any more, what is open may change again soon.
    pub(super) fn written(&mut self) {
        for message in std::mem::take(&mut self.dirty) {
            let Some(slot) = self.slots.get_mut(&message) else { continue };
            if slot.record.is_open() {
                slot.dirty = false;
                slot.new = false;
                self.clean.push_back(message);
            } else {
                self.slots.remove(&message);
            }
        }
        while self.clean.len() > CLEAN_MAX
            && let Some(message) = self.clean.pop_front()
        {
            if self.slots.get(&message).is_some_and(|slot| !slot.dirty) {
                self.slots.remove(&message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_routing::Micros;
    use flotilla_routing::choice::Why;
    use flotilla_routing::fact::Charge;

    use super::*;
    use crate::domain::event::{Change, Facts};
    use crate::follow::testing::{route, submission, tenant};

    #[test]
    fn the_transitions_of_a_message_become_one_write() {
        let mut recent = Recent::default();
        let message = submission(tenant(1), 1_000, [1; 10]);
        let id = message.id;
        let on = route(1);
        let (facts, tenant) = (Facts::of(&message), message.tenant);
        let changed = |change, charge: Option<Charge>| {
            let charge = charge.map(Box::new);
            Changed { message: id, tenant, facts: facts.clone(), change, charge }
        };
        let charge = Charge {
            route: on,
            segments: 1,
            at_ms: 1_002,
            recipient: 7,
            cost: Micros(30),
            day: 1,
            tenant_day: 1,
            recipient_window_s: 0,
        };
        recent.accept(ShardId(0), MessageRecord::accepted(message, 1_000, (1, 0)));
        let dispatched = Change::Dispatched { attempt: 1, route: on, session: 1, why: Why::default() };
        assert!(recent.change(1_001, &changed(dispatched, None)));
        let sent = Change::Sent { attempt: 1, route: on, sent_ms: 1_002, took_ms: 1 };
        assert!(recent.change(1_002, &changed(sent, Some(charge))));
        let writes = recent.to_write();
        assert_eq!(writes.len(), 1);
        assert!(writes[0].new);
        assert_eq!((writes[0].record.trace.len(), writes[0].record.cost), (3, Micros(30)));

        recent.written();
        assert!(recent.has(id) && recent.to_write().is_empty(), "open, so it stays for its next change");
        let delivered = Change::Delivered { attempt: 1, route: on, sent_ms: 1_002, delivered_ms: 1_003 };
        assert!(recent.change(1_003, &changed(delivered, None)));
        let writes = recent.to_write();
        assert!(writes.len() == 1 && !writes[0].new);
        recent.written();
        assert!(!recent.has(id), "final, so it goes");
        assert!(!recent.change(1_004, &changed(Change::Cancelled, None)));
    }
}

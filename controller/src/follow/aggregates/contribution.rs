//! What each step of a message's life adds to which rows. Pure, and the same whether the step comes as an event of the
//! journal or is read from a record's trace: that is what makes a rebuild from rows equal to having followed.
//!
//! A step counts in the bucket of the controller's time of it, an inbound message in that of its arrival at the device.

use flotilla_protocol::address::Address;
use flotilla_protocol::id::TenantId;
use flotilla_protocol::number::Region;
use flotilla_routing::Micros;
use smallvec::{SmallVec, smallvec};

use crate::domain::event::{Change, Event, EventKind, Facts, Inbound};
use crate::domain::message::{MessageState, Priority, Route};
use crate::domain::record::{MessageRecord, Step as TraceStep};

use super::counters::{Counter, Counts, Latency};
use super::key::{Dimension, Place, name_place, place};

/// What one step adds, and to which rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Contribution<'a> {
    pub(super) tenant: TenantId,
    pub(super) at_ms: u64,
    counters: SmallVec<[(Counter, u64); 4]>,
    latency: Option<(Latency, u64)>,
    route: Option<Route>,
    message: Option<(&'a str, Priority)>,
    region: Option<Region>,
    error: Option<&'a str>,
}

/// One step of a message, without what it has in common with the others.
enum What<'a> {
    Accepted { scheduled: bool },
    Due,
    Dispatched,
    Returned(&'a str),
    Doubted,
    Sent { sent_ms: u64 },
    SegmentDelivered,
    Delivered { sent_ms: u64, delivered_ms: u64 },
    Failed(&'a str),
    Expired(&'a str),
    Cancelled,
}

impl<'a> Contribution<'a> {
    pub(super) fn of_event(event: &'a Event) -> Self {
        match &event.kind {
            EventKind::Accepted(accepted) => {
                let submission = &accepted.submission;
                let about = About {
                    tenant: submission.tenant,
                    accepted_ms: submission.accepted_ms,
                    segments: submission.segments,
                    priority: submission.priority,
                    region: submission.to.region(),
                    campaign: &submission.campaign,
                };
                about.step(event.at_ms, None, What::Accepted { scheduled: submission.due_ms > event.at_ms })
            }
            EventKind::Changed(changed) => {
                let (route, what) = of_change(&changed.change);
                let cost = changed.charge.as_ref().map_or(Micros::ZERO, |charge| charge.cost);
                About::of_facts(changed.tenant, &changed.facts).step(event.at_ms, route, what).costing(cost)
            }
            EventKind::Inbound(inbound) => Self::of_inbound(inbound),
        }
    }

    pub(super) fn of_inbound(inbound: &'a Inbound) -> Self {
        Self {
            tenant: inbound.tenant,
            at_ms: inbound.received_ms,
            counters: smallvec![(Counter::Inbound, 1)],
            latency: None,
            route: Some(Route::sim(inbound.device, inbound.sim)),
            message: None,
            region: match &inbound.from {
                Address::International(number) => number.region(),
                Address::Short(_) | Address::Alphanumeric(_) => None,
            },
            error: None,
        }
    }

    fn costing(mut self, cost: Micros) -> Self {
        if cost > Micros::ZERO {
            self.counters.push((Counter::Cost, cost.0));
        }
        self
    }

    /// Adds to one row.
    pub(super) fn add_to(&self, counts: &mut Counts) {
        for &(counter, n) in &self.counters {
            counts.count(counter, n);
        }
        if let Some((latency, value_ms)) = self.latency {
            counts.measure(latency, value_ms);
        }
    }

    /// The rows that this adds to, in each of its two blocks.
    pub(super) fn places(&self) -> SmallVec<[(Dimension, Place); 8]> {
        let mut places = SmallVec::new();
        let mut add = |dimension, place| places.push((dimension, place));
        add(Dimension::Total, place(Dimension::Total, &[]));
        match self.route.map(|route| (route, route.as_provider())) {
            Some((_, Some((provider, sender)))) => {
                add(Dimension::Provider, place(Dimension::Provider, &provider.to_bytes()));
                add(Dimension::Sender, place(Dimension::Sender, &sender.to_bytes()));
            }
            Some((route, None)) => {
                add(Dimension::Device, place(Dimension::Device, &route.device.to_bytes()));
                add(Dimension::Sim, place(Dimension::Sim, &route.sim.to_bytes()));
            }
            None => {}
        }
        if let Some((campaign, priority)) = self.message {
            add(Dimension::Campaign, name_place(Dimension::Campaign, campaign));
            add(Dimension::Priority, place(Dimension::Priority, &[priority_code(priority)]));
        }
        let region = self.region.as_ref().map_or("", |region| region.as_str());
        add(Dimension::Region, name_place(Dimension::Region, region));
        if let Some(error) = self.error {
            add(Dimension::Error, name_place(Dimension::Error, error));
        }
        places
    }
}

/// Everything that a record's trace adds, step by step.
pub(super) fn of_record(record: &MessageRecord) -> impl Iterator<Item = Contribution<'_>> {
    let submission = &record.submission;
    let region = submission.to.region();
    record.trace.iter().enumerate().map(move |(i, step)| {
        let about = About {
            tenant: submission.tenant,
            accepted_ms: submission.accepted_ms,
            segments: submission.segments,
            priority: submission.priority,
            region,
            campaign: &submission.campaign,
        };
        about.step(step.at_ms, step.route, of_trace(i == 0, step, record.sent_ms)).costing(step.cost)
    })
}

/// The number of a priority in keys; never reused.
pub(super) const fn priority_code(priority: Priority) -> u8 {
    match priority {
        Priority::Urgent => 0,
        Priority::High => 1,
        Priority::Normal => 2,
        Priority::Bulk => 3,
    }
}

fn of_change(change: &Change) -> (Option<Route>, What<'_>) {
    match change {
        Change::Due => (None, What::Due),
        Change::Dispatched { route, .. } => (Some(*route), What::Dispatched),
        Change::Returned { route, why, .. } => (Some(*route), What::Returned(&why.code)),
        Change::Doubted { route, .. } => (Some(*route), What::Doubted),
        Change::Sent { route, sent_ms, .. } => (Some(*route), What::Sent { sent_ms: *sent_ms }),
        Change::SegmentDelivered { route, .. } => (Some(*route), What::SegmentDelivered),
        Change::Delivered { route, sent_ms, delivered_ms, .. } => {
            (Some(*route), What::Delivered { sent_ms: *sent_ms, delivered_ms: *delivered_ms })
        }
        Change::Failed { route, why, .. } => (*route, What::Failed(&why.code)),
        Change::Expired { route, why, .. } => (*route, What::Expired(&why.code)),
        Change::Cancelled => (None, What::Cancelled),
    }
}

/// `sent_ms` is the record's: it holds that of the last `sent` or `delivered`, and after `delivered` there is no other.
fn of_trace(first: bool, step: &TraceStep, sent_ms: Option<u64>) -> What<'_> {
    let code = || step.failure.as_ref().map_or("", |why| &*why.code);
    let device_ms = step.device_ms.unwrap_or(step.at_ms);
    match step.state {
        state if first => What::Accepted { scheduled: state == MessageState::Scheduled },
        _ if step.segment.is_some() => What::SegmentDelivered,
        MessageState::Queued if step.failure.is_some() => What::Returned(code()),
        MessageState::Queued | MessageState::Scheduled => What::Due,
        MessageState::Dispatching => What::Dispatched,
        MessageState::Unknown => What::Doubted,
        MessageState::Sent => What::Sent { sent_ms: device_ms },
        MessageState::Delivered => What::Delivered { sent_ms: sent_ms.unwrap_or(device_ms), delivered_ms: device_ms },
        MessageState::Failed => What::Failed(code()),
        MessageState::Expired => What::Expired(code()),
        MessageState::Cancelled => What::Cancelled,
    }
}

/// What the steps of one message have in common.
struct About<'a> {
    tenant: TenantId,
    accepted_ms: u64,
    segments: u8,
    priority: Priority,
    region: Option<Region>,
    campaign: &'a str,
}

impl<'a> About<'a> {
    fn of_facts(tenant: TenantId, facts: &'a Facts) -> Self {
        Self {
            tenant,
            accepted_ms: facts.accepted_ms,
            segments: facts.segments,
            priority: facts.priority,
            region: facts.region,
            campaign: &facts.campaign,
        }
    }

    fn step(self, at_ms: u64, route: Option<Route>, what: What<'a>) -> Contribution<'a> {
        let segments = u64::from(self.segments);
        let mut latency = None;
        let mut error = None;
        let counters = match what {
            What::Accepted { scheduled } => {
                let mut counters = smallvec![(Counter::Accepted, 1), (Counter::SegmentsAccepted, segments)];
                if scheduled {
                    counters.push((Counter::Scheduled, 1));
                }
                counters
            }
            What::Due => smallvec![(Counter::Due, 1)],
            What::Dispatched => smallvec![(Counter::Dispatched, 1)],
            What::Returned(code) => {
                error = Some(code);
                smallvec![(Counter::Returned, 1)]
            }
            What::Doubted => smallvec![(Counter::Doubted, 1)],
            What::Sent { sent_ms } => {
                latency = Some((Latency::AcceptToSent, sent_ms.saturating_sub(self.accepted_ms)));
                smallvec![(Counter::Sent, 1), (Counter::SegmentsSent, segments)]
            }
            What::SegmentDelivered => smallvec![(Counter::SegmentsDelivered, 1)],
            What::Delivered { sent_ms, delivered_ms } => {
                latency = Some((Latency::SentToDelivered, delivered_ms.saturating_sub(sent_ms)));
                smallvec![(Counter::Delivered, 1), (Counter::SegmentsDelivered, 1)]
            }
            What::Failed(code) => {
                error = Some(code);
                smallvec![(Counter::Failed, 1)]
            }
            What::Expired(code) => {
                error = Some(code);
                smallvec![(Counter::Expired, 1)]
            }
            What::Cancelled => smallvec![(Counter::Cancelled, 1)],
        };
        Contribution {
            tenant: self.tenant,
            at_ms,
            counters,
            latency,
            route,
            message: Some((self.campaign, self.priority)),
            region: self.region,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use flotilla_protocol::id::{ProviderId, SenderId};
    use proptest::prelude::*;

    use flotilla_routing::choice::Why;

    use super::*;
    use crate::follow::testing::{
        START_MS, accepted, changed, charged, failure, lives, records, route, submission, tenant,
    };

    type Sums = HashMap<(TenantId, u64, Place), Counts>;

    fn sum<'a>(contributions: impl Iterator<Item = Contribution<'a>>) -> Sums {
        let mut sums = Sums::new();
        for it in contributions {
            for (_, place) in it.places() {
                it.add_to(sums.entry((it.tenant, it.at_ms / 3_600_000, place)).or_default());
            }
        }
        sums
    }

    proptest! {
        #[test]
        fn a_record_says_what_its_events_said(seed: u64) {
            let events = lives(seed, 40);
            let (records, inbound) = records(&events);
            let from_rows = records.iter().flat_map(of_record).chain(inbound.iter().map(Contribution::of_inbound));
            prop_assert_eq!(sum(from_rows), sum(events.iter().map(Contribution::of_event)));
        }
    }

    #[test]
    fn one_message_on_two_routes() {
        let mut it = submission(tenant(1), START_MS, [1; 10]);
        (it.segments, it.campaign) = (2, "may".into());
        let (a, b) = (route(1), Route::provider(ProviderId::new(1, [2; 10]), SenderId::new(1, [3; 10])));
        let changes = [
            Change::Dispatched { attempt: 1, route: a, session: 1, why: Why::default() },
            Change::Doubted { attempt: 1, route: a, lost: false },
            Change::Returned { attempt: 1, route: a, why: failure("lease-over"), retry_ms: 0, undelivered: false },
            Change::Dispatched { attempt: 2, route: b, session: 1, why: Why::default() },
            Change::Sent { attempt: 2, route: b, sent_ms: START_MS + 700, took_ms: 0 },
            Change::SegmentDelivered { attempt: 2, route: b, segment: 1 },
            Change::Delivered { attempt: 2, route: b, sent_ms: START_MS + 700, delivered_ms: START_MS + 1_900 },
        ];
        let mut events = vec![accepted(it.clone())];
        events.extend(changes.map(|change| changed(&it, START_MS + 2_000, change)));
        events[2] = charged(&events[2], a, Micros(40));
        events[5] = charged(&events[5], b, Micros(2));
        let sums = sum(events.iter().map(Contribution::of_event));
        let of = |place: Place| {
            let counts = &sums[&(tenant(1), START_MS / 3_600_000, place)];
            let filled = Counter::ALL.into_iter().filter(|counter| counts.get(*counter) > 0);
            filled.map(|counter| (counter, counts.get(counter))).collect::<Vec<_>>()
        };
        let all = vec![
            (Counter::Accepted, 1),
            (Counter::SegmentsAccepted, 2),
            (Counter::Dispatched, 2),
            (Counter::Returned, 1),
            (Counter::Doubted, 1),
            (Counter::Sent, 1),
            (Counter::SegmentsSent, 2),
            (Counter::SegmentsDelivered, 2),
            (Counter::Delivered, 1),
            (Counter::Cost, 42),
        ];
        assert_eq!(of(place(Dimension::Total, &[])), all);
        assert_eq!(of(name_place(Dimension::Campaign, "may")), all);
        assert_eq!(of(name_place(Dimension::Region, "TZ")), all);
        assert_eq!(of(place(Dimension::Priority, &[2])), all);
        let on_a = [(Counter::Dispatched, 1), (Counter::Returned, 1), (Counter::Doubted, 1), (Counter::Cost, 40)];
        assert_eq!(of(place(Dimension::Device, &a.device.to_bytes())), on_a);
        assert_eq!(of(place(Dimension::Sim, &a.sim.to_bytes())), on_a);
        let on_b = of(place(Dimension::Provider, &b.device.to_bytes()));
        assert_eq!(of(place(Dimension::Sender, &b.sim.to_bytes())), on_b);
        assert!(on_b.contains(&(Counter::Dispatched, 1)) && on_b.contains(&(Counter::Cost, 2)), "{on_b:?}");
        assert_eq!(of(name_place(Dimension::Error, "lease-over")), [(Counter::Returned, 1)]);
        let total = &sums[&(tenant(1), START_MS / 3_600_000, place(Dimension::Total, &[]))];
        assert_eq!(total.latency(Latency::AcceptToSent).quantile(0.5), Some(672));
        assert_eq!(total.latency(Latency::SentToDelivered).quantile(0.5), Some(1_216));
    }
}

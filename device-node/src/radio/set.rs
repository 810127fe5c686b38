//! Several radios as one: a node with more than one modem.

use std::task::{Context, Poll};

use flotilla_protocol::wire::SimInfo;

use super::{Outstanding, Radio, RadioEvent, SendJob};

/// Slot numbers of its members do not overlap.
pub struct RadioSet {
    members: Vec<Member>,
    /// Who is asked first, so that a busy one does not silence the others.
    turn: usize,
}

struct Member {
    radio: Box<dyn Radio>,
    sims: Vec<SimInfo>,
}

impl RadioSet {
    pub fn new(radios: Vec<Box<dyn Radio>>) -> Self {
        let member = |radio: Box<dyn Radio>| Member { sims: radio.sims(), radio };
        Self { members: radios.into_iter().map(member).collect(), turn: 0 }
    }

    fn of(&mut self, slot: u8) -> Option<&mut Box<dyn Radio>> {
        let owner = |member: &&mut Member| member.sims.iter().any(|sim| sim.slot == slot);
        self.members.iter_mut().find(owner).map(|member| &mut member.radio)
    }
}

impl Radio for RadioSet {
    fn sims(&self) -> Vec<SimInfo> {
        self.members.iter().flat_map(|member| member.sims.clone()).collect()
    }

    /// Slots that nobody has are refused by the agent before.
    fn send(&mut self, job: SendJob) {
        match self.of(job.slot) {
            Some(radio) => radio.send(job),
            None => tracing::error!(slot = job.slot, "a job for a slot without a radio"),
        }
    }

    fn resume(&mut self, outstanding: Vec<Outstanding>) {
        for member in &mut self.members {
            let own = |one: &Outstanding| member.sims.iter().any(|sim| sim.slot == one.slot);
            member.radio.resume(outstanding.iter().copied().filter(own).collect());
        }
    }

    fn stored(&mut self, slot: u8, token: u64) {
        if let Some(radio) = self.of(slot) {
            radio.stored(slot, token);
        }
    }

    fn ussd(&mut self, request: u32, slot: u8, code: String) {
        // Without an answer the controller's request times out, which says the same.
        if let Some(radio) = self.of(slot) {
            radio.ussd(request, slot, code);
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RadioEvent>> {
        let count = self.members.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let member = &mut self.members[index];
            let Poll::Ready(event) = member.radio.poll_event(cx) else { continue };
            self.turn = (index + 1) % count;
            return Poll::Ready(match event {
                Some(RadioEvent::Sims(sims)) => {
                    member.sims = sims;
                    Some(RadioEvent::Sims(self.sims()))
                }
                event => event,
            });
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use flotilla_protocol::wire::SimState;

    use super::*;

    struct Scripted {
        slot: u8,
        events: VecDeque<RadioEvent>,
    }

    fn sim(slot: u8, state: SimState) -> SimInfo {
        SimInfo { slot, state, iccid: None, imsi: None, msisdn: None, home: None, operator: String::new(), depth: 1 }
    }

    impl Radio for Scripted {
        fn sims(&self) -> Vec<SimInfo> {
            vec![sim(self.slot, SimState::Absent)]
        }

        fn send(&mut self, _job: SendJob) {}

        fn stored(&mut self, _slot: u8, token: u64) {
            self.events.push_back(RadioEvent::Ussd { request: token as u32, result: Ok(self.slot.to_string()) });
        }

        fn ussd(&mut self, _request: u32, _slot: u8, _code: String) {}

        fn poll_event(&mut self, _cx: &mut Context<'_>) -> Poll<Option<RadioEvent>> {
            self.events.pop_front().map_or(Poll::Pending, |event| Poll::Ready(Some(event)))
        }
    }

    #[test]
    fn orders_find_their_member_and_inventories_are_joined() {
        let ready = RadioEvent::Sims(vec![sim(1, SimState::Ready)]);
        let first = Scripted { slot: 0, events: VecDeque::new() };
        let second = Scripted { slot: 1, events: VecDeque::from([ready]) };
        let mut set = RadioSet::new(vec![Box::new(first), Box::new(second)]);
        let mut cx = Context::from_waker(Waker::noop());
        let joined = RadioEvent::Sims(vec![sim(0, SimState::Absent), sim(1, SimState::Ready)]);
        assert_eq!(set.poll_event(&mut cx), Poll::Ready(Some(joined)));
        set.stored(1, 7);
        set.stored(5, 8);
        assert_eq!(set.poll_event(&mut cx), Poll::Ready(Some(RadioEvent::Ussd { request: 7, result: Ok("1".into()) })));
        assert_eq!(set.poll_event(&mut cx), Poll::Pending);
    }
}

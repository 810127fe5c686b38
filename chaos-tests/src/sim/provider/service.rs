//! The services: what they take is on its way to somebody, whatever they answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_protocol::wire::{Attempt, ErrorClass};
use flotilla_providers::{Inbound, Receipt, ReceiptState, Refusal, Submitted};

use super::Account;
use crate::sim::node::NodeEvent;
use crate::sim::plan::{Party, Trouble};
use crate::sim::rng::Rng;
use crate::sim::world::{Cx, Event};

/// A callback that nobody has answered is repeated after this.
const CALL_TIMEOUT_MS: u64 = 8_000;
/// A report that nobody takes is given up; polls find it.
const CALLS_MAX: u32 = 8;

/// The request of a controller in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Caller {
    pub node: usize,
    pub life: u32,
    pub request: u64,
}

/// A message in a request.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Wish {
    pub attempt: Attempt,
    pub reference: Box<str>,
    pub slot: u8,
    pub segments: u8,
}

#[derive(Clone, Debug)]
pub(in crate::sim) enum Answer {
    /// Nobody was reached.
    Unreachable,
    Submitted(Vec<Submitted>),
    Polled(Vec<Receipt>),
}

/// What a callback tells.
#[derive(Clone, Debug)]
pub(in crate::sim) enum News {
    Receipt(Receipt),
    Inbound(Inbound),
}

/// A callback on its way to a controller.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Call {
    pub account: usize,
    pub number: u64,
    pub news: News,
    /// The controller that has handed it on.
    pub via: Option<usize>,
}

#[derive(Debug)]
pub(in crate::sim) enum ServiceEvent {
    Submit {
        caller: Caller,
        wishes: Vec<Wish>,
    },
    /// It has thought about a request.
    Decide {
        caller: Caller,
        wishes: Vec<Wish>,
    },
    Poll {
        caller: Caller,
        ids: Vec<Box<str>>,
    },
    /// The network has told what became of a segment, or of the whole message.
    Ends {
        id: Box<str>,
        segment: Option<u8>,
    },
    Call {
        number: u64,
    },
    Unanswered {
        number: u64,
        tries: u32,
    },
    Answered {
        number: u64,
        taken: bool,
    },
}

pub(in crate::sim) struct Services(Vec<Service>);

struct Service {
    account: Account,
    nodes: usize,
    rng: Rng,
    /// How many faults of each kind there are now.
    closed: u32,
    mute: u32,
    slow: u32,
    refuses: u32,
    /// Requests that it thinks about.
    deciding: usize,
    taken: BTreeMap<Box<str>, Taken>,
    calls: BTreeMap<u64, Calling>,
    next: u64,
}

struct Taken {
    wish: Wish,
    /// The last that there is to tell.
    state: ReceiptState,
}

struct Calling {
    news: News,
    tries: u32,
    taken: bool,
}

impl Services {
    pub(in crate::sim) fn new(seed: u64, accounts: &Arc<[Account]>, nodes: usize) -> Self {
        let service = |account: &Account| Service {
            account: account.clone(),
            nodes,
            rng: Rng::new(seed, "service", account.number),
            closed: 0,
            mute: 0,
            slow: 0,
            refuses: 0,
            deciding: 0,
            taken: BTreeMap::new(),
            calls: BTreeMap::new(),
            next: 0,
        };
        Self(accounts.iter().map(service).collect())
    }

    pub(in crate::sim) fn handle(&mut self, account: usize, event: ServiceEvent, cx: &mut Cx) {
        self.0[account].handle(event, cx);
    }

    pub(in crate::sim) fn set(&mut self, account: usize, trouble: Trouble, on: bool) {
        let service = &mut self.0[account];
        let count = match trouble {
            Trouble::Closed => &mut service.closed,
            Trouble::Mute => &mut service.mute,
            Trouble::Slow => &mut service.slow,
            Trouble::Refuses => &mut service.refuses,
        };
        *count = if on { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Somebody writes to one of the account's senders.
    pub(in crate::sim) fn receives(&mut self, account: usize, digest: u64, cx: &mut Cx) {
        let service = &mut self.0[account];
        let inbound = Inbound {
            id: format!("in-{digest}").into(),
            from: "+255700000000".into(),
            to: "".into(),
            text: digest.to_string().into(),
            at_ms: None,
        };
        service.tell(News::Inbound(inbound), cx);
    }

    /// Nothing is under way that anybody has to hear of.
    pub(in crate::sim) fn at_rest(&self) -> bool {
        let owes = |call: &Calling| !call.taken && matches!(call.news, News::Inbound(_));
        self.0.iter().all(|service| service.deciding == 0 && !service.calls.values().any(owes))
    }
}

impl Service {
    fn me(&self) -> Party {
        Party::Provider(self.account.number)
    }

    fn own(&self, event: ServiceEvent) -> Event {
        Event::Service(self.account.number, event)
    }

    fn handle(&mut self, event: ServiceEvent, cx: &mut Cx) {
        match event {
            ServiceEvent::Submit { caller, wishes } => self.submit(caller, wishes, cx),
            ServiceEvent::Decide { caller, wishes } => self.decide(caller, wishes, cx),
            ServiceEvent::Poll { caller, ids } => self.poll(caller, &ids, cx),
            ServiceEvent::Ends { id, segment } => self.ends(&id, segment, cx),
            ServiceEvent::Call { number } => self.call(number, cx),
            ServiceEvent::Unanswered { number, tries } => {
                if self.calls.get(&number).is_some_and(|call| !call.taken && call.tries == tries) {
                    self.call_again(number, cx);
                }
            }
            ServiceEvent::Answered { number, taken: true } => {
                let Some(call) = self.calls.get_mut(&number) else { return };
                call.taken = true;
                if let News::Inbound(inbound) = &call.news {
                    cx.check.callback_answered(inbound.text.parse().unwrap_or_default());
                }
            }
            ServiceEvent::Answered { number, taken: false } => self.call_again(number, cx),
        }
    }

    fn answer(&self, caller: Caller, answer: Answer, cx: &mut Cx) {
        let Caller { node, life, request } = caller;
        if let Some(at) = cx.net.message(self.me(), Party::Node(node), cx.now) {
            cx.at(at, Event::Node(node, life, NodeEvent::ServiceAnswer { request, answer }));
        }
    }

    fn submit(&mut self, caller: Caller, wishes: Vec<Wish>, cx: &mut Cx) {
        if self.closed > 0 {
            return self.answer(caller, Answer::Unreachable, cx);
        }
        if self.mute > 0 {
            return;
        }
        let pause = if self.slow > 0 { self.rng.between(1_000, 12_000) } else { self.rng.between(20, 400) };
        self.deciding += 1;
        let event = self.own(ServiceEvent::Decide { caller, wishes });
        cx.after(pause, event);
    }

    fn decide(&mut self, caller: Caller, wishes: Vec<Wish>, cx: &mut Cx) {
        self.deciding -= 1;
        let all = |result: Submitted| Answer::Submitted(vec![result; wishes.len()]);
        let error = || Submitted::Unclear("status 500".into());
        if self.refuses > 0 {
            cx.count("refused by a provider");
            return self.answer(caller, all(Submitted::Refused(refusal(ErrorClass::Route))), cx);
        }
        match self.rng.below(100) {
            0..3 => {
                let retry_after_ms = Some(self.rng.between(500, 20_000));
                let refusal = Refusal { retry_after_ms, ..refusal(ErrorClass::Transient) };
                self.answer(caller, all(Submitted::Refused(refusal)), cx);
            }
            3..5 => self.answer(caller, all(error()), cx),
            5..8 => {
                self.take(&wishes, cx);
                cx.count("taken, and answered with an error");
                self.answer(caller, all(error()), cx);
            }
            8..11 => {
                self.take(&wishes, cx);
                cx.count("taken, and not answered");
            }
            11..13 => {}
            _ => {
                let results = wishes.iter().map(|wish| self.judge(wish, cx)).collect();
                self.answer(caller, Answer::Submitted(results), cx);
            }
        }
    }

    fn judge(&mut self, wish: &Wish, cx: &mut Cx) -> Submitted {
        match self.rng.below(100) {
            0..5 => {
                cx.check.refused_for_good(wish.attempt);
                Submitted::Refused(refusal(permanent(cx)))
            }
            5..7 => Submitted::Refused(refusal(ErrorClass::Route)),
            7..9 => Submitted::Refused(refusal(ErrorClass::Transient)),
            _ => Submitted::Accepted { id: Some(self.take_one(wish, cx)), price: None },
        }
    }

    fn take(&mut self, wishes: &[Wish], cx: &mut Cx) {
        for wish in wishes {
            self.take_one(wish, cx);
        }
    }

    /// Whatever the controller hears of it: from now on it counts as sent.
    fn take_one(&mut self, wish: &Wish, cx: &mut Cx) -> Box<str> {
        let number = self.account.number;
        cx.log(|| format!("p{number}: takes {}", told(wish.attempt)));
        cx.count("taken by a provider");
        cx.check.sent(wish.attempt, cx.now);
        cx.check.goes_out(wish.attempt, self.account.route(wish.slot), wish.segments, cx.now);
        self.next += 1;
        let id: Box<str> = format!("p{number}-{}", self.next).into();
        self.taken.insert(id.clone(), Taken { wish: wish.clone(), state: ReceiptState::Pending });
        if self.rng.percent(20) {
            self.report(&id, None, ReceiptState::Pending, cx);
        }
        if self.rng.percent(95) {
            let segments = if self.account.by_segment { (0..wish.segments).map(Some).collect() } else { vec![None] };
            for segment in segments {
                let pause = self.rng.between(100, 40_000);
                let event = self.own(ServiceEvent::Ends { id: id.clone(), segment });
                cx.after(pause, event);
            }
        }
        id
    }

    fn ends(&mut self, id: &str, segment: Option<u8>, cx: &mut Cx) {
        let fate = self.rng.below(100);
        let Some(taken) = self.taken.get_mut(id) else { return };
        let attempt = taken.wish.attempt;
        // First attempts may go on elsewhere.
        let class = match (attempt.number, fate % 2) {
            (1, 0) => ErrorClass::Transient,
            (1, _) => ErrorClass::Route,
            _ => ErrorClass::Permanent,
        };
        let state = match fate {
            0..82 => ReceiptState::Delivered,
            82..86 => ReceiptState::Expired,
            _ => ReceiptState::Failed(refusal(class)),
        };
        // A poll is told of the whole message: of parts, nothing final.
        if segment.is_none() {
            taken.state = state.clone();
        }
        if class == ErrorClass::Permanent && matches!(state, ReceiptState::Failed(_)) {
            cx.check.given_up_for_good(attempt);
        }
        self.report(id, segment, state, cx);
    }

    fn receipt(&self, id: &str, segment: Option<u8>, state: ReceiptState) -> Option<Receipt> {
        let taken = self.taken.get(id)?;
        let reference = self.account.echoes.then(|| taken.wish.reference.clone());
        Some(Receipt { reference, id: Some(id.into()), segment, state, at_ms: None, price: None })
    }

    fn report(&mut self, id: &str, segment: Option<u8>, state: ReceiptState, cx: &mut Cx) {
        if self.account.calls_back
            && let Some(receipt) = self.receipt(id, segment, state)
        {
            if self.rng.percent(10) {
                cx.count("callback lost");
                return;
            }
            self.tell(News::Receipt(receipt), cx);
        }
    }

    fn poll(&mut self, caller: Caller, ids: &[Box<str>], cx: &mut Cx) {
        if self.closed > 0 || self.mute > 0 || self.rng.percent(5) {
            return;
        }
        let receipt = |id: &str| self.receipt(id, None, self.taken.get(id)?.state.clone());
        let receipts = ids.iter().filter_map(|id| receipt(id)).collect();
        self.answer(caller, Answer::Polled(receipts), cx);
    }

    fn tell(&mut self, news: News, cx: &mut Cx) {
        self.next += 1;
        let number = self.next;
        self.calls.insert(number, Calling { news, tries: 0, taken: false });
        let pause = self.rng.between(0, 3_000);
        let event = self.own(ServiceEvent::Call { number });
        cx.after(pause, event);
        if self.rng.percent(10) {
            cx.count("callback doubled");
            let pause = self.rng.between(0, 40_000);
            let event = self.own(ServiceEvent::Call { number });
            cx.after(pause, event);
        }
    }

    /// To whichever controller stands behind the public address now.
    fn call(&mut self, number: u64, cx: &mut Cx) {
        let (account, node) = (self.account.number, self.rng.index(self.nodes));
        let Some(call) = self.calls.get_mut(&number) else { return };
        call.tries += 1;
        let (tries, news) = (call.tries, call.news.clone());
        if let Some(at) = cx.net.message(self.me(), Party::Node(node), cx.now) {
            let call = Call { account, number, news, via: None };
            cx.at(at, Event::ToNode(node, NodeEvent::CalledBack { call }));
        }
        let event = self.own(ServiceEvent::Unanswered { number, tries });
        cx.after(CALL_TIMEOUT_MS, event);
    }

    fn call_again(&mut self, number: u64, cx: &mut Cx) {
        let Some(call) = self.calls.get(&number).filter(|call| !call.taken) else { return };
        if call.tries >= CALLS_MAX && matches!(call.news, News::Receipt(_)) {
            return;
        }
        let pause = self.rng.between(500, 8_000);
        let event = self.own(ServiceEvent::Call { number });
        cx.after(pause, event);
    }
}

/// A deliberate bug takes what is refused for good for what passes.
fn permanent(cx: &Cx) -> ErrorClass {
    match cx.flaw {
        Some(crate::sim::Flaw::PermanentAsTransient) => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    }
}

fn refusal(class: ErrorClass) -> Refusal {
    let code = match class {
        ErrorClass::Permanent => "maker-number",
        ErrorClass::Route => "maker-credit",
        ErrorClass::Transient => "maker-busy",
    };
    Refusal { class, code: code.into(), text: "as it was told".into(), retry_after_ms: None }
}

fn told(attempt: Attempt) -> String {
    format!("{}/{}", crate::sim::writes::tail(attempt.message), attempt.number)
}

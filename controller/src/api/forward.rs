//! Takes a tenant's request to the controller that leads its shard, wherever it came in.
//!
//! Nearly every call of a tenant is answered by one node as a whole: [`to_leader`] stands before those endpoints, and the two
//! in a hurry (`messages::send`, `messages::bulk`) ask for themselves, so that a request that is led here costs them one look.
//!
//! - Nobody leads, or the leader said that it does not and has done nothing: wait for word of a change, and try again.
//! - The link broke while the leader had the request: what may be repeated (reading, and sending with an idempotency key) is;
//!   for everything else the outcome is open, and the answer says so.
//! - A request that came over a link is never forwarded. It waits here if its sender knows more than we do.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flotilla_cluster::{NodeName, View, Views};
use flotilla_protocol::id::{Epoch, ShardId, TenantId};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::messages::send::{IDEMPOTENCY_HEADER, PATH};
use super::problem::{Code, Problem};
use super::{Api, json, not_leading};
use crate::peer::{Forwarded, NotLeading, PeerCall};

/// How long a request waits for somebody who leads.
const LEADER_DEADLINE: Duration = Duration::from_secs(5);
/// A controller that was sent to waits shorter, so that whoever has sent can still look elsewhere.
const FORWARDED_DEADLINE: Duration = Duration::from_secs(3);
/// Longer than the longest call, which is USSD.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// Before a controller that could not be reached is dialled again, unless there is news.
const REDIAL_PAUSE: Duration = Duration::from_millis(200);

/// Before the endpoints that a tenant's shard has to do with.
pub(super) async fn to_leader(State(api): State<Api>, request: Request, next: Next) -> Response {
    take(&api, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn take(api: &Api, request: Request, next: Next) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = api.keys.authenticate(&parts.headers, api.now_ms()).await?;
    let tenant = caller.tenant_if_any();
    // The endpoint need not look the key up, nor count it, again.
    parts.extensions.insert(caller);
    let Some(tenant) = tenant else { return Ok(next.run(Request::from_parts(parts, body)).await) };
    let bytes = json::read(body, api.limits.body_bytes_max).await?;
    let here = |parts, bytes| {
        let next = next.clone();
        async move { next.run(Request::from_parts(parts, Body::from(bytes))).await }
    };
    whole(api, tenant, parts, bytes, here).await
}

/// Answers a request whose body is in memory: `here`, or at its leader.
pub(super) async fn whole<F: Future<Output = Response>>(
    api: &Api,
    tenant: TenantId,
    parts: Parts,
    bytes: Bytes,
    here: impl Fn(Parts, Bytes) -> F,
) -> Result<Response, Problem> {
    let mut way = Way::new(api, tenant, &parts);
    let repeatable = is_repeatable(&parts);
    loop {
        let (node, epoch) = match way.next().await? {
            Hop::Here(epoch) => {
                let response = here(parts.clone(), bytes.clone()).await;
                if response.extensions().get::<NotLeading>().is_none() || api.cluster.links.is_none() {
                    return Ok(response);
                }
                way.refused(api.cluster.own.clone(), epoch);
                continue;
            }
            Hop::There(node, epoch) => (node, epoch),
        };
        let Some(call) = way.call(&node).await? else { continue };
        let request = Request::from_parts(parts.clone(), Body::from(bytes.clone()));
        let answer = timeout(ANSWER_DEADLINE, call.send(epoch, request)).await;
        match answer {
            Ok(Ok(response)) if response.extensions().get::<NotLeading>().is_some() => way.refused(node, epoch),
            Ok(Ok(response)) => return Ok(way.relay(response, node)),
            Ok(Err(broken)) if repeatable => {
                tracing::debug!(peer = %node, %broken, "asking again");
                way.pause().await?;
            }
            Ok(Err(broken)) => return Err(outcome_unknown(&broken)),
            Err(_) => return Err(outcome_unknown(&"no answer in time")),
        }
    }
}

/// What became of a request with a body of any length.
pub(super) enum Sent {
    /// It is for this node after all.
    Here(Parts, Body),
    Answered(Response),
}

/// Takes a request with a body of any length to its leader. The body goes through as it comes, so nothing is tried twice
/// once it has begun.
pub(super) async fn stream(api: &Api, tenant: TenantId, parts: Parts, body: Body) -> Result<Sent, Problem> {
    let mut way = Way::new(api, tenant, &parts);
    loop {
        let (node, epoch) = match way.next().await? {
            Hop::Here(_) => return Ok(Sent::Here(parts, body)),
            Hop::There(node, epoch) => (node, epoch),
        };
        let Some(call) = way.call(&node).await? else { continue };
        return match call.send(epoch, Request::from_parts(parts, body)).await {
            Ok(response) => Ok(Sent::Answered(way.relay(response, node))),
            Err(broken) => Err(outcome_unknown(&broken)),
        };
    }
}

/// Whether doing it twice is doing it once.
fn is_repeatable(parts: &Parts) -> bool {
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    reads || parts.uri.path() == PATH && parts.headers.contains_key(IDEMPOTENCY_HEADER)
}

fn outcome_unknown(cause: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(%cause, "a forwarded request has an open outcome");
    metrics::counter!("flotilla_forwarded_outcome_unknown_total").increment(1);
    let detail = "the controller that had the request failed while it worked on it, so it may have been carried out: \
        repeat it with the same Idempotency-Key, or look at what it was to change";
    Problem::new(Code::OutcomeUnknown, detail).retry_after(1)
}

/// Where to go with a request.
#[derive(Debug, PartialEq, Eq)]
enum Hop {
    Here(Epoch),
    There(NodeName, Epoch),
}

/// A request's search for whoever leads.
struct Way<'a> {
    api: &'a Api,
    shard: ShardId,
    views: Views,
    led: watch::Receiver<()>,
    forwarded: Option<Forwarded>,
    /// Whoever has said that it does not lead, with the epoch under which it was asked.
    refused: Vec<(NodeName, Epoch)>,
    deadline: Instant,
}

impl<'a> Way<'a> {
    fn new(api: &'a Api, tenant: TenantId, parts: &Parts) -> Self {
        let forwarded = parts.extensions.get::<Forwarded>().cloned();
        let wait = if forwarded.is_some() { FORWARDED_DEADLINE } else { LEADER_DEADLINE };
        Self {
            api,
            shard: api.shard(tenant),
            views: api.cluster.views.clone(),
            led: api.shards.changes(),
            forwarded,
            refused: Vec::new(),
            deadline: Instant::now() + wait,
        }
    }

    /// The next place to try; waits while there is none.
    async fn next(&mut self) -> Result<Hop, Problem> {
        loop {
            // Seen before it is looked at: what changes meanwhile ends the wait.
            self.led.borrow_and_update();
            let view = self.views.borrow_and_update().clone();
            let own = self.api.shards.serving(self.shard);
            match choose(&self.api.cluster.own, own, &view, self.shard, self.forwarded.as_ref(), &self.refused) {
                Choice::Hop(hop) => return Ok(hop),
                Choice::Refuse => return Err(not_leading()),
                Choice::Wait => {}
            }
            if timeout_at(self.deadline, self.news()).await.is_err() {
                return Err(not_leading());
            }
        }
    }

    /// A stream to a node, or nothing after a pause when it can not be reached.
    async fn call(&mut self, node: &NodeName) -> Result<Option<PeerCall>, Problem> {
        let Some(links) = &self.api.cluster.links else { return Err(not_leading()) };
        match links.call(node).await {
            Ok(call) => Ok(Some(call)),
            Err(unreached) => {
                tracing::debug!(peer = %node, %unreached, "cannot forward a request");
                self.pause().await?;
                Ok(None)
            }
        }
    }

    fn refused(&mut self, node: NodeName, epoch: Epoch) {
        self.refused.push((node, epoch));
    }

    /// Before the same is tried again: until there is news, or for a moment.
    async fn pause(&mut self) -> Result<(), Problem> {
        if Instant::now() >= self.deadline {
            return Err(Problem::busy("the controller that leads the tenant's shard can not be reached; try again", 1));
        }
        let _ = timeout(REDIAL_PAUSE, self.news()).await;
        Ok(())
    }

    /// Word of a change of leaders, here or elsewhere.
    async fn news(&mut self) {
        tokio::select! {
            Ok(()) = self.views.changed() => {}
            Ok(()) = self.led.changed() => {}
            // Both have ended: the node stops.
            else => std::future::pending().await,
        }
    }

    fn relay(&self, response: Response, node: NodeName) -> Response {
        metrics::counter!("flotilla_forwarded_total").increment(1);
        if !is_event_stream(response.headers()) {
            return response;
        }
        let (parts, body) = response.into_parts();
        let over = leader_changed(self.views.clone(), self.shard, node);
        let events = until_trouble(body, over).take_until(self.api.closing.clone().cancelled_owned());
        Response::from_parts(parts, Body::from_stream(events.map(Ok::<_, std::convert::Infallible>)))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Hop(Hop),
    /// Another leads: whoever has sent the request here will hear of it as well.
    Refuse,
    Wait,
}

fn choose(
    own: &NodeName,
    led: Option<Epoch>,
    view: &View,
    shard: ShardId,
    forwarded: Option<&Forwarded>,
    refused: &[(NodeName, Epoch)],
) -> Choice {
    let was_refused = |node: &NodeName, epoch| refused.iter().any(|(name, at)| name == node && *at == epoch);
    if let Some(epoch) = led.filter(|epoch| !was_refused(own, *epoch)) {
        return Choice::Hop(Hop::Here(epoch));
    }
    let leader = view.leader(shard).filter(|(member, _)| member.name != *own);
    match (leader, forwarded) {
        // The sender may have heard of our own leadership before we have.
        (Some((_, epoch)), Some(forwarded)) if epoch >= forwarded.epoch => Choice::Refuse,
        (Some((member, epoch)), None) if !was_refused(&member.name, epoch) => {
            Choice::Hop(Hop::There(member.name.clone(), epoch))
        }
        _ => Choice::Wait,
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// Events end where the link breaks or the leader changes, cleanly: the client comes back with the last id it has seen.
fn until_trouble(body: Body, over: impl Future<Output = ()>) -> impl Stream<Item = Bytes> {
    let whole = body.into_data_stream().map(Result::ok);
    whole.take_while(|piece| std::future::ready(piece.is_some())).filter_map(std::future::ready).take_until(over)
}

async fn leader_changed(mut views: Views, shard: ShardId, node: NodeName) {
    let leads = |view: &View| view.leader(shard).is_some_and(|(member, _)| member.name == node);
    // The views end with the node.
    let _ = views.wait_for(|view| !leads(view)).await;
}

#[cfg(test)]
mod tests {
    use flotilla_cluster::{Leader, Member};

    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    fn member(text: &str) -> Member {
        let peer = "127.0.0.1:1".to_owned();
        Member { name: name(text), peer, quic: vec![], version: "0".into(), since_ms: 1, draining: false }
    }

    /// Members a and b; one shard, led by whom it says.
    fn view(leader: Option<(&str, u64)>) -> View {
        let leaders = vec![leader.map(|(node, epoch)| Leader { node: name(node), epoch: Epoch(epoch) })];
        View { members: vec![member("a"), member("b")], leaders, pins: vec![], fresh: true }
    }

    fn there(node: &str, epoch: u64) -> Choice {
        Choice::Hop(Hop::There(name(node), Epoch(epoch)))
    }

    #[test]
    fn a_request_goes_to_the_leader_once_for_each_epoch() {
        let at_a = |led: Option<u64>, leader, refused: &[(NodeName, Epoch)]| {
            choose(&name("a"), led.map(Epoch), &view(leader), ShardId(0), None, refused)
        };
        assert_eq!(
            at_a(Some(5), Some(("b", 4)), &[]),
            Choice::Hop(Hop::Here(Epoch(5))),
            "what is led here is known here"
        );
        assert_eq!(at_a(None, Some(("b", 4)), &[]), there("b", 4));
        assert_eq!(at_a(None, None, &[]), Choice::Wait);
        assert_eq!(at_a(None, Some(("c", 4)), &[]), Choice::Wait, "a leader that is no member is dead");
        assert_eq!(at_a(None, Some(("a", 5)), &[]), Choice::Wait, "our own gain is on its way");
        let refused = [(name("b"), Epoch(4)), (name("a"), Epoch(5))];
        assert_eq!(at_a(None, Some(("b", 4)), &refused), Choice::Wait);
        assert_eq!(at_a(None, Some(("b", 6)), &refused), there("b", 6));
        assert_eq!(at_a(Some(5), Some(("a", 5)), &refused), Choice::Wait, "it is being given up");
        assert_eq!(at_a(Some(7), Some(("a", 5)), &refused), Choice::Hop(Hop::Here(Epoch(7))));
    }

    #[test]
    fn a_forwarded_request_goes_no_further() {
        let from_b = Forwarded { from: name("b"), epoch: Epoch(6) };
        let at_a = |led: Option<u64>, leader| {
            choose(&name("a"), led.map(Epoch), &view(leader), ShardId(0), Some(&from_b), &[])
        };
        assert_eq!(at_a(Some(6), Some(("b", 5))), Choice::Hop(Hop::Here(Epoch(6))));
        assert_eq!(at_a(None, Some(("b", 5))), Choice::Wait, "b knows of epoch 6, which we will hear of");
        assert_eq!(at_a(None, None), Choice::Wait);
        assert_eq!(at_a(None, Some(("b", 7))), Choice::Refuse);
    }

    #[test]
    fn only_what_is_done_once_is_repeated() {
        let parts = |method: &str, path: &str, key: bool| {
            let request = Request::builder().method(method).uri(path);
            let request = if key { request.header(IDEMPOTENCY_HEADER, "k") } else { request };
            request.body(()).unwrap().into_parts().0
        };
        assert!(is_repeatable(&parts("GET", "/v1/messages?limit=1", false)));
        assert!(is_repeatable(&parts("POST", "/v1/messages", true)));
        assert!(!is_repeatable(&parts("POST", "/v1/messages", false)));
        assert!(!is_repeatable(&parts("POST", "/v1/enrollments", true)), "no other endpoint knows the key");
        assert!(!is_repeatable(&parts("DELETE", "/v1/messages/msg_1", true)));
    }
}

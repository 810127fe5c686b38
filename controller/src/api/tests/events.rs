//! The live stream.

use futures_util::StreamExt;
use reqwest::Response;
use serde_json::Value;

use super::World;

/// Reads a stream event by event.
pub(super) struct Stream {
    response: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

#[derive(Debug, Default)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) data: Value,
}

impl Stream {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response: response.bytes_stream().boxed(), buffer: String::new() }
    }

    /// None at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((text, rest)) = self.buffer.split_once("\n\n") {
                let (text, rest) = (text.to_owned(), rest.to_owned());
                self.buffer = rest;
                let mut event = Event::default();
                for line in text.lines() {
                    match line.split_once(": ") {
                        Some(("id", value)) => event.id = value.to_owned(),
                        Some(("event", value)) => event.kind = value.to_owned(),
                        Some(("data", value)) => event.data = serde_json::from_str(value).unwrap(),
                        _ => {}
                    }
                }
                if !event.kind.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let piece = self.response.next().await?.ok()?;
            self.buffer.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

pub(super) async fn follow(world: &World, query: &str, last: Option<&str>) -> Stream {
    let mut request = world.get(&format!("/v1/events{query}"), &world.key);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    Stream::of(request.send().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_goes_on_where_it_was() {
    let world = World::new().await;
    let mut stream = follow(&world, "?types=message.accepted", None).await;
    assert_eq!(stream.next().await.unwrap().kind, "ready");
    let first = world.send("one").await;
    let event = stream.next().await.unwrap();
    assert_eq!((event.kind.as_str(), &event.data["id"]), ("message.accepted", &Value::from(first.as_str())));
    assert!(!event.data.to_string().contains("one"), "a text is in an event: {event:?}");
    drop(stream);
    // What happens while nobody listens is not lost.
    let missed = [world.send("two").await, world.send("three").await];
    let mut stream = follow(&world, "?types=message.accepted", Some(&event.id)).await;
    for id in missed {
        assert_eq!(stream.next().await.unwrap().data["id"], Value::from(id));
    }
    let next = world.send("four").await;
    assert_eq!(stream.next().await.unwrap().data["id"], Value::from(next));
    world.node.shutdown().await;
    assert!(stream.next().await.is_none(), "the stream outlives the node");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_show_one_tenant_only() {
    let world = World::new().await;
    let (_, stranger) = world.new_tenant("Second").await;
    let mut theirs = Stream::of(world.get("/v1/events", &stranger).send().await.unwrap());
    assert_eq!(theirs.next().await.unwrap().kind, "ready");
    world.send("not yours").await;
    let body = serde_json::json!({"to": "+255712345678", "text": "yours"});
    let sent = world.call(world.post("/v1/messages", &stranger).json(&body)).await;
    let event = theirs.next().await.unwrap();
    assert_eq!(event.data["id"], sent.body["messages"][0]["id"]);
    let wrong = world.call(world.get("/v1/events", &world.key).header("last-event-id", "yesterday")).await;
    assert_eq!(wrong.problem(), (400, "invalid_header"));
    let wrong = world.call(world.get("/v1/events?types=weather", &world.key)).await;
    assert_eq!(wrong.problem(), (400, "invalid_parameter"));
    world.node.shutdown().await;
}

//! Uploads.

use serde_json::{Value, json};

use super::{Answer, World};

async fn upload(world: &World, media_type: &str, body: impl Into<reqwest::Body>, key: Option<&str>) -> Answer {
    let mut request = world.post("/v1/messages/bulk", &world.key).header("content-type", media_type);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    world.call(request.body(body)).await
}

/// Line, code and field of each error.
fn errors(answer: &Answer) -> Vec<(u64, &str, Option<&str>)> {
    let error = |error: &'_ Value| error["line"].as_u64().unwrap();
    let all = answer.body["errors"].as_array().unwrap().iter();
    all.map(|it| (error(it), it["code"].as_str().unwrap(), it["field"].as_str())).collect()
}

async fn count(world: &World, query: &str) -> usize {
    let (mut found, mut cursor) = (0, String::new());
    loop {
        let page = world.call(world.get(&format!("/v1/messages?limit=500{query}{cursor}"), &world.key)).await;
        found += page.body["items"].as_array().unwrap().len();
        match page.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_line_stops_nothing() {
    let world = World::new().await;
    let long = format!(r#"{{"to":"+255712345678","text":"{}"}}"#, "x".repeat(20_000));
    let lines = [
        r#"{"to":"+255712345678","text":"one"}"#,
        "{broken",
        "",
        r#"{"to":"0712","text":"x"}"#,
        r#"{"to":["+255712345678"],"text":"x"}"#,
        r#"{"to":"+255712345678","text":"two","priority":"urgent"}"#,
        &long,
        r#"{"to":"+255712345678","text":"x","route":"y"}"#,
        r#"{"to":"+255712345678","text":"x","sim":"sim_00000000000e00800000000000"}"#,
        r#"{"to":"+255712345678","text":"three"}"#,
    ];
    let answer = upload(&world, "application/x-ndjson; charset=utf-8", lines.join("\n"), None).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!((&answer.body["lines"], &answer.body["accepted"]), (&json!(9), &json!(3)), "{answer:?}");
    let expected = [
        (2, "invalid_json", None),
        (4, "invalid_number", Some("to")),
        (5, "invalid_field", Some("to")),
        (7, "body_too_large", None),
        (8, "invalid_field", Some("route")),
        (9, "invalid_field", Some("sim")),
    ];
    assert_eq!(errors(&answer), expected);
    assert_eq!((count(&world, "").await, count(&world, "&priority=bulk").await), (3, 2));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_is_read_as_spreadsheets_write_it() {
    let world = World::new().await;
    let text = "\u{feff}To;Text;tags;flash\r\n+255712345678;\"say \"\"hi\"\"; twice\";a;true\r\n+255712345679;\"over\nlines\";x;\r\n\
        0712;bad number;;\r\n+255712345670;too;many;no;fields\r\n+255712345671;last;;no";
    let answer = upload(&world, "text/csv", text, None).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(3)), "{answer:?}");
    assert_eq!(errors(&answer), [(5, "invalid_number", Some("to")), (6, "invalid_csv", None)]);
    let listed = world.call(world.get("/v1/messages?to=%2B255712345678", &world.key)).await;
    let message = &listed.body["items"][0];
    assert_eq!((&message["text"], &message["flash"]), (&json!("say \"hi\"; twice"), &json!(true)));
    let headers = ["", "to,text\n", "to,colour\n", "text\nx\n", "to,to\n", "\"to\n"];
    for header in headers {
        let answer = upload(&world, "text/csv", header, None).await;
        assert_eq!(answer.problem(), (400, "invalid_csv"), "{header:?}");
        assert_eq!(answer.body["report"]["accepted"], 0);
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_quote_costs_one_line() {
    let world = World::new().await;
    let mut text = "to,text\n+255712345678,\"open\n".to_owned();
    for n in 0..2000 {
        text.push_str(&format!("+2557{n:08},ok\n"));
    }
    let answer = upload(&world, "text/csv", text, None).await;
    assert_eq!((&answer.body["accepted"], &answer.body["rejected"]), (&json!(2000), &json!(1)), "{answer:?}");
    assert_eq!(errors(&answer), [(2, "invalid_csv", None)]);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_an_error_of_its_own() {
    let world = World::new().await;
    let answer = upload(&world, "application/x-ndjson", "{}\n{}\n", None).await;
    assert_eq!((answer.status, &answer.body["rejected"]), (422, &json!(2)));
    for empty in ["", "\n \n"] {
        let answer = upload(&world, "application/x-ndjson", empty, None).await;
        assert_eq!(answer.problem(), (400, "invalid_json"), "{empty:?}");
    }
    let answer = upload(&world, "application/json", "{}", None).await;
    assert_eq!(answer.problem(), (415, "unsupported_media_type"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_upload_sends_nothing_twice() {
    let world = World::new().await;
    let lines: String = (0..1700).map(|n| format!("{{\"to\":\"+2557{n:08}\",\"text\":\"hi {n}\"}}\n")).collect();
    // The first try loses its end: whole chunks of it are accepted, and a part that the second try cuts differently is not
    // taken for the same.
    let cut: usize = lines.match_indices('\n').nth(999).map(|(at, _)| at + 1).unwrap();
    let first = upload(&world, "application/x-ndjson", lines[..cut].to_owned(), Some("u-1")).await;
    assert_eq!((&first.body["accepted"], &first.body["replayed"]), (&json!(1000), &json!(0)), "{first:?}");
    let second = upload(&world, "application/x-ndjson", lines.clone(), Some("u-1")).await;
    assert_eq!((&second.body["accepted"], &second.body["replayed"]), (&json!(1700), &json!(1000)), "{second:?}");
    assert_eq!(count(&world, "").await, 1700);
    let changed = upload(&world, "application/x-ndjson", lines.replace("hi", "ho"), Some("u-1")).await;
    assert_eq!(changed.problem(), (409, "idempotency_key_reused"));
    assert_eq!(count(&world, "").await, 1700);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_upload_streams_through_in_small_memory() {
    let world = World::new().await;
    const LINES: usize = 60_000;
    // About 15 MB in pieces that fit no line, made while they are sent.
    let padding = "y".repeat(150);
    let all = (0..LINES).map(move |n| format!("{{\"to\":\"+2557{n:08}\",\"text\":\"{padding}\",\"tags\":[\"t\"]}}\n"));
    let pieces = futures_util::stream::iter(all.map(Ok::<_, std::io::Error>));
    let before = resident_bytes();
    let answer = upload(&world, "application/x-ndjson", reqwest::Body::wrap_stream(pieces), None).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(LINES)), "{answer:?}");
    // Not a tight bound: the store and the allocator keep caches. A buffered upload, parsed, would be far above.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 400 << 20, "grown by {} MiB", grown >> 20);
    world.node.shutdown().await;
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
}

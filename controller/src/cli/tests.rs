//! The commands as a whole: their definition, their tables, and a controller that is played by a few routes.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::{CommandFactory, Parser};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::error::CliError;
use super::http::Client;
use super::list::Listed;
use super::show::{Column, Screen, clean};
use super::sse::SseEvent;
use super::{
    ClientCommand, Session, audit, bulk, ca, cluster, devices, enroll, events, health, inbound, keys, messages,
};
use super::{dispatch, providers, routing, run, sims, stats, tenants, webhooks};
use crate::api::examples;
use crate::api::problem::{Code, Problem};

#[derive(Debug, Parser)]
struct Flotilla {
    #[command(subcommand)]
    command: ClientCommand,
}

fn leaves(command: &clap::Command, path: &str, visit: &mut impl FnMut(&str, &clap::Command)) {
    let path = format!("{path} {}", command.get_name());
    match command.has_subcommands() {
        true => command.get_subcommands().for_each(|below| leaves(below, &path, visit)),
        false => visit(path.trim(), command),
    }
}

#[test]
fn the_definition_holds_together() {
    Flotilla::command().debug_assert();
}

#[test]
fn every_command_explains_itself_by_an_example() {
    let mut seen = 0;
    leaves(&Flotilla::command(), "", &mut |path, command| {
        assert!(command.get_about().is_some(), "{path} has no description");
        let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(example.starts_with("Example:\n  flotilla"), "{path} has no example");
        let asked: Vec<_> = path.split(' ').skip(1).collect();
        let shown = example.lines().nth(1).unwrap();
        assert!(shown.contains(&format!("flotilla {}", asked.join(" "))), "the example of {path} is another's");
        seen += 1;
    });
    assert!(seen > 30, "{seen}");
}

/// An argument called like a global option would be taken for it: a webhook's address for the controller's.
#[test]
fn no_argument_takes_the_place_of_a_global_option() {
    leaves(&Flotilla::command(), "", &mut |path, command| {
        let own = command.get_arguments().filter(|argument| !argument.is_global_set());
        let taken: Vec<_> =
            own.map(|argument| argument.get_id().as_str()).filter(|id| ["url", "key", "tenant"].contains(id)).collect();
        assert!(taken.is_empty(), "{path}: {taken:?}");
    });
}

fn screen(width: Option<u16>) -> Screen {
    Screen { width, color: false, now: "2026-11-20T15:00:00Z".parse().unwrap(), zone: TimeZone::UTC }
}

fn table<T: Listed>(item: &Value, width: Option<u16>) -> String {
    let item: T = serde_json::from_value(item.clone()).unwrap();
    let screen = screen(width);
    let cells = item.cells(&screen);
    assert_eq!(cells.len(), T::COLUMNS.len(), "a row is as wide as its header");
    screen.table(T::COLUMNS, [cells])
}

/// Each list with the API's own example of it, and whether its second line begins with that.
#[test]
fn the_examples_of_the_documentation_become_tables() {
    let at = |text: String, expected: &str| {
        let row = text.lines().nth(1).unwrap_or_default();
        let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(row, expected, "\n{text}");
    };
    let ulid = "01kaqmpxm0e8xs6bhkrg5jrqzt";
    at(
        table::<messages::Message>(&examples::message(false), None),
        &format!("msg_{ulid} delivered +255712345678 60m ago 1 Your code is 4711"),
    );
    at(
        table::<inbound::Received>(&examples::inbound(), None),
        &format!("inb_{ulid} 59m ago +255712345678 STOP sim_{ulid}"),
    );
    at(
        table::<devices::Device>(&examples::device(), None),
        &format!("dev_{ulid} online active 60m ago Front desk Pixel 6a 87% charging"),
    );
    at(
        table::<sims::Sim>(&examples::sim(), None),
        &format!("sim_{ulid} ready +255700000001 Vodacom 1 Vodacom -83 dBm dev_{ulid}"),
    );
    at(table::<providers::Provider>(&examples::provider(), None), &format!("prv_{ulid} twilio up 3 41.27 USD Twilio"));
    at(table::<providers::Maker>(&examples::maker(), None), "twilio Twilio 1 calls back, is asked balance, inbound");
    at(table::<enroll::Enrollment>(&examples::enrollment(), None), &format!("enr_{ulid} open now Front desk"));
    at(
        table::<webhooks::Webhook>(&examples::webhook(), None),
        &format!("whk_{ulid} enabled 56m ago https://example.org/hooks/flotilla"),
    );
    at(table::<keys::Key>(&examples::key(), None), &format!("key_{ulid} enabled send,read 100/min 60m ago web shop"));
    at(table::<tenants::Tenant>(&examples::tenant(), None), &format!("ten_{ulid} enabled 19d ago Arusha Clinic"));
    at(table::<ca::Certificate>(&examples::certificate(), None), &format!("2f7a1c dev_{ulid} active 2h ago in 6d"));
    at(table::<audit::Entry>(&examples::audit(), None), &format!("512 60m ago device.drain dev_{ulid} key_{ulid}"));
    let row = &examples::stats()["rows"][0];
    at(table::<stats::Row>(row, None), "2026-11-20 14:00 1200 0 1190 0 1180 0 0 0 0 14.28");
}

#[test]
fn one_thing_is_shown_whole() {
    let view = |text: String, words: &[&str]| {
        for word in words {
            assert!(text.contains(word), "{word} is missing:\n{text}");
        }
    };
    let message: messages::Message = serde_json::from_value(examples::message(true)).unwrap();
    view(
        message.text(&screen(None)),
        &["1 of 1 delivered", "login-83121", "2026-11-20T14:00:04.913+00:00", "dispatching"],
    );
    let sim: sims::Sim = serde_json::from_value(examples::sim()).unwrap();
    view(
        sim.facts(&screen(None)),
        &["limits.per_day 300", "pools [\"otp\"]", "12.5 (told 6h ago)", "88 (failing -12)", "per_day 0 of 300"],
    );
    let explained: routing::explain::Explained = serde_json::from_value(examples::explanation()).unwrap();
    let words = ["codes fits", "take sim_", "(step 1, score 83, score)", "1 with room", "eligible"];
    view(explained.text(&screen(None)), &words);
    let health: health::Fleet = serde_json::from_value(examples::health()).unwrap();
    view(
        health.text(&screen(None)),
        &["11 of 12 online", "12 of 13 ready", "3 queued (0 urgent)", "last seen: 78m ago", "failing -12"],
    );
    let report: bulk::Report = serde_json::from_value(examples::bulk_report()).unwrap();
    view(report.text(&screen(None)), &["1000", "999", "17", "invalid_number", "in international form"]);
    let created: enroll::Enrollment = serde_json::from_value(examples::enrollment_created()).unwrap();
    let uri = examples::enrollment_created()["uri"].as_str().unwrap().to_owned();
    view(created.invitation(&screen(None), true), &["█▀▀▀▀▀█ ▀▄ █▀▀▀▀▀█", &uri, "2026-11-20T15:00:00.000+00:00"]);
}

#[test]
fn a_cluster_is_two_tables() {
    let status = |shards| {
        let status: cluster::Status = serde_json::from_value(examples::cluster()).unwrap();
        status.text(&screen(None), shards)
    };
    let rows: Vec<_> = status(true).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows[1], "c1 up 1 120 0 7h ago 0.1.0 10.0.0.1:7444 c1.sms.example.org:7443");
    assert_eq!(rows[2], "c2 draining 1 98 3 0.4 ms 6h ago 0.1.0 10.0.0.2:7444 c2.sms.example.org:7443");
    assert_eq!(rows[rows.len() - 1], "1 c2 42 c1");
    assert_eq!(status(false).lines().count(), 3);
    let mut lost = examples::cluster();
    lost["fresh"] = false.into();
    lost["shards"][0] = json!({"shard": 0});
    lost["members"][1]["answers"] = false.into();
    let lost: cluster::Status = serde_json::from_value(lost).unwrap();
    let text = lost.text(&screen(None), true);
    for words in ["c1 has lost the coordination service", "1 of 2 shards have no leader", "nobody", "silent"] {
        assert!(text.contains(words), "{words} is missing:\n{text}");
    }
}

#[tokio::test]
async fn a_drain_is_followed_to_its_end() {
    let drain = async |State(log): State<Log>, uri: Uri, headers: HeaderMap| {
        log.note(&uri, headers, Bytes::new());
        (StatusCode::ACCEPTED, axum::Json(examples::node_wish(true)))
    };
    let status = async |State(log): State<Log>, uri: Uri, headers: HeaderMap| {
        let asked = log.note(&uri, headers, Bytes::new());
        let mut cluster = examples::cluster();
        cluster["members"][0]["shards_led"] = (3 - asked).into();
        axum::Json(cluster)
    };
    let routes = Router::new().route("/v1/cluster/nodes/c1/drain", post(drain)).route("/v1/cluster", get(status));
    let mut played = play(routes).await;
    dispatch(played.command(&["cluster", "drain", "c1", "--wait"])).await.unwrap();
    assert_eq!(played.paths(), ["/v1/cluster/nodes/c1/drain", "/v1/cluster", "/v1/cluster", "/v1/cluster"]);
}

#[tokio::test]
async fn a_cluster_key_is_its_owners_and_is_never_written_over() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cluster.key");
    let key = || {
        let words = ["flotilla", "cluster", "key", "--out", file.to_str().unwrap()];
        dispatch(Flotilla::try_parse_from(words).unwrap().command)
    };
    key().await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let made = std::fs::read_to_string(&file).unwrap();
    assert!(crate::secrets::ClusterKeys::read(&file).is_ok());
    assert!(key().await.unwrap_err().to_string().contains("exists"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), made);
}

#[test]
fn a_qr_code_that_would_break_is_not_drawn() {
    let invitation = |width, qr| {
        let created: enroll::Enrollment = serde_json::from_value(examples::enrollment_created()).unwrap();
        created.invitation(&screen(width), qr)
    };
    assert!(invitation(Some(40), true).contains('█'));
    assert!(!invitation(Some(10), true).contains('█') && !invitation(Some(40), false).contains('█'));
    let colored = Screen { color: true, ..screen(None) }.picture("█ \u{1b}[2J▀").unwrap();
    assert_eq!(colored, "\u{1b}[38;5;231;48;5;16m█ ▀\u{1b}[0m\n", "only blocks pass");
}

#[test]
fn what_strangers_write_neither_breaks_a_line_nor_moves_the_cursor() {
    let hostile = "first\nsecond\r\u{1b}[2J\u{7}\u{202e}gnihsihp\u{0}".to_owned() + &"永x".repeat(5_000);
    let mut item = examples::inbound();
    item["text"] = hostile.clone().into();
    item["from"] = "\u{9b}31mBank".into();
    for width in [None, Some(0), Some(1), Some(60), Some(100), Some(200)] {
        let text = table::<inbound::Received>(&item, width);
        assert!(!text.contains(['\u{1b}', '\r', '\u{7}', '\u{0}', '\u{202e}', '\u{9b}']), "{text:?}");
        assert_eq!(text.lines().count(), 2, "one header, one row at {width:?}");
        assert!(text.contains(item["id"].as_str().unwrap()), "ids stay whole at {width:?}:\n{text}");
    }
    // A wide character takes two columns.
    let columns = |line: &str| line.chars().map(|c| if c == '永' { 2 } else { 1 }).sum::<usize>();
    let text = table::<inbound::Received>(&item, Some(120));
    assert!(text.lines().all(|line| columns(line) <= 120), "{text}");
    let event = SseEvent {
        id: "1".into(),
        kind: "inbound\u{1b}c".into(),
        data: json!({"id": "inb_1", "text": hostile, "received_at": "x\ny"}).to_string(),
    };
    let line = events::human_line(&event, &screen(None));
    assert!(line.ends_with('\n') && !line[..line.len() - 1].contains(['\n', '\r', '\u{1b}', '\u{202e}']));
    assert_eq!(clean("a\tb\u{85}ü永"), "a b\\u{85}ü永");
}

#[test]
fn a_wrapped_value_is_cut_only_in_tables() {
    let long = "word ".repeat(60);
    let facts = screen(Some(40)).facts([("text", long.clone()), ("none", String::new())]);
    assert!(facts.lines().count() > 5 && facts.lines().all(|line| line.chars().count() <= 40), "{facts}");
    assert_eq!(facts.matches("word").count(), 60);
    assert!(!facts.contains("none"));
    let cut = screen(Some(40)).table(&[Column::Whole("id"), Column::Cut("text")], [vec!["x".into(), long]]);
    assert!(cut.contains('…') && cut.lines().count() == 2, "{cut}");
    let stats = table::<stats::Row>(&examples::stats()["rows"][0], Some(60));
    assert_eq!(stats.lines().count(), 2, "a header is on one line, too:\n{stats}");
}

#[test]
fn times_are_near_or_far() {
    let screen = screen(None);
    for (at, ago) in [
        ("2026-11-20T15:00:00Z", "now"),
        ("2026-11-20T14:59:01Z", "59s ago"),
        ("2026-11-20T16:30:00Z", "in 90m"),
        ("2026-11-20T01:00:00+03:00", "17h ago"),
        ("2020-01-01T00:00:00Z", "2515d ago"),
        ("soon", "soon"),
    ] {
        assert_eq!(screen.ago(at), ago, "{at}");
    }
    let dar = TimeZone::fixed(jiff::tz::offset(3));
    assert_eq!(Screen { zone: dar, ..screen }.time("2026-11-20T15:00:00.5Z"), "2026-11-20T18:00:00.500+03:00");
}

#[test]
fn events_are_a_line() {
    let data = json!({"id": "msg_1", "state": "failed", "at": "2026-11-20T14:00:00.000Z", "attempt": 2,
        "error": {"class": "transient", "code": "cms-38", "detail": "network out of order"}, "campaign": "a b"});
    let event = SseEvent { id: "2a-1".into(), kind: "message.failed".into(), data: data.to_string() };
    assert_eq!(
        events::human_line(&event, &screen(None)),
        "2026-11-20T14:00:00.000+00:00  message.failed      msg_1  attempt=2  campaign=\"a b\"  error=cms-38 (network out of order)\n"
    );
    let line = events::json_line(&SseEvent { data: "{\"b\":1, \"a\":2}".into(), ..event.clone() }).unwrap();
    assert_eq!(line, "{\"id\":\"2a-1\",\"event\":\"message.failed\",\"data\":{\"b\":1, \"a\":2}}\n");
    assert!(events::json_line(&SseEvent { data: "{".into(), ..event }).is_err());
}

/// A controller that is played, and what it was asked.
struct Played {
    addr: SocketAddr,
    asked: mpsc::UnboundedReceiver<(String, HeaderMap, Bytes)>,
}

#[derive(Clone)]
struct Log(mpsc::UnboundedSender<(String, HeaderMap, Bytes)>, Arc<AtomicUsize>);

impl Log {
    fn note(&self, uri: &Uri, headers: HeaderMap, body: Bytes) -> usize {
        let asked = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        self.0.send((asked, headers, body)).unwrap();
        self.1.fetch_add(1, Ordering::Relaxed)
    }
}

async fn play(routes: Router<Log>) -> Played {
    let (sender, asked) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = routes.with_state(Log(sender, Arc::default()));
    // Ends with the test's runtime.
    tokio::spawn(axum::serve(listener, router).into_future());
    Played { addr, asked }
}

impl Played {
    fn command(&self, words: &[&str]) -> ClientCommand {
        let url = format!("http://{}", self.addr);
        let options = ["--url", &url, "--key", "flk_test"];
        Flotilla::try_parse_from(["flotilla"].iter().chain(words).chain(&options)).unwrap().command
    }

    fn asked(&mut self) -> Vec<(String, HeaderMap, Bytes)> {
        std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
    }

    fn paths(&mut self) -> Vec<String> {
        self.asked().into_iter().map(|(path, ..)| path).collect()
    }
}

async fn page(State(log): State<Log>, uri: Uri, headers: HeaderMap) -> Response {
    let calls = log.note(&uri, headers, Bytes::new());
    let next = (calls < 2).then(|| format!("c+{calls}"));
    let items: Vec<_> = (0..3).map(|_| examples::tenant()).collect();
    axum::Json(json!({"items": items, "next": next})).into_response()
}

#[tokio::test]
async fn pages_are_followed_to_the_limit() {
    let routes = || Router::new().route("/prefix/v1/tenants", get(page)).route("/v1/tenants", get(page));
    let mut played = play(routes()).await;
    dispatch(played.command(&["tenants", "list", "--limit", "all"])).await.unwrap();
    assert_eq!(
        played.paths(),
        ["/v1/tenants?limit=500", "/v1/tenants?limit=500&cursor=c%2B0", "/v1/tenants?limit=500&cursor=c%2B1",]
    );
    let mut played = play(routes()).await;
    dispatch(played.command(&["tenants", "list", "--limit", "4", "--json"])).await.unwrap();
    assert_eq!(played.paths(), ["/v1/tenants?limit=4", "/v1/tenants?limit=1&cursor=c%2B0"]);
    let mut played = play(routes()).await;
    let client = Client::new(Some(&format!("http://{}/prefix/", played.addr)), Some("k"), Some("ten_1")).unwrap();
    client.get(&["tenants"]).answer().await.unwrap();
    let (path, headers, _) = played.asked().remove(0);
    assert_eq!(
        (path.as_str(), &headers["authorization"], &headers["x-tenant"]),
        ("/prefix/v1/tenants", &"Bearer k".parse().unwrap(), &"ten_1".parse().unwrap())
    );
}

#[tokio::test]
async fn a_server_that_repeats_its_cursor_does_not_keep_us() {
    let again = async || axum::Json(json!({"items": [examples::key()], "next": "same"}));
    let played = play(Router::new().route("/v1/keys", get(again))).await;
    dispatch(played.command(&["keys", "list", "--limit", "all"])).await.unwrap();
}

#[tokio::test]
async fn refusals_say_what_where_and_how() {
    let refuse = async || Problem::field("to[1]", "the number has no leading +").position(1, 9);
    let elsewhere = async || (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "https://b.example/v1/ca")]);
    let routes = Router::new()
        .route("/v1/messages", post(refuse))
        .route("/v1/ca", get(elsewhere))
        .route("/v1/sims", get(async || Problem::new(Code::TenantRequired, "say which").at("x-tenant")))
        .route("/v1/audit", get(async || "<html>hello</html>"))
        .fallback(async || (StatusCode::BAD_GATEWAY, "<html>nginx</html>"));
    let played = play(routes).await;
    let error = async |words: &[&str]| dispatch(played.command(words)).await.unwrap_err().to_string();
    let url = format!("http://{}", played.addr);
    assert_eq!(
        error(&["send", "+255712345678", "0712", "x"]).await,
        "the number has no leading + (invalid_field, to[1], line 1, column 9)"
    );
    assert_eq!(
        error(&["ca", "show"]).await,
        format!(
            "{url} sends us elsewhere: to https://b.example/v1/ca; give that as --url (FLOTILLA_URL), without the path"
        )
    );
    assert_eq!(
        error(&["sims", "list"]).await,
        "say which (tenant_required, x-tenant); give it with --tenant or FLOTILLA_TENANT"
    );
    assert!(error(&["audit"]).await.starts_with(&format!("{url} answered something that this version does not")));
    assert!(error(&["health"]).await.starts_with(&format!("{url} answered with status 502, but not as a controller")));
    let refused = run(played.command(&["send", "+1", "x"])).await.unwrap();
    assert_eq!(format!("{refused:?}"), format!("{:?}", std::process::ExitCode::FAILURE));
}

#[tokio::test]
async fn settings_go_out_and_come_back_as_a_file() {
    let show = async |State(log): State<Log>, uri: Uri, headers: HeaderMap| {
        log.note(&uri, headers, Bytes::new());
        axum::Json(examples::routing())
    };
    let set = async |State(log): State<Log>, uri: Uri, headers: HeaderMap, body: Bytes| {
        log.note(&uri, headers, body);
        axum::Json(examples::routing())
    };
    let mut played = play(Router::new().route("/v1/routing", get(show).put(set))).await;
    dispatch(played.command(&["routing", "show"])).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("routing.json");
    std::fs::write(&file, examples::routing_new().to_string()).unwrap();
    let file = file.to_str().unwrap();
    dispatch(played.command(&["routing", "set", file])).await.unwrap();
    dispatch(played.command(&["routing", "set", file, "--if-version", "3"])).await.unwrap();
    let asked = played.asked();
    assert_eq!((&asked[1].1["if-match"], &asked[2].1["if-match"]), (&"*".parse().unwrap(), &"\"3\"".parse().unwrap()));
    assert_eq!(serde_json::from_slice::<Value>(&asked[2].2).unwrap(), examples::routing_new());
    std::fs::write(file, "rules:").unwrap();
    let error = dispatch(played.command(&["routing", "set", file])).await.unwrap_err().to_string();
    assert!(error.contains("is not JSON"), "{error}");
}

#[tokio::test]
async fn ids_cannot_leave_their_place_in_the_path() {
    let log = async |State(log): State<Log>, uri: Uri, headers: HeaderMap| {
        log.note(&uri, headers, Bytes::new());
        Problem::not_found("device")
    };
    let mut played = play(Router::new().fallback(log)).await;
    for id in ["../keys?x=1#y", "..", "a/b", "."] {
        assert!(dispatch(played.command(&["devices", "get", id])).await.is_err());
    }
    assert!(played.paths().iter().all(|path| path.starts_with("/v1/devices")), "nothing else was asked");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::new(Some(&format!("http://{addr}")), Some("k"), None).unwrap();
    let error = client.get(&["ca"]).answer().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("no answer from http://{addr}: ")), "{error}");
    assert!(
        error.contains("refused") && error.ends_with("is the controller running, and is the address right?"),
        "{error}"
    );
}

#[test]
fn what_is_missing_is_named_with_both_remedies() {
    let error = |url, key| Client::new(url, key, None).map(drop).unwrap_err().to_string();
    for (url, key, what) in
        [(None, None, "both"), (Some(" "), Some("k"), "the url"), (Some("http://x"), None, "the key")]
    {
        let text = error(url, key);
        let named = ["--url", "--key", "FLOTILLA_URL", "FLOTILLA_KEY"].iter().all(|name| text.contains(name));
        assert!(named && text.ends_with(&format!("missing: {what}")), "{text}");
    }
    for url in ["localhost:8080", "ftp://x", "http://", "x"] {
        assert!(matches!(Client::new(Some(url), Some("k"), None), Err(CliError::Url(_))), "{url}");
    }
    assert!(matches!(Client::new(Some("http://x"), Some("a\nb"), None), Err(CliError::Header("the key"))));
}

#[tokio::test]
async fn https_has_a_provider() {
    let client = Client::new(Some("https://127.0.0.1:1"), Some("k"), None).unwrap();
    assert!(matches!(client.get(&["ca"]).answer().await, Err(CliError::Connect { .. })));
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_when_repeating_is_safe() {
    let busy =
        async |State(log): State<Log>, uri: Uri, headers: HeaderMap, body: Bytes| match log.note(&uri, headers, body) {
            0 => Problem::new(Code::RateLimited, "too many requests").retry_after(1).into_response(),
            _ => (StatusCode::ACCEPTED, axum::Json(examples::accepted())).into_response(),
        };
    let mut played = play(Router::new().fallback(busy)).await;
    dispatch(played.command(&["send", "+255712345678", "hello", "--tag", "a", "--valid-for", "10m"])).await.unwrap();
    let asked = played.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].1["idempotency-key"], asked[1].1["idempotency-key"]);
    assert_eq!(asked[0].2, asked[1].2);
    let body: Value = serde_json::from_slice(&asked[0].2).unwrap();
    assert_eq!(body, json!({"to": ["+255712345678"], "text": "hello", "tags": ["a"], "valid_for_s": 600}));
    // Making a key twice would make two.
    let played = play(Router::new().fallback(busy)).await;
    let error = dispatch(played.command(&["keys", "create", "shop", "--scope", "send,read"])).await.unwrap_err();
    assert_eq!(error.to_string(), "too many requests (rate_limited)");
}

#[tokio::test]
async fn waiting_follows_a_message_to_its_end() {
    let answer = async |State(log): State<Log>, uri: Uri, headers: HeaderMap, body: Bytes| {
        let calls = log.note(&uri, headers, body);
        let mut message = examples::message(true);
        match calls {
            0 => return (StatusCode::ACCEPTED, axum::Json(examples::accepted())).into_response(),
            1 => message["state"] = "sent".into(),
            _ => {}
        }
        axum::Json(message).into_response()
    };
    let mut played = play(Router::new().fallback(answer)).await;
    let code = dispatch(played.command(&["send", "+255712345678", "hello", "--wait"])).await.unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
    let message = format!("/v1/messages/{}", examples::message(false)["id"].as_str().unwrap());
    assert_eq!(played.paths(), ["/v1/messages", &message, &message]);
}

#[tokio::test]
async fn a_file_is_uploaded_whole_and_its_bad_lines_are_told() {
    let upload = async |State(log): State<Log>, uri: Uri, headers: HeaderMap, body: Bytes| {
        log.note(&uri, headers, body);
        (StatusCode::ACCEPTED, axum::Json(examples::bulk_report()))
    };
    let routes =
        Router::new().route("/v1/messages/bulk", post(upload).layer(axum::extract::DefaultBodyLimit::disable()));
    let mut played = play(routes).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recipients.txt");
    let lines = "{\"to\": \"+255712345678\", \"text\": \"Hello\"}\n".repeat(20_000);
    std::fs::write(&file, &lines).unwrap();
    let file = file.to_str().unwrap();
    let code = dispatch(played.command(&["messages", "bulk", file, "--idempotency-key", "k1"])).await.unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::FAILURE), "a line was bad");
    let (_, headers, body) = played.asked().remove(0);
    assert_eq!(
        (&headers["content-type"], &headers["idempotency-key"]),
        (&"application/x-ndjson".parse().unwrap(), &"k1".parse().unwrap())
    );
    assert!(body == lines.as_bytes());
    let nowhere = dispatch(played.command(&["messages", "bulk", "/nowhere.csv"])).await.unwrap_err().to_string();
    assert!(nowhere.starts_with("/nowhere.csv: "), "{nowhere}");
}

#[tokio::test]
async fn an_upload_that_is_ended_says_how_to_go_on() {
    let ended = async |_: Bytes| {
        let mut body = serde_json::to_value(Problem::busy("the journal has no room", 2).document()).unwrap();
        body["report"] = examples::bulk_report();
        (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string())
    };
    let played = play(Router::new().route("/v1/messages/bulk", post(ended))).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.csv");
    std::fs::write(&file, "to,text\n+255712345678,x\n").unwrap();
    let words = ["messages", "bulk", file.to_str().unwrap(), "--idempotency-key", "k1"];
    let error = dispatch(played.command(&words)).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the journal has no room (busy); repeat the upload with --idempotency-key k1: nothing is sent twice then"
    );
}

#[tokio::test]
async fn a_broken_stream_of_events_is_taken_up_where_it_broke() {
    let stream = async |State(log): State<Log>, uri: Uri, headers: HeaderMap| {
        let text = match log.note(&uri, headers, Bytes::new()) {
            0 => {
                "id: s-1\nevent: ready\ndata: {}\n\nid: s-2\nevent: message.sent\ndata: {\"id\":\"msg_1\"}\n\nid: s-3\n"
            }
            _ => ": ping\n\nid: s-4\nevent: message.delivered\ndata: {\"id\":\"msg_1\"}\n\n",
        };
        ([(header::CONTENT_TYPE, "text/event-stream")], text)
    };
    let mut played = play(Router::new().route("/v1/events", get(stream))).await;
    dispatch(played.command(&["events", "--limit", "2", "--types", "message"])).await.unwrap();
    let asked = played.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].0, "/v1/events?types=message");
    assert!(asked[0].1.get("last-event-id").is_none());
    // An id without its event is not one that was seen.
    assert_eq!(asked[1].1["last-event-id"], "s-2");
}

#[tokio::test]
async fn what_makes_an_invitation_is_refused_beside_a_list() {
    let played = play(Router::new()).await;
    let session = |options| Session::open(&options);
    let ClientCommand::Enroll(call) = played.command(&["enroll", "--name", "x", "list"]) else { panic!() };
    let error = call.args.run(&session(call.options).unwrap()).await.unwrap_err();
    assert!(matches!(error, CliError::Usage(_)));
}

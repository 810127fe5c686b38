//! The server against the maker's own reading of its answers and reports: what it plays is what the controller expects.

use std::time::Duration;

use flotilla_providers::makers;
use flotilla_providers::{Account, Callback, CallbackError, Maker, Outgoing, ReceiptState, Submitted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const REFERENCE: &str = "msg_01kaqmpxm0e8xs6bhkrg5jrqzt-2-3";

struct Rig {
    server: ProviderServer,
    account: Account,
    reports: TcpListener,
    client: reqwest::Client,
}

fn twilio() -> &'static dyn Maker {
    makers::by_name("twilio").unwrap()
}

impl Rig {
    async fn new(script: Script) -> Self {
        let settings = Settings {
            account: "ACtest".into(),
            token: "secret".into(),
            script: Script { report_ms: 0, latency_ms: 0, slow_ms: 60_000, ..script },
            seed: 1,
            log: None,
        };
        let server = ProviderServer::start("127.0.0.1:0".parse().unwrap(), settings).await.unwrap();
        let reports = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let callback = format!("http://{}/v1/callbacks/twilio/x", reports.local_addr().unwrap());
        let account = Account {
            base_url: Some(server.base_url().parse().unwrap()),
            fields: [("account_sid".into(), "ACtest".into())].into(),
            secrets: [("auth_token".into(), "secret".into())].into(),
            callback_url: Some(callback.parse().unwrap()),
            unsigned_callbacks: false,
        };
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build().unwrap();
        Self { server, account, reports, client }
    }

    async fn submit(&self) -> Option<Submitted> {
        let outgoing = Outgoing {
            reference: REFERENCE.into(),
            to: "+255712345678".parse().unwrap(),
            sender: "+15005550006".into(),
            text: "Habari".into(),
            unicode: false,
            flash: false,
            segments: 3,
            validity_s: 60,
        };
        let batch = [outgoing];
        let call = twilio().submit(&self.account, &batch, 0).unwrap();
        let request = self.client.request(call.method, call.url).headers(call.headers).body(call.body);
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        let answer = flotilla_providers::Answer { status, headers, body };
        twilio().submitted(&self.account, &batch, &answer).pop()
    }

    /// The next report, as the maker reads it.
    async fn report(&self) -> Result<ReceiptState, CallbackError> {
        let (mut stream, _) = self.reports.accept().await.unwrap();
        let mut bytes = vec![0; 8_192];
        let mut length = 0;
        let (head, body) = loop {
            length += stream.read(&mut bytes[length..]).await.unwrap();
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let wanted = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() == wanted.parse::<usize>().unwrap() {
                break (head.to_owned(), body.to_owned());
            }
        };
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut lines = head.lines();
        let path = lines.next().unwrap().split(' ').nth(1).unwrap();
        let url = self.account.callback_url.as_ref().unwrap().join(path).unwrap();
        let mut headers = http::HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let callback = Callback { method: Method::POST, url, headers, body: body.into() };
        let mut reply = twilio().callback(&self.account, &callback, 0)?;
        let receipt = reply.receipts.pop().unwrap();
        assert_eq!(receipt.reference.as_deref(), Some(REFERENCE));
        Ok(receipt.state)
    }
}

#[tokio::test]
async fn what_it_takes_is_remembered_and_reported_signed() {
    let rig = Rig::new(Script { forged: 1.0, ..Script::default() }).await;
    assert!(matches!(rig.submit().await, Some(Submitted::Accepted { id: Some(_), .. })));
    let [one] = &rig.server.hand_overs()[..] else { panic!() };
    assert_eq!((one.message.as_str(), one.attempt, one.segments), ("msg_01kaqmpxm0e8xs6bhkrg5jrqzt", 2, 3));
    assert!(one.may_arrive());
    assert_eq!(rig.report().await, Err(CallbackError::Signature));
    assert_eq!(rig.report().await, Ok(ReceiptState::Pending));
    assert_eq!(rig.report().await, Ok(ReceiptState::Delivered));
}

#[tokio::test]
async fn each_misbehaviour_is_what_its_maker_must_make_of_it() {
    let cases = [
        (Script { permanent: 1.0, ..Script::default() }, "Permanent"),
        (Script { route: 1.0, ..Script::default() }, "Route"),
        (Script { throttled: 1.0, ..Script::default() }, "Transient"),
        (Script { broken: 1.0, ..Script::default() }, "unclear"),
        (Script { broken_after_taking: 1.0, ..Script::default() }, "unclear"),
        (Script { garbage: 1.0, ..Script::default() }, "unclear"),
        (Script { closed: 1.0, ..Script::default() }, "no answer"),
    ];
    for (script, expected) in cases {
        let rig = Rig::new(script.clone()).await;
        let told = match rig.submit().await {
            Some(Submitted::Refused(refusal)) => format!("{:?}", refusal.class),
            Some(Submitted::Unclear(_)) => "unclear".into(),
            Some(Submitted::Accepted { .. }) => "accepted".into(),
            None => "no answer".into(),
        };
        assert_eq!(told, expected, "{script:?}");
        assert_eq!(rig.server.seen().decided.len(), 1, "decided once: {script:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_cut_off_takes_nothing_until_it_is_back() {
    let mut rig = Rig::new(Script::default()).await;
    assert!(rig.submit().await.is_some());
    rig.server.cut(Cut::Refused).await;
    assert_eq!(rig.submit().await, None);
    rig.server.restore().await.unwrap();
    assert!(rig.submit().await.is_some());
    rig.server.cut(Cut::Silent).await;
    let waits = tokio::time::timeout(Duration::from_millis(300), rig.submit());
    assert!(waits.await.is_err(), "it is not answered");
    assert_eq!(rig.server.seen().decided.len(), 2);
}

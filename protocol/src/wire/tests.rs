//! Golden bytes: a frame that a device in the field was built with stays readable, or `PROTOCOL` grows.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::id::{DeviceId, EnrollmentId, Epoch, InboundId, MessageId, SimId, TenantId};
use crate::number::Msisdn;

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn attempt(number: u16) -> Attempt {
    Attempt { message: MessageId::from_bytes([0x11; 16]), number }
}

/// Adds a line with the frame's bytes, and checks that they are read back as the same frame.
fn golden<T>(lines: &mut String, name: &str, value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut bytes = BytesMut::new();
    encode_frame(value, &mut bytes).unwrap();
    lines.push_str(&format!("{name} {}\n", hex(&bytes)));
    let back: T = decode_frame(&mut bytes).unwrap().unwrap();
    assert_eq!(&back, value);
    assert!(bytes.is_empty());
}

#[test]
fn frames_keep_their_bytes() {
    let lines = [down_frames(), up_frames(), enrolment_frames()].concat();
    assert_eq!(lines, include_str!("golden.txt"), "the bytes of a frame changed; now they are\n{lines}");
}

fn down_frames() -> String {
    let mut lines = String::new();
    golden(
        &mut lines,
        "Down::Dispatch",
        &Down::Dispatch(Dispatch {
            attempt: attempt(300),
            epoch: Epoch(7),
            slot: 1,
            to: Msisdn::parse("+255712345678").unwrap(),
            body: Body::Text("hé".into()),
            encoding: TextEncoding::default(),
            flash: false,
            report: true,
            validity_s: 3_600,
            sent_ms: 123_456,
            send_within_ms: 60_000,
            granted: true,
        }),
    );
    golden(
        &mut lines,
        "Down::Welcome",
        &Down::Welcome(Welcome {
            epoch: Epoch(2),
            device_ms: 5,
            controller_ms: 6,
            sims: vec![(0, SimId::from_bytes([0x22; 16]))],
            settings: Settings::default(),
            controllers: vec!["a:1".into()],
        }),
    );
    golden(&mut lines, "Down::Redirect", &Down::Redirect { controllers: vec!["b:2".into()] });
    golden(&mut lines, "Down::Refused", &Down::Refused { reason: Refusal::ShuttingDown, detail: "x".into() });
    golden(
        &mut lines,
        "Down::Go",
        &Down::Go { attempts: [attempt(1)].into_iter().collect(), sent_ms: 9, send_within_ms: 10 },
    );
    golden(&mut lines, "Down::Cancel", &Down::Cancel { attempts: [attempt(1)].into_iter().collect() });
    golden(&mut lines, "Down::AckReports", &Down::AckReports { position: 128 });
    golden(
        &mut lines,
        "Down::Settings",
        &Down::Settings(Settings { telemetry_interval_s: 1, ping_interval_s: 2, log_level: 3 }),
    );
    golden(&mut lines, "Down::Sims", &Down::Sims { sims: vec![] });
    golden(&mut lines, "Down::Ussd", &Down::Ussd { request: 1, slot: 0, code: "*100#".into() });
    golden(&mut lines, "Down::Drain", &Down::Drain);
    golden(&mut lines, "Down::Pong", &Down::Pong { device_ms: 1, controller_ms: 2 });
    golden(
        &mut lines,
        "Down::Certificate",
        &Down::Certificate { chain_der: vec![vec![1, 2]], roots_der: vec![vec![3]] },
    );
    golden(&mut lines, "Down::RenewRefused", &Down::RenewRefused { detail: "no".into() });
    golden(&mut lines, "Down::Resume", &Down::Resume);
    golden(&mut lines, "Down::Controllers", &Down::Controllers { controllers: vec!["c:3".into()] });
    lines
}

fn up_frames() -> String {
    let mut lines = String::new();
    let sim = SimInfo {
        slot: 0,
        state: SimState::PinRequired,
        iccid: None,
        imsi: None,
        msisdn: Some(Msisdn::parse("+255712345678").unwrap()),
        home: None,
        operator: "Op".into(),
        depth: 2,
    };
    golden(
        &mut lines,
        "Up::Hello",
        &Up::Hello(Hello {
            protocol: 1,
            info: DeviceInfo { name: "n".into(), model: "m".into(), os: "o".into(), software: "s".into() },
            device_ms: 1,
            window: 8,
            epoch_seen: Epoch(3),
            sims: vec![sim.clone()],
        }),
    );
    golden(&mut lines, "Up::Accepted", &Up::Accepted { attempt: attempt(1) });
    let error = SendError { class: ErrorClass::Route, domain: ErrorDomain::Cms, code: 38, text: "t".into() };
    let kinds = [
        ReportKind::Sent { attempt: attempt(1), segments: 2 },
        ReportKind::NotSent { attempt: attempt(1), reason: NotSent::SimNotReady },
        ReportKind::Failed { attempt: attempt(1), error: error.clone(), segments_sent: 1 },
        ReportKind::Unknown { attempt: attempt(1) },
        ReportKind::Delivered { attempt: attempt(1), segment: 1 },
        ReportKind::Undelivered { attempt: attempt(1), segment: 0, error },
        ReportKind::Inbound(InboundMessage {
            id: InboundId::from_bytes([0x33; 16]),
            slot: 0,
            from: crate::address::Address::Alphanumeric("Bank".into()),
            text: "hi".into(),
            segments: 1,
            sent_ms: Some(5),
        }),
    ];
    for kind in kinds {
        golden(&mut lines, "Up::Report", &Up::Report(Report { position: 1, at_ms: 2, kind }));
    }
    golden(
        &mut lines,
        "Up::Holding",
        &Up::Holding { held: vec![Held { attempt: attempt(1), sending: true }], last: true },
    );
    golden(
        &mut lines,
        "Up::Telemetry",
        &Up::Telemetry(Telemetry {
            sims: vec![SimHealth {
                slot: 0,
                state: SimState::Faulty,
                signal_dbm: Some(-71),
                registration: Registration::Roaming,
                serving: None,
                operator: String::new(),
            }],
            battery_percent: Some(50),
            charging: Some(true),
            outbox_open: 1,
            reports_open: 2,
            disk_free_bytes: None,
        }),
    );
    golden(&mut lines, "Up::Sims", &Up::Sims { sims: vec![sim] });
    golden(&mut lines, "Up::UssdReply", &Up::UssdReply { request: 1, result: Ok("ok".into()) });
    golden(&mut lines, "Up::Log", &Up::Log { level: 2, target: "t".into(), line: "l".into() });
    golden(&mut lines, "Up::Ping", &Up::Ping { device_ms: 300 });
    golden(&mut lines, "Up::Renew", &Up::Renew { csr_der: vec![9] });
    lines
}

fn enrolment_frames() -> String {
    let mut lines = String::new();
    golden(
        &mut lines,
        "EnrollUp::Request",
        &EnrollUp::Request {
            protocol: ENROLL_PROTOCOL,
            token: EnrollmentId::from_bytes([0x44; 16]),
            secret: [0x55; 16],
            csr_der: vec![1],
            info: DeviceInfo::default(),
        },
    );
    let (device, tenant) = (DeviceId::from_bytes([0x66; 16]), TenantId::from_bytes([0x77; 16]));
    golden(&mut lines, "EnrollUp::Recover", &EnrollUp::Recover { protocol: ENROLL_PROTOCOL, device, tenant });
    golden(&mut lines, "EnrollUp::Proof", &EnrollUp::Proof { signature: vec![1], csr_der: vec![2] });
    golden(
        &mut lines,
        "EnrollDown::Issued",
        &EnrollDown::Issued(Issued {
            device,
            tenant,
            tenant_name: "T".into(),
            chain_der: vec![vec![1]],
            roots_der: vec![],
            controllers: vec!["c:3".into()],
        }),
    );
    golden(&mut lines, "EnrollDown::Challenge", &EnrollDown::Challenge { nonce: [0; 32] });
    golden(
        &mut lines,
        "EnrollDown::Refused",
        &EnrollDown::Refused { reason: EnrollRefusal::Busy, detail: String::new() },
    );
    lines
}

#[test]
fn incomplete_frames_wait_and_long_ones_are_refused_before_they_arrive() {
    let mut whole = BytesMut::new();
    encode_frame(&Down::AckReports { position: 1 }, &mut whole).unwrap();
    for cut in 0..whole.len() {
        let mut part = BytesMut::from(&whole[..cut]);
        assert_eq!(decode_frame::<Down>(&mut part), Ok(None));
        assert_eq!(part.len(), cut);
    }
    let mut long = BytesMut::from(&((FRAME_BYTES_MAX as u32) + 1).to_le_bytes()[..]);
    assert_eq!(decode_frame::<Down>(&mut long), Err(FrameError::TooLong(FRAME_BYTES_MAX + 1)));
}

#[test]
fn an_encoded_frame_over_the_limit_leaves_the_buffer_as_it_was() {
    let mut out = BytesMut::from(&b"before"[..]);
    let long = Up::Log { level: 1, target: String::new(), line: "x".repeat(FRAME_BYTES_MAX) };
    assert!(matches!(encode_frame(&long, &mut out), Err(FrameError::TooLong(_))));
    assert_eq!(&out[..], b"before");
}

#[test]
fn bytes_behind_a_value_are_an_error() {
    let mut bytes = BytesMut::new();
    encode_frame(&Down::Drain, &mut bytes).unwrap();
    bytes[0] += 2;
    bytes.extend_from_slice(&[0, 0]);
    assert_eq!(decode_frame::<Down>(&mut bytes), Err(FrameError::Trailing(2)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_make_a_decoder_panic(mut body in proptest::collection::vec(any::<u8>(), 0..300), length in any::<Option<u16>>()) {
        let announced = length.map_or(body.len() as u32, u32::from);
        let mut bytes = announced.to_le_bytes().to_vec();
        bytes.append(&mut body);
        let _ = decode_frame::<Up>(&mut BytesMut::from(&bytes[..]));
        let _ = decode_frame::<Down>(&mut BytesMut::from(&bytes[..]));
        let _ = decode_frame::<EnrollUp>(&mut BytesMut::from(&bytes[..]));
        let _ = decode_frame::<EnrollDown>(&mut BytesMut::from(&bytes[..]));
    }
}

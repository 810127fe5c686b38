//! Receipts and messages over a session, and who has to keep them.

use rusmpp::Pdu;
use rusmpp::tlvs::MessageDeliveryRequestTlvValue as Parameter;
use rusmpp::types::COctetString;
use rusmpp::values::MessageState;

use super::support::{bound, client_with, outgoing, settings, within};
use crate::maker::ReceiptState;
use crate::smpp::testing::{Dialect, Facts, Options, Reply, Seen, Smsc, deliver};
use crate::smpp::{Event, State};

const FROM: &str = "255712345678";

fn receipt(text: &str) -> Pdu {
    deliver(FROM, "15000", 0x04, 0, text.as_bytes()).into()
}

async fn answer_status(smsc: &mut Smsc) -> u32 {
    match within(smsc.until(|seen| matches!(seen, Seen::DeliverAnswer { .. }))).await {
        Some(Seen::DeliverAnswer { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn receipts_in_every_dialect_find_their_segment() {
    // Hexadecimal in answers, decimal in receipts; the receipt comes right behind the answer.
    let (mut smsc, mut client) = bound(
        Options {
            submit: Box::new(|nth, _| {
                let facts = Facts {
                    id: format!("{:010}", 0xa000 + nth),
                    stat: "DELIVRD".to_owned(),
                    err: "000".to_owned(),
                    done: "231114221320".to_owned(),
                    text: "hi".to_owned(),
                };
                let text = Dialect::ALL[nth].write(&facts);
                vec![Reply::Accept(format!("{:X}", 0xa000 + nth)), Reply::Send(Box::new(receipt(&text)))]
            }),
            ..Options::default()
        },
        &[],
    )
    .await;
    for (number, dialect) in Dialect::ALL.iter().enumerate() {
        let outcome = within(client.handle.submit(outgoing(number, "hi"))).await;
        let Event::Receipt { receipt, ids, ack } = client.event().await else { panic!("{dialect:?}") };
        assert_eq!(
            (receipt.id.as_ref(), receipt.state),
            (outcome.ids[0].as_ref(), ReceiptState::Delivered),
            "{dialect:?}"
        );
        assert_eq!(receipt.at_ms, dialect.has_date().then_some(1_700_000_000_000));
        assert_eq!(ids.first().map(|one| &one.key), outcome.ids[0].as_ref());
        ack.taken();
        assert_eq!(answer_status(&mut smsc).await, 0);
    }
}

#[tokio::test]
async fn each_segment_has_its_receipt() {
    let (smsc, mut client) = bound(Options::default(), &[]).await;
    let outcome = within(client.handle.submit(outgoing(1, &"x".repeat(300)))).await;
    assert_eq!(outcome.ids, [Some("id-0".into()), Some("id-1".into())]);
    let mut delivered = deliver(FROM, "15000", 0x04, 0, b"");
    delivered.push_tlv(Parameter::ReceiptedMessageId(COctetString::from_string("id-1".to_owned()).unwrap()));
    delivered.push_tlv(Parameter::MessageState(MessageState::Delivered));
    // Twice, as some do, and in the other order.
    smsc.send(0, delivered.clone());
    smsc.send(0, delivered);
    smsc.send(0, receipt("id:id-0 stat:UNDELIV err:00b"));
    for expected in ["id-1", "id-1", "id-0"] {
        let Event::Receipt { receipt, ack, .. } = client.event().await else { panic!() };
        assert_eq!(receipt.id.as_deref(), Some(expected));
        match receipt.state {
            ReceiptState::Failed(refusal) => assert_eq!(&*refusal.code, "smpp-undeliverable-00b"),
            state => assert_eq!(state, ReceiptState::Delivered),
        }
        ack.taken();
    }
}

#[tokio::test]
async fn the_smsc_keeps_what_nobody_has_taken() {
    let (mut smsc, mut client) = bound(Options::default(), &[]).await;
    smsc.send(0, receipt("id:1 stat:DELIVRD"));
    let Event::Receipt { ack, .. } = client.event().await else { panic!() };
    drop(ack);
    assert_eq!(answer_status(&mut smsc).await, 0x64, "to be sent again");
    // A message that comes again has the same id.
    let mut ids = Vec::new();
    for taken in [false, true] {
        smsc.send(0, deliver(FROM, "15000", 0, 0, b"hello"));
        let Event::Inbound { inbound, ack } = client.event().await else { panic!() };
        assert_eq!((&*inbound.text, &*inbound.from), ("hello", "+255712345678"));
        ids.push(inbound.id);
        if taken {
            ack.taken()
        } else {
            drop(ack)
        }
        assert_eq!(answer_status(&mut smsc).await, if taken { 0 } else { 0x64 });
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn without_room_for_events_nothing_is_taken_and_sending_goes_on() {
    let mut smsc = Smsc::start(Options::default()).await.unwrap();
    let mut client = client_with(settings(&smsc, &[]), 1);
    client.until(|state| matches!(state, State::Bound { .. })).await;
    // The only place has the event of the state.
    smsc.send(0, deliver(FROM, "15000", 0, 0, b"no room"));
    assert_eq!(answer_status(&mut smsc).await, 0x64);
    let outcome = within(client.handle.submit(outgoing(1, "hi"))).await;
    assert_eq!(outcome.segments_accepted, 1);
    assert!(matches!(within(client.events.recv()).await, Some(Event::State(State::Bound { .. }))));
    smsc.send(0, deliver(FROM, "15000", 0, 0, b"no room"));
    let Event::Inbound { inbound, ack } = client.event().await else { panic!() };
    assert_eq!(&*inbound.text, "no room");
    ack.taken();
    assert_eq!(answer_status(&mut smsc).await, 0);
}

#[tokio::test]
async fn what_nobody_acknowledges_is_bounded() {
    let mut smsc = Smsc::start(Options::default()).await.unwrap();
    let mut client = client_with(settings(&smsc, &[]), 1_000);
    client.until(|state| matches!(state, State::Bound { .. })).await;
    let mut acks = Vec::new();
    for _ in 0..256 {
        smsc.send(0, receipt("id:1 stat:DELIVRD"));
        let Event::Receipt { ack, .. } = client.event().await else { panic!() };
        acks.push(ack);
    }
    smsc.send(0, receipt("id:1 stat:DELIVRD"));
    assert_eq!(answer_status(&mut smsc).await, 0x64);
    acks.pop().unwrap().taken();
    assert_eq!(answer_status(&mut smsc).await, 0);
    smsc.send(0, receipt("id:1 stat:DELIVRD"));
    assert!(matches!(client.event().await, Event::Receipt { .. }));
}

#[tokio::test]
async fn long_messages_are_joined() {
    let (mut smsc, mut client) = bound(Options::default(), &[]).await;
    let udh = |number: u8, text: &[u8]| deliver(FROM, "15000", 0x40, 0, &[&[5, 0, 3, 0x2a, 2, number], text].concat());
    smsc.send(0, udh(2, b"world"));
    assert_eq!(answer_status(&mut smsc).await, 0, "else an SMSC with a window of one would never send the rest");
    smsc.send(0, udh(1, b"hello "));
    let Event::Inbound { inbound, ack } = client.event().await else { panic!() };
    assert_eq!(&*inbound.text, "hello world");
    ack.taken();
    assert_eq!(answer_status(&mut smsc).await, 0);
    let sar = |number: u8, text: &str| {
        let mut pdu = deliver(FROM, "15000", 0, 8, &text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>());
        pdu.push_tlv(Parameter::SarMsgRefNum(7));
        pdu.push_tlv(Parameter::SarTotalSegments(2));
        pdu.push_tlv(Parameter::SarSegmentSeqnum(number));
        pdu
    };
    smsc.send(0, sar(1, "Привет, "));
    smsc.send(0, sar(2, "мир"));
    let Event::Inbound { inbound, .. } = client.event().await else { panic!() };
    assert_eq!(&*inbound.text, "Привет, мир");
}

#[tokio::test]
async fn a_pair_receives_on_its_receiver() {
    let (mut smsc, mut client) = bound(Options::default(), &[("bind", "pair")]).await;
    client.until(|state| *state == State::Bound { receiving: true }).await;
    let mut receiver = None;
    while receiver.is_none() {
        if let Some(Seen::Bind { session, pdu, .. }) = within(smsc.next()).await
            && matches!(*pdu, Pdu::BindReceiver(_))
        {
            receiver = Some(session);
        }
    }
    let receiver = receiver.unwrap();
    let outcome = within(client.handle.submit(outgoing(1, "hi"))).await;
    smsc.send(receiver, receipt("id:ID-0 stat:DELIVRD"));
    let Event::Receipt { receipt, ack, .. } = client.event().await else { panic!() };
    assert_eq!(receipt.id, outcome.ids[0]);
    ack.taken();
    assert_eq!(answer_status(&mut smsc).await, 0);
    // Sending goes on while the receiver is away.
    smsc.close(receiver);
    client.until(|state| *state == State::Bound { receiving: false }).await;
    client.until(|state| *state == State::Bound { receiving: true }).await;
    assert_eq!(within(client.handle.submit(outgoing(2, "hi"))).await.segments_accepted, 1);
}

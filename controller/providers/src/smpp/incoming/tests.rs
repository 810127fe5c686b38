//! Receipts and messages through the receiver: keys, alphabets, segments, repetitions.

use super::*;
use crate::account::Account;
use crate::maker::ReceiptState;
use crate::smpp::settings::MessageIds;

fn receiver(fields: &[(&str, &str)]) -> Receiver {
    let mut account = Account::default();
    let given = [("host", "h"), ("system_id", "s")];
    account.fields.extend(given.iter().chain(fields).map(|(name, value)| (Box::from(*name), Box::from(*value))));
    account.secrets.insert("password".into(), "p".into());
    let settings = Arc::new(Settings::from_account(&account).unwrap());
    let keys = Arc::new(Mutex::new(Keys::new(MessageIds::Auto)));
    Receiver::new(settings, keys, 1)
}

fn message(message: &[u8]) -> Deliver {
    let address = |ton, digits: &str| PduAddress { ton, npi: 1, digits: digits.to_owned() };
    Deliver {
        source: address(1, "255712345678"),
        dest: address(0, "15000"),
        esm_class: 0,
        data_coding: 0,
        message: message.to_vec(),
        receipted_id: None,
        message_state: None,
        network_error: None,
        sar: None,
    }
}

fn text_of(incoming: Incoming) -> String {
    match incoming {
        Incoming::Message(inbound) => inbound.text.to_string(),
        other => panic!("{other:?}"),
    }
}

fn id_of(incoming: Incoming) -> String {
    match incoming {
        Incoming::Message(inbound) => inbound.id.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_and_its_alphabets() {
    let mut receiver = receiver(&[]);
    let Incoming::Message(inbound) = receiver.take(&message(b"Hi \0\x1b\x65"), 1) else { panic!() };
    assert_eq!((&*inbound.from, &*inbound.to, &*inbound.text), ("+255712345678", "15000", "Hi @€"));
    let mut coded = |data_coding, octets: &[u8]| {
        let mut deliver = message(octets);
        deliver.data_coding = data_coding;
        text_of(receiver.take(&deliver, 1))
    };
    assert_eq!(coded(0x03, b"caf\xe9"), "café");
    assert_eq!(coded(0x01, b"@"), "@");
    assert_eq!(coded(0x08, b"\x04\x1f\xd8\x3d\xde\x00"), "П😀");
    assert_eq!(coded(0x18, b"\x04\x1f"), "П");
    assert_eq!(coded(0x04, "naïve".as_bytes()), "naïve");
    assert_eq!(coded(0xf0, b"\0"), "@");
    let mut latin = self::receiver(&[("alphabet", "latin1")]);
    assert_eq!(text_of(latin.take(&message(b"caf\xe9 @"), 1)), "café @");
}

#[test]
fn segments_by_header_and_by_parameters() {
    let mut receiver = receiver(&[]);
    let mut part = |number: u8, text: &[u8]| {
        let mut deliver = message(&[&[5, 0, 3, 9, 2, number], text].concat());
        deliver.esm_class = 0x40;
        receiver.take(&deliver, 1)
    };
    assert_eq!(part(2, b"world"), Incoming::Nothing);
    assert_eq!(text_of(part(1, b"Hello ")), "Hello world");
    let mut part = |number, text: &[u8]| {
        let mut deliver = message(text);
        deliver.sar = Some((77, 3, number));
        receiver.take(&deliver, 1)
    };
    assert_eq!(part(1, b"a"), Incoming::Nothing);
    assert_eq!(part(3, b"c"), Incoming::Nothing);
    assert_eq!(text_of(part(2, b"b")), "abc");
}

#[test]
fn missing_segments_are_waited_for_and_then_given_up() {
    let mut receiver = receiver(&[]);
    let mut deliver = message(b"only");
    deliver.sar = Some((7, 2, 1));
    assert_eq!(receiver.take(&deliver, 1_000), Incoming::Nothing);
    let deadline = receiver.next_deadline().unwrap();
    assert_eq!(deadline, 1_000 + LIMITS.age_max_ms + 1);
    assert!(receiver.expire(deadline - 1).is_empty());
    let given_up = receiver.expire(deadline);
    assert_eq!(given_up.len(), 1);
    assert_eq!(&*given_up[0].text, "only…");
    assert_eq!(receiver.next_deadline(), None);
    // Never more than the bound, however many begin.
    for reference in 0..3_000 {
        let mut deliver = message(b"x");
        deliver.sar = Some((reference, 2, 1));
        receiver.take(&deliver, 2_000);
    }
    assert!(receiver.segments.len() <= LIMITS.messages_max && receiver.unsettled.len() <= UNSETTLED_MAX);
}

#[test]
fn the_same_text_twice_is_two_messages() {
    let mut receiver = receiver(&[]);
    let first = id_of(receiver.take(&message(b"yes"), 1_000));
    receiver.answered(&first, true, 1_000);
    receiver.answered("other", true, 1_000 + DOUBTFUL_MS);
    assert_ne!(id_of(receiver.take(&message(b"yes"), 20_000)), first);
}

#[test]
fn what_was_not_settled_comes_again_with_its_id() {
    let mut receiver = receiver(&[]);
    let refused = id_of(receiver.take(&message(b"full"), 1_000));
    receiver.answered(&refused, false, 1_000);
    assert_eq!(id_of(receiver.take(&message(b"full"), 5_000)), refused, "we had no room");
    receiver.answered(&refused, true, 5_000);
    receiver.link_lost(5_500);
    assert_eq!(id_of(receiver.take(&message(b"full"), 6_000)), refused, "the answer may be lost with the link");
    receiver.answered(&refused, true, 6_000);
    receiver.link_lost(6_000 + DOUBTFUL_MS);
    assert_ne!(id_of(receiver.take(&message(b"full"), 30_000)), refused, "that answer has arrived");
}

#[test]
fn the_last_segment_again_brings_the_message_again() {
    let mut receiver = receiver(&[]);
    let part = |number: u8| {
        let mut deliver = message(b"part");
        deliver.sar = Some((5, 2, number));
        deliver
    };
    receiver.take(&part(1), 1_000);
    let id = id_of(receiver.take(&part(2), 1_000));
    receiver.answered(&id, false, 1_100);
    assert_eq!(id_of(receiver.take(&part(2), 2_000)), id);
    receiver.answered(&id, true, 2_000);
    receiver.answered("other", true, 2_000 + DOUBTFUL_MS);
    assert_eq!(receiver.take(&part(2), 20_000), Incoming::Nothing, "settled");
}

#[test]
fn receipts_have_the_keys_of_answers() {
    let mut receiver = receiver(&[("receipt_time_zone", "Africa/Nairobi")]);
    let key = receiver.keys.lock().unwrap().answered("00A1", None);
    let mut deliver = message(b"id:0000000161 done date:231115011320 stat:DELIVRD err:000");
    deliver.esm_class = 4;
    for _ in 0..2 {
        let Incoming::Receipt { receipt, ids } = receiver.take(&deliver, 1) else { panic!() };
        assert_eq!((receipt.id.as_deref(), receipt.state), (Some(&*key), ReceiptState::Delivered));
        assert_eq!((receipt.at_ms, receipt.segment), (Some(1_700_000_000_000), None));
        assert_eq!(ids.first().map(|one| &one.key), Some(&key));
    }
    deliver.message = b"nothing".to_vec();
    assert_eq!(receiver.take(&deliver, 1), Incoming::Unreadable);
    deliver.esm_class = 0;
    deliver.message = b"id:161 stat:DELIVRD".to_vec();
    assert_eq!(text_of(receiver.take(&deliver, 1)), "id:161 stat:DELIVRD", "anybody can write that");
}

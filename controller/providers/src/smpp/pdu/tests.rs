//! Octets of PDUs, read from what `rusmpp` writes and from what sloppy SMSCs do.

use proptest::prelude::*;
use rusmpp::pdus::{DataSm, SubmitSmResp};
use rusmpp::tlvs::MessageDeliveryRequestTlvValue as Parameter;
use rusmpp::types::COctetString;
use rusmpp::values::{DataCoding, ErrorCodeNetworkType, EsmClass, MessagePayload, MessageState, NetworkErrorCode};

use super::*;
use crate::account::Account;
use crate::smpp::testing::deliver;

fn settings(fields: &[(&str, &str)]) -> Settings {
    let mut account = Account::default();
    let given = [("host", "h"), ("system_id", "flotilla"), ("system_type", "VMS"), ("address_range", "^25")];
    account.fields.extend(given.iter().chain(fields).map(|(name, value)| (Box::from(*name), Box::from(*value))));
    account.secrets.insert("password".into(), "secret".into());
    Settings::from_account(&account).unwrap()
}

fn frame(octets: &[u8]) -> Frame {
    let mut buffer = BytesMut::from(octets);
    let frame = take_frame(&mut buffer).unwrap().unwrap();
    assert!(buffer.is_empty());
    frame
}

#[test]
fn frames() {
    let octets = encode(0, 7, Pdu::EnquireLink);
    assert_eq!(octets, [0, 0, 0, 16, 0, 0, 0, 0x15, 0, 0, 0, 0, 0, 0, 0, 7]);
    let mut buffer = BytesMut::from(&octets[..15]);
    assert_eq!(take_frame(&mut buffer), Ok(None), "not there in whole");
    buffer.extend_from_slice(&octets[15..]);
    buffer.extend_from_slice(&octets);
    for _ in 0..2 {
        let frame = take_frame(&mut buffer).unwrap().unwrap();
        assert_eq!((frame.command, frame.status, frame.sequence), (CommandId::EnquireLink, 0, 7));
    }
    assert_eq!(take_frame(&mut buffer), Ok(None));
    for length in [0u32, 15, 70_001, u32::MAX] {
        let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
        assert_eq!(take_frame(&mut buffer), Err(FrameError { octets: length as usize }));
    }
}

#[test]
fn a_bind_has_these_octets() {
    let octets = encode_bind(CommandId::BindTransceiver, 1, &settings(&[("address_range_ton", "1")]));
    let expected = b"\0\0\0\x2b\0\0\0\x09\0\0\0\0\0\0\0\x01flotilla\0secret\0VMS\0\x34\x01\0^25\0";
    assert_eq!(octets, expected);
    let old = encode_bind(CommandId::BindTransmitter, 1, &settings(&[("version", "3.3")]));
    assert_eq!((old[7], old[36]), (0x02, 0x33));
}

#[test]
fn answers_to_submits() {
    let answer = |body: &[u8]| read_submit_answer(body);
    let id = |id: &str| SubmitAnswer { id: Some(id.into()), congestion: None };
    assert_eq!(answer(b"abc-1\0"), id("abc-1"));
    assert_eq!(answer(b""), SubmitAnswer::default());
    assert_eq!(answer(b"\0"), SubmitAnswer::default());
    assert_eq!(answer(b"12 34 "), id("1234"), "without its NUL");
    assert_eq!(answer(b"7\0\x04\x28\0\x01\x5a").congestion, Some(90));
    assert_eq!(answer(b"7\0\x04\x28\0\x09\x5a"), id("7"), "a parameter that is longer than the PDU");
    let resp = SubmitSmResp::new(COctetString::from_string("1F".to_owned()).unwrap(), Vec::new());
    assert_eq!(read_submit_answer(&frame(&encode(0, 1, resp)).body), id("1F"));
}

#[test]
fn versions_in_answers_to_binds() {
    assert_eq!(read_bind_version(b"smsc\0\x02\x10\0\x01\x34"), Some(Version::V34));
    assert_eq!(read_bind_version(b"smsc\0\x02\x10\0\x01\x33"), Some(Version::V33));
    assert_eq!(read_bind_version(b"smsc\0\x02\x10\0\x01\x50"), Some(Version::V50));
    assert_eq!((read_bind_version(b"smsc\0"), read_bind_version(b"")), (None, None));
}

#[test]
fn what_the_codec_writes_is_read() {
    let mut pdu = deliver("255700000001", "12345", 0x44, 0x08, b"\x05\0\x03\x07\x02\x01hi");
    pdu.push_tlv(Parameter::ReceiptedMessageId(COctetString::from_string("A1".to_owned()).unwrap()));
    pdu.push_tlv(Parameter::MessageState(MessageState::Delivered));
    pdu.push_tlv(Parameter::NetworkErrorCode(NetworkErrorCode::new(ErrorCodeNetworkType::Gsm, 27)));
    pdu.push_tlv(Parameter::SarMsgRefNum(0x1234));
    pdu.push_tlv(Parameter::SarTotalSegments(3));
    pdu.push_tlv(Parameter::SarSegmentSeqnum(2));
    let read = read_deliver(CommandId::DeliverSm, &frame(&encode(0, 1, pdu)).body).unwrap();
    assert_eq!((read.source.ton, read.source.digits.as_str(), read.dest.digits.as_str()), (1, "255700000001", "12345"));
    assert_eq!(
        (read.esm_class, read.data_coding, read.message.as_slice()),
        (0x44, 8, &b"\x05\0\x03\x07\x02\x01hi"[..])
    );
    assert_eq!((read.receipted_id.as_deref(), read.message_state), (Some("A1"), Some(2)));
    assert_eq!((read.network_error, read.sar), (Some((3, 27)), Some((0x1234, 3, 2))));
}

#[test]
fn data_sm_and_message_payload() {
    let payload = MessagePayload::new(AnyOctetString::from_slice(b"id:5 stat:DELIVRD"));
    let data = DataSm::builder()
        .source_addr(COctetString::from_string("1".to_owned()).unwrap())
        .destination_addr(COctetString::from_string("2".to_owned()).unwrap())
        .esm_class(EsmClass::from(4))
        .data_coding(DataCoding::McSpecific)
        .push_tlv(rusmpp::tlvs::MessageSubmissionRequestTlvValue::MessagePayload(payload.clone()))
        .build();
    let read = read_deliver(CommandId::DataSm, &frame(&encode(0, 1, data)).body).unwrap();
    assert_eq!((read.esm_class, read.message.as_slice()), (4, &b"id:5 stat:DELIVRD"[..]));
    let mut pdu = deliver("1", "2", 4, 0, b"");
    pdu.push_tlv(Parameter::MessagePayload(payload));
    let read = read_deliver(CommandId::DeliverSm, &frame(&encode(0, 1, pdu)).body).unwrap();
    assert_eq!(read.message, b"id:5 stat:DELIVRD");
}

#[test]
fn sloppy_smscs_are_understood() {
    let body = |tail: &[u8]| [b"\0\x05\0Caf\xe9\0\x01\x01255\0\0\0\0\0\0\0\0\0\0\x02hi".as_slice(), tail].concat();
    let read = |tail: &[u8]| read_deliver(CommandId::DeliverSm, &body(tail)).unwrap();
    assert_eq!(read(b"").source.digits, "Caf\u{e9}", "a sender that is not ASCII");
    let sloppy = read(b"\0\x1e\0\x02A1\x04\x27\0\x02\x02\0");
    assert_eq!(
        (sloppy.receipted_id.as_deref(), sloppy.message_state),
        (Some("A1"), Some(2)),
        "no NUL; two octets for one"
    );
    assert_eq!(read(b"\0\x1e\0\x50A1").receipted_id, None, "cut off");
    assert_eq!(read(b"\xff\xff\0\x01x\x04\x27\0\x01\x05").message_state, Some(5), "a vendor's own before it");
    assert_eq!(read(b"\x02\x0c\0\x02\0\x01\x02\x0e\0\x01\x02\x02\x0f\0\x01\x03").sar, None, "number 3 of 2");
    for body in [&b""[..], b"\0", b"\0\x01\x01255", &body(b"")[..24]] {
        assert_eq!(read_deliver(CommandId::DeliverSm, body), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_octets(octets in prop::collection::vec(any::<u8>(), 0..300)) {
        for command in [CommandId::DeliverSm, CommandId::DataSm] {
            read_deliver(command, &octets);
        }
        read_submit_answer(&octets);
        read_bind_version(&octets);
        let mut buffer = BytesMut::from(&octets[..]);
        while let Ok(Some(frame)) = take_frame(&mut buffer) {
            prop_assert!(frame.body.len() <= octets.len());
        }
    }
}

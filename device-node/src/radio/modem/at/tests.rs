//! What modems say, cut anywhere and mixed with what nobody asked for, becomes the right events.

use proptest::prelude::*;

use super::lines::{LINE_BYTES_MAX, Lines, Token};
use super::*;

fn chat_with(command: Option<Command>, text: &str) -> Vec<Event> {
    let mut chat = Chat::default();
    if let Some(command) = command {
        chat.begin(command);
    }
    let mut events = Vec::new();
    chat.push(text.as_bytes(), &mut events);
    // Byte by byte gives the same: the cuts of a serial port mean nothing.
    events
}

fn done(end: Final) -> Event {
    Event::Done(end)
}

fn info(line: &str) -> Event {
    Event::Info(line.to_owned())
}

fn stored(index: u16) -> Event {
    Event::Urc(Urc::Stored { storage: "SM".to_owned(), index })
}

#[test]
fn a_plain_answer() {
    let events = chat_with(Some(Command::new("AT+CSQ")), "\r\n+CSQ: 20,99\r\n\r\nOK\r\n");
    assert_eq!(events, [info("+CSQ: 20,99"), done(Final::Ok)]);
}

#[test]
fn an_echo_is_not_an_answer() {
    let events = chat_with(Some(Command::new("AT+CIMI")), "AT+CIMI\r\r\n640021234567890\r\n\r\nOK\r\n");
    assert_eq!(events, [info("640021234567890"), done(Final::Ok)]);
}

#[test]
fn notices_lie_anywhere_in_an_answer() {
    let events = chat_with(
        Some(Command::new("AT+CPMS?")),
        "\r\n^RSSI:19\r\n+CPMS: \"SM\",3,20,\"SM\",3,20,\"SM\",3,20\r\nRING\r\n+CMTI: \"SM\",4\r\n\r\n\r\nOK\r\n",
    );
    let answer = info("+CPMS: \"SM\",3,20,\"SM\",3,20,\"SM\",3,20");
    let other = |name: &str| Event::Urc(Urc::Other(name.to_owned()));
    assert_eq!(events, [other("^RSSI"), answer, other("RING"), stored(4), done(Final::Ok)]);
}

#[test]
fn a_prompt_is_seen_at_once_in_every_form() {
    let command = || Command::new("AT+CMGS=20").with_prompt();
    for text in ["\r\n> ", ">", "\r\n>", "AT+CMGS=20\r\r\n> ", "\r\n\r\n\r\n >", "\r\n>\r\n"] {
        assert_eq!(chat_with(Some(command()), text), [Event::Prompt], "{text:?}");
    }
    assert_eq!(chat_with(Some(command()), "+CMTI: \"SM\",7\r\n> "), [stored(7), Event::Prompt]);
    assert_eq!(chat_with(Some(command()), "> +CMTI: \"SM\",7\r\n"), [Event::Prompt, stored(7)]);
    assert_eq!(chat_with(Some(Command::new("AT")), "\r\n> \r\nOK\r\n"), [done(Final::Ok)]);
}

#[test]
fn an_answer_after_the_prompt_with_notices_and_echo() {
    let mut chat = Chat::default();
    chat.begin(Command::new("AT+CMGS=20").with_prompt());
    let mut events = Vec::new();
    chat.push(b"\r\n> ", &mut events);
    chat.payload("0011000B91");
    chat.push(b"0011000B91\x1a\r\n+CMTI: \"SM\",9\r\n^RSSI: 14\r\n+CMGS: 201\r\n\r\nOK\r\n", &mut events);
    assert_eq!(events[0], Event::Prompt);
    assert_eq!(events[1], stored(9));
    assert_eq!(events[3..], [info("+CMGS: 201"), done(Final::Ok)]);
}

#[test]
fn glued_notices_are_parted() {
    let begin = || Some(Command::new("AT+CMGS=20").with_prompt());
    assert_eq!(chat_with(begin(), "+CMGS: 5OK\r\n"), [info("+CMGS: 5"), done(Final::Ok)]);
    assert_eq!(
        chat_with(begin(), "+CMTI: \"SM\",1+CMGS: 12\r\nOK\r\n"),
        [stored(1), info("+CMGS: 12"), done(Final::Ok)]
    );
    assert_eq!(chat_with(begin(), "OK+CMTI: \"SM\",2\r\n"), [done(Final::Ok), stored(2)]);
    assert_eq!(chat_with(begin(), "^RSSI:9+CMS ERROR: 38\r\n")[1], done(Final::Cms("38".to_owned())));
    assert_eq!(chat_with(begin(), "+CMTI: \"SM\",3OK\r\n"), [stored(3), done(Final::Ok)]);
}

#[test]
fn errors_with_number_text_or_nothing() {
    for (text, end) in [
        ("ERROR", Final::Error),
        ("+CMS ERROR: 500", Final::Cms("500".to_owned())),
        ("+CME ERROR:10", Final::Cme("10".to_owned())),
        ("+CMS ERROR: Network out of order", Final::Cms("Network out of order".to_owned())),
        ("COMMAND NOT SUPPORT", Final::Error),
    ] {
        assert_eq!(chat_with(Some(Command::new("AT+CSMS=1")), &format!("\r\n{text}\r\n")), [done(end)], "{text}");
    }
}

#[test]
fn no_carrier_ends_calls_only() {
    let text = "\r\nNO CARRIER\r\n\r\nOK\r\n";
    let events = chat_with(Some(Command::new("AT+CMGS=9")), text);
    assert_eq!(events, [Event::Urc(Urc::Other("NO CARRIER".to_owned())), done(Final::Ok)]);
    assert_eq!(chat_with(Some(Command::new("ATD*100#;")), text), [done(Final::Error)]);
}

#[test]
fn direct_deliveries_take_two_lines() {
    let pdu = "07915892000000F0040B915892214365F7000062800181740000";
    let events = chat_with(None, &format!("+CMT: ,18\r\n{pdu}\r\n"));
    let [Event::Urc(Urc::Deliver { tpdu })] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(to_hex(tpdu), pdu[16..]);
    // Another notice and the answer of a command in between; no SMSC; a wrong length.
    let events = chat_with(Some(Command::new("AT")), &format!("+CDS: 99\r\n+CMTI: \"SM\",1\r\n\r\nOK\r\n{pdu}\r\n"));
    assert_eq!(events[..2], [stored(1), done(Final::Ok)]);
    assert!(matches!(&events[2], Event::Urc(Urc::Report { tpdu }) if to_hex(tpdu) == pdu[16..]));
    let events = chat_with(None, &format!("+CMT: \"\",18\r\n{}\r\n", &pdu[16..]));
    assert!(matches!(&events[0], Event::Urc(Urc::Deliver { tpdu }) if to_hex(tpdu) == pdu[16..]));
}

#[test]
fn a_delivery_in_the_middle_of_a_listing() {
    let pdu = "00040B915892214365F7000062800181740000";
    let text = format!("+CMGL: 1,1,,18\r\n{pdu}\r\n+CMT: ,18\r\n{pdu}\r\n+CMGL: 2,0,,18\r\n{pdu}\r\nOK\r\n");
    let events = chat_with(Some(Command::new("AT+CMGL=4")), &text);
    let kinds: Vec<_> = events.iter().map(|event| matches!(event, Event::Info(_))).collect();
    assert_eq!(kinds, [true, true, false, true, true, false]);
}

#[test]
fn registration_notices_differ_from_answers() {
    let ask = || Some(Command::new("AT+CREG?"));
    let notice = Event::Urc(Urc::Registration);
    assert_eq!(
        chat_with(ask(), "+CREG: 1\r\n+CREG: 2,5\r\nOK\r\n"),
        [notice.clone(), info("+CREG: 2,5"), done(Final::Ok)]
    );
    assert_eq!(chat_with(ask(), "+CREG: 1,\"00A1\",\"0B2C\"\r\n"), std::slice::from_ref(&notice));
    assert_eq!(chat_with(ask(), "+CREG: 2,1,\"00A1\",\"0B2C\",7\r\n"), [info("+CREG: 2,1,\"00A1\",\"0B2C\",7")]);
    assert_eq!(chat_with(Some(Command::new("AT+CSQ")), "+CEREG: 5\r\n"), [notice]);
}

#[test]
fn ussd_texts_go_over_lines() {
    let ussd = |text: &str| Event::Urc(Urc::Ussd { state: 1, text: text.to_owned(), dcs: Some(15) });
    let begin = || Some(Command::new("AT+CUSD=1,\"*100#\",15"));
    let events = chat_with(begin(), "OK\r\n+CUSD: 1,\"1. Balance\r\n2. Bundles, +CMTI: news\n0. Back\",15\r\n");
    assert_eq!(events, [done(Final::Ok), ussd("1. Balance\n2. Bundles, +CMTI: news\n0. Back")]);
    // Cut short by the modem: the next sure line ends it.
    let events = chat_with(begin(), "+CUSD: 1,\"Menu\r\nOK\r\n");
    assert_eq!(events.len(), 2);
    assert_eq!(events[1], done(Final::Ok));
}

#[test]
fn notices_of_many_makers() {
    for (text, urc) in [
        ("+CDSI: \"SR\",2", Urc::ReportStored { storage: "SR".to_owned(), index: 2 }),
        ("^SMMEMFULL: \"SM\"", Urc::MemoryFull),
        ("+CIEV: \"SMSFULL\",1", Urc::MemoryFull),
        ("+CIEV: \"SMSFULL\",0", Urc::Other("SMSFULL".to_owned())),
        ("+QIND: \"SMSFULL\",\"SM\"", Urc::MemoryFull),
        ("+QIND: SMS DONE", Urc::Ready),
        ("SMS Ready", Urc::Ready),
        ("+PBREADY", Urc::Ready),
        ("Call Ready", Urc::Other("CALL READY".to_owned())),
        ("RDY", Urc::Restarted),
        ("^SYSSTART", Urc::Restarted),
        ("+CPIN: NOT INSERTED", Urc::Sim(SimNotice::Removed)),
        ("+CPIN: READY", Urc::Sim(SimNotice::Changed)),
        ("#QSS: 0", Urc::Sim(SimNotice::Changed)),
        ("*PSUTTZ: 2026,1,8,10,21,4,\"+12\",0", Urc::Other("*PSUTTZ".to_owned())),
        ("UNDER-VOLTAGE WARNNING", Urc::Other("VOLTAGE".to_owned())),
    ] {
        assert_eq!(chat_with(None, &format!("{text}\r\n")), [Event::Urc(urc)], "{text}");
    }
    assert_eq!(chat_with(None, "what is this\r\nOK\r\n"), []);
}

#[test]
fn an_overlong_line_is_dropped_whole() {
    let mut lines = Lines::default();
    let text = format!("{}\rOK\r", "x".repeat(LINE_BYTES_MAX + 1));
    let tokens: Vec<_> = text.bytes().filter_map(|byte| lines.push(byte)).collect();
    assert_eq!(tokens, [Token::Line("OK".to_owned())]);
}

#[test]
fn values() {
    assert_eq!(fields("+CPMS: \"SM\",3,\"a,b\",(1,2),"), ["SM", "3", "a,b", "(1,2)", ""]);
    assert_eq!(ranges("+CNMI: (0-2),(0,1,3),(0,2),(0-2),(0,1)")[1], [0, 1, 3]);
    assert_eq!(ranges("+CNMI: (0-2),(0-3),(0),(0-1),(1)")[3], [0, 1]);
    assert!(ranges("+CSMS: 0-9999,(7-1),x").iter().all(Vec::is_empty));
    assert_eq!(hex("0aFF"), Some(vec![0x0a, 0xff]));
    assert_eq!((hex("0aF"), hex(""), hex("0g")), (None, None, None));
}

/// What a modem may say, whole or torn.
fn chatter() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"OK\r\n".to_vec()),
        Just(b"> ".to_vec()),
        Just(b"+CMT: ,24\r\n".to_vec()),
        Just(b"+CUSD: 1,\"".to_vec()),
        Just(b"+CMTI: \"SM\",".to_vec()),
        Just(b"+CREG: 1,\"".to_vec()),
        Just(b"07915892000000F004".to_vec()),
        Just(b"+CMS ERROR: ".to_vec()),
        Just(b"AT+CMGS=20\r".to_vec()),
        "[\\PC]{0,12}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..24),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_chatter_panics_and_cuts_mean_nothing(bytes in chatter(), cut in 0usize..600, in_flight: bool) {
        let run = |parts: &[&[u8]]| {
            let mut chat = Chat::default();
            if in_flight {
                chat.begin(Command::new("AT+CMGS=20").with_prompt());
            }
            let mut events = Vec::new();
            for part in parts {
                chat.push(part, &mut events);
            }
            events
        };
        let cut = cut.min(bytes.len());
        let whole = run(&[&bytes]);
        prop_assert_eq!(&whole, &run(&[&bytes[..cut], &bytes[cut..]]));
        prop_assert!(whole.len() <= bytes.len());
    }

    #[test]
    fn an_answer_survives_notices_around_it(before in notices(), between in notices(), after in notices()) {
        let text = format!("{before}+CMGS: 77\r\n{between}\r\nOK\r\n{after}");
        let events = chat_with(Some(Command::new("AT+CMGS=20").with_prompt()), &text);
        let answer: Vec<_> = events.into_iter().filter(|event| !matches!(event, Event::Urc(_))).collect();
        prop_assert_eq!(answer, [info("+CMGS: 77"), done(Final::Ok)]);
    }
}

fn notices() -> impl Strategy<Value = String> {
    let notice = prop::sample::select(vec![
        "\r\n",
        "RING\r\n",
        "\r\n+CMTI: \"ME\",12\r\n",
        "^RSSI:17\r\n",
        "+CREG: 5\r\n",
        "+CMT: ,18\r\n00040B915892214365F7000062800181740000\r\n",
        "+CUSD: 0,\"two\r\nlines\",15\r\n",
        "NO CARRIER\r\n",
        "SMS Ready\r\n",
        "*PSUTTZ: 2026,1,8\r\n",
    ]);
    prop::collection::vec(notice, 0..5).prop_map(|notices| notices.concat())
}

//! Frames of the link and of the enrolment dialogue, in both directions.
#![no_main]

use bytes::BytesMut;
use flotilla_protocol::wire::{Down, EnrollDown, EnrollUp, Up, decode_frame, encode_frame};
use libfuzzer_sys::fuzz_target;

macro_rules! check {
    ($kind:ty, $octets:expr) => {
        let mut buffer = BytesMut::from($octets);
        while let Ok(Some(frame)) = decode_frame::<$kind>(&mut buffer) {
            let mut again = BytesMut::new();
            encode_frame(&frame, &mut again).expect("a decoded frame fits");
            let _ = format!("{frame:?}");
        }
        assert!(buffer.len() <= $octets.len());
    };
}

fuzz_target!(|octets: &[u8]| {
    check!(Up, octets);
    check!(Down, octets);
    check!(EnrollUp, octets);
    check!(EnrollDown, octets);
    // The same octets with a right length, so that the values behind it are reached at once.
    let mut framed = BytesMut::new();
    framed.extend_from_slice(&(octets.len() as u32).to_le_bytes());
    framed.extend_from_slice(octets);
    check!(Up, &framed[..]);
    check!(Down, &framed[..]);
    check!(EnrollUp, &framed[..]);
    check!(EnrollDown, &framed[..]);
});

//! What is sealed opens again, only with its key and only in its place, and its bytes stay as they are.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> ClusterKey {
    ClusterKey::from_bytes([byte; 32])
}

fn keys(bytes: &[u8]) -> ClusterKeys {
    let lines: Vec<String> = bytes.iter().map(|byte| key(*byte).to_line()).collect();
    ClusterKeys::parse(&lines.join("\n")).unwrap()
}

/// Sealed by the first release: what is in stores out there has to open for ever.
const GOLDEN: &str = "012e944a0d4384636709090909090909090909090957f7ede2df84a437372ee514ace0a0fad510255df55625";

#[test]
fn the_format_keeps_its_bytes() {
    let sealed = keys(&[7]).seal_with("ca_keys/aa/key", b"private", [9; NONCE_LEN]).unwrap();
    assert_eq!(data_encoding::HEXLOWER.encode(&sealed), GOLDEN);
    assert_eq!(keys(&[7]).open("ca_keys/aa/key", &sealed).unwrap(), b"private");
}

#[test]
fn a_secret_opens_in_its_own_place_only() {
    let keys = keys(&[1]);
    let sealed = keys.seal("a/1", b"x").unwrap();
    assert_ne!(sealed, keys.seal("a/1", b"x").unwrap());
    assert_eq!(keys.open("a/1", &sealed).unwrap(), b"x");
    assert_eq!(keys.open("a/2", &sealed), Err(UnsealError::Damaged { place: "a/2".into() }));
    for place in 0..sealed.len() {
        let mut slipped = sealed.clone();
        slipped[place] ^= 1;
        assert!(keys.open("a/1", &slipped).is_err(), "byte {place}");
        assert!(keys.open("a/1", &sealed[..place]).is_err(), "cut at {place}");
    }
    assert_eq!(keys.seal("a", &vec![0; SECRET_BYTES_MAX + 1]), Err(SealError::TooLong { bytes: SECRET_BYTES_MAX + 1 }));
}

#[test]
fn a_missing_key_is_named() {
    let sealed = keys(&[1]).seal("a", b"x").unwrap();
    let error = keys(&[2, 3]).open("a", &sealed).unwrap_err();
    assert_eq!(
        error,
        UnsealError::UnknownKey { place: "a".into(), wanted: key(1).id(), has: vec![key(2).id(), key(3).id()] }
    );
    assert!(error.to_string().contains(&key(1).id().to_string()), "{error}");
    let mut newer = sealed;
    newer[0] = 2;
    assert_eq!(keys(&[1]).open("a", &newer), Err(UnsealError::Version { place: "a".into() }));
}

#[test]
fn keys_are_exchanged_by_having_both_for_a_while() {
    let old = keys(&[1]).seal("a", b"x").unwrap();
    let both = keys(&[2, 1]);
    assert_eq!(both.open("a", &old).unwrap(), b"x");
    assert!(both.is_outdated(&old) && !keys(&[1, 2]).is_outdated(&old));
    let new = both.seal("a", b"x").unwrap();
    assert!(!both.is_outdated(&new));
    assert_eq!(keys(&[2]).open("a", &new).unwrap(), b"x");
}

#[test]
fn key_files_are_read_and_their_faults_are_told() {
    let line = key(5).to_line();
    let text = format!("# the new one\n{}\n\n{line}\n", key(6).to_line().to_uppercase());
    assert_eq!(ClusterKeys::parse(&text).unwrap().ids().collect::<Vec<_>>(), [key(6).id(), key(5).id()]);
    assert!(matches!(ClusterKeys::parse("# nothing\n"), Err(KeyFileError::Count { found: 0 })));
    assert!(matches!(ClusterKeys::parse(&format!("{line}\n{}", &line[2..])), Err(KeyFileError::Line { line: 2 })));
    let many = vec![line; KEYS_MAX + 1].join("\n");
    assert!(matches!(ClusterKeys::parse(&many), Err(KeyFileError::Count { found: 9 })));
}

#[test]
fn a_node_alone_makes_its_own_key_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(KEY_FILE);
    assert!(matches!(ClusterKeys::read(&path), Err(KeyFileError::Missing { .. })));
    let made = ClusterKeys::read_or_create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ClusterKeys::read_or_create(&path).unwrap(), made);
    assert_eq!(ClusterKeys::read(&path).unwrap(), made);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(ClusterKeys::read(&path), Err(KeyFileError::File(SecretFileError::TooOpen { .. }))));
}

#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:?} {:?}", key(0xab), keys(&[0xab]));
    assert!(shown.contains(&key(0xab).id().to_string()) && !shown.contains("abab"), "{shown}");
}

proptest! {
    #[test]
    fn whatever_is_sealed_opens(secret in prop::collection::vec(any::<u8>(), 0..200), place in ".{0,40}") {
        let keys = ClusterKeys::from(ClusterKey::generate());
        let sealed = keys.seal(&place, &secret).unwrap();
        prop_assert_eq!(keys.open(&place, &sealed).unwrap(), secret);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = keys(&[1]).open("a", &bytes);
    }
}

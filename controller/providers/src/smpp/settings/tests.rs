//! Each field, right and wrong, and fields that do not go together.

use super::*;

fn account(fields: &[(&str, &str)]) -> Account {
    let mut account = Account::default();
    account.fields.insert("host".into(), "smsc.example".into());
    account.fields.insert("system_id".into(), "flotilla".into());
    account.secrets.insert("password".into(), "secret".into());
    account.fields.extend(fields.iter().map(|(name, value)| (Box::from(*name), Box::from(*value))));
    account
}

fn read(fields: &[(&str, &str)]) -> Result<Settings, (String, String)> {
    Settings::from_account(&account(fields)).map_err(|error| (error.field.to_string(), error.problem.to_string()))
}

#[test]
fn defaults() {
    let settings = read(&[]).unwrap();
    assert_eq!((settings.port, settings.tls.is_some(), settings.window), (2775, false, 10));
    assert_eq!((settings.version, settings.bind), (Version::V34, Bind::Transceiver));
    assert_eq!((settings.registered_delivery, settings.data_coding), (1, 0));
    assert_eq!(settings.source, Numbering::default());
    assert!(!format!("{settings:?}").contains("secret"));
    let old = read(&[("version", "3.3")]).unwrap();
    assert_eq!(old.bind, Bind::Pair, "3.3 has no transceiver");
    assert_eq!(read(&[("alphabet", "Latin1")]).unwrap().data_coding, 3);
    assert_eq!(read(&[("tls", "true")]).unwrap().port, 3550);
    assert_eq!(read(&[("source_ton", "5"), ("source_npi", "auto")]).unwrap().source.ton, Some(5));
}

#[test]
fn an_address_may_be_a_url() {
    let with = |url: &str| {
        let mut account = account(&[]);
        account.fields.remove("host");
        account.base_url = Some(url.parse().unwrap());
        Settings::from_account(&account).map(|settings| (settings.host, settings.port, settings.tls.is_some()))
    };
    assert_eq!(with("smpp://127.0.0.1:9"), Ok(("127.0.0.1".into(), 9, false)));
    assert_eq!(with("smpps://smsc.example"), Ok(("smsc.example".into(), 3550, true)));
    assert_eq!(with("smpp://[::1]:2776"), Ok(("::1".into(), 2776, false)));
    assert_eq!(&*with("https://smsc.example").unwrap_err().field, "base_url");
}

#[test]
fn each_wrong_field_is_named() {
    let wrong = [
        ("window", "0"),
        ("window", "501"),
        ("window", "many"),
        ("rate_per_s", "0"),
        ("port", "0"),
        ("version", "4"),
        ("bind", "both"),
        ("system_id", "longer-than-fifteen"),
        ("system_type", "thirteen-long"),
        ("system_type", "schö"),
        ("tls", "yes"),
        ("long_text", "tlv"),
        ("source_ton", "7"),
        ("priority", "4"),
        ("receipt_time_zone", "Mars/Base"),
        ("host", "smpp://host"),
        ("windows", "5"),
    ];
    for (field, value) in wrong {
        let (named, problem) = read(&[(field, value)]).unwrap_err();
        assert_eq!(named, field, "{value}");
        assert!(!problem.is_empty());
    }
    let (named, _) = read(&[("tls", "true"), ("ca_pem", "nothing")]).unwrap_err();
    assert_eq!(named, "ca_pem");
    let mut account = account(&[]);
    account.secrets.clear();
    assert_eq!(&*Settings::from_account(&account).unwrap_err().field, "password");
}

#[test]
fn settings_that_do_not_go_together() {
    let refused = |fields: &[(&str, &str)]| read(fields).unwrap_err().0;
    assert_eq!(refused(&[("version", "3.3"), ("bind", "transceiver")]), "bind");
    assert_eq!(refused(&[("version", "3.3"), ("long_text", "sar")]), "long_text");
    assert_eq!(refused(&[("national_tables", "true"), ("long_text", "payload")]), "national_tables");
    assert_eq!(refused(&[("reconnect_min_ms", "5000"), ("reconnect_max_ms", "1000")]), "reconnect_max_ms");
}

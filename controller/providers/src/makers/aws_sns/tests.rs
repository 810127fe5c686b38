//! AWS SNS on the wire: forms byte for byte with their signatures, XML answers, every code.

use super::*;
use crate::makers::probe::{self, CALLBACK, NOW_MS};

fn account() -> Account {
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let fields = [("region", "eu-west-1"), ("access_key_id", "AKIAIOSFODNN7EXAMPLE")];
    probe::account(&fields, &[("secret_access_key", secret)])
}

/// Signatures here were worked out apart from this code, step by step as in AWS's document.
#[test]
fn a_message_is_one_signed_form() {
    let message = probe::outgoing(447_700_900_123, "Acme", "Hello & good-bye");
    let call = AwsSns.submit(&account(), &[message], NOW_MS).unwrap();
    let expected = "POST https://sns.eu-west-1.amazonaws.com/\n\
        authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261120/eu-west-1/sns/aws4_request, \
        SignedHeaders=content-type;host;x-amz-date, \
        Signature=082eadb6d3ac58a1d12a4d470cedaa509c1a421b7d669f90cac3245fed7e7ce5\n\
        content-type: application/x-www-form-urlencoded\n\
        x-amz-date: 20261120T120000Z\n\n\
        Action=Publish&Version=2010-03-31&PhoneNumber=%2B447700900123&Message=Hello+%26+good-bye&\
        MessageAttributes.entry.1.Name=AWS.SNS.SMS.SMSType&MessageAttributes.entry.1.Value.DataType=String&\
        MessageAttributes.entry.1.Value.StringValue=Transactional&\
        MessageAttributes.entry.2.Name=AWS.SNS.SMS.SenderID&MessageAttributes.entry.2.Value.DataType=String&\
        MessageAttributes.entry.2.Value.StringValue=Acme";
    assert_eq!(probe::wire(&call), expected);
}

#[test]
fn a_number_as_sender_is_an_origination_number() {
    let mut account = account();
    account.fields.insert("sms_type".into(), "Promotional".into());
    let body = |sender| {
        let call = AwsSns.submit(&account, &[probe::outgoing(447_700_900_123, sender, "é")], NOW_MS).unwrap();
        String::from_utf8(call.body.to_vec()).unwrap()
    };
    let expected = "Action=Publish&Version=2010-03-31&PhoneNumber=%2B447700900123&Message=%C3%A9&\
        MessageAttributes.entry.1.Name=AWS.SNS.SMS.SMSType&MessageAttributes.entry.1.Value.DataType=String&\
        MessageAttributes.entry.1.Value.StringValue=Promotional";
    assert_eq!(body(""), expected);
    let number = "&MessageAttributes.entry.2.Name=AWS.MM.SMS.OriginationNumber&\
        MessageAttributes.entry.2.Value.DataType=String&MessageAttributes.entry.2.Value.StringValue=%2B15005550006";
    assert_eq!(body("+15005550006"), format!("{expected}{number}"));
}

#[test]
fn the_test_asks_for_settings_with_a_session_token() {
    let mut account = account();
    account.secrets.insert("session_token".into(), "session".into());
    let expected = "POST https://sns.eu-west-1.amazonaws.com/\n\
        authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261120/eu-west-1/sns/aws4_request, \
        SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
        Signature=1f65069f9b8fcfcd562b28d44c04d9660e5b7f60c4a486b80e9512339e48ab51\n\
        content-type: application/x-www-form-urlencoded\n\
        x-amz-date: 20261120T120000Z\n\
        x-amz-security-token: session\n\n\
        Action=GetSMSAttributes&Version=2010-03-31";
    let call = AwsSns.test(&account, NOW_MS).unwrap();
    assert_eq!(probe::wire(&call), expected);
    assert!(call.headers["authorization"].is_sensitive() && call.headers["x-amz-security-token"].is_sensitive());
}

#[test]
fn settings_are_checked_by_name() {
    let field = |name: &str, value: &str| {
        let mut account = account();
        account.fields.insert(name.into(), value.into());
        AwsSns.check(&account).map_err(|error| error.field)
    };
    assert_eq!(field("region", "us-east-1"), Ok(()));
    assert_eq!(field("region", "evil.example/"), Err("region".into()));
    assert_eq!(field("region", ""), Err("region".into()));
    assert_eq!(field("access_key_id", ""), Err("access_key_id".into()));
    assert_eq!(field("sms_type", "Loud"), Err("sms_type".into()));
    let mut account = account();
    account.secrets.clear();
    assert_eq!(&*AwsSns.check(&account).unwrap_err().field, "secret_access_key");
    account.secrets.insert("secret_access_key".into(), "s".into());
    account.fields.insert("region".into(), "cn-north-1".into());
    let call = AwsSns.test(&account, NOW_MS).unwrap();
    assert_eq!(call.url.as_str(), "https://sns.cn-north-1.amazonaws.com.cn/");
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let head = "<ErrorResponse xmlns=\"https://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type>";
    let body = format!(
        "{head}<Code>{code}</Code><Message>{message}</Message></Error><RequestId>9dd0</RequestId></ErrorResponse>"
    );
    probe::answer(status, &body)
}

#[test]
fn answers_are_taken_refused_or_in_doubt() {
    let account = account();
    let taken = "<PublishResponse xmlns=\"https://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult>\
        <MessageId>567910cd-659e-55d4-8ccb-5aaf14679dc0</MessageId></PublishResult><ResponseMetadata>\
        <RequestId>d74b8436</RequestId></ResponseMetadata></PublishResponse>";
    let id = Some("567910cd-659e-55d4-8ccb-5aaf14679dc0".into());
    assert_eq!(probe::one(&AwsSns, &account, &probe::answer(200, taken)), Submitted::Accepted { id, price: None });
    let empty = taken.replace("567910cd-659e-55d4-8ccb-5aaf14679dc0", "");
    for doubt in [probe::answer(200, &empty), probe::answer(200, &taken[..80]), error(500, "InternalError", "x")] {
        probe::in_doubt(&AwsSns, &account, &doubt);
    }
    probe::in_doubt(&AwsSns, &account, &error(503, "ServiceUnavailable", "x"));
    probe::survives_anything(&AwsSns, &account);
}

#[test]
fn each_code_has_its_class() {
    for (code, class, _) in AWS_SNS {
        let answer = error(400, code, "about +447700900123");
        assert_eq!(probe::class(&AwsSns, &account(), &answer), (*class, format!("aws-sns-{code}")));
        assert!(!probe::refused(&AwsSns, &account(), &answer).text.contains("447"));
    }
    let number =
        error(400, "InvalidParameter", "Invalid parameter: PhoneNumber Reason: +4477 is not valid to publish to");
    assert_eq!(probe::class(&AwsSns, &account(), &number), (ErrorClass::Permanent, "aws-sns-InvalidParameter".into()));
    assert_eq!(
        probe::class(&AwsSns, &account(), &error(400, "Odd", "x")),
        (ErrorClass::Route, "aws-sns-http-400".into())
    );
    assert_eq!(probe::class(&AwsSns, &account(), &error(429, "Odd", "x")).0, ErrorClass::Transient);
    assert_eq!(probe::class(&AwsSns, &account(), &error(403, "Odd", "x")).0, ErrorClass::Route);
}

#[test]
fn a_test_is_judged_and_nobody_calls_back() {
    let judged = |answer: &Answer| AwsSns.judge(&account(), answer);
    assert!(matches!(judged(&probe::answer(200, "<x/>")), Judged::Works(_)));
    let wrong = judged(&error(403, "SignatureDoesNotMatch", "x"));
    assert_eq!(wrong, Judged::Refused("SignatureDoesNotMatch: the secret key is wrong".into()));
    assert!(matches!(judged(&error(400, "Throttling", "x")), Judged::Unclear(_)));
    assert!(matches!(judged(&probe::answer(500, "")), Judged::Unclear(_)));
    let request = probe::callback(Method::POST, CALLBACK, &[], b"{}");
    let lax = Account { unsigned_callbacks: true, ..account() };
    assert!(matches!(AwsSns.callback(&lax, &request, NOW_MS), Err(CallbackError::Malformed(_))));
}

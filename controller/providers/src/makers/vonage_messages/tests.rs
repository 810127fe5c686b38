//! Vonage Messages on the wire: JSON byte for byte, codes, status callbacks, and tokens both ways.

use http::Method;
use jsonwebtoken::{DecodingKey, Validation};

use super::*;
use crate::makers::probe::{self, CALLBACK, NOW_MS};

/// Made for this test and used nowhere else.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC1dF4DA3Mldb+x
XfzXJToGx8bXj1YwAQqu8QNCTn6PR5wz3cMwP5p98ODKW7eLRqQVu8vkYIHKYZkx
IAFbRMjfbKxhfPNKImGswgQ4gIwhxqNw+29jXhprj3/d0d6MKZTjoPvEfdN0oPz9
6zOSNQ18o4XRfa/76b5JDAKYAg06h9WiTjXQ+cX6ByvdpY98HhTlm8XK48/QMoKf
Fxl6XH2xwaERpAa3fGeOR5xoBRupzF0LbcrL95P6O8UwS247/HvhPqqKsjsSVhIE
g64UvL2AMQ0leGKexw0kJXW2xvB/rPw2WlgZJBBkO/0K51g7xY5iElycsCxP/0/B
mijpwf93AgMBAAECggEADZ42ogZDwYd1RAP4QlNOaAzdPPdKch7Z5Og8pODMOceX
jwLxL7FOUG5gCH/apg6+qMznz/N4Oi6Z9yheQbHHW5FF3KkqfyFWcEc9Vto66hwE
zylnoi8BT5o87/Jcv+ss++psisIguQuOASaCP9JQeU6yb9b9eqv/tm660RqyUHaZ
tLkJomBpBHZkK2qr49cHLBu/xS82F1axczVQ7JBcTrmq8uOLaDuwA5JnBEMkMp/k
jGjtuxuUFrdp/OtbNRmpZqYf3NDU3pFf4FGthbOFS4x0cnXhcdPeBhbKa3mq3Su6
L3rfJp8FRZXe1CgumrDSBXpdivikRqSIHnjtz+2NlQKBgQD0PpZDYUnwAfL46xjX
A0IvZA/z18pyrjaZFCnkJOTpV99pzTQc46eYkMXsvRtGBeitsM44R5phHWpZaHXm
VO8gLr5nix8pKCsGlrISSWrIFYV5XaBeO4xFBvg9Bfa3rnhvYpCB10zjBbvhosIq
6Gy2GFsRGRXj3++/7MgTior3ewKBgQC+MCA7wDq7glL9D7R+4UW10pbwUsPVffb6
iqcKS8wc3pu7uj/A0yz931Kn52KqvQzR+fh9W4QYOXbLTE4sJLyAPr58JoxzQB0F
QEy2Fb9Crcy0z0uzGmx4ONLxbC7asjSpZB2aHZsec6aTRdhDD/lt3AeoFzPJbMQG
qFfBROlZNQKBgQDrL0D9zLandxkBe0/F6otWmuGJiaaVWw+Tw4i6+JO75TNp64Bc
uRHupKkRVt7mRFZSucc5BimvjeWUBjRRAEPqF1ic16e/t8AGbiE13qAF3kNSJEeB
tZFR/m4WRKHXKRcrGhvQCwMsL59Em7agHoJfrYAzLJaZgE6Z3mSh/Gvn9QKBgElF
v1Vl1Pri1dg7Ub3ESpgnXxGNwXciBaI3Au37j9LbjMJBmkhO07mnbW/UvHWtSiAn
ny2ksXqnwPXIGyH0sU7zXW31aA0K+WNJh4RrUnl8/i3242JIXtvegJ6UoGSPXayZ
LrJuj5Gm2tlIgm4r3FwP9j8zWTdUGR27g7upMgG1AoGAAmMpoOtI+d4Lt/ZGPcv2
NmKL5D8V7zYkZslriZBnWDYgEHXMtK+0NbaTYsNRR2cJrXW6/DKu4C3XCQbL36Rk
kndeERC+HmmNaSkaNl7MIkZw1AMemG68+hP+wLlk0HPaXPoXLPR2cQDbuQWrk+RO
/ZutuRmdUAo12FZXC7I8BQU=
-----END PRIVATE KEY-----
";
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtXReAwNzJXW/sV381yU6
BsfG149WMAEKrvEDQk5+j0ecM93DMD+affDgylu3i0akFbvL5GCBymGZMSABW0TI
32ysYXzzSiJhrMIEOICMIcajcPtvY14aa49/3dHejCmU46D7xH3TdKD8/eszkjUN
fKOF0X2v++m+SQwCmAINOofVok410PnF+gcr3aWPfB4U5ZvFyuPP0DKCnxcZelx9
scGhEaQGt3xnjkecaAUbqcxdC23Ky/eT+jvFMEtuO/x74T6qirI7ElYSBIOuFLy9
gDENJXhinscNJCV1tsbwf6z8NlpYGSQQZDv9CudYO8WOYhJcnLAsT/9PwZoo6cH/
dwIDAQAB
-----END PUBLIC KEY-----
";
const SECRET: &str = "qwertyuiopasdfghjklzxcvbnm123456";
const NOW_S: u64 = NOW_MS / 1000;

fn account() -> Account {
    probe::account(&[("api_key", "abcd1234")], &[("api_secret", "s3cret"), ("signature_secret", SECRET)])
}

fn token(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    format!("Bearer {}", jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap())
}

fn request(body: &str, iat: u64) -> Callback {
    let claims =
        json!({"iat": iat, "iss": "Vonage", "api_key": "abcd1234", "payload_hash": kit::sha256_hex(body.as_bytes())});
    let token = token(Algorithm::HS256, SECRET, &claims);
    probe::callback(Method::POST, CALLBACK, &[("authorization", &token)], body.as_bytes())
}

fn read(body: &Value) -> Result<CallbackReply, CallbackError> {
    VonageMessages.callback(&account(), &request(&body.to_string(), NOW_S), NOW_MS)
}

#[test]
fn a_message_is_one_object() {
    let message = probe::outgoing(447_700_900_123, "+447700900000", "Hi \"you\"");
    let call = VonageMessages.submit(&account(), &[message], NOW_MS).unwrap();
    let expected = "POST https://api.nexmo.com/v1/messages\n\
        accept: application/json\n\
        authorization: Basic YWJjZDEyMzQ6czNjcmV0\n\
        content-type: application/json\n\n\
        {\"channel\":\"sms\",\"client_ref\":\"msg_0123456789abcdef0123456789-1\",\"from\":\"447700900000\",\
        \"message_type\":\"text\",\"sms\":{\"encoding_type\":\"text\"},\"text\":\"Hi \\\"you\\\"\",\"to\":\"447700900123\",\
        \"ttl\":3600,\"webhook_url\":\"https://sms.example/v1/callbacks/maker/prv_1/tok\",\"webhook_version\":\"v1\"}";
    assert_eq!(probe::wire(&call), expected);
    let unicode = VonageMessages.submit(&account(), &[probe::outgoing(447_700_900_123, "Acme", "hé")], NOW_MS).unwrap();
    assert_eq!(kit::json(&unicode.body).unwrap()["sms"]["encoding_type"], "unicode");
}

#[test]
fn an_application_signs_its_requests() {
    let mut account = account();
    account.fields.insert("application_id".into(), "app-1".into());
    account.secrets.insert("private_key".into(), PRIVATE_KEY.into());
    assert_eq!(VonageMessages.check(&account), Ok(()));
    let call = VonageMessages.submit(&account, &[probe::outgoing(447_700_900_123, "Acme", "hi")], NOW_MS).unwrap();
    let header = call.headers["authorization"].to_str().unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    let key = DecodingKey::from_rsa_pem(PUBLIC_KEY.as_bytes()).unwrap();
    let token = jsonwebtoken::decode::<Value>(header.strip_prefix("Bearer ").unwrap(), &key, &validation).unwrap();
    assert_eq!(token.claims["application_id"], "app-1");
    assert_eq!((&token.claims["iat"], &token.claims["exp"]), (&json!(NOW_S), &json!(NOW_S + 900)));
    assert_eq!(token.claims["jti"].as_str().unwrap().len(), 32);

    account.secrets.insert("private_key".into(), "-----BEGIN".into());
    assert_eq!(&*VonageMessages.check(&account).unwrap_err().field, "private_key");
    account.secrets.remove("private_key");
    assert_eq!(&*VonageMessages.check(&account).unwrap_err().field, "private_key");
    assert_eq!(&*VonageMessages.check(&probe::account(&[], &[])).unwrap_err().field, "api_key");
}

#[test]
fn test_and_balance_ask_the_account() {
    let expected = "GET https://rest.nexmo.com/account/get-balance\n\
        accept: application/json\nauthorization: Basic YWJjZDEyMzQ6czNjcmV0\n\n";
    assert_eq!(probe::wire(&VonageMessages.test(&account(), NOW_MS).unwrap()), expected);
    assert_eq!(probe::wire(&VonageMessages.balance(&account(), NOW_MS).unwrap().unwrap()), expected);
    let balance = VonageMessages.balance_of(&account(), &probe::answer(200, r#"{"value":10.171275}"#)).unwrap();
    assert_eq!((balance.micros, &*balance.currency), (10_171_275, "EUR"));
    assert!(matches!(VonageMessages.judge(&account(), &probe::answer(403, "")), Judged::Refused(_)));
}

#[test]
fn answers_are_taken_refused_or_in_doubt() {
    let account = account();
    let taken = probe::answer(202, r#"{"message_uuid":"d8f86df1-dec6-442f-870a-2241be27d721"}"#);
    let id = Some("d8f86df1-dec6-442f-870a-2241be27d721".into());
    assert_eq!(probe::one(&VonageMessages, &account, &taken), Submitted::Accepted { id, price: None });
    let class = |status, body: &str| probe::class(&VonageMessages, &account, &probe::answer(status, body));
    let low = r#"{"type":"https://developer.nexmo.com/api-errors/#low-balance","title":"Low balance"}"#;
    assert_eq!(class(402, low), (ErrorClass::Route, "vonage-messages-low-balance".into()));
    let invalid = |names: &str| {
        let types = "https://developer.vonage.com/api-errors/messages#1150";
        format!(r#"{{"type":"{types}","title":"Invalid params","invalid_parameters":[{names}]}}"#)
    };
    let to = r#"{"name":"to","reason":"447700900123 is no number"}"#;
    assert_eq!(class(422, &invalid(to)), (ErrorClass::Permanent, "vonage-messages-invalid-to".into()));
    let from = r#"{"name":"from","reason":"invalid value"}"#;
    assert_eq!(class(422, &invalid(from)), (ErrorClass::Route, "vonage-messages-1150".into()));
    assert_eq!(class(422, &invalid(&format!("{to},{from}"))).0, ErrorClass::Route, "the sender is wrong as well");
    assert_eq!(class(422, "{}"), (ErrorClass::Route, "vonage-messages-http-422".into()));
    assert_eq!(class(429, "").0, ErrorClass::Transient);
    for (code, class_of_code, _) in MESSAGES {
        let body = format!(r#"{{"type":"https://developer.vonage.com/api-errors/messages#{code}","detail":"x"}}"#);
        assert_eq!(class(422, &body), (*class_of_code, format!("vonage-messages-{code}")));
    }
    let internal = r#"{"type":"https://developer.vonage.com/api-errors/messages#1030"}"#;
    probe::in_doubt(&VonageMessages, &account, &probe::answer(500, internal));
    probe::survives_anything(&VonageMessages, &account);
}

#[test]
fn each_status_has_its_state() {
    let receipt = |status: &str, error: Value| {
        let body = json!({
            "message_uuid": "aaaa", "to": "447700900123", "from": "Acme", "channel": "sms", "client_ref": "msg_1-1",
            "timestamp": "2023-05-01T14:00:00.250Z", "status": status, "error": error,
            "usage": {"currency": "EUR", "price": "0.0333"},
        });
        read(&body).map(|mut reply| reply.receipts.remove(0))
    };
    let delivered = Receipt {
        reference: Some("msg_1-1".into()),
        id: Some("aaaa".into()),
        segment: None,
        state: ReceiptState::Delivered,
        at_ms: Some(1_682_949_600_250),
        price: Some((33_300, "EUR".into())),
    };
    assert_eq!(receipt("delivered", Value::Null), Ok(delivered));
    assert_eq!(receipt("read", Value::Null).unwrap().state, ReceiptState::Delivered);
    assert_eq!(receipt("submitted", Value::Null).unwrap().state, ReceiptState::Pending);
    assert_eq!(receipt("rejected", json!({"code": 1360})).unwrap().state, ReceiptState::Expired);
    assert!(matches!(receipt("odd", Value::Null), Err(CallbackError::Malformed(_))));
    let failed = |status: &str, error| match receipt(status, error).unwrap().state {
        ReceiptState::Failed(refusal) => (refusal.class, String::from(refusal.code)),
        other => panic!("{other:?}"),
    };
    for (code, class, _) in MESSAGES {
        let error = json!({"type": format!("https://developer.vonage.com/api-errors/messages#{code}"), "title": "x"});
        for status in ["rejected", "undeliverable"] {
            assert_eq!(failed(status, error.clone()), (*class, format!("vonage-messages-{code}")));
        }
    }
    assert_eq!(failed("rejected", json!({"code": 1240, "reason": "x"})).0, ErrorClass::Permanent);
    assert_eq!(failed("undeliverable", Value::Null), (ErrorClass::Transient, "vonage-messages-undeliverable".into()));
}

/// One report for all segments: the others may have arrived, so the message must not go out once more by another route.
#[test]
fn a_long_text_is_given_up_by_its_segments() {
    let segment = |states: &[&str], total: &str, status: &str| {
        let segments: Vec<Value> = states.iter().map(|status| json!({ "status": status })).collect();
        let body = json!({"message_uuid": "aaaa", "status": status, "channel": "sms", "error": {"code": 1180},
            "sms": {"total_count": total, "segments": segments}});
        let reply = super::receipt(&body, "aaaa".into(), status).unwrap();
        reply.receipts[0].segment
    };
    assert_eq!(segment(&["delivered", "rejected", "delivered"], "3", "rejected"), Some(1));
    assert_eq!(segment(&["delivered", "delivered"], "3", "rejected"), Some(2), "one has not come in time");
    assert_eq!(segment(&[], "2", "rejected"), Some(0), "nobody knows");
    assert_eq!(segment(&["rejected", "rejected"], "2", "rejected"), None, "the whole");
    assert_eq!(segment(&["rejected"], "1", "rejected"), None);
    assert_eq!(segment(&["delivered", "delivered"], "2", "delivered"), None);
}

#[test]
fn a_received_message_is_inbound() {
    let body = json!({
        "channel": "sms", "message_uuid": "bbbb", "to": "447700900000", "from": "447700900001", "message_type": "text",
        "timestamp": "2023-05-01T14:00:00Z", "text": "Hello",
    });
    let expected = Inbound {
        id: "bbbb".into(),
        from: "447700900001".into(),
        to: "447700900000".into(),
        text: "Hello".into(),
        at_ms: Some(1_682_949_600_000),
    };
    assert_eq!(read(&body).unwrap().inbound, [expected]);
    assert!(matches!(read(&json!({"message_uuid": "b"})), Err(CallbackError::Malformed(_))));
    assert!(matches!(read(&json!({"status": "delivered"})), Err(CallbackError::Malformed(_))));
    assert!(matches!(read(&json!(7)), Err(CallbackError::Malformed(_))));
}

#[test]
fn tokens_are_verified() {
    let body = r#"{"message_uuid":"aaaa","status":"delivered"}"#;
    let read = |request: &Callback, now_ms| VonageMessages.callback(&account(), request, now_ms);
    let good = request(body, NOW_S);
    assert!(read(&good, NOW_MS).is_ok() && read(&good, NOW_MS + 300_000).is_ok());
    assert_eq!(read(&good, NOW_MS + 300_001), Err(CallbackError::Replayed));
    assert_eq!(read(&good, NOW_MS - 300_001), Err(CallbackError::Replayed));
    let changed = Callback { body: body.replace("delivered", "rejected").into(), ..good.clone() };
    assert_eq!(read(&changed, NOW_MS), Err(CallbackError::Signature));

    let with = |algorithm, secret, claims: &Value| {
        let token = token(algorithm, secret, claims);
        read(&probe::callback(Method::POST, CALLBACK, &[("authorization", &token)], body.as_bytes()), NOW_MS)
    };
    let claims = json!({"iat": NOW_S, "payload_hash": kit::sha256_hex(body.as_bytes())});
    assert!(with(Algorithm::HS256, SECRET, &claims).is_ok());
    assert_eq!(with(Algorithm::HS256, "other", &claims), Err(CallbackError::Signature));
    let hashless = with(Algorithm::HS256, SECRET, &json!({"iat": NOW_S}));
    assert_eq!(hashless, Err(CallbackError::Signature));
    let timeless = with(Algorithm::HS256, SECRET, &json!({"payload_hash": kit::sha256_hex(body.as_bytes())}));
    assert!(matches!(timeless, Err(CallbackError::Malformed(_))));
    let garbage = probe::callback(Method::POST, CALLBACK, &[("authorization", "Bearer a.b.c")], body.as_bytes());
    assert_eq!(read(&garbage, NOW_MS), Err(CallbackError::Signature));

    let bare = probe::callback(Method::POST, CALLBACK, &[], body.as_bytes());
    assert_eq!(read(&bare, NOW_MS), Err(CallbackError::Unsigned));
    let lax = Account { unsigned_callbacks: true, ..account() };
    assert!(VonageMessages.callback(&lax, &bare, NOW_MS).is_ok());
}

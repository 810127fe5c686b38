//! Delivery reports of the test provider: signed as Twilio signs them, repeated until they are taken, and as wrong as the
//! script wants them.

use std::time::Duration;

use data_encoding::BASE64;
use ring::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use url::{Url, form_urlencoded};

use super::script::{End, Fate};

/// A controller that is just being started again takes reports a little later.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);
const GIVEN_UP: &str = "30005";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pairs: Vec<(&'static str, String)>,
    pub forged: bool,
}

/// All reports of a message, in the order in which they are sent.
pub(super) fn of(id: &str, fate: Fate) -> Vec<Report> {
    let report = |status: &str, forged: bool| {
        let mut pairs = vec![("MessageSid", id.to_owned()), ("MessageStatus", status.to_owned())];
        if status == "undelivered" {
            pairs.push(("ErrorCode", GIVEN_UP.to_owned()));
        }
        Report { pairs, forged }
    };
    let (status, opposite) = match fate.ends {
        End::Silence => return Vec::new(),
        End::Delivered => ("delivered", "undelivered"),
        End::Undelivered => ("undelivered", "delivered"),
    };
    let mut all = Vec::new();
    if fate.forged {
        all.push(report(opposite, true));
    }
    all.push(report("sent", false));
    all.push(report(status, false));
    if fate.disordered {
        let last = all.len() - 1;
        all.swap(last - 1, last);
    }
    if fate.twice {
        all.push(report(status, false));
    }
    all
}

pub(super) struct Reports {
    client: reqwest::Client,
    key: Key,
    wrong_key: Key,
}

impl Reports {
    pub(super) fn new(token: &str) -> anyhow::Result<Self> {
        // The HTTP client wants a TLS provider even for plain connections; the first one installed wins.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        let key = |token: &str| Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.as_bytes());
        Ok(Self { client, key: key(token), wrong_key: key("somebody else's") })
    }

    /// The final status, or none when nobody has taken it after all tries.
    pub(super) async fn send(&self, callback: &Url, report: &Report) -> Option<u16> {
        let key = if report.forged { &self.wrong_key } else { &self.key };
        let signature = signature(key, callback, &report.pairs);
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&report.pairs).finish();
        for _ in 0..TRIES {
            let request = self
                .client
                .post(callback.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .header("x-twilio-signature", &signature)
                .body(body.clone());
            match request.send().await.map(|response| response.status()) {
                Ok(status) if !status.is_server_error() && status.as_u16() != 429 => return Some(status.as_u16()),
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        None
    }
}

/// Over the address and the sorted form.
fn signature(key: &Key, url: &Url, pairs: &[(&str, String)]) -> String {
    let mut sorted: Vec<_> = pairs.iter().collect();
    sorted.sort();
    let text = sorted.iter().fold(url.to_string(), |text, (name, value)| text + name + value);
    BASE64.encode(sign(key, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(ends: End) -> Fate {
        Fate { ends, after: Duration::ZERO, forged: false, twice: false, disordered: false }
    }

    fn words(fate: Fate) -> Vec<String> {
        of("SM1", fate)
            .iter()
            .map(|report| format!("{}{}", report.pairs[1].1, if report.forged { "!" } else { "" }))
            .collect()
    }

    #[test]
    fn reports_are_as_wrong_as_the_script_wants() {
        assert_eq!(words(fate(End::Silence)), [""; 0]);
        assert_eq!(words(fate(End::Delivered)), ["sent", "delivered"]);
        assert_eq!(words(Fate { disordered: true, ..fate(End::Undelivered) }), ["undelivered", "sent"]);
        assert_eq!(
            words(Fate { forged: true, twice: true, ..fate(End::Delivered) }),
            ["undelivered!", "sent", "delivered", "delivered"]
        );
    }

    /// The example that Twilio's own library is tested with (twilio/twilio-python).
    #[test]
    fn the_signature_is_twilios() {
        let url = Url::parse("https://mycompany.com/myapp.php?foo=1&bar=2").unwrap();
        let pairs = [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ];
        let pairs = pairs.map(|(name, value)| (name, value.to_owned()));
        let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345");
        assert_eq!(signature(&key, &url, &pairs), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
    }
}

//! The makers: one file each, and the list of them.
//!
//! A maker writes requests and reads answers without IO, so that each can be tested byte for byte. What several of them need
//! (forms, Basic, signatures, bounded JSON, what an HTTP status means) is in [`kit`].

mod africas_talking;
mod aws_sns;
mod bandwidth;
mod beem;
mod clicksend;
#[cfg(test)]
mod documented;
mod generic_http;
mod infobip;
pub(crate) mod kit;
mod messagebird;
mod plivo;
#[cfg(test)]
mod probe;
mod sms_broadcast;
mod telstra;
mod twilio;
mod vonage_messages;
mod vonage_sms;

use crate::maker::Maker;

/// Every maker of an HTTP service, by name.
static ALL: &[&dyn Maker] = &[
    &twilio::Twilio,
    &vonage_sms::VonageSms,
    &vonage_messages::VonageMessages,
    &plivo::Plivo,
    &aws_sns::AwsSns,
    &bandwidth::Bandwidth,
    &messagebird::MessageBird,
    &africas_talking::AfricasTalking,
    &beem::Beem,
    &clicksend::ClickSend,
    &generic_http::GenericHttp,
    &infobip::Infobip,
    &sms_broadcast::SmsBroadcast,
    &telstra::Telstra,
];

/// All makers of HTTP services. SMPP is not among them: it is a session, not requests.
pub fn all() -> &'static [&'static dyn Maker] {
    ALL
}

/// The maker whose `Capabilities::name` that is.
pub fn by_name(name: &str) -> Option<&'static dyn Maker> {
    ALL.iter().copied().find(|maker| maker.capabilities().name == name)
}

//! Where tenants may make this controller connect to: addresses that they give (a provider's `base_url`, a webhook) must not
//! reach into the network that the controller stands in.
//!
//! A name is resolved here, what it resolves to is checked, and the connection goes to what was checked: a name that answers
//! differently a moment later gains nothing. Addresses written as numbers are checked by [`NetGuard::check`], since nobody
//! resolves those. Redirects have to be off in the client that uses this.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Addresses that a name may have; those beyond are not tried.
const ADDRESSES_MAX: usize = 16;

/// Why an address is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error("give an address that begins with https:// or http://")]
    Scheme,
    #[error("the address has no host")]
    NoHost,
    #[error("leave user and password out of the address")]
    Userinfo,
    #[error(
        "{host} is an address of a private network; a controller connects to those only when its own settings allow it"
    )]
    Private { host: String },
}

/// The rule, cheap to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetGuard {
    /// Private, loopback and link-local addresses too.
    pub allow_private: bool,
}

impl NetGuard {
    /// What can be told from the text of an address. Names are looked at when they are resolved.
    pub fn check(self, url: &Url) -> Result<(), GuardError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(GuardError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(GuardError::Userinfo);
        }
        let ip = match url.host() {
            None => return Err(GuardError::NoHost),
            Some(Host::Domain(name)) if is_local_name(name) && !self.allow_private => {
                return Err(GuardError::Private { host: name.to_owned() });
            }
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
        };
        if self.allows(ip) { Ok(()) } else { Err(GuardError::Private { host: ip.to_string() }) }
    }

    pub fn allows(self, ip: IpAddr) -> bool {
        self.allow_private || is_public(ip)
    }

    /// Resolves a name to the addresses that may be connected to. One that is refused makes all of them suspicious: the
    /// whole name is.
    pub async fn resolve(self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect();
        match found.iter().find(|addr| !self.allows(addr.ip())) {
            Some(_) => Err(io::Error::other(GuardError::Private { host: host.to_owned() })),
            None if found.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            None => Ok(found),
        }
    }

    /// For [`reqwest::ClientBuilder::dns_resolver`].
    pub fn resolver(self) -> Arc<impl Resolve> {
        Arc::new(Resolver(self))
    }
}

struct Resolver(NetGuard);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0;
        Box::pin(async move {
            let found = guard.resolve(name.as_str(), 0).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Names that mean this machine without being resolved anywhere (RFC 6761).
fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

/// Whether an address is one of the internet at large: none of the special ranges of the IANA registries (RFC 6890), nor one
/// that hides such an address inside an IPv6 one.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = match (a, b, c) {
        // This network; loopback.
        (0 | 127, ..) => true,
        // Shared by carriers (RFC 6598).
        (100, 64..=127, _) => true,
        // Protocol assignments, 6to4 relays, benchmarks.
        (192, 0, 0) | (192, 88, 99) | (198, 18 | 19, _) => true,
        // Multicast, reserved, broadcast.
        (224.., ..) => true,
        _ => ip.is_private() || ip.is_link_local() || ip.is_documentation(),
    };
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let inner = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    match s[0] {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) carry an IPv4 address.
        0x64 if s[1] == 0xff9b && s[2..6] == [0; 4] => inner(s[6], s[7]),
        0x2002 => inner(s[1], s[2]),
        // Teredo and other protocol assignments; documentation.
        0x2001 => s[1] >= 0x200 && s[1] != 0xdb8,
        0x3fff => s[1] >= 0x1000,
        // Of the rest only what is given out globally (2000::/3).
        first => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "3fff::1",
            "100::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860::8888",
            "64:ff9b::808:808",
            "2002:808:808::",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn addresses_are_judged_by_their_text() {
        let guard = NetGuard::default();
        let check = |text: &str| guard.check(&Url::parse(text).unwrap());
        assert_eq!(check("https://api.example.com/v1"), Ok(()));
        assert_eq!(check("http://8.8.8.8:8080"), Ok(()));
        assert_eq!(check("ftp://example.com"), Err(GuardError::Scheme));
        assert_eq!(check("https://u:p@example.com"), Err(GuardError::Userinfo));
        // The parser makes one form of all spellings.
        for text in [
            "http://127.0.0.1",
            "http://127.1",
            "http://0x7f000001",
            "http://2130706433",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]",
            "http://localhost",
            "http://LOCALHOST.:1",
            "http://a.localhost",
            "http://169.254.169.254/latest/meta-data",
        ] {
            assert!(matches!(check(text), Err(GuardError::Private { .. })), "{text}");
            assert_eq!(NetGuard { allow_private: true }.check(&Url::parse(text).unwrap()), Ok(()), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_here_is_refused() {
        let refused = NetGuard::default().resolve("localhost", 80).await.unwrap_err();
        assert!(refused.to_string().contains("private network"), "{refused}");
        let found = NetGuard { allow_private: true }.resolve("localhost", 80).await.unwrap();
        assert!(found.iter().all(|addr| addr.ip().is_loopback()));
    }
}

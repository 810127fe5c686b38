//! Lines of callbacks: what is told to the addresses that messages bring along (`callback_url`) stands in one of a few lines by
//! the address's host, so that a host that does not answer keeps those of the same tenant at other hosts waiting no more.

/// Lines of a tenant. Hosts share them by hash.
pub const CALLBACK_LINES: u8 = 32;

/// The line of an address, from 1; 0 for a message without one.
pub fn callback_line(url: Option<&str>) -> u8 {
    let Some(url) = url else { return 0 };
    // FNV-1a: the same for ever, since lines are stored.
    let hash = host(url).bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3)
    });
    // The low bits of it are the weakest.
    1 + ((hash >> 32) % u64::from(CALLBACK_LINES)) as u8
}

/// Host and port. The address was checked when it came.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_address_stands_in_the_line_of_its_host() {
        let line = |url| callback_line(Some(url));
        let same =
            ["https://Example.org/a", "https://example.org/b?x=1", "https://example.org", "http://example.org#x"];
        assert_eq!(same.map(line), [line("https://example.org/a"); 4]);
        assert_eq!(callback_line(None), 0);
        assert_eq!(line("https://example.org/"), 4, "stored: it stays");
    }

    #[test]
    fn hosts_are_spread_over_all_lines() {
        let lines: Vec<u8> =
            (0..3_200).map(|n| callback_line(Some(&format!("https://host{n}.example.org/")))).collect();
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), usize::from(CALLBACK_LINES));
        assert!(lines.iter().all(|line| (1..=CALLBACK_LINES).contains(line)));
        let most = (1..=CALLBACK_LINES).map(|line| lines.iter().filter(|one| **one == line).count()).max();
        assert!(most < Some(200), "{most:?} of 3200 in one of 32");
    }
}

//! Addresses in the four spellings the program needs.
//!
//! An IPv4 client on an IPv6 socket arrives as `::ffff:a.b.c.d`. [`fold`] turns that into plain
//! IPv4 once, at the edge; everything inside compares and counts folded addresses. On the way out
//! an address is written for people and for the handler ([`Printed`]), as keys of the access file
//! ([`access_key`]), and as a name under a DNS list or the reverse zone ([`reversed`]).
//! Pure: no I/O.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// How IPv4 addresses are written in the environment and in messages (`-ipv4`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv4Form {
    /// `::ffff:192.0.2.1`, as handlers written for the original expect.
    #[default]
    Mapped,
    /// `192.0.2.1`.
    Plain,
}

/// IPv4-mapped IPv6 addresses become IPv4; all others stay.
pub fn fold(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// [`fold`] for an address with its port. Scope and flow label of a mapped address are dropped.
pub fn fold_socket(address: SocketAddr) -> SocketAddr {
    match fold(address.ip()) {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// An address as handlers and messages show it. Expects a folded address.
#[derive(Clone, Copy, Debug)]
pub struct Printed(pub IpAddr, pub Ipv4Form);

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IpAddr::V4(ip) = self.0 else { return write!(f, "{}", self.0) };
        if self.1 == Ipv4Form::Mapped {
            f.write_str("::ffff:")?;
        }
        // In one piece: through the formatter each octet is a call, and every served connection has two addresses.
        let (mut text, mut length) = ([0; 16], 0);
        for octet in ip.octets() {
            for unit in [100, 10, 1] {
                if octet >= unit || unit == 1 {
                    text[length] = b'0' + octet / unit % 10;
                    length += 1;
                }
            }
            text[length] = b'.';
            length += 1;
        }
        f.write_str(std::str::from_utf8(&text[..length - 1]).unwrap_or_default())
    }
}

/// Number of parts (octets or 16-bit words) that keys of this address family can have.
pub fn key_parts(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 8,
    }
}

/// Writes the access-file key of the first `parts` octets or words of `ip` to `key`:
/// `192.0.2` for IPv4, `:2001:0db8` for IPv6 (words zero-padded, lower case).
pub fn access_key(ip: IpAddr, parts: usize, key: &mut String) {
    key.clear();
    // Writing to a String cannot fail, so the results carry nothing.
    match ip {
        IpAddr::V4(ip) => {
            for (i, octet) in ip.octets().iter().take(parts).enumerate() {
                let _ = write!(key, "{}{octet}", if i == 0 { "" } else { "." });
            }
        }
        IpAddr::V6(ip) => {
            for word in ip.segments().iter().take(parts) {
                let _ = write!(key, ":{word:04x}");
            }
        }
    }
}

/// The name of `ip` under `zone`: octets reversed for IPv4, nibbles reversed for IPv6
/// (RFC 5782, sections 2.1 and 2.4).
pub fn reversed(ip: IpAddr, zone: &str) -> String {
    let mut name = String::with_capacity(zone.len() + if ip.is_ipv4() { 16 } else { 64 });
    match ip {
        IpAddr::V4(ip) => {
            for octet in ip.octets().iter().rev() {
                let _ = write!(name, "{octet}.");
            }
        }
        IpAddr::V6(ip) => {
            for byte in ip.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", byte & 15, byte >> 4);
            }
        }
    }
    name.push_str(zone);
    name
}

/// The name whose PTR records name the host at `ip` (RFC 1035 section 3.5, RFC 3596 section 2.5).
pub fn reverse_zone_name(ip: IpAddr) -> String {
    reversed(ip, if ip.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" })
}

/// `ip` with all bits after the first `prefix` cleared. `prefix` beyond the address keeps it whole.
pub fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn mapped_addresses_fold_and_print_in_both_forms() {
        let folded = fold(ip("::ffff:192.0.2.1"));
        assert_eq!(folded, ip("192.0.2.1"));
        assert_eq!(Printed(folded, Ipv4Form::Mapped).to_string(), "::ffff:192.0.2.1");
        assert_eq!(Printed(folded, Ipv4Form::Plain).to_string(), "192.0.2.1");
        assert_eq!(Printed(ip("2001:db8::1"), Ipv4Form::Mapped).to_string(), "2001:db8::1");
        assert_eq!(fold(ip("::192.0.2.1")), ip("::192.0.2.1"));
    }

    #[test]
    fn every_octet_prints_as_the_standard_has_it() {
        for octet in 0..=255 {
            let ip = Ipv4Addr::new(octet, 255 - octet, octet / 2, octet);
            assert_eq!(Printed(ip.into(), Ipv4Form::Plain).to_string(), ip.to_string());
        }
    }

    #[test]
    fn access_keys_have_the_spelling_of_makedat() {
        for (address, parts, expected) in [
            ("192.0.2.1", 4, "192.0.2.1"),
            ("192.0.2.1", 1, "192"),
            ("10.0.0.7", 3, "10.0.0"),
            ("2001:db8::1", 8, ":2001:0db8:0000:0000:0000:0000:0000:0001"),
            ("2001:db8::1", 2, ":2001:0db8"),
            ("::1", 1, ":0000"),
        ] {
            let mut key = String::new();
            access_key(ip(address), parts, &mut key);
            assert_eq!(key, expected, "{address} {parts}");
        }
    }

    #[test]
    fn names_are_reversed_by_octet_and_by_nibble() {
        assert_eq!(reversed(ip("192.0.2.10"), "bl.example"), "10.2.0.192.bl.example");
        assert_eq!(
            reverse_zone_name(ip("2001:db8::1")),
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }

    #[test]
    fn networks_keep_the_first_bits() {
        for (address, prefix, expected) in [
            ("192.0.2.77", 24, "192.0.2.0"),
            ("192.0.2.77", 32, "192.0.2.77"),
            ("192.0.2.77", 0, "0.0.0.0"),
            ("2001:db8::1234", 120, "2001:db8::1200"),
            ("2001:db8:1:2:3::", 48, "2001:db8:1::"),
            ("2001:db8::1", 128, "2001:db8::1"),
            ("2001:db8::1", 0, "::"),
        ] {
            assert_eq!(network(ip(address), prefix), ip(expected), "{address}/{prefix}");
        }
    }
}

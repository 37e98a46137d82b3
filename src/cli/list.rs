//! LIST: which ports to listen on, and at which addresses.
//!
//! `PORT`, `ADDRESS.PORT`, `ADDRESS:PORT`, `[IPV6]:PORT`, and for sockets that the daemon is started
//! with `systemd` and `fd:N`, separated by commas. Port 0 is any that is free.

use std::net::IpAddr;
use std::os::fd::RawFd;

use super::values::{listen_address, number, shown, text};
use crate::config::{ListenSpec, PassedSockets};

/// The services database: the TCP port of a name.
pub(super) type Services<'a> = dyn Fn(&str) -> Option<u16> + 'a;

/// LIST: sockets to bind, and sockets that are there.
#[derive(Debug, Default)]
pub(super) struct List {
    pub listen: Vec<ListenSpec>,
    pub passed: PassedSockets,
}

impl List {
    /// True if the command line tells which ports it has.
    pub fn has_all_ports(&self) -> bool {
        self.passed == PassedSockets::default() && self.listen.iter().all(|spec| spec.port != 0)
    }
}

/// Reads LIST. `default` is `-address`, for entries that name no address, or `0`.
pub(super) fn parse(list: &[u8], default: Option<IpAddr>, services: &Services<'_>) -> Result<List, String> {
    let line = |why: String| format!("LIST '{}': {why}", shown(list));
    let mut read = List::default();
    for entry in text(list).map_err(line)?.split(',').filter(|entry| !entry.is_empty()) {
        match entry.strip_prefix("fd:") {
            _ if entry == "systemd" => read.passed.by_manager = true,
            Some(number) => read.passed.descriptors.push(descriptor(number).map_err(line)?),
            None => read.listen.push(parse_entry(entry, default, services).map_err(line)?),
        }
    }
    if read.listen.is_empty() && read.passed == PassedSockets::default() {
        return Err(line("no port in it".to_owned()));
    }
    Ok(read)
}

/// 1 and 2 are standard output and error.
fn descriptor(text: &str) -> Result<RawFd, String> {
    let number = number(text.as_bytes(), 0..=RawFd::MAX).ok().filter(|number| ![1, 2].contains(number));
    number.ok_or_else(|| format!("'{}' is no descriptor, 0 or a number from 3 on", shown(text.as_bytes())))
}

pub(super) fn parse_entry(entry: &str, default: Option<IpAddr>, services: &Services<'_>) -> Result<ListenSpec, String> {
    let (address, port) = split(entry)?;
    let address = match address {
        None => None,
        Some(address) => {
            listen_address(address.as_bytes()).map_err(|why| format!("'{}' is {why}", shown(address.as_bytes())))?
        }
    };
    Ok(ListenSpec { address: address.or(default), port: parse_port(port, services)?, text: entry.to_owned() })
}

/// Cuts an entry into its address, if it has one, and its port.
fn split(entry: &str) -> Result<(Option<&str>, &str), String> {
    if let Some(rest) = entry.strip_prefix('[') {
        return rest
            .split_once(']')
            .and_then(|(address, port)| Some((Some(address), port.strip_prefix(':')?)))
            .ok_or_else(|| format!("'{}' is not of the form [ADDRESS]:PORT", shown(entry.as_bytes())));
    }
    let Some(at) = entry.rfind(['.', ':']) else {
        return Ok((None, entry));
    };
    let (address, port) = (&entry[..at], &entry[at + 1..]);
    // The last colon of a bare IPv6 address may be its own: `::1:25` is an address as well.
    if entry[at..].starts_with(':') && address.contains(':') {
        return Err(format!(
            "'{}': an IPv6 address before a colon needs brackets, [ADDRESS]:PORT",
            shown(entry.as_bytes())
        ));
    }
    Ok((Some(address), port))
}

fn parse_port(port: &str, services: &Services<'_>) -> Result<u16, String> {
    if port.is_empty() {
        return Err("an entry has no port".to_owned());
    }
    if port.bytes().all(|b| b.is_ascii_digit()) {
        return port.parse().map_err(|_| format!("'{port}' is no port, a number from 0 to 65535"));
    }
    services(port).ok_or_else(|| format!("'{}' is neither a port nor a known service", shown(port.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(name: &str) -> Option<u16> {
        match name {
            "smtp" => Some(25),
            "imap-s" => Some(993),
            _ => None,
        }
    }

    #[test]
    fn entries_name_an_address_and_a_port() {
        const ANY: &str = "any";
        for (default, list, expected) in [
            (ANY, "25", &[(ANY, 25)][..]),
            (ANY, "025", &[(ANY, 25)]),
            (ANY, "0", &[(ANY, 0)]),
            (ANY, "127.0.0.1:0", &[("127.0.0.1", 0)]),
            (ANY, "smtp", &[(ANY, 25)]),
            (ANY, "imap-s,587", &[(ANY, 993), (ANY, 587)]),
            (ANY, ",25,,587,", &[(ANY, 25), (ANY, 587)]),
            (ANY, "25,587", &[(ANY, 25), (ANY, 587)]),
            (ANY, "127.0.0.1.25", &[("127.0.0.1", 25)]),
            (ANY, "127.0.0.1.smtp", &[("127.0.0.1", 25)]),
            (ANY, "127.0.0.1:25", &[("127.0.0.1", 25)]),
            (ANY, "::1.25", &[("::1", 25)]),
            (ANY, "[::1]:25", &[("::1", 25)]),
            (ANY, "[2001:db8::1]:smtp", &[("2001:db8::1", 25)]),
            (ANY, "::ffff:192.0.2.1.25", &[("192.0.2.1", 25)]),
            (ANY, "0.25", &[(ANY, 25)]),
            (ANY, "0:25", &[(ANY, 25)]),
            (ANY, "0.0.0.0.25", &[("0.0.0.0", 25)]),
            (ANY, "::.25", &[("::", 25)]),
            ("192.0.2.1", "25", &[("192.0.2.1", 25)]),
            ("192.0.2.1", "0.25", &[("192.0.2.1", 25)]),
            ("192.0.2.1", "0:25,::1.26", &[("192.0.2.1", 25), ("::1", 26)]),
        ] {
            let address = |text: &str| if text == ANY { None } else { Some(text.parse().unwrap()) };
            let List { listen: specs, passed } = parse(list.as_bytes(), address(default), &services).expect(list);
            assert_eq!(passed, PassedSockets::default());
            let got: Vec<_> = specs.iter().map(|spec| (spec.address, spec.port)).collect();
            let expected: Vec<_> = expected.iter().map(|&(text, port)| (address(text), port)).collect();
            assert_eq!(got, expected, "{list} with -address={default}");
        }
    }

    #[test]
    fn sockets_that_are_there_are_named() {
        for (list, by_manager, descriptors, ports, all) in [
            ("systemd", true, &[][..], &[][..], false),
            ("systemd,25", true, &[], &[25], false),
            ("fd:0", false, &[0], &[], false),
            ("fd:3,fd:17,25", false, &[3, 17], &[25], false),
            ("25,26", false, &[], &[25, 26], true),
            ("25,0", false, &[], &[25, 0], false),
        ] {
            let read = parse(list.as_bytes(), None, &services).expect(list);
            assert_eq!(read.passed, PassedSockets { by_manager, descriptors: descriptors.to_vec() }, "{list}");
            assert_eq!(read.listen.iter().map(|spec| spec.port).collect::<Vec<_>>(), ports, "{list}");
            assert_eq!(read.has_all_ports(), all, "{list}");
        }
    }

    #[test]
    fn entries_are_kept_as_written() {
        let specs = parse(b"smtp,[::1]:25", None, &services).unwrap().listen;
        assert_eq!(specs.iter().map(|spec| spec.text.as_str()).collect::<Vec<_>>(), ["smtp", "[::1]:25"]);
    }

    #[test]
    fn bad_lists_are_named() {
        for (list, why) in [
            (&b""[..], "no port in it"),
            (b",,", "no port in it"),
            (b"-1", "'-1' is neither"),
            (b"fd:", "'' is no descriptor"),
            (b"fd:1", "'1' is no descriptor"),
            (b"fd:2", "'2' is no descriptor"),
            (b"fd:x", "'x' is no descriptor"),
            (b"fd:2147483648", "is no descriptor"),
            (b"65536", "'65536' is no port"),
            (b"99999999999999999999", "is no port"),
            (b"bogus", "'bogus' is neither a port nor a known service"),
            (b"25x", "'25x' is neither"),
            (b"+25", "'+25' is neither"),
            (b"smtp,bogus", "'bogus' is neither"),
            (b"127.0.0.1.", "an entry has no port"),
            (b"localhost.25", "'localhost' is not an IP address"),
            (b"1.25", "'1' is not an IP address"),
            (b"::1:25", "needs brackets"),
            (b"[::1]", "not of the form [ADDRESS]:PORT"),
            (b"[::1]25", "not of the form [ADDRESS]:PORT"),
            (b"[::1:25", "not of the form [ADDRESS]:PORT"),
            (b"\xe9", "not valid UTF-8"),
            (b"a\nb", "'a\\nb' is neither"),
        ] {
            let error = parse(list, None, &services).expect_err(why);
            assert!(error.contains(why), "{error}");
            assert!(error.starts_with("LIST '") && !error.contains('\n'), "{error}");
        }
    }
}

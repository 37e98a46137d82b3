//! Readers for the values of options: bytes in, a value or the reason why not out.
//!
//! The reasons are the ends of lines; the caller puts option and value before them.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::net::if_::if_nametoindex;

use super::Explain;
use crate::addr;
use crate::config::{Facility, Level, NameSource, Prefix6};

/// Bytes of the command line as part of a one-line message.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

pub(super) fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

pub(super) fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(os(bytes))
}

/// Text that must be UTF-8, since it names something that is.
pub(super) fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "not valid UTF-8".to_owned())
}

/// Decimal digits alone: no sign, no blanks, nothing behind them.
pub(super) fn number<T>(bytes: &[u8], range: RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<u64> + PartialOrd + std::fmt::Display,
{
    digits(bytes)
        .and_then(|n| T::try_from(n).ok())
        .filter(|n| range.contains(n))
        .ok_or_else(|| format!("not a number from {} to {}", range.start(), range.end()))
}

/// Decimal digits as a number; one too large for 64 bits counts as the largest.
fn digits(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(bytes.iter().fold(0u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// `-warn`: none if it is a number, but one that no count of slots can be, which asks for the default.
pub(super) fn warning_level(bytes: &[u8]) -> Result<Option<u32>, String> {
    match bytes {
        [b'-', rest @ ..] if digits(rest).is_some() => Ok(None),
        _ => {
            let n = digits(bytes).ok_or("not a number")?;
            Ok(u32::try_from(n).ok())
        }
    }
}

/// An address to listen on; `0` stands for every address.
pub(super) fn listen_address(bytes: &[u8]) -> Result<Option<IpAddr>, String> {
    if bytes == b"0" {
        return Ok(None);
    }
    text(bytes)?.parse().map(|ip| Some(addr::fold(ip))).map_err(|_| "not an IP address".to_owned())
}

/// The variable of lists and of `-drop` that name none.
pub(super) const DEFAULT_VARIABLE: &[u8] = b"BLOCK";

/// `-drop`: names of variables, [`DEFAULT_VARIABLE`] if there is none.
pub(super) fn variables(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let names: Vec<_> = bytes.split(|&b| b == b',').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    if names.iter().any(|name| name.contains(&b'=')) {
        return Err("a variable's name has no =".to_owned());
    }
    Ok(if names.is_empty() { vec![DEFAULT_VARIABLE.to_vec()] } else { names })
}

/// `-nameserver`: `IP`, `IP:PORT` or `[IP]:PORT`, separated by commas; an IP may have an interface, `fe80::1%eth0`.
pub(super) fn nameservers(bytes: &[u8]) -> Result<Vec<SocketAddr>, String> {
    text(bytes)?.split(',').filter(|entry| !entry.is_empty()).map(nameserver).collect::<Result<Vec<_>, _>>().and_then(
        |servers| {
            // c-ares takes them for one.
            let place = |server: &SocketAddr| (server.ip(), server.port());
            let clash = |server: &&SocketAddr| servers.iter().any(|o| o != *server && place(o) == place(server));
            match servers.iter().find(clash) {
                Some(server) => Err(format!("{} on two interfaces", server.ip())),
                None if servers.is_empty() => Err("no address in it".to_owned()),
                None => Ok(servers),
            }
        },
    )
}

fn nameserver(entry: &str) -> Result<SocketAddr, String> {
    let wrong = |why: &str| format!("'{}'{why}", shown(entry.as_bytes()));
    let (plain, interface) = match entry.split_once('%') {
        None => (entry.to_owned(), None),
        // `fe80::1%eth0` or `[fe80::1%eth0]:53`
        Some((before, after)) => {
            let (interface, rest) = after.find(']').map_or((after, ""), |at| after.split_at(at));
            (format!("{before}{rest}"), Some(interface))
        }
    };
    let bare = || plain.parse::<IpAddr>().ok();
    let bracketed = || plain.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let address = match plain.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => return Err(wrong(": port 0")),
        Ok(address) => address,
        Err(_) => bare()
            .or_else(bracketed)
            .map(|ip| SocketAddr::new(ip, DNS_PORT))
            .ok_or_else(|| wrong(" is no IP, IP:PORT or [IP]:PORT"))?,
    };
    match (address, interface) {
        (SocketAddr::V6(v6), interface) if v6.ip().is_unicast_link_local() => {
            let interface = interface.ok_or_else(|| wrong(" needs its interface, as in fe80::1%eth0"))?;
            let number = interface.parse().ok().or_else(|| if_nametoindex(interface).ok());
            let number = number.filter(|&number| number != 0).ok_or_else(|| wrong(": no such interface"))?;
            Ok(SocketAddrV6::new(*v6.ip(), v6.port(), 0, number).into())
        }
        (address, None) => Ok(address),
        (_, Some(_)) => Err(wrong(": only fe80::/10 has an interface")),
    }
}

const DNS_PORT: u16 = 53;

/// `-explain`: `IP[:PORT][,LOCALIP:PORT]`.
pub(super) fn explain(bytes: &[u8]) -> Result<Explain, String> {
    let value = text(bytes)?;
    let (peer, local) = value.split_once(',').map_or((value, None), |(peer, local)| (peer, Some(local)));
    let wrong = |entry: &str, form| format!("'{}' is no {form}", shown(entry.as_bytes()));
    let ip = |entry: &str| {
        let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
        bare.parse::<IpAddr>().ok()
    };
    let peer = peer
        .parse()
        .ok()
        .or_else(|| Some(SocketAddr::new(ip(peer)?, 0)))
        .ok_or_else(|| wrong(peer, "IP, IP:PORT or [IP]:PORT"))?;
    let local = local.map(|entry| entry.parse().map_err(|_| wrong(entry, "IP:PORT or [IP]:PORT"))).transpose()?;
    Ok(Explain { peer: addr::fold_socket(peer), local: local.map(addr::fold_socket) })
}

/// `-prefix6`: `IP/BLOCK`.
pub(super) fn prefix6(bytes: &[u8]) -> Result<Prefix6, String> {
    let slash = bytes.iter().position(|&b| b == b'/').ok_or("not two prefix lengths, IP/BLOCK")?;
    let address = number(&bytes[..slash], 1..=128)?;
    let block = number(&bytes[slash + 1..], 1..=128)?;
    if block > address {
        return Err("the block is smaller than one address's share".to_owned());
    }
    Ok(Prefix6 { address, block })
}

/// `-resolver`: `dns`, `nss` or `nss:N`.
pub(super) fn name_source(bytes: &[u8]) -> Result<NameSource, String> {
    match bytes {
        b"dns" => Ok(NameSource::Dns),
        b"nss" => Ok(NameSource::Nss(DEFAULT_HELPERS)),
        [b'n', b's', b's', b':', n @ ..] => number(n, 1..=MAX_HELPERS).map(NameSource::Nss),
        _ => Err("not dns, nss or nss:N".to_owned()),
    }
}

const DEFAULT_HELPERS: usize = 4;
/// Each helper is a process; more than this is a slip of the finger.
const MAX_HELPERS: usize = 256;

/// One of two words.
pub(super) fn choice<T>(bytes: &[u8], choices: [(&str, T); 2]) -> Result<T, String> {
    let [a, b] = &choices;
    let neither = format!("not {} or {}", a.0, b.0);
    choices.into_iter().find(|(word, _)| word.as_bytes() == bytes).map(|(_, value)| value).ok_or(neither)
}

/// `-syslog`: the name of a facility; mail if there is none.
pub(super) fn facility(bytes: &[u8]) -> Result<Facility, String> {
    if bytes.is_empty() {
        return Ok(Facility::MAIL);
    }
    FACILITIES
        .iter()
        .find(|(name, _)| name.as_bytes() == bytes)
        .map(|&(_, code)| Facility(code))
        .ok_or_else(|| "not a syslog facility (mail, daemon, local0, ...)".to_owned())
}

/// The facilities that a local syslog knows, by the codes of RFC 5424 section 6.2.1. `kern` is the
/// kernel's alone: syslog(3) turns it into `user`.
const FACILITIES: [(&str, u8); 19] = [
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// `-loglevel`.
pub(super) fn level(bytes: &[u8]) -> Result<Level, String> {
    match bytes {
        b"debug" => Ok(Level::Debug),
        b"info" => Ok(Level::Info),
        b"notice" => Ok(Level::Notice),
        b"warning" => Ok(Level::Warning),
        b"err" => Ok(Level::Err),
        _ => Err("not debug, info, notice, warning or err".to_owned()),
    }
}

//! What an access rule can be about, and the notations for it.
//!
//! A [`Place`] is parsed from the left column of a source, and from the keys of a database. Every
//! set of addresses is a [`Span`] of one family; spans are cut into the [`Block`]s that prefix
//! lengths can name, and blocks into the keys that the daemon looks up. Pure.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::addr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// Bits of the part (octet or word) by which keys grow.
    pub fn part_bits(self) -> u8 {
        match self {
            Family::V4 => 8,
            Family::V6 => 16,
        }
    }

    pub fn last(self) -> u128 {
        u128::MAX >> (128 - self.bits())
    }

    pub fn ip(self, number: u128) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }

    pub fn of(ip: IpAddr) -> (Family, u128) {
        match ip {
            IpAddr::V4(ip) => (Family::V4, ip.to_bits().into()),
            IpAddr::V6(ip) => (Family::V6, ip.to_bits()),
        }
    }
}

/// All addresses from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub family: Family,
    pub first: u128,
    pub last: u128,
}

/// The addresses that share their first `prefix` bits. Sorted, a block comes before those in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    pub family: Family,
    pub first: u128,
    pub prefix: u8,
}

impl Block {
    fn host_bits(self) -> u128 {
        mask(self.family.bits() - self.prefix)
    }

    pub fn last(self) -> u128 {
        self.first | self.host_bits()
    }

    /// Parts of the keys that this block is looked up by.
    pub fn level(self) -> u8 {
        self.prefix.div_ceil(self.family.part_bits()).max(1)
    }

    /// Writes the one key of the block to `key`; None if it has none or several.
    pub fn key(self, key: &mut String) -> Option<()> {
        (self.keys() == 1).then(|| addr::access_key(self.family.ip(self.first), self.level().into(), key))
    }

    /// How many keys of its level it takes: one, if the block falls on a key boundary.
    pub fn keys(self) -> u64 {
        1 << (self.level() * self.family.part_bits() - self.prefix)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.family.ip(self.first);
        if self.prefix == self.family.bits() { write!(f, "{ip}") } else { write!(f, "{ip}/{}", self.prefix) }
    }
}

/// The lowest `bits` bits set.
fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shr(128 - u32::from(bits)).unwrap_or(0)
}

impl Span {
    fn block(family: Family, first: u128, prefix: u8) -> Self {
        let block = Block { family, first, prefix };
        Span { family, first, last: block.last() }
    }

    /// The fewest blocks that make up the span, in order.
    pub fn blocks(self) -> impl Iterator<Item = Block> {
        let mut next = Some(self.first);
        std::iter::from_fn(move || {
            let first = next?;
            let aligned = first.trailing_zeros().min(self.family.bits().into()) as u8;
            let fits = match (self.last - first).checked_add(1) {
                Some(size) => size.ilog2() as u8,
                None => 128,
            };
            let free = aligned.min(fits);
            let block = Block { family: self.family, first, prefix: self.family.bits() - free };
            next = block.last().checked_add(1).filter(|&next| next <= self.last);
            Some(block)
        })
    }
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Special {
    /// `*`
    Everybody,
    /// `*.PORT`: our own port (`-accesslocal`).
    Port(u16),
    /// `IP.PORT`: our own address and port (`-accesslocal`).
    Local(IpAddr, u16),
}

impl Special {
    /// Writes the key to `key`.
    pub fn key(self, key: &mut String) {
        key.clear();
        match self {
            Special::Everybody => key.push('*'),
            Special::Port(port) => *key = format!("*.{port}"),
            Special::Local(ip, port) => {
                addr::access_key(ip, addr::key_parts(ip), key);
                *key += &format!(".{port}");
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Special(Special),
    Span(Span),
}

/// All of `::ffff:0:0/96`: IPv4 addresses, which are looked up as such.
const MAPPED: Span = Span { family: Family::V6, first: 0xffff << 32, last: (0xffff << 32) | 0xffff_ffff };

impl Place {
    /// Reads the left column of a source. The error says what is wrong, without the text itself.
    pub fn parse(text: &str) -> Result<Place, String> {
        let place = match text {
            "*" => Place::Special(Special::Everybody),
            _ => {
                if let Some(port) = text.strip_prefix("*.") {
                    Place::Special(Special::Port(parse_port(port)?))
                } else if text.contains('/') {
                    Place::Span(parse_cidr(text)?)
                } else if text.contains('-') {
                    Place::Span(parse_range(text)?)
                } else if text.contains(':') {
                    parse_v6(text)?
                } else {
                    parse_v4(text)?
                }
            }
        };
        match place {
            Place::Span(span)
                if span.family == Family::V6 && MAPPED.first <= span.first && span.last <= MAPPED.last =>
            {
                let plain = Span { family: Family::V4, first: span.first & 0xffff_ffff, last: span.last & 0xffff_ffff };
                Err(format!("no lookup can reach this: IPv4 addresses are looked up as {}", Shown(plain)))
            }
            Place::Special(Special::Local(ip, port)) if addr::fold(ip) != ip => {
                Err(format!("no lookup can reach this: write {}.{port}", addr::fold(ip)))
            }
            place => Ok(place),
        }
    }
}

/// A span as an administrator would write it.
struct Shown(Span);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut blocks = self.0.blocks();
        match (blocks.next(), blocks.next()) {
            (Some(block), None) => write!(f, "{block}"),
            _ => write!(f, "{}-{}", self.0.family.ip(self.0.first), self.0.family.ip(self.0.last)),
        }
    }
}

const BAD_ADDRESS: &str = "bad address";

fn parse_port(text: &str) -> Result<u16, String> {
    match parse_decimal(text) {
        Ok(port @ 1..=65535) => Ok(port as u16),
        Ok(_) => Err("no such port".to_owned()),
        Err(text) => Err(format!("bad port: {text}")),
    }
}

/// Digits alone, as a key has them: no sign, no leading zero.
fn parse_decimal(text: &str) -> Result<u32, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a number".to_owned());
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err("no lookup can reach a number with a leading zero".to_owned());
    }
    text.parse().map_err(|_| "the number is too large".to_owned())
}

/// `a`, `a.b`, `a.b.c`: a prefix. Four octets: an address. Five numbers: an address and a port.
fn parse_v4(text: &str) -> Result<Place, String> {
    let mut number = 0_u128;
    let parts = text.split('.').count();
    if parts > 5 {
        return Err(BAD_ADDRESS.to_owned());
    }
    for part in text.split('.').take(4) {
        let octet = parse_decimal(part).map_err(|error| match error.as_str() {
            "not a number" => format!("{BAD_ADDRESS}: neither an address nor a block of them"),
            error => format!("{BAD_ADDRESS}: {error}"),
        })?;
        if octet > 255 {
            return Err(format!("{BAD_ADDRESS}: {octet} is more than 255"));
        }
        number = number << 8 | u128::from(octet);
    }
    if parts == 5 {
        let port = parse_port(text.rsplit('.').next().unwrap_or_default())?;
        return Ok(Place::Special(Special::Local(Family::V4.ip(number), port)));
    }
    let prefix = parts as u8 * 8;
    Ok(Place::Span(Span::block(Family::V4, number << (32 - prefix), prefix)))
}

/// A plain address, a key of padded words, and either with a port behind a dot.
fn parse_v6(text: &str) -> Result<Place, String> {
    if text.starts_with(':') && !text.starts_with("::") {
        return parse_words(text);
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Ok(Place::Span(Span::block(Family::V6, ip.to_bits(), 128)));
    }
    if let Some((Ok(ip), port)) = text.rsplit_once('.').map(|(ip, port)| (ip.parse::<Ipv6Addr>(), port)) {
        return Ok(Place::Special(Special::Local(ip.into(), parse_port(port)?)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Err(format!("{BAD_ADDRESS}: an address with a port is written {}.{}", address.ip(), address.port()));
    }
    Err(BAD_ADDRESS.to_owned())
}

/// `:2001:0db8`, as the daemon writes its keys.
fn parse_words(text: &str) -> Result<Place, String> {
    let (words, port) = match text.split_once('.') {
        Some((words, port)) => (words, Some(parse_port(port)?)),
        None => (text, None),
    };
    let mut number = 0_u128;
    let mut parts = 0;
    for word in words[1..].split(':') {
        let value = u16::from_str_radix(word, 16).map_err(|_| BAD_ADDRESS.to_owned())?;
        let expected = format!("{value:04x}");
        if word != expected {
            return Err(format!("no lookup can reach this: words have four lower-case digits ({expected} for {word})"));
        }
        parts += 1;
        if parts > 8 {
            return Err(format!("{BAD_ADDRESS}: more than eight words"));
        }
        number = number << 16 | u128::from(value);
    }
    match port {
        None => {
            let prefix = parts * 16;
            let first = number.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ok(Place::Span(Span::block(Family::V6, first, prefix)))
        }
        Some(port) if parts == 8 => Ok(Place::Special(Special::Local(Family::V6.ip(number), port))),
        Some(_) => Err("no lookup can reach this: only a whole address is looked up with its port".to_owned()),
    }
}

fn parse_cidr(text: &str) -> Result<Span, String> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let whole = match Place::parse_address(address)? {
        Place::Span(span) => span,
        Place::Special(_) => return Err(format!("{BAD_ADDRESS}: a block has no port")),
    };
    let most = whole.family.bits();
    let prefix = match parse_decimal(prefix) {
        Ok(prefix) if prefix <= u32::from(most) => prefix as u8,
        Ok(_) => return Err(format!("bad block: the prefix length is at most {most}")),
        Err(error) => return Err(format!("bad block: prefix length: {error}")),
    };
    let first = whole.first & !mask(most - prefix);
    if first != whole.first {
        let block = Block { family: whole.family, first, prefix };
        return Err(format!("host bits are set: the block is {block}"));
    }
    Ok(Span::block(whole.family, first, prefix))
}

fn parse_range(text: &str) -> Result<Span, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, ""));
    let end = |text: &str| match text.parse::<IpAddr>() {
        Ok(ip) => Ok(Family::of(ip)),
        Err(_) => Err(format!("{BAD_ADDRESS}: a range is two whole addresses with a - between")),
    };
    let ((family, first), (last_family, last)) = (end(first)?, end(last)?);
    if family != last_family {
        return Err("bad range: one end is IPv4, the other IPv6".to_owned());
    }
    if first > last {
        return Err("bad range: it ends before it begins".to_owned());
    }
    Ok(Span { family, first, last })
}

impl Place {
    fn parse_address(text: &str) -> Result<Place, String> {
        if text.contains(':') { parse_v6(text) } else { parse_v4(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> String {
        match Place::parse(text) {
            Ok(Place::Span(span)) => span.blocks().map(|b| b.to_string()).collect::<Vec<_>>().join(" "),
            Ok(Place::Special(special)) => format!("{special:?}"),
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn every_notation_is_read() {
        for (text, expected) in [
            ("*", "Everybody"),
            ("*.25", "Port(25)"),
            ("10", "10.0.0.0/8"),
            ("192.0.2", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1.25", "Local(192.0.2.1, 25)"),
            ("192.0.2.0/27", "192.0.2.0/27"),
            ("10/8", "10.0.0.0/8"),
            ("192.168/15", "192.168.0.0/15"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/33", "2001:db8::/33"),
            ("2001:DB8::1", "2001:db8::1"),
            ("::1", "::1"),
            (":2001:0db8", "2001:db8::/32"),
            (":2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
            (":2001:0db8:0000:0000:0000:0000:0000:0001.993", "Local(2001:db8::1, 993)"),
            ("2001:db8::1.993", "Local(2001:db8::1, 993)"),
            ("192.0.2.10-192.0.2.20", "192.0.2.10/31 192.0.2.12/30 192.0.2.16/30 192.0.2.20"),
            ("0.0.0.0-255.255.255.255", "0.0.0.0/0"),
            ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"),
            ("10.0.0.255-10.0.1.0", "10.0.0.255 10.0.1.0"),
            ("2001:db8::1-2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(span(text), expected, "{text}");
        }
    }

    #[test]
    fn what_names_no_address_or_cannot_be_reached_is_refused() {
        for (text, part) in [
            ("", "bad address"),
            ("10.", "bad address"),
            (".10", "bad address"),
            ("256", "more than 255"),
            ("10.0.0.1.25.3", "bad address"),
            ("host.example", "neither an address"),
            ("010.0.0.1", "no lookup can reach"),
            ("10.0.0.1.0", "no such port"),
            ("10.0.0.1.65536", "no such port"),
            ("*.", "bad port"),
            ("**", "bad address"),
            ("*.smtp", "bad port"),
            ("192.0.2.5/30", "the block is 192.0.2.4/30"),
            ("2001:db8::1/64", "the block is 2001:db8::/64"),
            ("192.0.2.0/33", "at most 32"),
            ("192.0.2.0/", "prefix length"),
            ("192.0.2.0/+8", "prefix length"),
            ("192.0.2.1.25/32", "has no port"),
            ("10.0.0.9-10.0.0.5", "ends before it begins"),
            ("10.0.0.1-::1", "one end is IPv4"),
            ("10.0-10.1", "two whole addresses"),
            ("::ffff:192.0.2.1", "looked up as 192.0.2.1"),
            ("::ffff:192.0.2.0/120", "looked up as 192.0.2.0/24"),
            (":0000:0000:0000:0000:0000:ffff:0a00:0001", "looked up as 10.0.0.1"),
            ("::ffff:192.0.2.1.25", "write 192.0.2.1.25"),
            (":2001:db8", "0db8 for db8"),
            (":2001:0DB8", "0db8 for 0DB8"),
            (":2001:0db8.25", "only a whole address"),
            (":1:2:3:4:5:6:7:8:9", "no lookup"),
            (":", "bad address"),
            ("[2001:db8::1]:25", "written 2001:db8::1.25"),
            ("2001:db8::g", "bad address"),
        ] {
            let got = span(text);
            assert!(got.starts_with("! ") && got.contains(part), "{text}: {got}");
        }
    }

    #[test]
    fn blocks_know_their_keys() {
        for (text, level, keys) in [
            ("0.0.0.0/0", 1, 256),
            ("10.0.0.0/8", 1, 1),
            ("10.0.0.0/9", 2, 128),
            ("192.0.2.1/32", 4, 1),
            ("::/0", 1, 65536),
            ("2001:db8::/33", 3, 32768),
            ("2001:db8::1/128", 8, 1),
        ] {
            let Ok(Place::Span(span)) = Place::parse(text) else { panic!("{text}") };
            let block = span.blocks().next().unwrap();
            assert_eq!((block.level(), block.keys()), (level, keys), "{text}");
        }
    }
}

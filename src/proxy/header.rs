//! The header of the PROXY protocol, versions 1 and 2: bytes in, what they say out.
//!
//! The text of the protocol is haproxy's `proxy-protocol.txt`. `proxy` shows the first bytes of a
//! connection as often as more have come; the answer is one of three, and a header that is bad is
//! so as soon as it shows. Pure, and the first thing that strangers' bytes meet: every length is
//! checked, nothing of the bytes gets into the reasons, and what goes to the environment is made
//! printable here.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::addr;
use crate::policy::session::Ends;

/// The longest header that is taken. Version 2 allows 65,551 bytes; a header must fit into the
/// kernel's buffer as a whole to be looked at, and real ones have less than a tenth of this.
pub const LONGEST: usize = 4096;

/// Version 1 with its line end.
const LONGEST_V1: usize = 107;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The fixed part of version 2: signature, version and command, family, length.
const FIXED: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// More has to come.
    Incomplete,
    /// No header, or a broken one; what is wrong with it.
    Bad(&'static str),
    Header(Header),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it has; the next one is the client's.
    pub length: usize,
    /// The client's two ends, folded. None: the proxy speaks for itself, or does not know; the
    /// real addresses count.
    pub ends: Option<Ends>,
    /// Variables for the handler, in printable ASCII.
    pub variables: Vec<(&'static str, Vec<u8>)>,
}

type Fault = &'static str;
type Outcome = Result<Option<Header>, Fault>;

/// Looks at the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> Parsed {
    let may_begin = |signature: &[u8]| bytes.iter().zip(signature).all(|(a, b)| a == b);
    let outcome = if may_begin(SIGNATURE_V2) {
        version_2(bytes)
    } else if may_begin(SIGNATURE_V1) {
        version_1(bytes)
    } else {
        Err("it does not begin as one")
    };
    match outcome {
        Ok(None) => Parsed::Incomplete,
        Ok(Some(header)) => Parsed::Header(header),
        Err(fault) => Parsed::Bad(fault),
    }
}

fn version_1(bytes: &[u8]) -> Outcome {
    let seen = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = seen.iter().position(|&b| b == b'\n') else {
        return if seen.len() < LONGEST_V1 { Ok(None) } else { Err("longer than version 1 may be") };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or("a line feed without a carriage return")?;
    let mut words = line.split(|&b| b == b' ').skip(1);
    let mut word = || words.next().ok_or("fields are missing");
    let ends = match word()? {
        // Whatever else the line has is to be ignored.
        b"UNKNOWN" => None,
        family @ (b"TCP4" | b"TCP6") => {
            let (source, destination) = (address(family, word()?)?, address(family, word()?)?);
            let ends = ends(source, port(word()?)?, destination, port(word()?)?);
            if words.next().is_some() {
                return Err("too many fields");
            }
            Some(ends)
        }
        _ => return Err("an unknown protocol"),
    };
    Ok(Some(Header { length: end + 1, ends, variables: Vec::new() }))
}

fn address(family: &[u8], text: &[u8]) -> Result<IpAddr, Fault> {
    let text = std::str::from_utf8(text).ok();
    let ip = match family {
        b"TCP4" => text.and_then(|text| text.parse::<Ipv4Addr>().ok()).map(IpAddr::V4),
        _ => text.and_then(|text| text.parse::<Ipv6Addr>().ok()).map(IpAddr::V6),
    };
    ip.ok_or("an address that is none")
}

/// Decimal, as short as can be: no sign, no zeros before it.
fn port(text: &[u8]) -> Result<u16, Fault> {
    let canonical = text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || !text.starts_with(b"0"));
    let number = std::str::from_utf8(text).ok().filter(|_| canonical).and_then(|text| text.parse().ok());
    number.ok_or("a port that is none")
}

fn ends(source: IpAddr, source_port: u16, destination: IpAddr, destination_port: u16) -> Ends {
    Ends {
        peer: SocketAddr::new(addr::fold(source), source_port),
        local: SocketAddr::new(addr::fold(destination), destination_port),
    }
}

fn version_2(bytes: &[u8]) -> Outcome {
    let Some(fixed) = bytes.get(..FIXED) else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if command >> 4 != 2 {
        return Err("an unknown version");
    }
    let is_local = match command & 15 {
        0 => true,
        1 => false,
        _ => return Err("an unknown command"),
    };
    // Datagrams and Unix sockets are valid, but say nothing about this connection.
    let addresses = match family {
        0x00 => None,
        0x11 | 0x12 => Some(12),
        0x21 | 0x22 => Some(36),
        0x31 | 0x32 => Some(216),
        _ if is_local => None,
        _ => return Err("an unknown protocol"),
    };
    if length > LONGEST {
        return Err("too long");
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    // With LOCAL, and where the family is not known, the rest means nothing.
    let Some(addresses) = addresses.filter(|_| !is_local) else {
        return Ok(Some(Header { length, ends: None, variables: Vec::new() }));
    };
    let body = &header[FIXED..];
    let (addresses, mut extensions) = body.split_at_checked(addresses).ok_or("too short for its addresses")?;
    let ends = match (family, addresses) {
        (0x11, &[a, b, c, d, e, f, g, h, ..]) => Some(ends(
            IpAddr::from([a, b, c, d]),
            number(addresses, 8),
            IpAddr::from([e, f, g, h]),
            number(addresses, 10),
        )),
        (0x21, _) => {
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&addresses[at..at + 16]);
                IpAddr::from(octets)
            };
            Some(ends(ip(0), number(addresses, 32), ip(16), number(addresses, 34)))
        }
        _ => None,
    };
    let mut variables = Vec::new();
    while let Some((kind, value, rest)) = extension(extensions)? {
        match kind {
            ALPN => variables.push(("PROXY_ALPN", printable(value))),
            AUTHORITY => variables.push(("PROXY_SNI", printable(value))),
            CHECKSUM => check(header, header.len() - rest.len() - value.len(), value)?,
            UNIQUE_ID if value.len() > LONGEST_ID => return Err("an identifier that is too long"),
            UNIQUE_ID => variables.push(("PROXY_UNIQUE_ID", printable(value))),
            TLS => variables.extend(tls(value)?.map(|version| ("PROXY_TLS", version))),
            _ => {}
        }
        extensions = rest;
    }
    Ok(Some(Header { length, ends, variables }))
}

// The extensions ("TLVs") that mean something here.
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CHECKSUM: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const TLS: u8 = 0x20;
/// Within [`TLS`].
const TLS_VERSION: u8 = 0x21;
/// The bit of [`TLS`] that says that the client came by TLS.
const CLIENT_TLS: u8 = 0x01;
const LONGEST_ID: usize = 128;

/// Two bytes in network order; `at` is within `bytes`.
fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Kind and value of the first extension, and what follows it.
fn extension(bytes: &[u8]) -> Result<Option<(u8, &[u8], &[u8])>, Fault> {
    match bytes {
        [] => Ok(None),
        &[kind, high, low, ref rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let (value, rest) = rest.split_at_checked(length).ok_or(OVERRUN)?;
            Ok(Some((kind, value, rest)))
        }
        _ => Err(OVERRUN),
    }
}

const OVERRUN: Fault = "an extension that goes beyond its end";

/// The TLS version that the client uses, or `yes` if the proxy does not name it. None: no TLS.
fn tls(value: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    // A byte of flags, four bytes on the client's certificate, then extensions.
    let &[flags, _, _, _, _, ref rest @ ..] = value else { return Err("a TLS extension that is too short") };
    let mut version = b"yes".to_vec();
    let mut extensions = rest;
    while let Some((kind, value, rest)) = extension(extensions)? {
        if kind == TLS_VERSION {
            version = printable(value);
        }
        extensions = rest;
    }
    Ok(Some(version).filter(|_| flags & CLIENT_TLS != 0))
}

/// Compares the checksum, whose value stands at `at`, with that of the header.
fn check(header: &[u8], at: usize, value: &[u8]) -> Result<(), Fault> {
    let value = <[u8; 4]>::try_from(value).map_err(|_| "a checksum of a wrong length")?;
    let zeroed = header.iter().enumerate().map(|(i, &byte)| if (at..at + 4).contains(&i) { 0 } else { byte });
    if crc32c(zeroed) == u32::from_be_bytes(value) { Ok(()) } else { Err("a wrong checksum") }
}

/// The Castagnoli checksum (RFC 3720 appendix B.4). Headers are short: a table would not pay.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// Everything but printable ASCII becomes a question mark.
fn printable(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|&byte| if matches!(byte, b' '..=b'~') { byte } else { b'?' }).collect()
}

#[cfg(test)]
mod tests;

//! The value of `-block` and `-allow`: `ZONE[=DISPLAY][,VAR][/A.B.C.D][,MESSAGE]`.
//!
//! The address may follow the zone directly; VAR is then the default, and what comes after the next
//! comma is MESSAGE already. MESSAGE goes on to the end, commas included.

use std::net::Ipv4Addr;

use super::values::{DEFAULT_VARIABLE, shown, text};
use crate::config::{ListKind, ListMessage};

/// One `-block` or `-allow`, its zone still by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListOption {
    pub kind: ListKind,
    pub zone: String,
    pub display: String,
    pub variable: Vec<u8>,
    pub expect: Option<Ipv4Addr>,
    pub message: ListMessage,
}

pub(super) fn parse(kind: ListKind, value: &[u8]) -> Result<ListOption, String> {
    let (names, mut rest) = cut(value, b",/");
    let mut names = names.split(|&b| b == b'=');
    let zone = names.next().unwrap_or_default();
    // Of several the last is what the reference shows.
    let display = names.next_back().filter(|display| !display.is_empty()).unwrap_or(zone);
    let mut variable = &b""[..];
    if let Some(after) = rest.strip_prefix(b",") {
        (variable, rest) = cut(after, b",/");
    }
    let mut expect = None;
    if let Some(after) = rest.strip_prefix(b"/") {
        let address;
        (address, rest) = cut(after, b",");
        expect = Some(parse_address(address)?);
    }
    if variable.contains(&b'=') {
        return Err(format!("'{}' is no name of a variable", shown(variable)));
    }
    Ok(ListOption {
        kind,
        zone: zone_name(zone)?.to_owned(),
        display: text(display).map_err(|why| format!("the name to show is {why}"))?.to_owned(),
        variable: if variable.is_empty() { DEFAULT_VARIABLE } else { variable }.to_vec(),
        expect,
        message: match rest.strip_prefix(b",") {
            None => ListMessage::Absent,
            Some(b"*") => ListMessage::Txt,
            Some(message) => ListMessage::Text(message.to_vec()),
        },
    })
}

/// Checks the name of a zone; a dot at its end is dropped.
pub(super) fn zone_name(zone: &[u8]) -> Result<&str, String> {
    let name = zone.strip_suffix(b".").unwrap_or(zone);
    let fits = |label: &[u8]| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.is_empty() {
        return Err("no zone given".to_owned());
    }
    if name.len() > MAX_ZONE || !name.split(|&b| b == b'.').all(fits) {
        return Err(format!("'{}' is no name of a DNS zone", shown(zone)));
    }
    text(name)
}

/// The longest label of a name (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
/// The longest name is 253 characters long, and an IPv6 address takes 64 of them.
const MAX_ZONE: usize = 253 - 64;

/// Splits before the first byte that is one of `ends`, or at the end.
fn cut<'a>(bytes: &'a [u8], ends: &[u8]) -> (&'a [u8], &'a [u8]) {
    bytes.split_at(bytes.iter().position(|b| ends.contains(b)).unwrap_or(bytes.len()))
}

fn parse_address(bytes: &[u8]) -> Result<Ipv4Addr, String> {
    text(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("'{}' after the slash is no IPv4 address", shown(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ZONE, DISPLAY, VAR, address ("" for none), MESSAGE, as read.
    type Row<'a> = (&'a str, &'a str, &'a str, &'a str, Option<&'a str>);

    #[test]
    fn lists_are_read_as_the_reference_reads_them() {
        let rows: [(&str, Row<'_>); 22] = [
            ("z.ex", ("z.ex", "z.ex", "BLOCK", "", None)),
            ("z.ex,VAR", ("z.ex", "z.ex", "VAR", "", None)),
            ("z.ex,VAR,m", ("z.ex", "z.ex", "VAR", "", Some("m"))),
            ("z.ex,VAR,", ("z.ex", "z.ex", "VAR", "", Some(""))),
            ("z.ex,VAR,*", ("z.ex", "z.ex", "VAR", "", Some("TXT"))),
            ("z.ex,VAR,*x", ("z.ex", "z.ex", "VAR", "", Some("*x"))),
            ("z.ex=d.ex,VAR,m", ("z.ex", "d.ex", "VAR", "", Some("m"))),
            ("z.ex=d.ex", ("z.ex", "d.ex", "BLOCK", "", None)),
            ("z.ex=a=b,VAR,m=1", ("z.ex", "b", "VAR", "", Some("m=1"))),
            ("z.ex=a b", ("z.ex", "a b", "BLOCK", "", None)),
            ("z.ex=d.ex,VAR/127.0.0.2,m", ("z.ex", "d.ex", "VAR", "127.0.0.2", Some("m"))),
            ("z.ex,VAR/127.0.0.2", ("z.ex", "z.ex", "VAR", "127.0.0.2", None)),
            ("z.ex,VAR/127.0.0.2,*", ("z.ex", "z.ex", "VAR", "127.0.0.2", Some("TXT"))),
            ("z.ex/127.0.0.2", ("z.ex", "z.ex", "BLOCK", "127.0.0.2", None)),
            ("z.ex/127.0.0.2,m", ("z.ex", "z.ex", "BLOCK", "127.0.0.2", Some("m"))),
            ("z.ex/127.0.0.2,VAR,m", ("z.ex", "z.ex", "BLOCK", "127.0.0.2", Some("VAR,m"))),
            ("z.ex=d.ex/127.0.0.2,VAR,m", ("z.ex", "d.ex", "BLOCK", "127.0.0.2", Some("VAR,m"))),
            ("z.ex=d,VAR,m1,m2,,m3", ("z.ex", "d", "VAR", "", Some("m1,m2,,m3"))),
            ("z.ex,VAR,see http://x.ex/@", ("z.ex", "z.ex", "VAR", "", Some("see http://x.ex/@"))),
            ("z.ex.,VAR,m", ("z.ex", "z.ex.", "VAR", "", Some("m"))),
            // The reference sets variables without a name here.
            ("z.ex,,m", ("z.ex", "z.ex", "BLOCK", "", Some("m"))),
            // And takes ",VAR" for the name to show here.
            ("z.ex=,VAR,m", ("z.ex", "z.ex", "VAR", "", Some("m"))),
        ];
        for (value, (zone, display, variable, expect, message)) in rows {
            let expected = ListOption {
                kind: ListKind::Block,
                zone: zone.to_owned(),
                display: display.to_owned(),
                variable: variable.as_bytes().to_vec(),
                expect: (!expect.is_empty()).then(|| expect.parse().unwrap()),
                message: match message {
                    None => ListMessage::Absent,
                    Some("TXT") => ListMessage::Txt,
                    Some(text) => ListMessage::Text(text.as_bytes().to_vec()),
                },
            };
            assert_eq!(parse(ListKind::Block, value.as_bytes()).as_ref(), Ok(&expected), "{value}");
        }
    }

    #[test]
    fn a_message_need_not_be_utf8() {
        let list = parse(ListKind::Allow, b"z.ex,V\xe9,gr\xfc\xdfe").unwrap();
        assert_eq!(list.kind, ListKind::Allow);
        assert_eq!(list.variable, b"V\xe9");
        assert_eq!(list.message, ListMessage::Text(b"gr\xfc\xdfe".to_vec()));
    }

    #[test]
    fn bad_lists_are_refused() {
        let long = [["a"; MAX_ZONE / 2 + 2].join("."), ",V".to_owned()].concat();
        for (value, why) in [
            (&b""[..], "no zone given"),
            (b".", "no zone given"),
            (b",VAR,m", "no zone given"),
            (b"=d,VAR", "no zone given"),
            (b"/127.0.0.2", "no zone given"),
            (b"z..ex", "'z..ex' is no name of a DNS zone"),
            (b"z ex", "'z ex' is no name of a DNS zone"),
            (b"z\xe9.ex", "is no name of a DNS zone"),
            (long.as_bytes(), "is no name of a DNS zone"),
            (b"z.ex,VA=R", "'VA=R' is no name of a variable"),
            (b"z.ex,VAR/", "'' after the slash is no IPv4 address"),
            (b"z.ex/xx,m", "'xx' after the slash is no IPv4 address"),
            (b"z.ex,VAR/127.0.0.2/3", "'127.0.0.2/3' after the slash"),
            (b"z.ex,VAR/::1", "'::1' after the slash"),
            (b"z.ex=\xe9", "the name to show is not valid UTF-8"),
        ] {
            let error = parse(ListKind::Block, value).expect_err(why);
            assert!(error.contains(why), "{}: {error}", shown(value));
        }
    }
}

//! From a question to the name that is sent, and which names may be sent and believed.
//!
//! Two different tests: [`can_be_asked`] keeps from c-ares what it would trip over; [`is_host_name`]
//! says what of a stranger's PTR record may become TCPREMOTEHOST. Pure.

#![forbid(unsafe_code)]

use crate::addr;
use crate::config::Zone;
use crate::policy::question::{Family, ListingKind, Question};

/// Longest name in its printed form, without the last dot (RFC 1035 section 3.1).
pub const MAX_NAME: usize = 253;
/// Longest label.
const MAX_LABEL: usize = 63;

/// The name to ask for `question`; none if it cannot be a name of the DNS.
pub fn of(question: &Question, zones: &[String]) -> Option<String> {
    let name = match question {
        Question::Names(ip) => addr::reverse_zone_name(*ip),
        Question::Addresses(name, _) => name.to_string(),
        Question::Listing { zone, ip, .. } => {
            let zone = zones.get(usize::from(*zone))?;
            addr::reversed(*ip, zone.strip_suffix('.').unwrap_or(zone))
        }
    };
    can_be_asked(&name).then_some(name)
}

/// A question as people write it: the type, and the name.
pub fn text(question: &Question, zones: &[Zone]) -> String {
    let zones: Vec<_> = zones.iter().map(|zone| zone.name.clone()).collect();
    let name = of(question, &zones).unwrap_or_else(|| "(no name of the DNS)".to_owned());
    let kind = match question {
        Question::Names(_) => "PTR",
        Question::Addresses(_, Family::V4) | Question::Listing { kind: ListingKind::A, .. } => "A",
        Question::Addresses(_, Family::V6) => "AAAA",
        Question::Listing { kind: ListingKind::Txt, .. } => "TXT",
    };
    format!("{kind} {name}")
}

/// True for names that c-ares puts on the wire as they are: labels of 1 to 63 printable characters,
/// 253 in all. A backslash would begin an escape there, a NUL end the name.
fn can_be_asked(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.split('.').all(|label| {
            (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        })
}

/// True for what may be a host's name. c-ares shows every other character of a name behind a
/// backslash or as `\ddd`, so these never look like one.
pub fn is_host_name(name: &str) -> bool {
    can_be_asked(name) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_become_names() {
        let zones = ["bl.example".to_owned(), "dot.example.".to_owned(), "a..b".to_owned()];
        let ip = "192.0.2.1".parse().unwrap();
        let listing = |zone| Question::Listing { zone, ip, kind: ListingKind::A };
        for (question, expected) in [
            (Question::Names(ip), Some("1.2.0.192.in-addr.arpa")),
            (Question::Addresses("mail.Example.org".into(), Family::V4), Some("mail.Example.org")),
            (Question::Addresses("".into(), Family::V4), None),
            (listing(0), Some("1.2.0.192.bl.example")),
            (listing(1), Some("1.2.0.192.dot.example")),
            (listing(2), None),
            (listing(3), None),
        ] {
            assert_eq!(of(&question, &zones).as_deref(), expected, "{question:?}");
        }
        let longest = Question::Names("2001:db8::1".parse().unwrap());
        assert_eq!(of(&longest, &zones).unwrap().len(), 72);
    }

    #[test]
    fn host_names_are_told_from_the_rest() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for (name, host, asked) in [
            ("mail.example.org", true, true),
            ("MAIL-1.example_x.org", true, true),
            ("192.0.2.1", true, true),
            ("a", true, true),
            ("", false, false),
            (".", false, false),
            ("a..b", false, false),
            ("a.b.", false, false),
            ("a b.org", false, false),
            ("a*b.org", false, true),
            ("a`b.org", false, true),
            ("a\\010b.org", false, false),
            ("a\\.b.org", false, false),
            ("a\0b", false, false),
            ("bücher.example", false, false),
            (&long_label, false, false),
            (&long_name, false, false),
            (&long_name[2..], true, true),
        ] {
            assert_eq!(is_host_name(name), host, "{name:?}");
            assert_eq!(can_be_asked(name), asked, "{name:?}");
        }
    }
}

//! What a reply of a name server says about the question it answers.
//!
//! c-ares has compared the reply's question with the query's; that is all it has checked. Here the
//! CNAME chain is followed from the question, by owner name: a record of any other owner does not
//! count, whoever slipped it in. Everything kept is bounded. Runs inside c-ares' callback, so it
//! takes plain values only and calls nobody. Pure.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use nix::errno::Errno;

use c_ares::{DnsCls, DnsFlags, DnsRcode, DnsRecord, DnsRecordType, DnsRr, DnsRrKey, DnsSection};

use super::name::is_host_name;
use crate::error::errno_text;
use crate::policy::question::{MAX_NAMES, MAX_TEXT, Records};
use crate::text::printable;

/// CNAMEs followed from one question; a longer chain is taken for a loop. Recursive servers stop
/// at 8 to 16 themselves.
const MAX_CHAIN: usize = 16;
/// A or AAAA records read from a reply. A zone that gives one name more addresses than this makes its
/// own hosts unconfirmed.
const MAX_ADDRESSES: usize = 1024;
/// Bounds of the time that an answer is kept, in seconds.
const TTL: std::ops::RangeInclusive<u32> = 10..=3600;
/// How long a failure is kept.
pub const FAILURE_TTL: u32 = 10;

/// A reply, or the lack of one, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Records, and for how many seconds they may be kept.
    Found(Found, u32),
    /// Definitely none, kept as the zone's SOA record says.
    Absent(u32),
    Failed(Failure),
}

/// As [`Records`], but fit to leave a callback that must be `Send`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Names(Vec<Box<str>>),
    Addresses(Vec<IpAddr>),
    Text(Box<[u8]>),
}

impl Found {
    pub fn into_records(self) -> Records {
        match self {
            Found::Names(names) => Records::Names(names.into_iter().map(Rc::from).collect()),
            Found::Addresses(addresses) => Records::Addresses(addresses),
            Found::Text(text) => Records::Text(text),
        }
    }
}

/// Why nobody knows: for messages, not for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No reply in time.
    TimedOut,
    /// Nothing listens at the name server's address, or no way leads there.
    Unreachable,
    /// The server could not find out.
    ServFail,
    Refused,
    /// Another error code.
    OtherCode,
    /// A reply that is no DNS message, to this query or to another on the same socket.
    Malformed,
    /// A reply that makes no sense: cut short over TCP, a loop of CNAMEs.
    Nonsense,
    /// The name cannot be asked for.
    BadName,
    /// No channel could be made for it.
    NoChannel,
    /// Silent for long enough that others took its place.
    GivenUp,
    NoMemory,
    /// This host has no descriptor, port or buffer for a socket.
    Shortage(Errno),
    /// Whatever else can happen to the query on our side.
    Local,
}

impl Failure {
    /// `errno` as the last system call of c-ares that failed has left it: c-ares tells of a socket that it
    /// could not open as it does of a server that does not listen.
    pub fn new(error: c_ares::Error, errno: Errno) -> Self {
        match Failure::from(error) {
            // Sending over a socket gives the second if it got no port when it was connected.
            Failure::Unreachable if is_shortage(errno) || errno == Errno::EDESTADDRREQ => Failure::Shortage(errno),
            failure => failure,
        }
    }

    /// True if no name server has had a chance to answer, by no fault of theirs.
    pub fn is_ours(self) -> bool {
        matches!(self, Failure::NoChannel | Failure::NoMemory | Failure::Shortage(_) | Failure::Local)
    }
}

/// True if this host has run out of something.
pub fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Shortage(Errno::EDESTADDRREQ) => "no port for a query",
            Failure::Shortage(errno) => return write!(f, "no socket for a query: {}", errno_text(&(*errno).into())),
            Failure::TimedOut => "no reply from a name server",
            Failure::Unreachable => "no name server can be reached",
            Failure::ServFail => "the name server could not find out (SERVFAIL)",
            Failure::Refused => "the name server refused to answer (REFUSED)",
            Failure::OtherCode => "the name server answered with an error code",
            Failure::Malformed => "a name server's reply is malformed",
            Failure::Nonsense => "the name server's reply makes no sense",
            Failure::BadName => "not a name that can be asked for",
            Failure::NoChannel => "the DNS client could not be set up",
            Failure::GivenUp => "no reply from a name server while many others waited",
            Failure::NoMemory => "no memory for a query",
            Failure::Local => "a query could not be made",
        })
    }
}

impl From<c_ares::Error> for Failure {
    fn from(error: c_ares::Error) -> Self {
        use c_ares::Error;
        match error {
            Error::ETIMEOUT => Failure::TimedOut,
            Error::ECONNREFUSED | Error::ENOSERVER | Error::EBADFAMILY => Failure::Unreachable,
            Error::ESERVFAIL => Failure::ServFail,
            Error::EREFUSED => Failure::Refused,
            Error::ENOTIMP | Error::EFORMERR => Failure::OtherCode,
            Error::EBADRESP => Failure::Malformed,
            Error::EBADNAME | Error::EBADQUERY | Error::EBADSTR => Failure::BadName,
            Error::ENOMEM => Failure::NoMemory,
            // Its channel is gone.
            Error::EDESTRUCTION => Failure::GivenUp,
            _ => Failure::Local,
        }
    }
}

/// Reads `reply`, as c-ares hands it over for a query of ours.
pub fn read(reply: &DnsRecord) -> Outcome {
    let Ok((name, wanted, _)) = reply.query_get(0) else {
        return Outcome::Failed(Failure::Nonsense);
    };
    let exists = match reply.rcode() {
        DnsRcode::NoError => true,
        // The code is about the end of the chain (RFC 6604), so records that a reply has besides
        // contradict it. The definite word wins.
        DnsRcode::NXDomain => false,
        DnsRcode::ServFail => return Outcome::Failed(Failure::ServFail),
        DnsRcode::Refused => return Outcome::Failed(Failure::Refused),
        _ => return Outcome::Failed(Failure::OtherCode),
    };
    // Over UDP, c-ares has asked again by TCP; there, nothing can have been cut off.
    if reply.flags().contains(DnsFlags::TC) {
        return Outcome::Failed(Failure::Nonsense);
    }
    let mut owner = name;
    let mut ttl = *TTL.end();
    for _ in 0..=MAX_CHAIN {
        let found = if exists { collect(reply, owner, wanted, &mut ttl) } else { None };
        if let Some(found) = found {
            return Outcome::Found(found, ttl.max(*TTL.start()));
        }
        let Some(alias) = answers(reply, owner, DnsRecordType::CNAME).next() else {
            return Outcome::Absent(negative_ttl(reply).min(ttl).max(*TTL.start()));
        };
        ttl = ttl.min(alias.ttl());
        let Some(target) = alias.get_str(DnsRrKey::CNAME_CNAME) else { break };
        owner = target;
    }
    Outcome::Failed(Failure::Nonsense)
}

/// The answer records of `owner` that have this type.
fn answers<'a>(reply: &'a DnsRecord, owner: &'a str, wanted: DnsRecordType) -> impl Iterator<Item = &'a DnsRr> {
    reply.rrs(DnsSection::Answer).filter(move |record| {
        record.rr_type() == wanted && record.dns_class() == DnsCls::IN && record.name().eq_ignore_ascii_case(owner)
    })
}

/// The records asked for at the end of the chain, if there are any; lowers `ttl` to theirs.
fn collect(reply: &DnsRecord, owner: &str, wanted: DnsRecordType, ttl: &mut u32) -> Option<Found> {
    let mut lowest = *ttl;
    let records = answers(reply, owner, wanted).inspect(|record| lowest = lowest.min(record.ttl()));
    let found = match wanted {
        DnsRecordType::PTR => Found::Names(records.take(MAX_NAMES).map(host_name).collect()),
        DnsRecordType::A => Found::Addresses(
            records.filter_map(|r| r.get_addr(DnsRrKey::A_ADDR)).map(IpAddr::V4).take(MAX_ADDRESSES).collect(),
        ),
        DnsRecordType::AAAA => Found::Addresses(
            records.filter_map(|r| r.get_addr6(DnsRrKey::AAAA_ADDR)).map(IpAddr::V6).take(MAX_ADDRESSES).collect(),
        ),
        DnsRecordType::TXT => Found::Text(records.take(1).map(text).next()?),
        _ => return None,
    };
    let none = match &found {
        Found::Names(names) => names.is_empty(),
        Found::Addresses(addresses) => addresses.is_empty(),
        Found::Text(_) => false,
    };
    *ttl = lowest;
    (!none).then_some(found)
}

/// The name in a PTR record; empty if no host can have it.
fn host_name(record: &DnsRr) -> Box<str> {
    let name = record.get_str(DnsRrKey::PTR_DNAME).unwrap_or_default();
    if is_host_name(name) { name.into() } else { "".into() }
}

/// The strings of a TXT record joined, fit for an environment variable.
fn text(record: &DnsRr) -> Box<[u8]> {
    let joined: Vec<u8> = record.abins(DnsRrKey::TXT_DATA).flatten().take(MAX_TEXT).copied().collect();
    printable(&joined).into()
}

/// How long "there is none" holds (RFC 2308 section 5): the lesser of the SOA record's own time and
/// its last field. Without SOA record: as short as possible.
fn negative_ttl(reply: &DnsRecord) -> u32 {
    reply
        .rrs(DnsSection::Authority)
        .find(|record| record.rr_type() == DnsRecordType::SOA)
        .map_or(0, |soa| soa.ttl().min(soa.get_u32(DnsRrKey::SOA_MINIMUM)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::dns::{self, A, AAAA, Message, PTR, Record, TXT};
    use super::*;
    use c_ares::DnsParseFlags;

    /// The reply to (`name`, `kind`) that the scripted server of the tests would send.
    fn reply(name: &str, kind: u16, message: Message) -> Outcome {
        let query = dns::query(7, name, kind);
        let wire = message.encode(&query).expect("this message is one that is sent");
        read(&DnsRecord::parse(&wire, DnsParseFlags::empty()).expect("well-formed"))
    }

    fn ips(ips: &[&str]) -> Found {
        Found::Addresses(ips.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    fn names(names: &[&str]) -> Found {
        Found::Names(names.iter().map(|&name| name.into()).collect())
    }

    #[test]
    fn a_socket_that_could_not_be_had_is_no_server_that_does_not_answer() {
        for (error, errno, expected, ours) in [
            (c_ares::Error::ECONNREFUSED, Errno::ECONNREFUSED, Failure::Unreachable, false),
            (c_ares::Error::ECONNREFUSED, Errno::EAGAIN, Failure::Unreachable, false),
            (c_ares::Error::ECONNREFUSED, Errno::ENETUNREACH, Failure::Unreachable, false),
            (c_ares::Error::ECONNREFUSED, Errno::EMFILE, Failure::Shortage(Errno::EMFILE), true),
            (c_ares::Error::ECONNREFUSED, Errno::ENFILE, Failure::Shortage(Errno::ENFILE), true),
            (c_ares::Error::ECONNREFUSED, Errno::ENOBUFS, Failure::Shortage(Errno::ENOBUFS), true),
            (c_ares::Error::ESERVFAIL, Errno::ENFILE, Failure::ServFail, false),
            (c_ares::Error::ETIMEOUT, Errno::ENFILE, Failure::TimedOut, false),
            (c_ares::Error::ENOMEM, Errno::ENOMEM, Failure::NoMemory, true),
        ] {
            let failure = Failure::new(error, errno);
            assert_eq!((failure, failure.is_ours()), (expected, ours), "{error} {errno}");
        }
        let text = Failure::Shortage(Errno::ENFILE).to_string();
        assert_eq!(text, "no socket for a query: Too many open files in system");
    }

    #[test]
    fn records_of_each_type_are_read() {
        let a = Message::new().record(Record::a("192.0.2.1").ttl(60)).record(Record::a("192.0.2.2").ttl(50));
        assert_eq!(reply("h.example", A, a.clone()), Outcome::Found(ips(&["192.0.2.1", "192.0.2.2"]), 50));
        assert_eq!(reply("h.example", AAAA, a), Outcome::Absent(10), "records of another type are not the answer");
        let aaaa = Message::new().record(Record::a("2001:db8::1"));
        assert_eq!(reply("h.example", AAAA, aaaa), Outcome::Found(ips(&["2001:db8::1"]), 300));
        let ptr = Message::new().record(Record::ptr("Mail.Example.ORG")).record(Record::ptr("b.example"));
        assert_eq!(
            reply("1.2.0.192.in-addr.arpa", PTR, ptr),
            Outcome::Found(names(&["Mail.Example.ORG", "b.example"]), 300)
        );
        let txt =
            Message::new().record(Record::txt(&[b"one ", b"two\r\n\x7f\xc2\x9b\x9b"])).record(Record::txt(&[b"other"]));
        assert_eq!(reply("h.example", TXT, txt), Outcome::Found(Found::Text((*b"one two?????").into()), 300));
    }

    #[test]
    fn the_chain_is_followed_by_owner_whatever_the_case() {
        let chain = Message::new()
            .record(Record::a("192.0.2.66").owner("stranger.example"))
            .record(Record::a("192.0.2.1").owner("END.example").ttl(100))
            .record(Record::cname("end.EXAMPLE").owner("middle.example").ttl(30))
            .record(Record::cname("Middle.example"));
        assert_eq!(reply("h.example", A, chain), Outcome::Found(ips(&["192.0.2.1"]), 30));
        let stranger = Message::new().record(Record::a("192.0.2.66").owner("stranger.example"));
        assert_eq!(reply("h.example", A, stranger), Outcome::Absent(10));
        let dangling = Message::new().record(Record::cname("gone.example")).authority(Record::soa(900).ttl(600));
        assert_eq!(reply("h.example", A, dangling), Outcome::Absent(300));
    }

    #[test]
    fn loops_and_long_chains_end() {
        let own = Message::new().record(Record::cname("h.example"));
        assert_eq!(reply("h.example", A, own), Outcome::Failed(Failure::Nonsense));
        let pair =
            Message::new().record(Record::cname("b.example")).record(Record::cname("h.example").owner("b.example"));
        assert_eq!(reply("h.example", A, pair), Outcome::Failed(Failure::Nonsense));
        let chain = |length: usize| {
            let mut message = Message::new();
            for n in 0..length {
                let owner = if n == 0 { "h.example".to_owned() } else { format!("c{n}.example") };
                message = message.record(Record::cname(&format!("c{}.example", n + 1)).owner(&owner));
            }
            message.record(Record::a("192.0.2.1").owner(&format!("c{length}.example")))
        };
        assert_eq!(reply("h.example", A, chain(16)), Outcome::Found(ips(&["192.0.2.1"]), 300));
        assert_eq!(reply("h.example", A, chain(17)), Outcome::Failed(Failure::Nonsense));
    }

    #[test]
    fn absence_is_kept_as_the_zone_says_within_bounds() {
        for (ttl, minimum, expected) in [(600, 300, 300), (120, 300, 120), (0, 0, 10), (90_000, 90_000, 3600)] {
            let message = Message::new().rcode(3).authority(Record::soa(minimum).ttl(ttl));
            assert_eq!(reply("h.example", A, message.clone()), Outcome::Absent(expected));
            assert_eq!(reply("h.example", A, message.rcode(0)), Outcome::Absent(expected));
        }
        assert_eq!(reply("h.example", A, Message::new().rcode(3)), Outcome::Absent(10));
        assert_eq!(reply("h.example", A, Message::new()), Outcome::Absent(10));
    }

    #[test]
    fn time_to_live_is_kept_within_bounds() {
        for (ttl, expected) in [(0, 10), (11, 11), (3601, 3600), (u32::MAX, 3600)] {
            let message = Message::new().record(Record::a("192.0.2.1").ttl(ttl));
            assert_eq!(reply("h.example", A, message), Outcome::Found(ips(&["192.0.2.1"]), expected), "{ttl}");
        }
    }

    #[test]
    fn contradictions_and_error_codes_have_a_defined_result() {
        let contradiction = Message::new().rcode(3).record(Record::a("192.0.2.1"));
        assert_eq!(reply("h.example", A, contradiction), Outcome::Absent(10));
        let alias = Message::new().rcode(3).record(Record::cname("gone.example").ttl(20)).authority(Record::soa(600));
        assert_eq!(reply("h.example", A, alias), Outcome::Absent(20));
        for (rcode, failure) in [
            (1, Failure::OtherCode),
            (2, Failure::ServFail),
            (4, Failure::OtherCode),
            (5, Failure::Refused),
            (9, Failure::OtherCode),
        ] {
            let message = Message::new().rcode(rcode).record(Record::a("192.0.2.1"));
            assert_eq!(reply("h.example", A, message), Outcome::Failed(failure), "{rcode}");
        }
        let cut = Message::new().record(Record::a("192.0.2.1")).flags(0x0200);
        assert_eq!(reply("h.example", A, cut), Outcome::Failed(Failure::Nonsense));
    }

    #[test]
    fn names_that_no_host_can_have_become_empty() {
        let mut message = Message::new();
        for target in [
            &b"a b.example"[..],
            b"x\nTCPREMOTEHOST=y.example",
            b"*.example",
            b"",
            b"\0.example",
            b"`id`.example",
            b"ok.example",
        ] {
            message = message.record(Record::ptr_bytes(target));
        }
        assert_eq!(
            reply("1.2.0.192.in-addr.arpa", PTR, message),
            Outcome::Found(names(&["", "", "", "", "", "", "ok.example"]), 300)
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut many = Message::new();
        for n in 0..3000u32 {
            many = many.record(Record::a(&IpAddr::from((n + 1).to_be_bytes()).to_string()));
        }
        let Outcome::Found(Found::Addresses(kept), 300) = reply("h.example", A, many) else { panic!("no addresses") };
        assert_eq!((kept.len(), kept[1023]), (1024, "0.0.4.0".parse().unwrap()));
        let mut many = Message::new();
        for n in 0..500 {
            many = many.record(Record::ptr(&format!("n{n}.example")));
        }
        let Outcome::Found(Found::Names(kept), 300) = reply("1.in-addr.arpa", PTR, many) else { panic!("no names") };
        assert_eq!((kept.len(), &*kept[63]), (64, "n63.example"));
        let long = Message::new().record(Record::txt(&[&[b'x'; 255], &[b'y'; 255], &[b'z'; 255]]));
        let Outcome::Found(Found::Text(kept), 300) = reply("h.example", TXT, long) else { panic!("no text") };
        assert_eq!((kept.len(), &kept[509..]), (512, &b"yzz"[..]));
    }

    #[test]
    fn records_of_another_class_do_not_count() {
        let chaos = Message::new().record(Record::a("192.0.2.1").class(3));
        assert_eq!(reply("h.example", A, chaos), Outcome::Absent(10));
    }
}

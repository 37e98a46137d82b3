//! What can be asked of the DNS, and what can come back.
//!
//! The policy rooms make [`Question`]s and take [`Answer`]s; the resolver shares, caches and sends
//! them. A question holds what is needed to make the name, not the name, since ten thousand
//! connections may wait for five of them each.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::rc::Rc;

/// One question. Equal questions are asked once, however many connections wait for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// The PTR records of an address.
    Names(IpAddr),
    /// The A or AAAA records of a name.
    Addresses(Rc<str>, Family),
    /// The A or TXT records that zone `zone` of `Config::zones` has for an address.
    Listing { zone: u16, ip: IpAddr, kind: ListingKind },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListingKind {
    A,
    Txt,
}

/// What the DNS said. "Absent" is its own definite word; "failed" means that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// At least one record of the type asked for, CNAMEs followed.
    Found(Rc<Records>),
    /// NXDOMAIN, or the name has no records of that type.
    Absent,
    /// SERVFAIL, REFUSED, no or no usable reply, no server.
    Failed,
}

/// The records of an answer, in the order of the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// PTR: at most [`MAX_NAMES`], as spelled in the DNS, without the last dot. A record that cannot be a host
    /// name has no place here but counts, so that "names exist, none fits" stays visible: it is the empty name.
    Names(Vec<Rc<str>>),
    /// A or AAAA.
    Addresses(Vec<IpAddr>),
    /// TXT: the first record, its strings joined, at most [`MAX_TEXT`] bytes, control characters as `?`.
    Text(Box<[u8]>),
}

/// PTR records looked at for one address.
pub const MAX_NAMES: usize = 64;
/// Bytes kept of a TXT record.
pub const MAX_TEXT: usize = 512;

/// What is known of a host's name once its lookup has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    /// A name that leads back to the address.
    Known(Rc<str>),
    /// The address definitely has no name.
    Absent,
    /// Nobody could tell for now.
    SoftError,
    /// There are names, and all of them lead elsewhere.
    Mismatch,
}

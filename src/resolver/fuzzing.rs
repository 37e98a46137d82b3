//! What fuzzers need of the private rooms here.

#![forbid(unsafe_code)]

use c_ares::{DnsParseFlags, DnsRecord};

use super::nss_helper::{Reply, Request, Said};
use crate::policy::question::HostName;

pub use super::name::is_host_name;
pub use super::reply::{Found, Outcome, read};

pub fn decode_helper_reply(packet: &[u8]) -> Option<(u32, HostName)> {
    match Said::decode(packet) {
        Said::Reply(reply) => Some((reply.number, reply.name)),
        Said::Unfit(_) | Said::Nonsense => None,
    }
}

pub fn encode_helper_reply(number: u32, name: HostName) -> Vec<u8> {
    Reply { number, name }.encode()
}

pub fn decode_helper_request(packet: &[u8]) -> Option<std::net::IpAddr> {
    Request::decode(packet).map(|request| request.ip)
}

/// What a name server's message says, if c-ares takes it for one.
pub fn read_message(wire: &[u8]) -> Option<Outcome> {
    DnsRecord::parse(wire, DnsParseFlags::empty()).ok().map(|reply| read(&reply))
}

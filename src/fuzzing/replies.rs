//! What ident servers and the helpers of the name service switch say, and what of it is shown.

#![forbid(unsafe_code)]

use super::{Input, is_printable};
use crate::ident::reply::{self, Ports, Reply};
use crate::log::{Escaped, Value};
use crate::policy::question::HostName;
use crate::resolver::fuzzing as resolver;

/// An ident server's bytes: the answer does not depend on how they arrive in pieces.
pub fn ident(data: &[u8]) {
    let ports = Ports { remote: 40000, local: 25 };
    let whole = reply::parse(data, ports);
    match &whole {
        Reply::User(user) => assert!(is_printable(user) && user.len() <= reply::MAX_LINE, "{user:?}"),
        Reply::Incomplete => assert!(data.len() < reply::MAX_READ && !data.contains(&b'\n')),
        Reply::Nobody => {}
    }
    let mut first = Reply::Incomplete;
    for end in 0..=data.len().min(reply::MAX_READ) {
        first = reply::parse(&data[..end], ports);
        if first != Reply::Incomplete {
            break;
        }
    }
    assert_eq!(first, whole);
}

/// A packet from a helper: it is believed only if it could have been sent.
pub fn helper(data: &[u8]) {
    if let Some((number, name)) = resolver::decode_helper_reply(data) {
        if let HostName::Known(name) = &name {
            assert!(resolver::is_host_name(name));
        }
        assert_eq!(resolver::encode_helper_reply(number, name), data);
    }
    resolver::decode_helper_request(data);
}

/// Text from outside in a line of the log: printable ASCII, bounded, and a value is one word.
pub fn escape(data: &[u8]) {
    let mut input = Input(data);
    let host = input.byte() & 1 == 1;
    let text = input.rest();
    let line = Escaped(text).to_string();
    assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)) && line.len() <= 4 * 255 + 3);
    let value = Value(host.then_some(text)).to_string();
    assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)));
    if value.starts_with('"') {
        assert_eq!(value.matches('"').count(), 2, "{value}");
        assert!(value.ends_with('"') && value.len() >= 2);
    } else {
        assert!(!value.contains([' ', '"', '=']), "{value}");
    }
}

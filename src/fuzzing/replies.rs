//! What ident servers, proxies, control clients and the helpers of the name service switch say, and what of it is shown.

#![forbid(unsafe_code)]

use super::{Input, is_printable};
use crate::addr::fold_socket;
use crate::control::{Request, client};
use crate::ident::reply::{self, Ports, Reply};
use crate::log::{Escaped, Value};
use crate::policy::question::HostName;
use crate::policy::session::Ends;
use crate::proxy::header::{self, LONGEST, Parsed};
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
    let line = data.iter().position(|&b| b == b'\n').map_or(data.len(), |end| end + 1);
    let decided = line.min(reply::MAX_READ);
    assert_eq!(reply::parse(&data[..decided], ports), whole);
    for end in [0, decided / 2, decided.saturating_sub(1)] {
        assert_eq!(reply::parse(&data[..end], ports), if end < decided { Reply::Incomplete } else { whole.clone() });
    }
}

/// The first bytes of a connection: a header is whole, incomplete or bad in the same way however it
/// arrives, and nothing of it that goes on is unprintable.
pub fn proxy(data: &[u8]) {
    let data = &data[..data.len().min(LONGEST)];
    let whole = header::parse(data);
    if let Parsed::Header(header) = &whole {
        assert!((1..=data.len()).contains(&header.length));
        for (name, value) in &header.variables {
            assert!(name.starts_with("PROXY_") && value.iter().all(|b| (b' '..=b'~').contains(b)), "{name}");
        }
        if let Some(ends) = &header.ends {
            assert_eq!(*ends, Ends { peer: fold_socket(ends.peer), local: fold_socket(ends.local) });
        }
    }
    for end in 0..data.len() {
        match header::parse(&data[..end]) {
            Parsed::Incomplete => {}
            early @ Parsed::Header(_) => {
                assert!(matches!(&early, Parsed::Header(header) if header.length == end));
                return assert_eq!(early, whole);
            }
            Parsed::Bad(_) => return assert!(matches!(whole, Parsed::Bad(_)), "{whole:?} after bad at {end}"),
        }
    }
}

/// A line to the control socket, and the daemon's answer to it as the verbs read it.
pub fn control(data: &[u8]) {
    let line = data.split(|&b| b == b'\n').next().unwrap_or_default();
    if let Some(request) = Request::parse(line) {
        let spelled = request.line();
        assert_eq!(Request::parse(spelled.trim_end().as_bytes()), Some(request));
    }
    match client::read_reply(data) {
        client::Reply::Answer(body) => assert!(data.ends_with(body)),
        client::Reply::Refused(why) => assert!(!why.contains(&b'\n')),
        client::Reply::Broken => {}
    }
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

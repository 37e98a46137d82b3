//! Reading the PROXY header off a connection, and nothing behind it.
//!
//! The header is looked at where it lies, in the kernel's buffer, and taken out when it is whole: the
//! next byte is the handler's. The reactor keeps the connections that wait for theirs, with
//! their deadlines, and calls [`read`] whenever something has come. Nothing here blocks: the
//! sockets do, so each call says that it must not.

#![forbid(unsafe_code)]

pub mod header;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::addr::{Ipv4Form, Printed};
use crate::config::Proxy;
use crate::policy::env::Delta;
use crate::policy::limits::Slot;
use crate::policy::session::Ends;
use header::{Header, LONGEST, Parsed};

/// A connection whose header has not come.
#[derive(Debug)]
pub struct Waiting {
    pub stream: TcpStream,
    /// The proxy, and where it connected to.
    pub real: Ends,
    /// None with `-maxpending`.
    pub slot: Option<Slot>,
    /// When it was accepted.
    pub since: Instant,
}

/// What became of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has not come, or not all of it.
    Incomplete,
    /// The connection is gone, or ended before a byte was sent, as checks of a proxy do.
    Gone,
    /// What is wrong with it.
    Bad(&'static str),
    /// Here it is, and off the connection.
    Header(Header),
}

/// Reads the header if all of it is there. `ended`: the other side will send no more.
pub fn read(stream: &TcpStream, ended: bool) -> Progress {
    let mut buffer = [0; LONGEST];
    let length = match receive(stream, &mut buffer, MsgFlags::MSG_PEEK) {
        Ok(0) => return Progress::Gone,
        Ok(length) => length,
        Err(Errno::EAGAIN) => return Progress::Incomplete,
        Err(_) => return Progress::Gone,
    };
    match header::parse(&buffer[..length]) {
        Parsed::Incomplete if ended => Progress::Bad("it ends too early"),
        Parsed::Incomplete => Progress::Incomplete,
        Parsed::Bad(why) => Progress::Bad(why),
        Parsed::Header(header) => match receive(stream, &mut buffer[..header.length], MsgFlags::empty()) {
            Ok(taken) if taken == header.length => Progress::Header(header),
            // It was there a moment ago, so this is an error of the connection.
            _ => Progress::Gone,
        },
    }
}

fn receive(stream: &TcpStream, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, Errno> {
    loop {
        match recv(stream.as_raw_fd(), buffer, flags | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// How long a connection that came to `local` may take for its header. None: it has none.
pub fn time_limit(proxy: &Proxy, local: SocketAddr) -> Option<Duration> {
    let fits = |wanted: Option<bool>| wanted.unwrap_or(true);
    // As an address to listen at, :: is both families'.
    let covers = |ip: IpAddr| ip == local.ip() || ip.is_unspecified() && (ip.is_ipv6() || local.is_ipv4());
    let rule = proxy
        .rules
        .iter()
        .find(|rule| fits(rule.port.map(|port| port == local.port())) && fits(rule.address.map(covers)));
    rule.map(|rule| rule.timeout)
}

/// Sets the variables that tell of the proxy. `real` are the two ends of its connection.
pub fn describe(real: &Ends, header: &Header, form: Ipv4Form, env: &mut Delta) {
    let mut set = |name: &str, value: &[u8]| env.set(name.as_bytes(), value);
    set("TCPPROXYIP", Printed(real.peer.ip(), form).to_string().as_bytes());
    set("TCPPROXYPORT", real.peer.port().to_string().as_bytes());
    if let Some(Ends { local, .. }) = header.ends {
        // In the place of ident's answer, as the original has it: it ends up in Received: headers.
        let text = format!("proxy via {}, port {}", Printed(local.ip(), form), local.port());
        set("TCPREMOTEINFO", text.as_bytes());
    }
    for (name, value) in &header.variables {
        set(name, value);
    }
}

/// What [`describe`] can set.
const VARIABLES: [&str; 7] =
    ["TCPPROXYIP", "TCPPROXYPORT", "TCPREMOTEINFO", "PROXY_TLS", "PROXY_SNI", "PROXY_ALPN", "PROXY_UNIQUE_ID"];

/// What [`describe`] has set in `env`.
pub fn variables(env: &Delta) -> Vec<(Vec<u8>, Vec<u8>)> {
    VARIABLES.iter().filter_map(|name| Some((name.as_bytes().to_vec(), env.get(name.as_bytes())?.to_vec()))).collect()
}

/// True if a header of `peer` is believed.
pub fn is_trusted(proxy: &Proxy, peer: SocketAddr) -> bool {
    proxy.from.is_empty() || proxy.from.iter().any(|network| network.contains(peer.ip()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};

    use super::*;
    use crate::config::{Network, ProxyRule};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// Reads until it comes to something. Loopback delivers before the send returns, but nobody promises it.
    fn settle(ours: &TcpStream, ended: bool) -> Progress {
        loop {
            match read(ours, ended) {
                Progress::Incomplete => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    #[test]
    fn the_header_is_taken_and_not_a_byte_more() {
        let (mut client, mut ours) = pair();
        assert_eq!(read(&ours, false), Progress::Incomplete);
        client.write_all(b"PROXY UNKNOWN\r").unwrap();
        assert_eq!(read(&ours, false), Progress::Incomplete);
        client.write_all(b"\nEHLO x\r\n").unwrap();
        assert!(matches!(settle(&ours, false), Progress::Header(Header { length: 15, .. })));
        client.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        ours.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "EHLO x\r\n");
    }

    #[test]
    fn an_end_before_the_end_is_told_from_one_at_the_beginning() {
        let (client, ours) = pair();
        drop(client);
        assert_eq!(settle(&ours, false), Progress::Gone);
        let (mut client, ours) = pair();
        client.write_all(b"PROXY TCP4 ").unwrap();
        drop(client);
        assert_eq!(settle(&ours, true), Progress::Bad("it ends too early"));
        let (mut client, ours) = pair();
        client.write_all(b"EHLO x\r\n").unwrap();
        assert!(matches!(settle(&ours, false), Progress::Bad(_)));
    }

    #[test]
    fn variables_tell_of_the_proxy() {
        let ends = |peer: &str, local: &str| Ends { peer: peer.parse().unwrap(), local: local.parse().unwrap() };
        let real = ends("192.0.2.9:4000", "192.0.2.1:25");
        let mut header = Header {
            length: 0,
            ends: Some(ends("198.51.100.1:1", "203.0.113.1:2525")),
            variables: vec![("PROXY_TLS", b"yes".to_vec())],
        };
        let got = |header: &Header, form| {
            let mut env = Delta::default();
            describe(&real, header, form, &mut env);
            let lines = env.iter().map(|(n, v)| [n, b"=", v].concat());
            lines.map(|line| String::from_utf8(line).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(
            got(&header, Ipv4Form::Mapped),
            [
                "TCPPROXYIP=::ffff:192.0.2.9",
                "TCPPROXYPORT=4000",
                "TCPREMOTEINFO=proxy via ::ffff:203.0.113.1, port 2525",
                "PROXY_TLS=yes"
            ]
        );
        header = Header { ends: None, variables: Vec::new(), ..header };
        assert_eq!(got(&header, Ipv4Form::Plain), ["TCPPROXYIP=192.0.2.9", "TCPPROXYPORT=4000"]);
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rule = |seconds, address: Option<&str>, port| ProxyRule {
            timeout: Duration::from_secs(seconds),
            address: address.map(|ip| ip.parse().unwrap()),
            port,
        };
        let mut proxy = Proxy {
            rules: vec![rule(1, Some("192.0.2.1"), Some(25)), rule(2, None, Some(25)), rule(3, None, Some(143))],
            from: Vec::new(),
        };
        for (local, expected) in [
            ("192.0.2.1:25", Some(1)),
            ("192.0.2.2:25", Some(2)),
            ("[2001:db8::1]:143", Some(3)),
            ("192.0.2.1:26", None),
        ] {
            assert_eq!(time_limit(&proxy, local.parse().unwrap()), expected.map(Duration::from_secs), "{local}");
        }
        proxy.rules.push(rule(4, None, None));
        assert_eq!(time_limit(&proxy, "192.0.2.1:26".parse().unwrap()), Some(Duration::from_secs(4)));
        for (place, local, expected) in [
            ("0.0.0.0", "192.0.2.1:25", true),
            ("0.0.0.0", "[2001:db8::1]:25", false),
            ("::", "192.0.2.1:25", true),
            ("::", "[2001:db8::1]:25", true),
            ("::", "[2001:db8::1]:26", false),
        ] {
            proxy.rules = vec![rule(5, Some(place), Some(25))];
            assert_eq!(time_limit(&proxy, local.parse().unwrap()).is_some(), expected, "{place} {local}");
        }
    }

    #[test]
    fn without_networks_everybody_is_trusted() {
        let mut proxy = Proxy { rules: Vec::new(), from: Vec::new() };
        let peer = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        assert!(is_trusted(&proxy, peer("203.0.113.1")));
        proxy.from = vec![
            Network { ip: "192.0.2.0".parse().unwrap(), prefix: 24 },
            Network { ip: "::1".parse().unwrap(), prefix: 128 },
        ];
        for (ip, expected) in [("192.0.2.255", true), ("192.0.3.0", false), ("::1", true), ("::2", false)] {
            assert_eq!(is_trusted(&proxy, peer(ip)), expected, "{ip}");
        }
    }
}

//! What name servers say: one message by itself, and messages on their way through c-ares' sockets.

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::{Input, is_printable};
use crate::policy::question::{Answer, Family, ListingKind, MAX_NAMES, MAX_TEXT, Question, Records};
use crate::resolver::fuzzing::{Found, Outcome, is_host_name, read_message};
use crate::resolver::{Resolver, Settings};
use crate::table::Key;

/// Turns of the loop in which something must happen, on loopback where nothing waits.
const PATIENCE: u32 = 4;

/// A message as c-ares reads it.
pub fn reply(data: &[u8]) {
    let Some(outcome) = read_message(data) else { return };
    match outcome {
        Outcome::Found(found, ttl) => {
            assert!((10..=3600).contains(&ttl));
            check(&found.into_records());
        }
        Outcome::Absent(ttl) => assert!((10..=3600).contains(&ttl)),
        Outcome::Failed(_) => {}
    }
    // The bounds hold for what leaves the callback, not just for what comes out in the end.
    if let Some(Outcome::Found(Found::Addresses(addresses), _)) = read_message(data) {
        assert!(addresses.len() <= 1024);
    }
}

fn check(records: &Records) {
    match records {
        Records::Names(names) => {
            assert!((1..=MAX_NAMES).contains(&names.len()));
            assert!(names.iter().all(|name| name.is_empty() || is_host_name(name)), "{names:?}");
        }
        Records::Addresses(addresses) => assert!(!addresses.is_empty()),
        Records::Text(text) => {
            assert!(text.len() <= MAX_TEXT && is_printable(text), "{text:?}");
        }
    }
}

/// The server's two sockets, of one port.
struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    fn new() -> Self {
        loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let address = udp.local_addr().expect("bound above");
            let Ok(tcp) = TcpListener::bind(address) else { continue };
            udp.set_nonblocking(true).expect("a socket");
            tcp.set_nonblocking(true).expect("a socket");
            return Server { udp, tcp };
        }
    }

    fn address(&self) -> SocketAddr {
        self.udp.local_addr().expect("bound at start")
    }
}

/// How the server answers.
struct Script<'a> {
    /// The question is repeated and the query's id used, so that c-ares looks at the rest.
    fitting: bool,
    /// By TCP the length is told right.
    framed: bool,
    head: [u8; 8],
    body: &'a [u8],
}

impl Script<'_> {
    fn message(&self, query: &[u8], tcp: bool) -> Vec<u8> {
        let mut message = query.get(..2).unwrap_or_default().to_vec();
        if !self.fitting {
            message.extend_from_slice(&self.head);
            message.extend_from_slice(self.body);
            return message;
        }
        let mut head = self.head;
        head[0] |= 0x80;
        if tcp {
            head[0] &= !2;
        }
        // Flags, one question as asked, the other counts, the question, the rest.
        message.extend_from_slice(&head[..2]);
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(&head[2..8]);
        message.extend_from_slice(query.get(12..).unwrap_or_default());
        message.extend_from_slice(self.body);
        message
    }

    fn framed(&self, query: &[u8]) -> Vec<u8> {
        let message = self.message(query, true);
        let length = if self.framed { message.len() as u16 } else { u16::from_be_bytes([self.head[6], self.head[7]]) };
        [&length.to_be_bytes()[..], &message].concat()
    }
}

fn token(key: Key) -> Token {
    Token((key.generation as usize) << 32 | key.index as usize)
}

/// One question, and whatever the server has to say to it, by UDP and TCP.
pub fn wire(data: &[u8]) {
    thread_local! {
        static SERVER: Server = Server::new();
    }
    let mut input = Input(data);
    let (v4, v6) =
        (IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
    let question = match input.byte() % 7 {
        0 => Question::Names(v4),
        1 => Question::Names(v6),
        2 => Question::Addresses("mail.example".into(), Family::V4),
        3 => Question::Addresses("mail.example".into(), Family::V6),
        4 => Question::Listing { zone: 0, ip: v4, kind: ListingKind::A },
        5 => Question::Listing { zone: 0, ip: v4, kind: ListingKind::Txt },
        _ => Question::Listing { zone: 0, ip: v6, kind: ListingKind::Txt },
    };
    let mode = input.byte();
    let head = std::array::from_fn(|_| input.byte());
    let script = Script { fitting: mode & 1 == 0, framed: mode & 2 == 0, head, body: input.rest() };
    SERVER.with(|server| exchange(server, &question, &script));
}

fn exchange(server: &Server, question: &Question, script: &Script) {
    let buffer = &mut [0; 4096];
    // What an earlier run left.
    while server.udp.recv_from(buffer).is_ok() || server.tcp.accept().is_ok() {}
    let mut poll = Poll::new().expect("an epoll descriptor");
    let mut events = Events::with_capacity(16);
    let settings = Settings {
        nameservers: vec![server.address()],
        resolv_conf: "/dev/null".to_owned(),
        cache_entries: 4,
        zones: Rc::from(["bl.example".to_owned()]),
    };
    let start = Instant::now();
    let mut resolver = Resolver::new(settings, poll.registry(), token, start).expect("a channel");
    let waiter = Key { index: 1, generation: 1 };
    assert_eq!(resolver.ask(question, waiter, start), None);
    let mut connection: Option<TcpStream> = None;
    let mut idle = 0;
    while idle < PATIENCE {
        idle += 1;
        let now = Instant::now();
        resolver.turn(now);
        if let Some(finished) = resolver.next_finished(now) {
            assert_eq!((&finished.question, finished.waiters.as_slice()), (question, &[waiter][..]));
            if let Answer::Found(records) = &finished.answer {
                check(records);
            }
            assert_eq!(finished.failure.is_some(), finished.answer == Answer::Failed);
            // It is kept, and nobody is told again.
            assert_eq!(resolver.ask(question, waiter, now), Some(finished.answer));
            return;
        }
        while let Ok((length, from)) = server.udp.recv_from(buffer) {
            let _ = server.udp.send_to(&script.message(&buffer[..length], false), from);
            idle = idle.min(1);
        }
        if let Ok((stream, _)) = server.tcp.accept() {
            stream.set_nonblocking(true).expect("a socket");
            connection = Some(stream);
            idle = 0;
        }
        if let Some(stream) = &mut connection {
            match stream.read(buffer) {
                Ok(length @ 2..) => {
                    let _ = stream.write(&script.framed(&buffer[2..length]));
                    idle = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => connection = None,
            }
        }
        poll.poll(&mut events, Some(Duration::ZERO)).expect("an epoll descriptor");
        for event in &events {
            let Token(token) = event.token();
            let key = Key { index: token as u32, generation: (token >> 32) as u32 };
            resolver.ready(key, event.is_readable(), event.is_writable());
        }
        // Queries that fail are repeated at once, a bounded number of times.
        if start.elapsed() > Duration::from_secs(1) {
            return;
        }
    }
}

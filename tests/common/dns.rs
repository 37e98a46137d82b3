//! A scripted name server for tests: says what it is told to, late, wrongly or not at all.
//!
//! It listens on one port by UDP and TCP, in threads of its own, and ends when dropped. What it
//! answers is looked up by name and type; a name that was not scripted does not exist. Every query
//! is noted, so that a test can say how many were sent. Nothing here knows the program under test.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
/// In a script: whatever type is asked for.
pub const ANY: u16 = 0;

/// A resource record. Its owner is the name asked for, unless told otherwise.
#[derive(Clone)]
pub struct Record {
    owner: Option<Vec<u8>>,
    kind: u16,
    class: u16,
    ttl: u32,
    data: Vec<u8>,
}

impl Record {
    pub fn raw(kind: u16, data: Vec<u8>) -> Self {
        Record { owner: None, kind, class: 1, ttl: 300, data }
    }

    /// A or AAAA, as the address is.
    pub fn a(ip: &str) -> Self {
        match ip.parse().expect("an address") {
            IpAddr::V4(ip) => Record::raw(A, Ipv4Addr::octets(&ip).to_vec()),
            IpAddr::V6(ip) => Record::raw(AAAA, Ipv6Addr::octets(&ip).to_vec()),
        }
    }

    pub fn ptr(target: &str) -> Self {
        Record::ptr_bytes(target.as_bytes())
    }

    /// A PTR record whose target has any bytes; dots separate labels.
    pub fn ptr_bytes(target: &[u8]) -> Self {
        Record::raw(PTR, name(target))
    }

    pub fn cname(target: &str) -> Self {
        Record::raw(CNAME, name(target.as_bytes()))
    }

    pub fn txt(strings: &[&[u8]]) -> Self {
        let mut data = Vec::new();
        for string in strings {
            data.push(u8::try_from(string.len()).expect("a TXT string has at most 255 bytes"));
            data.extend_from_slice(string);
        }
        Record::raw(TXT, data)
    }

    pub fn soa(minimum: u32) -> Self {
        let mut data = [name(b"ns.example"), name(b"root.example")].concat();
        for number in [1, 3600, 600, 86400, minimum] {
            data.extend_from_slice(&u32::to_be_bytes(number));
        }
        Record::raw(SOA, data)
    }

    pub fn owner(mut self, owner: &str) -> Self {
        self.owner = Some(name(owner.as_bytes()));
        self
    }

    pub fn ttl(mut self, ttl: u32) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn class(mut self, class: u16) -> Self {
        self.class = class;
        self
    }

    fn encode(&self, wire: &mut Vec<u8>) {
        match &self.owner {
            Some(owner) => wire.extend_from_slice(owner),
            // The name asked for begins at byte 12.
            None => wire.extend_from_slice(&[0xc0, 12]),
        }
        wire.extend_from_slice(&self.kind.to_be_bytes());
        wire.extend_from_slice(&self.class.to_be_bytes());
        wire.extend_from_slice(&self.ttl.to_be_bytes());
        wire.extend_from_slice(&u16::try_from(self.data.len()).expect("record data fits").to_be_bytes());
        wire.extend_from_slice(&self.data);
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Silent,
    WrongId,
    WrongQuestion,
    /// Over UDP: no records, and the TC bit. Over TCP: all of them.
    Truncated,
    /// A name that points at itself.
    PointerLoop,
    /// Ends in the middle of its records.
    CutShort,
    /// Over TCP: closes the connection instead. Over UDP as `Truncated`.
    TcpClosed,
    /// Over TCP: one byte a second. Over UDP as `Truncated`.
    TcpTrickle,
    /// Over TCP: says that more will come than does, and keeps the connection. Over UDP as `Truncated`.
    TcpUnfinished,
    /// Over TCP: filled up to 65,535 bytes with a record of a type that nobody knows. Over UDP as `Truncated`.
    TcpLargest,
    /// The same answer twice.
    Twice,
    /// Some answers with other ids come first.
    OtherIdsFirst,
}

/// What is answered to one question.
#[derive(Clone)]
pub struct Message {
    rcode: u8,
    flags: u16,
    answers: Vec<Record>,
    authority: Vec<Record>,
    delay: Duration,
    fault: Fault,
}

impl Default for Message {
    fn default() -> Self {
        Message::new()
    }
}

impl Message {
    /// NOERROR without records.
    pub fn new() -> Self {
        Message {
            rcode: 0,
            flags: 0,
            answers: Vec::new(),
            authority: Vec::new(),
            delay: Duration::ZERO,
            fault: Fault::None,
        }
    }

    pub fn rcode(mut self, rcode: u8) -> Self {
        self.rcode = rcode;
        self
    }

    /// More header bits, besides QR, RD and RA.
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    pub fn record(mut self, record: Record) -> Self {
        self.answers.push(record);
        self
    }

    pub fn authority(mut self, record: Record) -> Self {
        self.authority.push(record);
        self
    }

    pub fn late(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// The bytes sent over TCP in answer to `query`; none for silence.
    pub fn encode(&self, query: &Query) -> Option<Vec<u8>> {
        self.encode_for(query, true)
    }

    fn encode_for(&self, query: &Query, tcp: bool) -> Option<Vec<u8>> {
        let mut wire = Vec::new();
        let cut = !tcp
            && matches!(
                self.fault,
                Fault::Truncated | Fault::TcpClosed | Fault::TcpTrickle | Fault::TcpUnfinished | Fault::TcpLargest
            );
        let id = if self.fault == Fault::WrongId { query.id ^ 0x5555 } else { query.id };
        let flags = 0x8180 | self.flags | if cut { 0x0200 } else { 0 } | u16::from(self.rcode);
        let answers = if cut { &[][..] } else { &self.answers };
        let filled = tcp && self.fault == Fault::TcpLargest;
        for number in [id, flags, 1, answers.len() as u16, self.authority.len() as u16, u16::from(filled)] {
            wire.extend_from_slice(&number.to_be_bytes());
        }
        match self.fault {
            Fault::Silent => return None,
            Fault::TcpClosed if tcp => return None,
            Fault::WrongQuestion => wire.extend_from_slice(&name(b"wrong.example")),
            Fault::PointerLoop => wire.extend_from_slice(&[0xc0, 12]),
            _ => wire.extend_from_slice(&name(query.name.as_bytes())),
        }
        wire.extend_from_slice(&query.kind.to_be_bytes());
        wire.extend_from_slice(&1u16.to_be_bytes());
        for record in answers.iter().chain(&self.authority) {
            record.encode(&mut wire);
        }
        if filled {
            // The record itself takes 12 bytes.
            let room = usize::from(u16::MAX) - wire.len() - 12;
            Record::raw(65_280, vec![0; room]).encode(&mut wire);
        }
        if self.fault == Fault::CutShort {
            wire.truncate(wire.len() - 3);
        }
        Some(wire)
    }
}

/// A question as it came in, its name in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    pub name: String,
    pub kind: u16,
    pub tcp: bool,
}

/// A question as a client would send it, for tests without a server.
pub fn query(id: u16, name: &str, kind: u16) -> Query {
    Query { id, name: name.to_owned(), kind, tcp: true }
}

/// Labels with their lengths; dots separate them, and all other bytes are taken as they are.
fn name(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split(|&b| b == b'.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("a label is short"));
        wire.extend_from_slice(label);
    }
    wire.push(0);
    wire
}

fn decode(wire: &[u8], tcp: bool) -> Option<Query> {
    let id = u16::from_be_bytes([*wire.first()?, *wire.get(1)?]);
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*wire.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(wire.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*wire.get(at)?, *wire.get(at + 1)?]);
    Some(Query { id, name: labels.join("."), kind, tcp })
}

#[derive(Default)]
struct Script {
    /// By name in lower case and type.
    messages: HashMap<(String, u16), Message>,
    /// For what is not scripted; NXDOMAIN if none.
    otherwise: Option<Message>,
    asked: Vec<Query>,
    /// True if queries are not noted.
    deaf: bool,
}

impl Script {
    fn note(&mut self, query: &Query) {
        if !self.deaf {
            self.asked.push(query.clone());
        }
    }

    /// The most exact message scripted: the name itself, else `*.` and what follows its first
    /// label, its second, and so on; the type itself, else [`ANY`].
    fn find(&self, query: &Query) -> Message {
        let mut rest = query.name.as_str();
        let mut key = query.name.clone();
        loop {
            for kind in [query.kind, ANY] {
                if let Some(message) = self.messages.get(&(key.clone(), kind)) {
                    return message.clone();
                }
            }
            match rest.split_once('.') {
                Some((_, tail)) => rest = tail,
                None => return self.otherwise.clone().unwrap_or_else(|| Message::new().rcode(3)),
            }
            key = format!("*.{rest}");
        }
    }
}

/// The running server.
pub struct Dns {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Dns {
    /// Starts on a free port of 127.0.0.1.
    pub fn start() -> Dns {
        Dns::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub fn start_on(ip: IpAddr) -> Dns {
        for _ in 0..100 {
            let tcp = TcpListener::bind((ip, 0)).expect("a TCP port");
            let address = tcp.local_addr().expect("bound");
            // The UDP port of the same number may be somebody else's.
            if let Ok(udp) = UdpSocket::bind(address) {
                return Dns::serve(udp, tcp);
            }
        }
        panic!("no port is free for both UDP and TCP");
    }

    /// Serves sockets that the caller has bound, to the same port.
    pub fn serve(udp: UdpSocket, tcp: TcpListener) -> Dns {
        let address = udp.local_addr().expect("bound");
        let script = Arc::new(Mutex::new(Script::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = vec![
            thread::spawn({
                let (script, stop) = (script.clone(), stop.clone());
                move || serve_udp(&udp, &script, &stop)
            }),
            thread::spawn({
                let (script, stop) = (script.clone(), stop.clone());
                move || serve_tcp(&tcp, &script, &stop)
            }),
        ];
        Dns { address, script, stop, threads }
    }

    /// Scripts the answer to `name`; `*.zone` is every name below it that is not scripted itself.
    pub fn set(&self, name: &str, kind: u16, message: Message) -> &Self {
        self.script.lock().unwrap().messages.insert((name.to_ascii_lowercase(), kind), message);
        self
    }

    /// What to say of names that are not scripted, instead of NXDOMAIN.
    pub fn otherwise(&self, message: Message) -> &Self {
        self.script.lock().unwrap().otherwise = Some(message);
        self
    }

    /// The queries so far.
    pub fn asked(&self) -> Vec<Query> {
        self.script.lock().unwrap().asked.clone()
    }

    /// Notes no queries from now on, for tests that send very many.
    pub fn note_nothing(&self) -> &Self {
        self.script.lock().unwrap().deaf = true;
        self
    }

    /// How many queries for `name` and `kind` came so far.
    pub fn count(&self, name: &str, kind: u16) -> usize {
        self.script.lock().unwrap().asked.iter().filter(|q| q.name == name && (q.kind == kind || kind == ANY)).count()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Both threads wait for traffic; this is some. If it fails, they see `stop` at their next time-out.
        let _ = TcpStream::connect(self.address);
        let local = SocketAddr::new(self.address.ip(), 0);
        if let Ok(socket) = UdpSocket::bind(local) {
            let _ = socket.send_to(&[0], self.address);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A datagram that waits for its time; the earliest is the greatest.
struct Due(Instant, u64, Vec<u8>, SocketAddr);

impl Due {
    fn order(&self) -> (std::cmp::Reverse<Instant>, std::cmp::Reverse<u64>) {
        (std::cmp::Reverse(self.0), std::cmp::Reverse(self.1))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

fn serve_udp(socket: &UdpSocket, script: &Mutex<Script>, stop: &AtomicBool) {
    let mut late = BinaryHeap::new();
    let mut serial = 0;
    let mut buffer = [0; 1024];
    while !stop.load(Ordering::SeqCst) {
        let now = Instant::now();
        while late.peek().is_some_and(|Due(at, ..)| *at <= now) {
            let Some(Due(_, _, wire, client)) = late.pop() else { break };
            // A client that is gone does not matter.
            let _ = socket.send_to(&wire, client);
        }
        let wait = late.peek().map_or(Duration::from_secs(1), |Due(at, ..)| at.saturating_duration_since(now));
        socket.set_read_timeout(Some(wait.max(Duration::from_micros(100)))).expect("a time-out can be set");
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let Some(query) = decode(&buffer[..length], false) else { continue };
        let message = {
            let mut script = script.lock().unwrap();
            script.note(&query);
            script.find(&query)
        };
        let Some(wire) = message.encode_for(&query, false) else { continue };
        let mut wires = Vec::new();
        match message.fault {
            Fault::Twice => wires.push(wire.clone()),
            Fault::OtherIdsFirst => wires.extend((1..=20).map(|n| [&[wire[0] ^ n, wire[1]], &wire[2..]].concat())),
            _ => {}
        }
        wires.push(wire);
        for wire in wires {
            if message.delay.is_zero() {
                let _ = socket.send_to(&wire, client);
            } else {
                serial += 1;
                late.push(Due(Instant::now() + message.delay, serial, wire, client));
            }
        }
    }
}

fn serve_tcp(listener: &TcpListener, script: &Arc<Mutex<Script>>, stop: &Arc<AtomicBool>) {
    let mut clients = Vec::new();
    while let Ok((client, _)) = listener.accept() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let script = script.clone();
        let stop = stop.clone();
        clients.push(thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) && answer_tcp(&client, &script, &stop).is_ok() {}
        }));
    }
    for client in clients {
        let _ = client.join();
    }
}

/// Answers one query on a connection; an error ends it.
fn answer_tcp(mut client: &TcpStream, script: &Mutex<Script>, stop: &AtomicBool) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut length = [0; 2];
    match client.read(&mut length[..1]) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => client.read_exact(&mut length[1..])?,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(()),
        Err(error) => return Err(error),
    }
    let mut wire = vec![0; usize::from(u16::from_be_bytes(length))];
    client.read_exact(&mut wire)?;
    let Some(query) = decode(&wire, true) else { return Err(io::ErrorKind::InvalidData.into()) };
    let message = {
        let mut script = script.lock().unwrap();
        script.note(&query);
        script.find(&query)
    };
    if message.fault == Fault::TcpClosed {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    thread::sleep(message.delay);
    let Some(wire) = message.encode_for(&query, true) else { return Ok(()) };
    let length = u16::try_from(wire.len()).expect("a message has at most 65,535 bytes");
    let bytes = [&length.to_be_bytes()[..], &wire].concat();
    match message.fault {
        Fault::TcpTrickle => {
            for byte in bytes {
                if stop.load(Ordering::SeqCst) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                client.write_all(&[byte])?;
                thread::sleep(Duration::from_secs(1));
            }
            Ok(())
        }
        Fault::TcpUnfinished => client.write_all(&bytes[..bytes.len() / 2]),
        _ => client.write_all(&bytes),
    }
}

//! What the table's connections come from and go to: clients, a name server, an access file, and
//! a reactor with real sockets, all in this one process and thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use couriertcpd::accessdb::{AccessDb, Writer};
use couriertcpd::cli::{self, Action};
use couriertcpd::listener::Listeners;
use couriertcpd::policy::env::Base;
use couriertcpd::reactor::{Parts, Reactor};
use couriertcpd::signal::Signals;
use couriertcpd::spawn::Spawner;
use couriertcpd::stderr::Stderr;
use mio::Events;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
use nix::unistd::Pid;

use super::expected::{Asked, Limits, Rule, host_of};

/// Where the daemon and the name server listen.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// The daemon's loop, driven turn by turn with a clock of the test's.
pub struct Daemon {
    pub reactor: Reactor,
    pub address: SocketAddr,
    events: Events,
    start: Instant,
    pub now: Cell<Duration>,
    directory: PathBuf,
}

impl Daemon {
    pub fn start(limits: &Limits, server: SocketAddr) -> Daemon {
        let directory = std::env::temp_dir().join(format!("couriertcpd-model-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut options = vec![
            "-noidentlookup".to_owned(),
            "-dnscache=0".to_owned(),
            "-denymsg=554 no".to_owned(),
            "-block=bl.example,BLOCK,listed".to_owned(),
            "-drop".to_owned(),
            // What is logged here is wanted: hundreds of spawn failures.
            "-loglevel=err".to_owned(),
            format!("-stderr={}", directory.join("log").display()),
            format!("-access={}", directory.join("access").display()),
            format!("-nameserver={server}"),
            format!("-maxprocs={}", limits.slots),
            format!("-maxperip={}", limits.per_address),
            format!("-maxperc={}", limits.per_block),
            format!("-maxpending={}", limits.pending),
        ];
        options.extend(limits.proxy.then(|| "-haproxy=15".to_owned()));
        options.extend((!limits.names).then(|| "-nodnslookup".to_owned()));
        let handler = directory.join("handler");
        options.extend([format!("{LOCAL}.0"), handler.display().to_string(), "1000000".to_owned()]);
        let parsed = cli::parse(options.into_iter().map(OsString::from)).unwrap();
        let Action::Run(config) = parsed.action else { panic!("{:?}", parsed.action) };
        let mut daemon = Outside { directory: directory.clone() };
        daemon.write_rules(&HashMap::new());
        daemon.give_handler();
        let listeners = Listeners::bind(&config.listen, config.backlog).unwrap();
        let address = listeners.chosen()[0];
        let parts = Parts {
            base: Base::new(std::env::vars().filter(|(name, _)| name != "BLOCK" && name != "MAXCPERIP")),
            access: Some(AccessDb::open(directory.join("access")).unwrap()),
            spawner: Spawner::handler(&config.handler).unwrap(),
            stderr: Stderr::open(&config).unwrap(),
            signals: Signals::new().unwrap(),
            logger_starter: None,
            nss: None,
            manager: None,
            control: None,
            origin: None,
            handed: 0,
            listeners,
            config: *config,
        };
        let start = Instant::now();
        let mut reactor = Reactor::new(parts).unwrap();
        reactor.open_the_door(start);
        Daemon { reactor, address, events: Events::with_capacity(256), start, now: Cell::default(), directory }
    }

    /// One turn; true if it had an event.
    pub fn turn(&mut self, wait: Duration) -> bool {
        let now = self.start + self.now.get();
        self.reactor.turn(&mut self.events, Some(wait), || now) > 0
    }

    pub fn outside(&self) -> Outside {
        Outside { directory: self.directory.clone() }
    }
}

/// What an administrator does to the files.
pub struct Outside {
    directory: PathBuf,
}

impl Outside {
    fn handler(&self) -> PathBuf {
        self.directory.join("handler")
    }

    pub fn give_handler(&mut self) {
        symlink("/bin/sleep", self.handler()).unwrap();
    }

    pub fn take_handler_if_there(&mut self) {
        let _ = fs::remove_file(self.handler());
    }

    /// A new access file in the place of the old one.
    pub fn write_rules(&mut self, rules: &HashMap<Ipv4Addr, Rule>) {
        let new = self.directory.join("access.new");
        let mut writer = Writer::create(&new, 0o600).unwrap();
        for (ip, rule) in rules {
            let record = match rule {
                Rule::Deny => "deny".to_owned(),
                Rule::AtMost(most) => format!("allow,MAXCPERIP={most}"),
                Rule::Vouched => "allow,BLOCK=".to_owned(),
            };
            writer.insert(ip.to_string().as_bytes(), record.as_bytes()).unwrap();
        }
        writer.finish(&new).unwrap();
        fs::rename(&new, self.directory.join("access")).unwrap();
    }

    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub fn signal_daemon(signal: Signal) {
    kill(Pid::this(), signal).unwrap();
}

/// A client's end of a connection.
pub struct Client {
    stream: TcpStream,
}

impl Client {
    pub fn connect(from: Ipv4Addr, to: SocketAddr) -> Client {
        let SocketAddr::V4(to) = to else { panic!("{to}") };
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, sockopt::IpBindAddressNoPort, &true).unwrap();
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap();
        connect(fd.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
        Client::of(fd)
    }

    fn of(fd: OwnedFd) -> Client {
        let stream = TcpStream::from(fd);
        stream.set_nonblocking(true).unwrap();
        Client { stream }
    }

    pub fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Whether the other side is still there or not, it is sent.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write(bytes);
    }

    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// All that has come; none: the connection is over.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        match self.stream.read_to_end(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(text),
            Ok(_) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub fn reset(self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &linger).unwrap();
    }
}

/// A name server that answers when it is told to.
pub struct Server {
    socket: UdpSocket,
    /// What was asked and not answered, with the query and whom to answer.
    held: HashMap<Asked, Vec<(Vec<u8>, SocketAddr)>>,
}

impl Server {
    pub fn start() -> Server {
        let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Server { socket, held: HashMap::new() }
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Takes the queries that have come; true if there were any.
    pub fn take(&mut self) -> bool {
        let mut any = false;
        let mut buffer = [0; 512];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let query = buffer[..length].to_vec();
            self.held.entry(asked(&query)).or_default().push((query, from));
            any = true;
        }
        any
    }

    /// Answers every query for this: with a record, or that there is none.
    pub fn answer(&mut self, question: &Asked, records: bool) {
        for (query, from) in self.held.remove(question).unwrap_or_default() {
            let mut reply = query.clone();
            let rcode = if records { 0 } else { 3 };
            reply[2..4].copy_from_slice(&[0x81, 0x80 | rcode]);
            reply[6..8].copy_from_slice(&[0, u8::from(records)]);
            if records {
                let data = match question {
                    (name, super::expected::PTR) => name_of(&reverse(name)),
                    (name, _) if name.ends_with(".bl.example") => vec![127, 0, 0, 2],
                    // The host of another address, so that none leads back.
                    _ => vec![203, 0, 113, 1],
                };
                reply.extend_from_slice(&[0xc0, 12, 0, question.1 as u8, 0, 1, 0, 0, 1, 0, 0, data.len() as u8]);
                reply.extend_from_slice(&data);
            }
            // A socket of c-ares that is closed by now refuses; it wanted no answer any more.
            let _ = self.socket.send_to(&reply, from);
        }
    }

    pub fn holds(&self, question: &Asked) -> bool {
        self.held.contains_key(question)
    }

    /// Nothing that was asked exists.
    pub fn answer_all(&mut self) {
        for question in self.held.keys().cloned().collect::<Vec<_>>() {
            self.answer(&question, false);
        }
    }
}

fn reverse(name: &str) -> String {
    let parts: Vec<u8> = name.split('.').take(4).filter_map(|part| part.parse().ok()).collect();
    host_of(Ipv4Addr::new(parts[3], parts[2], parts[1], parts[0]))
}

fn name_of(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn asked(query: &[u8]) -> Asked {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..at + 1 + length].to_ascii_lowercase()).unwrap());
        at += 1 + length;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]))
}

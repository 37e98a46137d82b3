//! The load generator: many clients at once, in one thread.
//!
//! Closed loop: as soon as one client has ended, the next one connects. A client is done when the server has closed
//! the connection; it has succeeded if what came is what was expected.

use std::ffi::c_int;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where clients come from.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// All from this address.
    One(Ipv4Addr),
    /// Each from an address that was never used before.
    Fresh,
}

/// What a client must see.
#[derive(Debug, Clone, Copy)]
pub enum Expect {
    /// A line that begins like this.
    Line(&'static [u8]),
    /// The end, without a byte.
    Nothing,
}

/// When it is over.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    Clients(u64),
    Time(Duration),
}

#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub port: u16,
    pub at_once: usize,
    pub from: From,
    pub expect: Expect,
    pub until: Until,
    /// Sent by each client as soon as it is connected.
    pub send: &'static [u8],
}

#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub done: u64,
    pub failed: u64,
    pub seconds: f64,
    /// Milliseconds from connect to the first byte, or the end, for each client that succeeded.
    pub latencies: Vec<f64>,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.seconds
    }

    pub fn latency(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// 127.64.0.0 and on: four million addresses, each used once in a run.
pub fn fresh() -> Ipv4Addr {
    Ipv4Addr::from(0x7f40_0000 + NEXT.fetch_add(1, Ordering::Relaxed) % 0x40_0000)
}

fn address(ip: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
        sin_zero: [0; 8],
    }
}

/// A client's socket, connected or on the way.
pub fn connect(from: Ipv4Addr, port: u16) -> io::Result<Socket> {
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: three integers.
    let socket = Socket(check(unsafe { libc::socket(libc::AF_INET, flags, 0) })?);
    let one: c_int = 1;
    let option = libc::IP_BIND_ADDRESS_NO_PORT;
    // SAFETY: an int that lives through the call. The port is chosen by connect, which knows both ends.
    unsafe { libc::setsockopt(socket.0, libc::IPPROTO_IP, option, (&raw const one).cast(), 4) };
    let local = address(from, 0);
    // SAFETY: an address and its length.
    check(unsafe { libc::bind(socket.0, (&raw const local).cast(), length) })?;
    let remote = address(Ipv4Addr::LOCALHOST, port);
    // SAFETY: an address and its length.
    match check(unsafe { libc::connect(socket.0, (&raw const remote).cast(), length) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// A descriptor, closed on drop.
#[derive(Debug)]
pub struct Socket(pub c_int);

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: a descriptor of our own, closed once.
        unsafe { libc::close(self.0) };
    }
}

impl Socket {
    /// What has come, into `buffer`; WouldBlock if nothing has.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: a buffer and its length.
        let length = unsafe { libc::recv(self.0, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

struct Client {
    socket: Socket,
    since: Instant,
    first: Option<f64>,
    good: bool,
}

struct Run<'a> {
    load: &'a Load,
    epoll: Socket,
    clients: Vec<Option<Client>>,
    open: usize,
    started: u64,
    begin: Instant,
    outcome: Outcome,
}

impl Run<'_> {
    fn wants_more(&self) -> bool {
        match self.load.until {
            Until::Clients(count) => self.started < count,
            Until::Time(time) => self.begin.elapsed() < time,
        }
    }

    fn start(&mut self, place: usize) {
        if !self.wants_more() {
            return;
        }
        self.started += 1;
        let from = match self.load.from {
            From::One(address) => address,
            From::Fresh => fresh(),
        };
        let since = Instant::now();
        let Ok(socket) = connect(from, self.load.port) else {
            self.outcome.failed += 1;
            return;
        };
        if !self.load.send.is_empty() {
            let bytes = self.load.send;
            // SAFETY: a buffer and its length. Over the loopback the handshake is over by now.
            unsafe { libc::send(socket.0, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        }
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLRDHUP) as u32, u64: place as u64 };
        // SAFETY: two descriptors and an event that lives through the call.
        unsafe { libc::epoll_ctl(self.epoll.0, libc::EPOLL_CTL_ADD, socket.0, &mut event) };
        self.open += 1;
        self.clients[place] = Some(Client { socket, since, first: None, good: false });
    }

    fn step(&mut self, place: usize) {
        let Some(client) = &mut self.clients[place] else { return };
        let mut buffer = [0; 512];
        let ended = loop {
            match client.socket.read(&mut buffer) {
                Ok(0) => {
                    client.good |= client.first.is_none() && matches!(self.load.expect, Expect::Nothing);
                    break true;
                }
                Ok(length) => {
                    if client.first.is_none() {
                        client.first = Some(client.since.elapsed().as_secs_f64() * 1e3);
                        client.good =
                            matches!(self.load.expect, Expect::Line(line) if buffer[..length].starts_with(line));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(_) => {
                    // A reset: whatever came before it does not count, as a client's library may drop it.
                    client.good = false;
                    break true;
                }
            }
        };
        if ended {
            if client.good {
                self.outcome.done += 1;
                let latency = client.first.unwrap_or_else(|| client.since.elapsed().as_secs_f64() * 1e3);
                self.outcome.latencies.push(latency);
            } else {
                self.outcome.failed += 1;
            }
            self.clients[place] = None;
            self.open -= 1;
            self.start(place);
        }
    }
}

/// Runs the load to its end; gives up clients that nothing happens to for `patience`.
pub fn run(load: &Load, patience: Duration) -> Outcome {
    // SAFETY: one integer.
    let epoll = Socket(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
    let clients = (0..load.at_once).map(|_| None).collect();
    let mut run = Run { load, epoll, clients, open: 0, started: 0, begin: Instant::now(), outcome: Outcome::default() };
    for place in 0..load.at_once {
        run.start(place);
    }
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    loop {
        if run.open == 0 && !run.wants_more() {
            break;
        }
        let timeout = patience.as_millis() as c_int;
        // SAFETY: a buffer of 256 events.
        let count = unsafe { libc::epoll_wait(run.epoll.0, events.as_mut_ptr(), 256, timeout) };
        if count <= 0 {
            run.outcome.failed += run.open as u64;
            break;
        }
        for event in &events[..count as usize] {
            run.step(event.u64 as usize);
        }
        // A connection that could not be made leaves its place empty.
        for place in 0..load.at_once {
            if run.open == load.at_once || !run.wants_more() {
                break;
            }
            if run.clients[place].is_none() {
                run.start(place);
            }
        }
    }
    run.outcome.seconds = run.begin.elapsed().as_secs_f64();
    run.outcome
}

/// Opens `count` connections and keeps them; if `served`, each must have got its line.
pub fn hold(port: u16, count: usize, from: From, served: bool, patience: Duration) -> io::Result<Vec<Socket>> {
    let mut held = Vec::with_capacity(count);
    // The backlog is finite: what goes ahead of the server waits here.
    let mut waiting: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 256];
    for index in 0..count {
        let from = match from {
            From::One(address) => address,
            From::Fresh => fresh(),
        };
        held.push(connect(from, port)?);
        waiting.push_back(index);
        while served && (waiting.len() > 100 || (index + 1 == count && !waiting.is_empty())) {
            let first = waiting[0];
            match held[first].read(&mut buffer) {
                Ok(length) if length > 0 => {
                    waiting.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Ok(_) => return Err(io::Error::other(format!("client {first} was not served"))),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(held)
}

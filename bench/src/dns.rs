//! A DNS responder over UDP that can be late, or silent, and counts.
//!
//! Every address has a name and every name leads back: `1.0.0.127.in-addr.arpa` is `h-127-0-0-1.bench.example`. Every
//! other name does not exist, so that nobody is on a list. One thread of the benchmark.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Replies are kept in order of arrival, each for the delay that held when its query came.
type Late = VecDeque<(Instant, Vec<u8>, SocketAddr)>;

#[derive(Default)]
struct Shared {
    queries: AtomicU64,
    delay_ms: AtomicU64,
    /// Nothing is sent; what comes is kept and answered when it ends.
    held: AtomicBool,
    /// Nothing is sent, ever.
    dead: AtomicBool,
}

/// The handle; the thread ends with the process.
#[derive(Clone)]
pub struct Dns(Arc<Shared>);

impl Dns {
    /// Listens at `address`.
    pub fn start(address: &str) -> io::Result<Dns> {
        let socket = UdpSocket::bind(address)?;
        set_buffer(&socket);
        socket.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        thread::spawn(move || answer(&socket, &theirs));
        Ok(Dns(shared))
    }

    pub fn queries(&self) -> u64 {
        self.0.queries.load(Ordering::Relaxed)
    }

    /// How late answers are from now on. Ends holding and being dead.
    pub fn delay(&self, ms: u64) {
        self.0.delay_ms.store(ms, Ordering::Relaxed);
        self.0.held.store(false, Ordering::Relaxed);
        self.0.dead.store(false, Ordering::Relaxed);
    }

    pub fn hold(&self) {
        self.0.held.store(true, Ordering::Relaxed);
    }

    pub fn die(&self) {
        self.0.dead.store(true, Ordering::Relaxed);
    }
}

/// Room for a burst of ten thousand queries; cut to what the system allows.
fn set_buffer(socket: &UdpSocket) {
    let size: libc::c_int = 16 << 20;
    let length = size_of_val(&size) as libc::socklen_t;
    for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
        // SAFETY: a socket, and an int that lives through the call.
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const size).cast(), length) };
    }
}

/// Until something comes or `pause` is over. A time-out of the socket itself would be rounded to the next tick of the
/// kernel's clock, four milliseconds or more.
fn wait(socket: &UdpSocket, pause: Duration) {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let pause = libc::timespec { tv_sec: pause.as_secs() as _, tv_nsec: pause.subsec_nanos() as _ };
    // SAFETY: one descriptor and a time-out, which live through the call; no signal mask.
    unsafe { libc::ppoll(&mut poll, 1, &pause, std::ptr::null()) };
}

fn answer(socket: &UdpSocket, shared: &Shared) {
    let mut late = Late::new();
    let mut buffer = [0; 2048];
    loop {
        let held = shared.held.load(Ordering::Relaxed);
        let now = Instant::now();
        while !held && late.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, reply, to)) = late.pop_front() else { break };
            let _ = socket.send_to(&reply, to);
        }
        let pause = match late.front() {
            Some((at, ..)) if !held => at.saturating_duration_since(now).max(Duration::from_micros(50)),
            _ => Duration::from_millis(20),
        };
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            wait(socket, pause);
            continue;
        };
        shared.queries.fetch_add(1, Ordering::Relaxed);
        if shared.dead.load(Ordering::Relaxed) {
            continue;
        }
        let Some(reply) = reply(&buffer[..length]) else { continue };
        let delay = shared.delay_ms.load(Ordering::Relaxed);
        if delay == 0 && !shared.held.load(Ordering::Relaxed) && late.is_empty() {
            let _ = socket.send_to(&reply, from);
        } else {
            late.push_back((Instant::now() + Duration::from_millis(delay), reply, from));
        }
    }
}

/// The labels of the question, and where it ends.
fn question(query: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return (query.len() >= at + 4).then_some((labels, at + 4));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
}

fn reply(query: &[u8]) -> Option<Vec<u8>> {
    let (labels, end) = question(query)?;
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let names: Vec<&str> = labels.iter().map(String::as_str).collect();
    let (exists, data) = match names[..] {
        [d, c, b, a, "in-addr", "arpa"] => {
            let mut name = Vec::new();
            for label in [format!("h-{a}-{b}-{c}-{d}").as_str(), "bench", "example"] {
                name.push(label.len() as u8);
                name.extend_from_slice(label.as_bytes());
            }
            name.push(0);
            (true, (kind == 12).then_some(name))
        }
        [host, "bench", "example"] => {
            let octets: Vec<u8> = host.split('-').skip(1).filter_map(|octet| octet.parse().ok()).collect();
            (true, (kind == 1 && octets.len() == 4).then_some(octets))
        }
        _ => (false, None),
    };
    let mut reply = query[..end].to_vec();
    // A response, authoritative, with recursion; NXDOMAIN for what does not exist.
    reply[2] = 0x85;
    reply[3] = if exists { 0x80 } else { 0x83 };
    reply[4..12].copy_from_slice(&[0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    if let Some(data) = data {
        reply.extend_from_slice(&[0xc0, 12]);
        reply.extend_from_slice(&query[end - 4..end]);
        reply.extend_from_slice(&600u32.to_be_bytes());
        reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
        reply.extend_from_slice(&data);
    }
    Some(reply)
}

//! What the DNS client takes in a burst, and that it gives it back.
//!
//! Without the test harness, and with the server in a process of its own: the memory of the whole
//! process is measured, glibc gives back little but the main thread's, and other threads' spare
//! blocks would count.

#[path = "common/dns.rs"]
mod dns;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use couriertcpd::policy::question::Question;
use couriertcpd::resolver::{Resolver, Settings};
use couriertcpd::table::Key;
use dns::{Dns, Fault, Message};
use mio::{Events, Poll, Token};

/// As many as 10,000 connections with six lookups each.
const QUESTIONS: u32 = 60_000;
const SERVE: &str = "serve";

fn question(n: u32) -> Question {
    Question::Names(IpAddr::from((0x0a00_0000 + n).to_be_bytes()))
}

/// Memory that this process has written to, in bytes.
fn dirty_bytes() -> i64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<i64>().ok();
    rollup.lines().filter(|line| line.starts_with("Private_Dirty")).filter_map(kib).sum::<i64>() * 1024
}

fn turn(poll: &mut Poll, events: &mut Events, resolver: &mut Resolver) -> usize {
    let timeout = resolver.timeout(Instant::now()).unwrap_or(Duration::MAX).min(Duration::from_millis(100));
    poll.poll(events, Some(timeout)).unwrap();
    for event in &*events {
        let Token(token) = event.token();
        let key = Key { index: token as u32 & 0xffff, generation: (token >> 16) as u32 };
        resolver.ready(key, event.is_readable(), event.is_writable());
    }
    let now = Instant::now();
    resolver.turn(now);
    std::iter::from_fn(|| resolver.next_finished(now)).map(|finished| finished.waiters.as_slice().len()).sum()
}

/// The server: silent until a line comes, so that the limit is reached and kept; then nothing exists.
fn serve() {
    let server = Dns::start();
    server.set("*.in-addr.arpa", dns::PTR, Message::new().fault(Fault::Silent)).note_nothing();
    println!("{}", server.address);
    let mut lines = std::io::stdin().lines();
    while lines.next().is_some() {
        server.set("*.in-addr.arpa", dns::PTR, Message::new().rcode(3));
    }
}

/// The server's process; ends when its input does.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    address: SocketAddr,
}

impl Server {
    fn start() -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Server { input: child.stdin.take(), child, address: line.trim().parse().unwrap() }
    }

    fn answer(&mut self) {
        writeln!(self.input.as_mut().unwrap()).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(SERVE) {
        return serve();
    }
    let mut server = Server::start();
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(256);
    let settings = Settings {
        nameservers: vec![server.address],
        resolv_conf: "/nonexistent".to_owned(),
        cache_entries: 1000,
        zones: Rc::from([]),
    };
    let token = |key: Key| Token((key.generation as usize) << 16 | key.index as usize);
    let mut resolver = Resolver::new(settings, poll.registry(), token, Instant::now()).unwrap();
    let start = Instant::now();
    let patience = |what: &str| assert!(start.elapsed() < Duration::from_secs(100), "{what}");
    turn(&mut poll, &mut events, &mut resolver);

    let before = dirty_bytes();
    for n in 0..QUESTIONS {
        resolver.ask(&question(n), Key { index: n, generation: 0 }, Instant::now());
    }
    let queued = (dirty_bytes() - before) / i64::from(QUESTIONS);

    let asked = dirty_bytes();
    let mut in_flight = 0;
    while resolver.counts().in_flight > in_flight || in_flight == 0 {
        in_flight = resolver.counts().in_flight;
        turn(&mut poll, &mut events, &mut resolver);
        patience("reaching the limit");
    }
    let flying = (dirty_bytes() - asked) / in_flight as i64;
    let peak = dirty_bytes() - before;

    server.answer();
    let mut told = 0;
    while told < QUESTIONS as usize {
        told += turn(&mut poll, &mut events, &mut resolver);
        patience("all answers");
    }
    while resolver.timeout(Instant::now()).is_some() {
        turn(&mut poll, &mut events, &mut resolver);
        patience("rest");
    }
    let kept = dirty_bytes() - before;
    println!(
        "a question queued: {queued} B; a query in flight: {flying} B more, {in_flight} of them; \
         {QUESTIONS} questions: {} KiB; kept afterwards: {} KiB",
        peak / 1024,
        kept / 1024
    );
    assert!(queued <= 80, "{queued} bytes for a queued question");
    assert!(flying <= 1600, "{flying} bytes for a query in flight");
    assert!(peak <= 8 << 20, "{peak} bytes for {QUESTIONS} questions");
    assert!(kept <= 1 << 20, "{kept} bytes kept");
}

//! What it takes: memory, size, processor time while idle, time to start.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::access;
use crate::load::{self, Expect, From, Load, Until};
use crate::proc;
use crate::server::{self, Kind, Server};

const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: u32 = 200_000;

const LISTS: [&str; 5] = [
    "-noidentlookup",
    "-block=bl1.example,BLOCK,no",
    "-block=bl2.example,BLOCK,no",
    "-block=bl3.example,BLOCK,no",
    "-block=bl4.example,BLOCK,no",
];

/// Connections that wait for their lookups: what each takes, and what is left afterwards.
pub fn memory(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("pending", "memory for each connection that waits for names and four lists (PSS)", "KiB");
    bench.results.row("pending-all", "the same: the daemon and its processes with all that wait (PSS)", "MiB");
    bench.results.row("pending-left", "the same: kept after all were served", "KiB");
    for (count, kind) in [(2000, Kind::Ours), (10_000, Kind::Ours), (2000, Kind::Reference)] {
        if !bench.places.has(kind) {
            continue;
        }
        // The reference takes its time to fork two thousand, so it has fewer rounds.
        for _ in 0..if kind == Kind::Ours { bench.rounds.min(5) } else { 1 } {
            pending(bench, kind, count)?;
        }
    }
    let name = |count: usize| format!("{} {count}", Kind::Ours.name());
    let (few, many) = (name(2000), name(10_000));
    bench.results.check("10,000 pending: KiB for each", ("pending", &many), false, 1.3);
    bench.results.check("10,000 pending: MiB in all", ("pending-all", &many), false, 16.0);
    bench.results.check("10,000 pending: KiB kept afterwards", ("pending-left", &many), false, 1024.0);
    bench.results.check("2,000 pending: KiB for each", ("pending", &few), false, 5.0);
    Ok(())
}

fn pending(bench: &mut Bench, kind: Kind, count: usize) -> io::Result<()> {
    bench.dns.delay(0);
    let most = match kind {
        Kind::Ours => format!("-maxpending={count}"),
        _ => format!("-maxprocs={count}"),
    };
    let options = [&LISTS[..], &[&most, "-maxperip=10"]].concat();
    let server = Server::start(&bench.places, kind, &options, &[])?;
    let idle = proc::family_pss(server.pid());
    bench.dns.hold();
    let clients = load::hold(server.port, count, From::Fresh, false, PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    let waiting = |pid| match kind {
        Kind::Ours => proc::descriptors(pid),
        _ => proc::family(pid).len(),
    };
    while waiting(server.pid()) < count {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{} of {count} clients are waiting", waiting(server.pid()))));
        }
        thread::sleep(Duration::from_millis(20));
    }
    // Queries are still going out, a bounded number in each turn.
    thread::sleep(Duration::from_millis(500));
    let full = proc::family_pss(server.pid());
    bench.dns.delay(0);
    let name = format!("{} {count}", kind.name());
    if kind == Kind::Ours {
        drain(&clients, Instant::now() + Duration::from_secs(25))?;
        drop(clients);
        // What a burst took is given back a little after it.
        let settled = Instant::now() + Duration::from_secs(15);
        let mut left = f64::INFINITY;
        while Instant::now() < settled {
            left = left.min(proc::family_pss(server.pid()) as f64 - idle as f64);
            thread::sleep(Duration::from_millis(200));
            if left < 512.0 {
                break;
            }
        }
        bench.results.add("pending-left", &name, left);
    }
    bench.results.add("pending", &name, (full as f64 - idle as f64) / count as f64);
    bench.results.add("pending-all", &name, full as f64 / 1024.0);
    Ok(())
}

/// Reads the line that every one of these clients must get.
fn drain(clients: &[load::Socket], deadline: Instant) -> io::Result<()> {
    let mut buffer = [0; 256];
    for (index, client) in clients.iter().enumerate() {
        loop {
            match client.read(&mut buffer) {
                Ok(length) if buffer[..length].starts_with(b"h-127-") => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    return Err(io::Error::other(format!("client {index} got {text:?}")));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_micros(500));
                }
                Err(error) => return Err(io::Error::other(format!("client {index}: {error}"))),
            }
        }
    }
    Ok(())
}

/// From the command to its return, which is when it listens; and the size of the program.
pub fn start(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("start", "from the command to listening", "ms");
    bench.results.row("size", "the program, stripped", "KiB");
    let size = fs::metadata(&bench.places.ours)?.len();
    bench.results.add("size", Kind::Ours.name(), size as f64 / 1024.0);
    let file = bench.places.work.join("large.dat");
    access::write(&file, access::large(RECORDS))?;
    let option = format!("-access={}", file.display());
    for _ in 0..bench.rounds.max(10) {
        for (name, kind, options) in [
            ("couriertcpd", Kind::Ours, &[][..]),
            ("couriertcpd, 200,000 access records", Kind::Ours, &[option.as_str()][..]),
            ("reference", Kind::Reference, &[][..]),
            ("reference, 200,000 access records", Kind::Reference, &[option.as_str()][..]),
        ] {
            if bench.places.has(kind) {
                let ms = start_once(bench, kind, options)?;
                bench.results.add("start", name, ms);
            }
        }
    }
    bench.results.check("start to listening: ms", ("start", Kind::Ours.name()), false, 10.0);
    bench.results.check("the program, stripped: KiB", ("size", Kind::Ours.name()), false, 1024.0);
    Ok(())
}

fn start_once(bench: &Bench, kind: Kind, options: &[&str]) -> io::Result<f64> {
    let pid_file = format!("-pid={}", bench.places.work.join("start.pid").display());
    let port = server::next_port();
    let command = || {
        let mut command = match kind {
            Kind::Ours => Command::new(&bench.places.ours),
            _ => bench.places.reference_command(),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).arg(&pid_file);
        command
    };
    let mut starting = command();
    starting.args(["-nodnslookup", "-noidentlookup"]).args(options);
    starting.arg(format!("127.0.0.1.{port}")).arg(&bench.places.handler);
    let begin = Instant::now();
    let status = starting.status()?;
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let listens = proc::listens(port);
    command().arg("-stop").status()?;
    if !status.success() || !listens {
        return Err(io::Error::other(format!("{}: {status}, listening: {listens}", kind.name())));
    }
    Ok(ms)
}

/// A daemon that nobody calls, with what a mail server would give it.
pub fn idle(bench: &mut Bench) -> io::Result<()> {
    let minute = if bench.rounds >= 5 { 60 } else { 5 };
    bench.results.row("idle-rss", "idle: one listener, one list, 200,000 access records: RSS", "MiB");
    bench.results.row("idle-private", "the same: memory of its own (private and written to)", "KiB");
    bench.results.row("idle-rss-after", "the same after 1,000 connections: RSS", "MiB");
    bench.results.row("idle-private-after", "the same after 1,000 connections: memory of its own", "KiB");
    bench.results.row("idle-ticks", "processor time of an idle daemon over a minute", "ticks of 10 ms");
    let file = bench.places.work.join("large.dat");
    access::write(&file, access::large(RECORDS))?;
    // A program that was just built is a file in memory that is written to, and its pages count as the daemon's own.
    // SAFETY: no argument, no result.
    unsafe { libc::sync() };
    let option = format!("-access={}", file.display());
    let options = [&option, "-block=bl1.example,BLOCK,no", "-noidentlookup"];
    let kinds = [Kind::Ours, Kind::Reference].into_iter().filter(|kind| bench.places.has(*kind));
    let servers: Vec<(Kind, Server)> = kinds
        .map(|kind| Server::start(&bench.places, kind, &options, &[]).map(|server| (kind, server)))
        .collect::<io::Result<_>>()?;
    // The daemon may still be busy with its start when it listens.
    thread::sleep(Duration::from_millis(500));
    let before: Vec<u64> = servers.iter().map(|(_, server)| proc::ticks(server.pid())).collect();
    let spent: Vec<u64> = servers.iter().map(|(_, server)| proc::nanoseconds(server.pid())).collect();
    for (kind, server) in &servers {
        let memory = proc::memory(server.pid());
        bench.results.add("idle-rss", kind.name(), memory.rss as f64 / 1024.0);
        bench.results.add("idle-private", kind.name(), memory.private as f64);
    }
    thread::sleep(Duration::from_secs(minute));
    for ((kind, server), (ticks, spent)) in servers.iter().zip(before.into_iter().zip(spent)) {
        bench.results.add("idle-ticks", kind.name(), (proc::ticks(server.pid()) - ticks) as f64);
        let text = format!("{}: {} ns in {minute} s", kind.name(), proc::nanoseconds(server.pid()) - spent);
        eprintln!("bench: idle: {text}");
        let load = Load {
            port: server.port,
            at_once: 20,
            from: From::Fresh,
            expect: Expect::Line(b"h-127-"),
            until: Until::Clients(1000),
            send: b"",
        };
        load::run(&load, PATIENCE);
        thread::sleep(Duration::from_secs(4));
        let memory = proc::memory(server.pid());
        bench.results.add("idle-rss-after", kind.name(), memory.rss as f64 / 1024.0);
        bench.results.add("idle-private-after", kind.name(), memory.private as f64);
    }
    let ours = Kind::Ours.name();
    bench.results.check("idle: RSS in MiB", ("idle-rss", ours), false, 3.0);
    bench.results.check("idle: private KiB", ("idle-private", ours), false, 300.0);
    bench.results.check("idle over a minute: ticks", ("idle-ticks", ours), false, 0.0);
    Ok(())
}

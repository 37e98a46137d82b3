//! Promises that are counted rather than timed: nobody lost, nothing left behind, nobody waits for ever.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::Bench;
use crate::access;
use crate::load::{self, Expect, From, Load, Until};
use crate::proc;
use crate::server::{Kind, Server};

/// `-lookuptimeout`'s default.
const TIME_LIMIT: f64 = 30.0;
const REFUSED: Ipv4Addr = Ipv4Addr::new(127, 8, 8, 8);

const LOOKUPS: [&str; 5] = [
    "-noidentlookup",
    "-block=bl1.example,BLOCK,no",
    "-block=bl2.example,BLOCK,no",
    "-block=bl3.example,BLOCK,no",
    "-block=bl4.example,BLOCK,no",
];

/// Every name server silent, 40 slots, 400 clients at once.
pub fn dead(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("dead-served", "name servers silent, 40 slots, 400 clients: served", "clients");
    bench.results.row("dead-last", "the same: the last one after", "s");
    for kind in [Kind::Ours, Kind::Reference] {
        if !bench.places.has(kind) {
            continue;
        }
        bench.dns.die();
        let mut options = [&LOOKUPS[..], &["-maxprocs=40"]].concat();
        if kind == Kind::Ours {
            options.push("-maxpending=400");
        }
        let server = Server::start(&bench.places, kind, &options, &[])?;
        let load = Load {
            port: server.port,
            at_once: 400,
            from: From::Fresh,
            expect: Expect::Line(b"softdnserr"),
            until: Until::Clients(400),
            send: b"",
        };
        let outcome = load::run(&load, Duration::from_secs_f64(TIME_LIMIT + 5.0));
        bench.results.add("dead-served", kind.name(), outcome.done as f64);
        if outcome.done > 0 {
            bench.results.add("dead-last", kind.name(), outcome.latency(100) / 1e3);
        }
    }
    let ours = Kind::Ours.name();
    bench.results.check("name servers silent: clients served of 400", ("dead-served", ours), true, 400.0);
    bench.results.check("name servers silent: the last after s", ("dead-last", ours), false, TIME_LIMIT + 1.0);
    Ok(())
}

/// A hundred thousand connections with names, four lists and an access file leave nothing behind.
pub fn many(bench: &mut Bench) -> io::Result<()> {
    const FIRST: u64 = 1000;
    let all: u64 = if bench.rounds >= 5 { 100_000 } else { 5000 };
    bench.results.row("many", "after 1,000 connections, and after all", "count, or KiB");
    let file = bench.places.work.join("many.dat");
    access::write(&file, access::large(1000))?;
    let option = format!("-access={}", file.display());
    let options = [&LOOKUPS[..], &[&option]].concat();
    let server = Server::start(&bench.places, Kind::Ours, &options, &[])?;
    let mut snapshots = Vec::new();
    for count in [FIRST, all - FIRST] {
        let load = Load {
            port: server.port,
            at_once: 20,
            from: From::Fresh,
            expect: Expect::Line(b"h-127-"),
            until: Until::Clients(count),
            send: b"",
        };
        let outcome = load::run(&load, Duration::from_secs(40));
        if outcome.failed > 0 {
            return Err(io::Error::other(format!("{} of {count} failed", outcome.failed)));
        }
        // Long enough for what is given back a little after a burst.
        thread::sleep(Duration::from_secs(8));
        let pid = server.pid();
        let children = proc::family(pid).len() - 1;
        let memory = proc::memory(pid);
        snapshots.push([
            ("descriptors", proc::descriptors(pid) as f64),
            ("children", children as f64),
            ("threads", proc::threads(pid) as f64),
            ("memory, PSS in KiB", memory.pss as f64),
        ]);
    }
    for (index, name) in ["descriptors", "children", "threads", "memory, PSS in KiB"].into_iter().enumerate() {
        for snapshot in &snapshots {
            bench.results.add("many", name, snapshot[index].1);
        }
        let growth = snapshots[1][index].1 - snapshots[0][index].1;
        bench.results.row("many-growth", "growth from the first 1,000 connections to the last", "count, or KiB");
        bench.results.add("many-growth", name, growth);
        let bound = if name.starts_with("memory") { 256.0 } else { 0.0 };
        bench.results.check(&format!("{all} connections: growth of {name}"), ("many-growth", name), false, bound);
    }
    Ok(())
}

/// A refused client that has sent something before it reads gets `-denymsg` whole.
pub fn deny(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("deny", "-denymsg read by 1,000 clients that had sent data first", "clients");
    let file = bench.places.work.join("deny.dat");
    access::write(&file, [(REFUSED.to_string(), "deny".to_owned())])?;
    let option = format!("-access={}", file.display());
    for kind in [Kind::Ours, Kind::Reference] {
        if !bench.places.has(kind) {
            continue;
        }
        let options = ["-nodnslookup", "-noidentlookup", &option, "-denymsg=554 Not from there"];
        let server = Server::start(&bench.places, kind, &options, &[])?;
        let load = Load {
            port: server.port,
            at_once: 20,
            from: From::One(REFUSED),
            expect: Expect::Line(b"554 Not from there"),
            until: Until::Clients(1000),
            send: b"EHLO client.example\r\nMAIL FROM:<>\r\n",
        };
        let outcome = load::run(&load, Duration::from_secs(10));
        bench.results.add("deny", kind.name(), outcome.done as f64);
    }
    bench.results.check("-denymsg read whole by, of 1,000", ("deny", Kind::Ours.name()), true, 1000.0);
    Ok(())
}

/// A hundred SIGHUPs while four clients hammer.
pub fn reload(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("reload", "clients lost during 100 SIGHUPs", "clients");
    let file = bench.places.work.join("reload.dat");
    access::write(&file, access::large(1000))?;
    let option = format!("-access={}", file.display());
    let options = [&LOOKUPS[..], &[&option]].concat();
    let server = Server::start(&bench.places, Kind::Ours, &options, &[])?;
    let load = Load {
        port: server.port,
        at_once: 4,
        from: From::Fresh,
        expect: Expect::Line(b"h-127-"),
        until: Until::Time(Duration::from_millis(2200)),
        send: b"",
    };
    let over = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100 {
                thread::sleep(Duration::from_millis(20));
                server.signal(libc::SIGHUP);
            }
            over.store(true, Ordering::Relaxed);
        });
        load::run(&load, Duration::from_secs(10))
    });
    if !over.load(Ordering::Relaxed) || outcome.done == 0 {
        return Err(io::Error::other("the daemon did not live through it"));
    }
    bench.results.add("reload", Kind::Ours.name(), outcome.failed as f64);
    bench.results.check("lost during 100 SIGHUPs", ("reload", Kind::Ours.name()), false, 0.0);
    Ok(())
}

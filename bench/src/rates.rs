//! How many a second, and how long for one.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::Bench;
use crate::access;
use crate::load::{self, Expect, From, Load, Until};
use crate::proc;
use crate::server::{Kind, Server};

/// Clients at once where the rate is measured: enough to keep two processors busy, fewer than the slots.
const AT_ONCE: usize = 20;
/// No client waits longer than this.
const PATIENCE: Duration = Duration::from_secs(40);

const REFUSED: Ipv4Addr = Ipv4Addr::new(127, 8, 8, 8);
const HELD: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);
const AGAIN: Ipv4Addr = Ipv4Addr::new(127, 6, 6, 6);

const PLAIN: [&str; 4] = ["-nodnslookup", "-noidentlookup", "-maxprocs=40", "-maxperip=10000"];
/// Names and four lists.
const LOOKUPS: [&str; 5] = [
    "-noidentlookup",
    "-block=bl1.example,BLOCK,no",
    "-block=bl2.example,BLOCK,no",
    "-block=bl3.example,BLOCK,no",
    "-block=bl4.example,BLOCK,no",
];

const LINE: Expect = Expect::Line(b"-");
const NAME: Expect = Expect::Line(b"h-127-");

impl Bench {
    /// Those of `kinds` that are here.
    fn present(&self, kinds: &[Kind]) -> Vec<Kind> {
        kinds.iter().copied().filter(|kind| self.places.has(*kind)).collect()
    }

    /// One measurement; fails if any client did.
    pub fn measure(&self, server: &Server, from: From, expect: Expect, at_once: usize) -> io::Result<load::Outcome> {
        let load = Load { port: server.port, at_once, from, expect, until: Until::Time(self.slice), send: b"" };
        let outcome = load::run(&load, PATIENCE);
        if outcome.failed > 0 || outcome.done == 0 {
            return Err(io::Error::other(format!("{} clients failed, {} did not", outcome.failed, outcome.done)));
        }
        Ok(outcome)
    }

    /// The same, and the processor time of our own daemon for one connection as a row of its own. Of the reference it
    /// would tell little: what it does for a connection it does in a process of that connection.
    fn measure_cpu(
        &mut self,
        server: &Server,
        load: (From, Expect, usize),
        row: &str,
        kind: Kind,
    ) -> io::Result<load::Outcome> {
        let before = proc::nanoseconds(server.pid());
        let outcome = self.measure(server, load.0, load.1, load.2).map_err(|e| named(kind, e))?;
        if kind == Kind::Ours {
            let spent = (proc::nanoseconds(server.pid()) - before) as f64 / 1e3 / outcome.done as f64;
            self.results.add(row, kind.name(), spent);
        }
        Ok(outcome)
    }

    /// Rounds of a row: every subject once in each, by turns first.
    fn rounds<T: Copy>(
        &mut self,
        subjects: &[T],
        mut measure: impl FnMut(&mut Bench, T) -> io::Result<()>,
    ) -> io::Result<()> {
        for round in 0..self.rounds {
            for turn in 0..subjects.len() {
                measure(self, subjects[(round + turn) % subjects.len()])?;
            }
        }
        Ok(())
    }
}

fn with<'a>(first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [first, more].concat()
}

pub fn serve(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("serve", "serve: a handler that prints a line and exits, no lookups", "connections/s");
    bench.results.row("serve-cpu", "the same: processor time of the server itself for one connection", "us");
    let subjects = bench.present(&[
        Kind::Ours,
        Kind::BareServe,
        Kind::Reference,
        Kind::Tcpserver,
        Kind::Tcpsvd,
        Kind::Xinetd,
        Kind::Systemd,
    ]);
    bench.rounds(&subjects, |bench, kind| {
        let server = Server::start(&bench.places, kind, &PLAIN, &[])?;
        let before = proc::nanoseconds(server.pid());
        let outcome = bench.measure(&server, From::Fresh, LINE, AT_ONCE).map_err(|e| named(kind, e))?;
        let spent = (proc::nanoseconds(server.pid()) - before) as f64 / 1e3 / outcome.done as f64;
        bench.results.add("serve", kind.name(), outcome.rate());
        bench.results.add("serve-cpu", kind.name(), spent);
        Ok(())
    })?;
    for (kind, bound) in [(Kind::BareServe, 0.97), (Kind::Tcpserver, 1.0), (Kind::Reference, 1.15)] {
        let text = format!("serve: times the rate of {}", kind.name());
        bench.results.check_ratio(&text, ("serve", Kind::Ours.name()), ("serve", kind.name()), bound);
    }
    Ok(())
}

fn named(kind: Kind, error: io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", kind.name()))
}

pub fn refuse(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("refuse-access", "refuse by the access file", "connections/s");
    bench.results.row("refuse-cpu", "refuse by the access file: processor time of the daemon for one connection", "us");
    bench.results.row("refuse-limit", "refuse by -maxperip", "connections/s");
    let file = bench.places.work.join("refuse.dat");
    access::write(&file, [(REFUSED.to_string(), "deny".to_owned())])?;
    let option = format!("-access={}", file.display());
    let subjects = bench.present(&[Kind::Ours, Kind::BareClose, Kind::Reference]);
    bench.rounds(&subjects, |bench, kind| {
        let server = Server::start(&bench.places, kind, &with(&PLAIN, &[&option]), &[])?;
        let outcome = bench.measure_cpu(&server, (From::One(REFUSED), Expect::Nothing, AT_ONCE), "refuse-cpu", kind)?;
        bench.results.add("refuse-access", kind.name(), outcome.rate());
        drop(server);
        let options = ["-nodnslookup", "-noidentlookup", "-maxperip=1"];
        let server = Server::start(&bench.places, kind, &options, &["hold"])?;
        // The one place that the address has is taken.
        let held = match kind {
            Kind::BareClose => Vec::new(),
            _ => load::hold(server.port, 1, From::One(HELD), true, PATIENCE)?,
        };
        let outcome = bench.measure(&server, From::One(HELD), Expect::Nothing, AT_ONCE).map_err(|e| named(kind, e))?;
        bench.results.add("refuse-limit", kind.name(), outcome.rate());
        drop(held);
        Ok(())
    })?;
    for (row, what) in [("refuse-access", "by the access file"), ("refuse-limit", "by a limit")] {
        for (kind, bound) in [(Kind::BareClose, 0.75), (Kind::Reference, 6.0)] {
            let text = format!("refuse {what}: times the rate of {}", kind.name());
            bench.results.check_ratio(&text, (row, Kind::Ours.name()), (row, kind.name()), bound);
        }
    }
    Ok(())
}

pub fn names(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("names", "names and four lists, DNS answers at once, every client new", "connections/s");
    bench.results.row("names-cpu", "the same: processor time of the daemon for one connection", "us");
    let subjects = bench.present(&[Kind::Ours, Kind::Reference]);
    bench.rounds(&subjects, |bench, kind| {
        let server = Server::start(&bench.places, kind, &with(&LOOKUPS, &["-maxprocs=40"]), &[])?;
        let outcome = bench.measure_cpu(&server, (From::Fresh, NAME, 40), "names-cpu", kind)?;
        bench.results.add("names", kind.name(), outcome.rate());
        Ok(())
    })?;
    let (ours, theirs) = (("names", Kind::Ours.name()), ("names", Kind::Reference.name()));
    bench.results.check_ratio("names and 4 lists, DNS at once: times the reference's rate", ours, theirs, 2.0);
    Ok(())
}

pub fn late(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("late-median", "names and four lists, DNS 50 ms late, 40 clients at once: median", "ms");
    bench.results.row("late-rate", "the same: rate", "connections/s");
    bench.results.row("thousand", "the same, 1,000 clients at once, 40 slots: rate", "connections/s");
    bench.results.row("thousand-slots", "the same, 1,000 clients at once, 1,000 slots: rate", "connections/s");
    let subjects = bench.present(&[Kind::Ours, Kind::Reference]);
    bench.rounds(&subjects, |bench, kind| {
        bench.dns.delay(50);
        let server = Server::start(&bench.places, kind, &with(&LOOKUPS, &["-maxprocs=40"]), &[])?;
        // In steady state: the first clients all come in the same instant, and so do not stand for others.
        let mut outcome = bench.measure(&server, From::Fresh, NAME, 40).map_err(|e| named(kind, e))?;
        bench.results.add("late-rate", kind.name(), outcome.rate());
        if outcome.latencies.len() > 80 {
            outcome.latencies.drain(..40);
        }
        bench.results.add("late-median", kind.name(), outcome.latency(50));
        drop(server);
        // With the same 40 slots; ours lets those who wait for lookups wait outside them.
        let few = if kind == Kind::Ours { &["-maxpending=1000"][..] } else { &[] };
        let outcome = thousand(bench, kind, few, 1000)?;
        bench.results.add("thousand", kind.name(), outcome.rate());
        // A slot for everybody: a thousand processes in the reference, and the processors are the limit in both.
        let outcome = thousand(bench, kind, &["-maxprocs=1000"], 3000)?;
        bench.results.add("thousand-slots", kind.name(), outcome.rate());
        Ok(())
    })?;
    let ours = Kind::Ours.name();
    bench.results.check(
        "names and 4 lists, DNS 50 ms late, 40 at once: median ms",
        ("late-median", ours),
        false,
        105.0,
    );
    let text = "names and 4 lists, DNS 50 ms late, 1,000 at once, 40 slots: times the reference's rate";
    bench.results.check_ratio(text, ("thousand", ours), ("thousand", Kind::Reference.name()), 5.0);
    Ok(())
}

/// A thousand clients at once, `count` in all.
fn thousand(bench: &Bench, kind: Kind, options: &[&str], count: u64) -> io::Result<load::Outcome> {
    let server = Server::start(&bench.places, kind, &with(&LOOKUPS, options), &[])?;
    let load = Load {
        port: server.port,
        at_once: 1000,
        from: From::Fresh,
        expect: NAME,
        until: Until::Clients(count),
        send: b"",
    };
    let outcome = load::run(&load, PATIENCE);
    if outcome.failed > 0 {
        return Err(named(kind, io::Error::other(format!("{} of {count} failed", outcome.failed))));
    }
    Ok(outcome)
}

pub fn cached(bench: &mut Bench) -> io::Result<()> {
    bench.results.row("cached", "the same client again, within the TTL", "connections/s");
    bench.results.row("cached-queries", "the same: DNS queries", "queries");
    bench.results.row("cached-cpu", "the same: processor time of the daemon for one connection", "us");
    bench.rounds(&[true, false], |bench, lookups| {
        let options = if lookups { with(&LOOKUPS, &["-maxperip=10000"]) } else { PLAIN.to_vec() };
        let (name, expect) = if lookups { ("names and four lists", NAME) } else { ("no lookups", LINE) };
        let server = Server::start(&bench.places, Kind::Ours, &options, &[])?;
        let first =
            Load { port: server.port, at_once: 1, from: From::One(AGAIN), expect, until: Until::Clients(1), send: b"" };
        load::run(&first, PATIENCE);
        let before = bench.dns.queries();
        let spent = proc::nanoseconds(server.pid());
        let outcome = bench.measure(&server, From::One(AGAIN), expect, AT_ONCE)?;
        let spent = (proc::nanoseconds(server.pid()) - spent) as f64 / 1e3 / outcome.done as f64;
        bench.results.add("cached-cpu", name, spent);
        bench.results.add("cached", name, outcome.rate());
        bench.results.add("cached-queries", name, (bench.dns.queries() - before) as f64);
        Ok(())
    })?;
    let (with, without) = (("cached", "names and four lists"), ("cached", "no lookups"));
    bench.results.check_ratio("same client again: times the rate without lookups", with, without, 0.9);
    bench.results.check("same client again: DNS queries", ("cached-queries", with.1), false, 0.0);
    Ok(())
}

/// Two daemons at the same time, one with ten thousand handlers that run, one with none.
pub fn slots(bench: &mut Bench) -> io::Result<()> {
    const SLOTS: usize = 10_000;
    bench.results.row("slots-serve", "serve with slots in use", "connections/s");
    bench.results.row("slots-refuse", "refuse by the access file with slots in use", "connections/s");
    let file = bench.places.work.join("slots.dat");
    let records = [(REFUSED, "deny"), (HELD, "allow,HOLD=1,MAXCPERIP=20000")];
    access::write(&file, records.map(|(ip, value)| (ip.to_string(), value.to_owned())))?;
    let option = format!("-access={}", file.display());
    let start =
        |bench: &Bench, most: &str| Server::start(&bench.places, Kind::Ours, &with(&PLAIN[..2], &[&option, most]), &[]);
    let few = start(bench, "-maxprocs=40")?;
    let many = start(bench, "-maxprocs=10040")?;
    let held = load::hold(many.port, SLOTS, From::One(HELD), true, Duration::from_secs(120))?;
    let servers = [("40 slots", &few), ("10,000 of 10,040 slots in use", &many)];
    bench.rounds(&servers, |bench, (name, server)| {
        let outcome = bench.measure(server, From::Fresh, LINE, AT_ONCE)?;
        bench.results.add("slots-serve", name, outcome.rate());
        let outcome = bench.measure(server, From::One(REFUSED), Expect::Nothing, AT_ONCE)?;
        bench.results.add("slots-refuse", name, outcome.rate());
        Ok(())
    })?;
    drop(held);
    for (row, what) in [("slots-serve", "serve"), ("slots-refuse", "refuse")] {
        let text = format!("10,000 slots in use, {what}: times the rate with 40");
        bench.results.check_ratio(&text, (row, servers[1].0), (row, servers[0].0), 0.9);
    }
    Ok(())
}

//! As many connections as fit, with everything that may happen to them, each checked against a model.
//!
//! Clients of every class come in every manner, while the access file changes, the daemon is told to
//! reload, its logger is killed and it is stopped for moments. Every client must get what the rules
//! say. Then descriptors, memory, slots and children must be what they were after a first short while.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Builder, Client, Daemon, Scratch, procfs, wait_for, wait_until};
use crate::random::{Random, StopAtEnd};
use crate::rules::{Class, MESSAGE, OPTIONS, Rules, expected, told};

const WORKERS: usize = 20;
const SLOTS: usize = 60;

/// Tells its environment, waits for a word, and does as it is told.
const HANDLER: [&str; 3] = [
    "/bin/sh",
    "-c",
    "export -p; echo end; read word; case $word in crash) kill -9 $$;; log) echo complaint >&2;; esac 2>&-; echo bye",
];

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Ordinary,
    /// Sends much before it listens.
    Talkative,
    HalfCloses,
    /// Has its handler killed.
    Crash,
    /// Has its handler write to the logger.
    Log,
    /// Holds on for a while.
    Holds,
    /// Resets its connection, at once or soon.
    Resets,
}

const MANNERS: [Manner; 7] = [
    Manner::Ordinary,
    Manner::Talkative,
    Manner::HalfCloses,
    Manner::Crash,
    Manner::Log,
    Manner::Holds,
    Manner::Resets,
];

struct Soak {
    daemon: Daemon,
    rules: Rules,
    scratch: Scratch,
    /// Of the access file: what was written last, and what was surely in force last.
    written: AtomicUsize,
    in_force: AtomicUsize,
    stop: AtomicBool,
    visits: AtomicU64,
    /// Visits by what came of them.
    counts: Mutex<BTreeMap<&'static str, u64>>,
    wrong: Mutex<Vec<String>>,
}

pub fn run(time: Duration, seed: u64) {
    println!("faults: soak: {} s, seed {seed}", time.as_secs());
    let scratch = Scratch::new();
    let rules = Rules::new(WORKERS);
    rules.write_access(&scratch, 0);
    let log = scratch.join("log");
    let logger = scratch.script("logger", &format!("#!/bin/sh\nexec cat >> {}\n", log.display()));
    let daemon = Builder::default()
        .bare()
        .options(OPTIONS)
        .options(["-maxperip=40", "-maxpending=200", "-lookuptimeout=30"])
        .option(format!("-maxprocs={SLOTS}"))
        .option(format!("-access={}", scratch.join("rules.dat").display()))
        .option(format!("-nameserver={}", rules.dns.address))
        .option(format!("-stderrlogger={}", logger.display()))
        .handler(HANDLER)
        .start();
    let mut soak = Soak {
        daemon,
        rules,
        scratch,
        written: AtomicUsize::new(0),
        in_force: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        visits: AtomicU64::new(0),
        counts: Mutex::default(),
        wrong: Mutex::default(),
    };
    let mut random = Random::new(seed);
    soak.for_a_while((time / 10).min(Duration::from_secs(20)), &mut random);
    let before = soak.settled();
    soak.for_a_while(time, &mut random);
    soak.every_slot_is_free();
    let after = soak.settled();
    println!("faults: soak: {} connections:", soak.visits.load(Ordering::Relaxed));
    for (what, count) in soak.counts.lock().unwrap().iter() {
        println!("    {count:8} {what}");
    }
    println!(
        "faults: soak: descriptors {} and {}, sockets {} and {}, resident memory {} and {} KiB",
        before.descriptors, after.descriptors, before.sockets, after.sockets, before.resident, after.resident
    );
    let wrong = soak.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "seed {seed}: {} clients did not get their due:\n{}", wrong.len(), wrong.join("\n"));
    drop(wrong);
    assert!(!soak.daemon.has_ended(), "{}", soak.daemon.stderr());
    assert_eq!((after.descriptors, after.sockets), (before.descriptors, before.sockets));
    assert!(after.resident <= before.resident + 1024, "memory grew");
}

/// How a daemon stands that has nothing to do.
struct Standing {
    descriptors: usize,
    sockets: usize,
    resident: usize,
}

impl Soak {
    fn for_a_while(&self, time: Duration, random: &mut Random) {
        self.stop.store(false, Ordering::Relaxed);
        let end = Instant::now() + time;
        let seeds: Vec<u64> = (0..WORKERS).map(|_| random.next()).collect();
        thread::scope(|scope| {
            for (worker, seed) in seeds.into_iter().enumerate() {
                scope.spawn(move || self.work(worker, Random::new(seed)));
            }
            // Ends the clients even if this test fails on the way.
            let _stop = StopAtEnd(&self.stop);
            let mut said = Instant::now();
            while Instant::now() < end && self.wrong.lock().unwrap().is_empty() {
                thread::sleep(random.pause(Duration::from_millis(400)));
                self.disturb(random);
                if said.elapsed() > Duration::from_secs(30) {
                    said = Instant::now();
                    println!("faults: soak: {} connections so far", self.visits.load(Ordering::Relaxed));
                }
            }
        });
    }

    /// Something that nobody may notice.
    fn disturb(&self, random: &mut Random) {
        match random.below(8) {
            0..=2 => self.daemon.signal(Signal::SIGHUP),
            3 => {
                let generation = self.written.fetch_add(1, Ordering::SeqCst) + 1;
                self.rules.write_access(&self.scratch, generation);
                self.daemon.signal(Signal::SIGHUP);
            }
            4 => self.daemon.signal(Signal::SIGUSR1),
            5 if random.one_in(20) => {
                for logger in self.loggers() {
                    let _ = kill(Pid::from_raw(logger), Signal::SIGKILL);
                }
                self.count("loggers killed");
            }
            6 => {
                self.daemon.signal(Signal::SIGSTOP);
                thread::sleep(random.pause(Duration::from_millis(50)));
                self.daemon.signal(Signal::SIGCONT);
            }
            _ => {
                // Many at once who do not wait for anything.
                for _ in 0..random.below(60) {
                    if let Ok(client) = Client::try_connect(None, self.daemon.address()) {
                        client.reset();
                    }
                }
            }
        }
    }

    fn loggers(&self) -> Vec<i32> {
        let name = |pid: i32| procfs::status(pid, "Name").unwrap_or_default();
        // The script's shell has become cat.
        self.daemon.children().into_iter().filter(|&pid| name(pid) == "cat").collect()
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    fn work(&self, worker: usize, mut random: Random) {
        let addresses = self.rules.share(worker, WORKERS);
        while !self.stop.load(Ordering::Relaxed) {
            let (class, ip) = addresses[random.below(addresses.len() as u64) as usize];
            let manner = MANNERS[random.below(MANNERS.len() as u64) as usize];
            let result = match class {
                Class::Single => self.visit_twice(ip),
                _ => self.visit(class, ip, manner, &mut random),
            };
            self.visits.fetch_add(1, Ordering::Relaxed);
            match result {
                Ok(what) => self.count(what),
                Err(why) => self.wrong.lock().unwrap().push(format!("{class:?} {ip} {manner:?}: {why}")),
            }
        }
    }

    fn connect(&self, ip: Ipv4Addr) -> Result<Client, String> {
        Client::try_connect(Some(SocketAddr::new(IpAddr::V4(ip), 0)), self.daemon.address())
            .map_err(|error| format!("connect: {error}"))
    }

    fn visit(&self, class: Class, ip: Ipv4Addr, manner: Manner, random: &mut Random) -> Result<&'static str, String> {
        let oldest = self.in_force.load(Ordering::SeqCst);
        let mut client = self.connect(ip)?;
        if manner == Manner::Resets {
            if random.one_in(2) {
                thread::sleep(random.pause(Duration::from_millis(100)));
            }
            client.reset();
            return Ok("reset");
        }
        if manner == Manner::Talkative {
            client.send(&[b'x'; 3000]);
        }
        if manner == Manner::HalfCloses {
            client.half_close();
        }
        let Some(expected) = expected(class, ip) else {
            let text = client.finish().text();
            return if text == MESSAGE { Ok("refused") } else { Err(format!("refused, but got {text:?}")) };
        };
        if !client.read_until("\nend\n") {
            return Err(format!("not served: {:?}", client.finish().text()));
        }
        if manner == Manner::Holds {
            thread::sleep(random.pause(Duration::from_millis(200)));
        }
        client.send(match manner {
            Manner::Crash => b"crash\n",
            Manner::Log => b"log\n",
            _ => b"go\n",
        });
        let text = client.finish().text();
        let mut told = told(&text);
        if class == Class::Record {
            let newest = self.written.load(Ordering::SeqCst);
            let generation = told.remove("GENERATION").and_then(|text| text.parse::<usize>().ok());
            if !generation.is_some_and(|generation| (oldest..=newest).contains(&generation)) {
                return Err(format!("GENERATION is {generation:?}, of {oldest} to {newest}"));
            }
            // Reloads come in order: what was in force once is the least from now on.
            self.in_force.fetch_max(generation.unwrap_or(0), Ordering::SeqCst);
        }
        if told != expected {
            return Err(format!("told {told:?} and not {expected:?}"));
        }
        let said_bye = text.ends_with("end\nbye\n");
        match manner {
            Manner::Crash if said_bye => Err("the handler was not killed".into()),
            Manner::Crash => Ok("served, handler crashed"),
            _ if !said_bye => Err(format!("cut off: {:?}", &text[text.len().saturating_sub(60)..])),
            _ => Ok("served"),
        }
    }

    /// Never more than one at a time; and one, once the last is gone.
    fn visit_twice(&self, ip: Ipv4Addr) -> Result<&'static str, String> {
        // The daemon may not have seen yet that the last one's handler has ended.
        let end = Instant::now() + crate::common::DEADLINE;
        let mut first = loop {
            let mut client = self.connect(ip)?;
            if client.read_until("\nend\n") {
                break client;
            }
            if Instant::now() > end {
                return Err("the only place is never free again".into());
            }
        };
        let second = self.connect(ip)?.finish();
        if !second.bytes.is_empty() {
            return Err(format!("a second one got {:?}", second.text()));
        }
        first.send(b"go\n");
        let text = first.finish().text();
        let (told, expected) = (told(&text), expected(Class::Single, ip).expect("served"));
        if told != expected {
            return Err(format!("told {told:?} and not {expected:?}"));
        }
        Ok("one served, a second one refused")
    }

    /// Waits until nothing is left of the clients.
    fn settled(&self) -> Standing {
        // A logger that was killed often rests up to a minute.
        assert!(wait_until(Duration::from_secs(90), || self.daemon.children().len() == 1 && self.loggers().len() == 1));
        let pid = self.daemon.pid();
        wait_for("every client's socket is closed", || procfs::sockets(pid) <= procfs::listening(pid).len());
        assert_eq!(self.daemon.threads(), 1);
        // What a burst took is given back when it has been over for some seconds.
        let mut least = procfs::resident(pid);
        let _ = wait_until(Duration::from_secs(5), || {
            least = least.min(procfs::resident(pid));
            false
        });
        Standing { descriptors: self.daemon.descriptors(), sockets: procfs::sockets(pid), resident: least }
    }

    /// As many handlers at the same time as `-maxprocs` says.
    fn every_slot_is_free(&self) {
        let from = |n: usize| self.rules.share(n % WORKERS, WORKERS)[0].1;
        let mut clients: Vec<Client> = (0..SLOTS).map(|n| self.connect(from(n)).expect("connect")).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            assert!(client.read_until("\nend\n"), "slot {n} of {SLOTS} is lost");
        }
    }
}

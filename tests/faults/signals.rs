//! Signals at bad moments.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::dns::{Dns, Fault, Message};
use crate::common::{Builder, Client, DEADLINE, End, fresh_ip, procfs, wait_for};
use crate::random::{Random, StopAtEnd};
use crate::world::{self, Outcome, TELL, World};

/// What the daemon acts on, and others that it must not mind: the default action of these is nothing,
/// or to stop, which SIGCONT ends.
const STORM: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGCHLD,
    Signal::SIGUSR1,
    Signal::SIGHUP,
    Signal::SIGPIPE,
    Signal::SIGWINCH,
    Signal::SIGURG,
    Signal::SIGSTOP,
];

/// Signals at random moments for `time`, with clients of every kind all the while.
pub fn storm(time: Duration, seed: u64) {
    let world = World::new();
    let log = world.scratch.join("log");
    let mut daemon = Builder::default()
        .bare()
        .address(world.port)
        .list(world.list())
        .options(world.options())
        .option(format!("-stderr={}", log.display()))
        .handler(TELL)
        .start();
    assert_eq!(world.named_client(), Outcome::Right);
    daemon.wait_for_no_children();
    let descriptors = daemon.descriptors();
    let (stop, clients, wrong) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let mut sent = Vec::new();
    let mut random = Random::new(seed);
    thread::scope(|scope| {
        // Ends the clients even if this test fails on the way.
        let stop = StopAtEnd(&stop);
        let kinds: [fn(&World) -> Outcome; 4] =
            [World::named_client, World::denied_client, World::listed_client, World::proxied_client];
        for (number, kind) in kinds.into_iter().enumerate() {
            let (world, stop, clients, wrong) = (&world, stop.0, &clients, &wrong);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let since = Instant::now();
                    let outcome = kind(world);
                    if outcome != Outcome::Right {
                        stop.store(true, Ordering::Relaxed);
                        wrong.lock().unwrap().push(format!("client {number} after {:?}: {outcome:?}", since.elapsed()));
                    }
                    clients.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end = Instant::now() + time;
        while Instant::now() < end && !stop.0.load(Ordering::Relaxed) {
            let signal = STORM[random.below(STORM.len() as u64) as usize];
            daemon.signal(signal);
            thread::sleep(random.pause(Duration::from_millis(3)));
            if signal == Signal::SIGSTOP {
                daemon.signal(Signal::SIGCONT);
            }
            sent.push(signal);
        }
    });
    let wrong = wrong.into_inner().unwrap();
    if !wrong.is_empty() {
        let how = |field| procfs::status(daemon.pid(), field);
        let standing: Vec<_> =
            ["State", "SigPnd", "ShdPnd", "SigBlk", "TracerPid"].iter().map(|f| (f, how(f))).collect();
        let said = world::lines(&log);
        panic!(
            "seed {seed}: {wrong:?}\nthe last of {} signals: {:?}\nended: {:?}, {standing:?}\nchildren: {:?}\nlog: {:#?}",
            sent.len(),
            &sent[sent.len().saturating_sub(8)..],
            daemon.has_ended().then(|| daemon.wait()),
            daemon.children(),
            &said[said.len().saturating_sub(30)..]
        );
    }
    let sent = sent.len();
    assert!(!daemon.has_ended(), "{}", daemon.stderr());
    daemon.wait_for_no_children();
    wait_for("all is closed", || daemon.descriptors() == descriptors);
    println!(
        "faults: signals: {sent} signals, {} clients meanwhile, every one got its due (seed {seed})",
        clients.into_inner()
    );
}

/// SIGTERM while the lookups of hundreds are under way: it ends at once, nobody is served any more.
pub fn terminate_with_lookups_pending() {
    const CLIENTS: usize = 400;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dns = Dns::start();
        dns.otherwise(Message::new().fault(Fault::Silent));
        let mut daemon = Builder::default()
            .bare()
            .options(["-noidentlookup", "-maxpending=1000", "-maxperip=1000", "-lookuptimeout=60", "-block=list.test"])
            .option(format!("-nameserver={}", dns.address))
            .handler(TELL)
            .start();
        let idle = daemon.descriptors();
        let from: Vec<Ipv4Addr> = (0..40).map(|_| fresh_ip()).collect();
        let clients: Vec<Client> = (0..CLIENTS).map(|n| daemon.connect_from(from[n % from.len()].into())).collect();
        wait_for("all are pending", || daemon.descriptors() >= idle + CLIENTS);
        let since = Instant::now();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        let time = since.elapsed();
        assert!(time < DEADLINE / 4, "{time:?}");
        for client in clients {
            let received = client.finish();
            assert!(received.bytes.is_empty() && received.end != End::Open, "{received:?}");
        }
        println!("faults: signals: {signal} with {CLIENTS} lookups pending: gone after {} ms", time.as_millis());
    }
}

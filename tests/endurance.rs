//! Many connections: nothing is lost, nothing is left behind, and there is one thread. Sections 8,
//! 11 and 12. A longer run of the same kind is a script's; this one takes seconds.

mod common;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::*;
use nix::sys::signal::Signal;

/// A handler that is quick to start.
const GREET: [&str; 2] = ["/bin/echo", "served"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_message_reaches_every_refused_client_that_has_sent_data() {
    const ROUNDS: usize = 20;
    const CLIENTS: usize = 50;
    let scratch = Scratch::new();
    let rules = scratch.join("rules.dat");
    access::make(&rules, &[("127", "deny")]);
    let daemon = Daemon::start([&format!("-access={}", rules.display()), "-denymsg=go away"]);
    let mut told = 0;
    for _ in 0..ROUNDS {
        // Everything the clients send is there before the daemon accepts, and nobody reads it.
        daemon.signal(Signal::SIGSTOP);
        wait_for("the daemon stops", || procfs::state(daemon.pid()) == Some('T'));
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| daemon.connect()).collect();
        for client in &mut clients {
            client.send(&[b'x'; 3000]);
        }
        daemon.signal(Signal::SIGCONT);
        for client in clients {
            let received = client.finish();
            told += usize::from(received.text() == "go away\r\n" && received.end == End::Eof);
        }
    }
    assert_eq!(told, ROUNDS * CLIENTS);
    assert_eq!(daemon.children(), []);
}

#[test]
fn a_client_that_never_closes_is_not_waited_for() {
    let scratch = Scratch::new();
    let rules = scratch.join("rules.dat");
    access::make(&rules, &[("127", "deny")]);
    let daemon = Daemon::start([&format!("-access={}", rules.display()), "-denymsg=go away"]);
    // Accepting once makes what stays open, so that it does not count.
    daemon.session();
    wait_for("the first is let go", || !has_connection(&daemon));
    let before = daemon.descriptors();
    let mut clients: Vec<Client> = (0..20).map(|_| daemon.connect()).collect();
    clients.iter_mut().for_each(|client| assert!(client.read_until("go away\r\n")));
    wait_for("the daemon lets go", || daemon.descriptors() == before);
}

/// True while the daemon has more sockets than it listens on.
fn has_connection(daemon: &Daemon) -> bool {
    procfs::sockets(daemon.pid()) > procfs::listening(daemon.pid()).len()
}

#[test]
fn sighup_a_hundred_times_under_load_loses_nothing() {
    let scratch = Scratch::new();
    let rules = scratch.join("rules.dat");
    access::make(&rules, &[("127.0.0.9", "deny")]);
    let daemon = Builder::default()
        .option(format!("-access={}", rules.display()))
        .option("-maxperip=100")
        .handler(GREET)
        .start();
    let (served, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for n in 0..4 {
            let (daemon, served, stop) = (&daemon, &served, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let received = daemon.session_from(ip(&format!("127.0.0.{}", 2 + n)));
                    assert_eq!((received.text().as_str(), received.end), ("served\n", End::Eof));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 0..100 {
            if n % 10 == 0 {
                access::make(&rules, &[("127.0.0.9", "deny"), ("10", &format!("allow,N={n}"))]);
            }
            let before = served.load(Ordering::Relaxed);
            daemon.signal(Signal::SIGHUP);
            let goes_on = wait_until(DEADLINE, || served.load(Ordering::Relaxed) > before + 3);
            if !goes_on || n == 99 {
                stop.store(true, Ordering::Relaxed);
            }
            assert!(goes_on, "nobody is served after SIGHUP {n}");
        }
    });
    assert_eq!(daemon.session_from(ip("127.0.0.9")).text(), "");
    daemon.wait_for_no_children();
}

#[test]
fn thousands_of_connections_leave_nothing_behind() {
    let scratch = Scratch::new();
    let rules = scratch.join("rules.dat");
    access::make(&rules, &[("127.0.0.9", "deny")]);
    let daemon = Builder::default()
        .options([&format!("-access={}", rules.display()), "-maxperip=100", "-denymsg=go away"])
        .handler(GREET)
        .start();
    let round = |sessions: usize| {
        thread::scope(|scope| {
            for client in 0..2 {
                let daemon = &daemon;
                scope.spawn(move || {
                    for n in 0..sessions / 2 {
                        match (n + client) % 4 {
                            // Refused.
                            0 => assert_eq!(daemon.session_from(ip("127.0.0.9")).text(), "go away\r\n"),
                            // Gone before it is served.
                            1 => daemon.connect_from(ip("127.0.0.8")).reset(),
                            _ => assert_eq!(daemon.session_from(ip("127.0.0.7")).text(), "served\n"),
                        }
                        assert_eq!(daemon.threads(), 1);
                    }
                });
            }
        });
        daemon.wait_for_no_children();
        wait_for("the last connection is let go", || !has_connection(&daemon));
        (daemon.descriptors(), procfs::resident(daemon.pid()))
    };
    let (descriptors, resident) = round(1000);
    let (descriptors_after, resident_after) = round(3000);
    assert_eq!(descriptors_after, descriptors);
    assert!(resident_after <= resident + 256, "from {resident} to {resident_after} KiB");
}

/// Holds so many handlers, ends them all at once, and then one by one.
fn hold_and_end(daemon: &Daemon, handlers: usize) {
    let before = daemon.descriptors();
    for _ in 0..2 {
        let clients: Vec<Client> = (0..handlers).map(|_| daemon.connect()).collect();
        wait_for("all handlers run", || daemon.children().len() == handlers);
        drop(clients);
        daemon.wait_for_no_children();
        assert_eq!(daemon.descriptors(), before);
    }
    // All slots are free again; beyond a few hundred handlers not all are looked through for each that ends.
    let mut clients: Vec<Client> = (0..handlers).map(|_| daemon.connect()).collect();
    wait_for("all handlers run again", || daemon.children().len() == handlers);
    while clients.len() > handlers / 3 {
        clients.swap_remove(clients.len() / 2);
        wait_for("the one has ended", || daemon.children().len() == clients.len());
    }
    drop(clients);
    daemon.wait_for_no_children();
    assert_eq!(daemon.descriptors(), before);
}

fn holding(options: &[&str]) -> Builder {
    Builder::default().options(["-maxprocs=600", "-maxperip=600"]).options(options).handler(["/bin/sh", "-c", "read x"])
}

#[test]
fn hundreds_of_handlers_that_end_at_once_are_all_reaped() {
    let daemon = holding(&[]).start();
    hold_and_end(&daemon, 600);
}

#[test]
fn many_handlers_take_no_descriptors() {
    let daemon = holding(&[]).prelude("ulimit -n 100").start();
    hold_and_end(&daemon, 600);
    assert_eq!(daemon.count_stderr("cannot accept"), 0, "{}", daemon.stderr());
}

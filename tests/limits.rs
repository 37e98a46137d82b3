//! Slots and limits of the running daemon. Section 11.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A handler that reports and stays until its client says that it is done.
fn staying(options: &[&str]) -> Builder {
    Builder::default().options(options).steps(&["report", "drain"])
}

/// A client that is served and stays.
#[track_caller]
fn stay(daemon: &Daemon, from: &str) -> Client {
    let mut client = daemon.connect_from(ip(from));
    client.report();
    client
}

fn is_refused(daemon: &Daemon, from: &str) -> bool {
    let mut client = daemon.connect_from(ip(from));
    client.half_close();
    let received = client.finish();
    assert_ne!(received.end, End::Open);
    received.bytes.is_empty()
}

#[test]
fn without_a_free_slot_clients_wait_in_the_backlog() {
    let daemon = staying(&["-maxprocs=2"]).start();
    let first = stay(&daemon, "127.0.0.2");
    let _second = stay(&daemon, "127.0.0.3");
    let mut third = daemon.connect_from(ip("127.0.0.4"));
    assert!(third.is_silent_for(Duration::from_millis(300)));
    assert_eq!(daemon.children().len(), 2);
    drop(first);
    third.report();
    daemon.wait_for_stderr("ALERT: 2 maximum active connections.");
    assert_eq!(daemon.count_stderr("maximum active connections"), 1);
}

#[test]
fn nothing_is_polled_while_clients_wait() {
    let daemon = staying(&["-maxprocs=1"]).start();
    let _served = stay(&daemon, "127.0.0.2");
    let mut waiting = daemon.connect_from(ip("127.0.0.3"));
    let wakes = || procfs::status(daemon.pid(), "voluntary_ctxt_switches").unwrap().parse::<u64>().unwrap();
    let before = wakes();
    assert!(waiting.is_silent_for(Duration::from_millis(500)));
    assert!(wakes() - before <= 2, "woke up {} times in half a second", wakes() - before);
}

#[test]
fn a_slot_is_taken_until_the_program_has_ended_not_the_connection() {
    // It closes the connection and goes on.
    let daemon = Builder::default()
        .option("-maxprocs=1")
        .handler(["/bin/sh", "-c", "exec >&- <&- 2>/dev/null; exec sleep 1000"])
        .start();
    assert_eq!(daemon.session().end, End::Eof);
    let mut second = daemon.connect();
    assert!(second.is_silent_for(Duration::from_millis(200)));
    let handler = daemon.children()[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(handler), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(second.finish().end, End::Eof);
}

#[test]
fn a_slot_is_free_again_whatever_signal_has_ended_its_program() {
    let daemon = Builder::default()
        .options(["-maxprocs=2", "-loglevel=info"])
        .handler(["/bin/sh", "-c", "echo served; kill -$((40 + $$ % 20)) $$; sleep 1000"])
        .start();
    for _ in 0..6 {
        assert_eq!(daemon.session().text(), "served\n");
    }
    wait_for("all ends are told", || daemon.count_stderr(" exit=- signal=") == 6);
    daemon.wait_for_no_children();
}

#[test]
fn maxperip_counts_an_address_over_all_families_and_ports() {
    let done = namespace::run(|| {
        let daemon = staying(&["-maxperip=2"]).address("127.0.0.1:25".parse().unwrap()).list("25,26").start();
        let _first = stay(&daemon, "127.0.0.2");
        let to: SocketAddr = "127.0.0.1:26".parse().unwrap();
        let mut second = Client::connect_from(ip("127.0.0.2"), to);
        second.report();
        assert!(is_refused(&daemon, "127.0.0.2"));
        assert!(!is_refused(&daemon, "127.0.0.3"));
        daemon.wait_for_stderr("ALERT: Maximum connection limit reached for ::ffff:127.0.0.2");
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

#[test]
fn the_alert_is_written_once_a_minute_for_an_address() {
    let daemon = staying(&["-maxperip=1"]).start();
    let _stay = [stay(&daemon, "127.0.0.2"), stay(&daemon, "127.0.0.3")];
    for _ in 0..5 {
        assert!(is_refused(&daemon, "127.0.0.2"));
        assert!(is_refused(&daemon, "127.0.0.3"));
    }
    let alert = "ALERT: Maximum connection limit reached for ::ffff:127.0.0";
    assert_eq!(daemon.count_stderr(alert), 2, "{}", daemon.stderr());
}

#[test]
fn maxperc_counts_a_block_and_says_so() {
    let daemon = staying(&["-maxperc=2"]).start();
    let _stay = [stay(&daemon, "127.0.0.2"), stay(&daemon, "127.0.0.3")];
    assert!(is_refused(&daemon, "127.0.0.4"));
    assert!(!is_refused(&daemon, "127.0.1.4"));
    daemon.wait_for_stderr("127.0.0");
}

#[test]
fn a_place_is_free_again_after_the_end() {
    let daemon = staying(&["-maxperip=1", "-maxperc=1", "-maxprocs=1"]).start();
    for _ in 0..20 {
        drop(stay(&daemon, "127.0.0.2"));
        daemon.wait_for_no_children();
    }
}

#[test]
fn ipv6_is_counted_by_the_prefixes_given() {
    let rows = [
        // option, who stays, who is refused, who is served
        ("-maxperip=1", "2001:db8:1:2::5", "2001:db8:1:2::5", "2001:db8:1:2::6"),
        ("-maxperc=1", "2001:db8:1:2::5", "2001:db8:1:2::6", "2001:db8:1:2::1:5"),
        ("-maxperip=1 -prefix6=64/48", "2001:db8:1:2::5", "2001:db8:1:2:9::6", "2001:db8:1:3::5"),
        ("-maxperc=1 -prefix6=64/48", "2001:db8:1:2::5", "2001:db8:1:3::5", "2001:db8:2:2::5"),
    ];
    let done = namespace::run(|| {
        for (options, stays, refused, is_served) in rows {
            let options: Vec<&str> = options.split(' ').collect();
            let daemon = staying(&options).address("[2001:db8::1]:25".parse().unwrap()).start();
            let _stay = stay(&daemon, stays);
            assert!(is_refused(&daemon, refused), "{options:?}");
            assert!(!is_refused(&daemon, is_served), "{options:?}");
        }
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

#[test]
fn a_limit_is_checked_before_any_lookup_is_made() {
    // The only name server is silent: who is refused at once has not asked it.
    let silent = std::net::UdpSocket::bind((fresh_ip(), 0)).unwrap();
    let server = silent.local_addr().unwrap();
    let daemon =
        Builder::default().bare().options(["-maxperip=1", "-noidentlookup", &format!("-nameserver={server}")]).start();
    let _waiting = daemon.connect_from(ip("127.0.0.2"));
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    silent.recv(&mut [0; 512]).expect("the first client is asked about");
    assert!(is_refused(&daemon, "127.0.0.2"));
}

//! Connections whose lookups are under way: time limits, slots, resets. Sections 2, 5 and 11.

mod common;

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::dns::{A, ANY, Dns, Message, PTR, Record};
use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A name server's address where nobody ever answers; the socket keeps it so.
fn silent_server() -> (UdpSocket, String) {
    let socket = UdpSocket::bind((fresh_ip(), 0)).expect("a UDP port");
    let option = format!("-nameserver={}", socket.local_addr().unwrap());
    (socket, option)
}

fn asking() -> Builder {
    Builder::default().bare().option("-noidentlookup")
}

#[test]
fn with_every_name_server_silent_all_are_served_at_the_time_limit() {
    let (_silent, server) = silent_server();
    let daemon = asking()
        .options([&server, "-lookuptimeout=2", "-maxprocs=40", "-maxperip=400", "-maxpending=400"])
        .options(["-block=a.test", "-block=b.test,OTHER", "-drop"])
        .start();
    let from = IpAddr::from(fresh_ip());
    let start = Instant::now();
    let clients: Vec<Client> = (0..400).map(|_| daemon.connect_from(from)).collect();
    for client in clients {
        let report = client.finish().report().expect("served");
        assert_eq!(report.var("TCPREMOTEHOST"), Some("softdnserr"));
        assert_eq!(report.var("BLOCK"), None);
        assert!(start.elapsed() >= Duration::from_secs(2), "nobody goes on before the limit");
    }
    // What is said is said once, not once for each client.
    for text in ["lookups took longer than 2 s", "list a.test: no answer in time", "list b.test: no answer in time"] {
        assert_eq!(daemon.count_stderr(text), 1, "{text}");
    }
    assert_eq!(daemon.threads(), 1);
}

#[test]
fn name_servers_that_come_back_serve_at_once() {
    let dns = Dns::start();
    dns.otherwise(Message::new().fault(common::dns::Fault::Silent));
    let daemon = asking().option(format!("-nameserver={}", dns.address)).options(["-lookuptimeout=1"]).start();
    let client = IpAddr::from(fresh_ip());
    let received = daemon.session_from(client).report().expect("served");
    assert_eq!(received.var("TCPREMOTEHOST"), Some("softdnserr"));
    dns.otherwise(Message::new().rcode(3));
    let start = Instant::now();
    let report = daemon.session_from(fresh_ip().into()).report().expect("served");
    assert_eq!(report.var("TCPREMOTEHOST"), None);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn nothing_listens_at_the_name_server() {
    // The port was just free, so a packet to it is refused.
    let address = free_port(fresh_ip().into());
    let daemon = asking().option(format!("-nameserver={address}")).start();
    let report = daemon.session().report().expect("served");
    assert_eq!(report.var("TCPREMOTEHOST"), Some("softdnserr"));
    daemon.wait_for_stderr("WARN: DNS lookup failed:");
}

#[test]
fn lookups_take_slots_unless_maxpending_is_given() {
    let (_silent, server) = silent_server();
    let slow = || asking().options([&server, "-maxprocs=3", "-maxperip=10", "-lookuptimeout=60"]);
    let daemon = slow().start();
    let waiting: Vec<Client> = (0..3).map(|_| daemon.connect()).collect();
    daemon.wait_for_stderr("ALERT: 3 maximum active connections.");
    drop(waiting);

    let daemon = slow().option("-maxpending=5").start();
    let held = daemon.descriptors();
    let mut waiting: Vec<Client> = (0..7).map(|_| daemon.connect()).collect();
    wait_for("five connections taken", || daemon.descriptors() >= held + 5);
    assert!(waiting[6].is_silent_for(Duration::from_millis(200)));
    assert!(daemon.descriptors() < held + 7, "two wait in the backlog");
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn with_maxpending_those_who_are_ready_are_served_in_order_of_arrival() {
    let dns = Dns::start();
    let (early, late) = (IpAddr::from(fresh_ip()), IpAddr::from(fresh_ip()));
    let name = couriertcpd::addr::reverse_zone_name;
    dns.set(&name(early), PTR, Message::new().rcode(3).late(Duration::from_millis(300)));
    let daemon = asking()
        .option(format!("-nameserver={}", dns.address))
        .options(["-maxprocs=1", "-maxpending=10"])
        .handler(handler::command(&["say:hello", "drain"]))
        .start();
    let mut first = daemon.connect();
    assert!(first.read_until("hello"));
    // Both end their lookups while the only slot is taken, the later one first.
    let mut second = daemon.connect_from(early);
    let mut third = daemon.connect_from(late);
    wait_for("both lookups", || dns.count(&name(early), PTR) == 1 && dns.count(&name(late), PTR) == 1);
    assert!(third.is_silent_for(Duration::from_millis(500)));
    first.half_close();
    assert!(second.read_until("hello"));
    assert!(third.is_silent_for(Duration::from_millis(100)));
    second.half_close();
    assert!(third.read_until("hello"));
}

/// What is known of it by then is in its line.
#[test]
fn who_goes_while_waiting_for_a_slot_is_told_of_with_name_and_time() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    let name = couriertcpd::addr::reverse_zone_name(client);
    dns.otherwise(Message::new().rcode(3)).set(&name, PTR, Message::new().record(Record::ptr("mx.example")));
    dns.set("mx.example", A, Message::new().record(Record::a(&client.to_string())));
    let daemon = asking()
        .option(format!("-nameserver={}", dns.address))
        .options(["-maxprocs=1", "-maxpending=10", "-loglevel=info"])
        .handler(handler::command(&["say:hello", "drain"]))
        .start();
    let mut first = daemon.connect();
    assert!(first.read_until("hello"));
    let mut second = daemon.connect_from(client);
    wait_for("the name", || dns.count("mx.example", A) == 1);
    assert!(second.is_silent_for(Duration::from_millis(1500)));
    second.reset();
    daemon.wait_for_stderr("decision=gone");
    let stderr = daemon.stderr();
    let line = stderr.lines().find(|line| line.contains("decision=gone")).unwrap();
    assert!(line.contains(" host=mx.example "), "{line}");
    let lookups = line.split("lookup_ms=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(lookups.parse::<u64>().unwrap() < 1000, "the lookups were over long before: {line}");
}

#[test]
fn a_newcomer_who_owes_no_lookup_overtakes_nobody() {
    let daemon = Builder::default()
        .bare()
        .options(["-nodnslookup", "-noidentlookup", "-maxprocs=1", "-maxpending=10"])
        .handler(handler::command(&["say:hello", "drain"]))
        .start();
    let pid = daemon.pid();
    let mut first = daemon.connect();
    assert!(first.read_until("hello"));
    let mut second = daemon.connect();
    wait_for("the second is accepted", || procfs::sockets(pid) == procfs::listening(pid).len() + 1);
    // The slot becomes free and the third comes, all before the daemon looks again.
    let state = |pid, letter| procfs::status(pid, "State").is_some_and(|state| state.starts_with(letter));
    daemon.signal(Signal::SIGSTOP);
    wait_for("the daemon rests", || state(pid, 'T'));
    let handler = daemon.children()[0];
    kill(Pid::from_raw(handler), Signal::SIGKILL).unwrap();
    wait_for("the first one's handler has ended", || state(handler, 'Z'));
    let mut third = daemon.connect();
    daemon.signal(Signal::SIGCONT);
    assert!(second.read_until("hello"));
    assert!(third.is_silent_for(Duration::from_millis(100)));
    second.half_close();
    assert!(third.read_until("hello"));
}

#[test]
fn pending_connections_count_for_the_limits() {
    let (_silent, server) = silent_server();
    let daemon = asking().options([&server, "-maxperip=2", "-maxpending=10", "-lookuptimeout=60"]).start();
    let from = IpAddr::from(fresh_ip());
    let waiting = [daemon.connect_from(from), daemon.connect_from(from)];
    assert_eq!(daemon.session_from(from).bytes, b"");
    daemon.wait_for_stderr(&format!("ALERT: Maximum connection limit reached for ::ffff:{from}"));
    drop(waiting);
}

#[test]
fn a_reset_frees_the_place_at_once() {
    let dns = Dns::start();
    let unlucky = IpAddr::from(fresh_ip());
    let name = couriertcpd::addr::reverse_zone_name(unlucky);
    dns.set(&name, PTR, Message::new().fault(common::dns::Fault::Silent));
    let daemon = asking()
        .option(format!("-nameserver={}", dns.address))
        .options(["-maxprocs=1", "-lookuptimeout=60", "-maxperip=1"])
        .start();
    let first = daemon.connect_from(unlucky);
    wait_for("the first is pending", || dns.count(&name, PTR) > 0);
    let mut second = daemon.connect();
    assert!(second.is_silent_for(Duration::from_millis(200)), "there is one slot");
    first.reset();
    assert!(second.finish().report().is_some());
}

#[test]
fn a_half_close_is_served() {
    let (_silent, server) = silent_server();
    let daemon = asking().options([&server, "-lookuptimeout=1"]).start();
    let mut client = daemon.connect();
    client.send(b"hello").half_close();
    assert!(client.finish().report().is_some());
}

#[test]
fn a_late_answer_is_for_nobody_else() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    let name = couriertcpd::addr::reverse_zone_name(client);
    dns.set(&name, PTR, Message::new().record(Record::ptr("late.example")).late(Duration::from_millis(1500)));
    dns.set("late.example", A, Message::new().record(Record::a(&client.to_string())));
    let daemon = asking().option(format!("-nameserver={}", dns.address)).option("-lookuptimeout=1").start();
    let report = daemon.session_from(client).report().expect("served");
    assert_eq!(report.var("TCPREMOTEHOST"), Some("softdnserr"));
    // Others take the place in the table while the answer is on its way; none of them gets it.
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let report = daemon.session_from(fresh_ip().into()).report().expect("served");
        assert_eq!(report.var("TCPREMOTEHOST"), None);
    }
    assert!(dns.count(&name, ANY) >= 1);
}

/// What 3,000 pending clients take is given back once they are gone.
#[test]
fn a_burst_leaves_no_memory_and_no_descriptors_behind() {
    let dns = Dns::start();
    dns.otherwise(Message::new().rcode(3).late(Duration::from_millis(200)));
    let daemon = asking()
        .option(format!("-nameserver={}", dns.address))
        .options(["-maxpending=3000", "-maxperip=3000", "-maxprocs=20", "-block=a.test", "-block=b.test"])
        .handler(["/bin/true"])
        .prelude("ulimit -n 8192")
        .start();
    daemon.session();
    let (memory, descriptors) = (procfs::resident(daemon.pid()), daemon.descriptors());
    for _ in 0..2 {
        let from = IpAddr::from(fresh_ip());
        let clients: Vec<Client> = (0..900).map(|_| daemon.connect_from(from)).collect();
        for client in clients {
            assert_eq!(client.finish().end, End::Eof);
        }
    }
    wait_for("memory is given back", || procfs::resident(daemon.pid()) <= memory + 1024);
    wait_for("descriptors are closed", || daemon.descriptors() <= descriptors);
    daemon.wait_for_no_children();
}

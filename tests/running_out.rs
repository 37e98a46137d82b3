//! Running out of descriptors and processes: a message, a bounded pause, and on it goes.
//! Sections 11 and 12.

mod common;

use std::time::Duration;

use common::dns::{Dns, Message, Record};
use common::*;

/// Processor time the daemon has used, in clock ticks.
fn ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn without_descriptors_clients_wait_and_are_served_later() {
    // A name server that does not answer: each connection waits in the daemon, with its descriptor.
    let silent = std::net::UdpSocket::bind((fresh_ip(), 0)).unwrap();
    let server = silent.local_addr().unwrap();
    let mut daemon = Builder::default()
        .bare()
        .options(["-noidentlookup", "-lookuptimeout=2", "-maxprocs=100", "-maxperip=100"])
        .option(format!("-nameserver={server}"))
        .prelude("ulimit -n 30")
        .start();
    let clients: Vec<Client> = (0..60).map(|_| daemon.connect()).collect();
    daemon.wait_for_stderr("cannot accept connections");
    // The daemon waits; it does not try in a loop.
    let before = ticks(&daemon);
    std::thread::scope(|scope| {
        for client in clients {
            scope.spawn(|| assert!(client.finish().report().is_some()));
        }
    });
    let used = ticks(&daemon) - before;
    assert!(used < 200, "{used} ticks of processor time");
    assert!(!daemon.has_ended());
    assert!(daemon.count_stderr("cannot accept") <= 2, "{}", daemon.stderr());
}

#[test]
fn an_option_that_needs_more_descriptors_than_there_are_gives_a_warning() {
    let start = |options: &[&str]| Builder::default().bare().options(options).prelude("ulimit -n 400").start();
    let daemon = start(&["-maxpending=150"]);
    assert_eq!(daemon.count_stderr("warning: -maxpending=150 can take 454 descriptors, and the limit is 400"), 1);
    assert!(daemon.session().report().is_some(), "it serves all the same");
    assert_eq!(start(&["-maxpending=150", "-noidentlookup"]).stderr(), "");
    assert_eq!(start(&["-maxprocs=150"]).count_stderr("warning: -maxprocs=150 can take"), 1);
    assert_eq!(start(&[]).stderr(), "");
    // Nobody is pending, so the handlers alone take descriptors, their own.
    assert_eq!(start(&["-maxprocs=150", "-nodnslookup", "-noidentlookup"]).stderr(), "");
}

/// A list that cannot be asked is one that nobody is on, so clients never get the descriptors that
/// asking needs.
#[test]
fn no_number_of_clients_keeps_a_list_from_being_asked() {
    let dns = Dns::start();
    dns.otherwise(Message::new().record(Record::a("127.0.0.2")).late(Duration::from_millis(100)));
    let daemon = Builder::default()
        .bare()
        .options(["-nodnslookup", "-noidentlookup", "-dnscache=0", "-maxprocs=500", "-block=a.test", "-drop"])
        .option(format!("-nameserver={}", dns.address))
        .prelude("ulimit -n 40")
        .start();
    let clients: Vec<Client> = (0..150).map(|_| daemon.connect_from(fresh_ip().into())).collect();
    let served = clients.into_iter().map(Client::finish).filter(|end| end.bytes != b"").count();
    assert_eq!(served, 0, "listed, and served all the same");
    daemon.wait_for_stderr("cannot accept connections: Too many open files");
    assert_eq!(daemon.count_stderr("lookup failed"), 0, "{}", daemon.stderr());
}

/// Takes all free descriptors away from a running daemon.
fn take_descriptors(daemon: &Daemon) {
    let free = (0..).find(|n| std::fs::symlink_metadata(format!("/proc/{}/fd/{n}", daemon.pid())).is_err());
    limit_descriptors(daemon, &free.unwrap().to_string());
}

fn limit_descriptors(daemon: &Daemon, soft: &str) {
    let pid = daemon.pid().to_string();
    let status = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]).status();
    assert!(status.expect("run prlimit").success());
}

/// A connection that is accepted and has asked for nothing yet.
fn before_its_lookups(daemon: &Daemon) -> Client {
    let client = daemon.connect();
    // Its descriptor, beside that of the listener.
    wait_for("the connection", || procfs::sockets(daemon.pid()) == procfs::listening(daemon.pid()).len() + 1);
    client
}

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.25 4000 25\r\n";

#[test]
fn a_list_that_cannot_be_asked_for_want_of_descriptors_is_waited_for() {
    let dns = Dns::start();
    dns.otherwise(Message::new().record(Record::a("127.0.0.2")));
    let daemon = Builder::default()
        .bare()
        .options(["-nodnslookup", "-noidentlookup", "-haproxy", "-proxyfrom=127.0.0.0/8", "-block=a.test", "-drop"])
        .option(format!("-nameserver={}", dns.address))
        .start();
    let mut client = before_its_lookups(&daemon);
    take_descriptors(&daemon);
    client.send(HEADER);
    daemon.wait_for_stderr("ALERT: cannot ask DNS access lists: no socket for a query: Too many open files");
    let before = ticks(&daemon);
    assert!(client.is_silent_for(Duration::from_millis(500)), "neither served nor closed");
    assert!(ticks(&daemon) - before < 20, "it tries in a loop");
    assert_eq!(dns.asked().len(), 0);
    limit_descriptors(&daemon, "1000");
    assert_eq!(client.finish().bytes, b"", "listed, and served all the same");
    daemon.wait_for_stderr("dropped blocked connection");
    assert_eq!(daemon.count_stderr("cannot ask"), 1, "{}", daemon.stderr());
}

/// c-ares takes a resolv.conf that it cannot open for one that names nobody.
#[test]
fn a_resolv_conf_that_cannot_be_opened_changes_no_name_server() {
    let done = namespace::run(|| {
        let scratch = Scratch::new();
        let server = "192.0.2.53:53";
        let dns = Dns::serve(std::net::UdpSocket::bind(server).unwrap(), std::net::TcpListener::bind(server).unwrap());
        dns.otherwise(Message::new().record(Record::a("127.0.0.2")));
        namespace::replace_file("/etc/resolv.conf", &scratch.file("resolv.conf", "nameserver 192.0.2.53\n"));
        let daemon = Builder::default()
            .bare()
            .options(["-nodnslookup", "-noidentlookup", "-dnscache=0", "-block=a.test", "-drop"])
            .start();
        assert_eq!(daemon.session().bytes, b"");
        take_descriptors(&daemon);
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        daemon.wait_for_stderr("cannot set the DNS client up anew: /etc/resolv.conf: Too many open files");
        limit_descriptors(&daemon, "1000");
        assert_eq!(daemon.session().bytes, b"", "listed, and served all the same");
        assert_eq!(dns.asked().len(), 2);
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

/// As a script leaves it that makes it anew with tight modes. It is noticed by itself, and so is its being mended.
#[test]
fn a_resolv_conf_that_the_user_may_not_read_changes_no_name_server() {
    let done = namespace::run(|| {
        let scratch = Scratch::new();
        let serve = |server: &str| {
            let sockets = (std::net::UdpSocket::bind(server).unwrap(), std::net::TcpListener::bind(server).unwrap());
            let dns = Dns::serve(sockets.0, sockets.1);
            dns.otherwise(Message::new().record(Record::a("127.0.0.2")));
            dns
        };
        let (old, new) = (serve("192.0.2.53:53"), serve("127.0.0.53:53"));
        let conf = scratch.file("resolv.conf", "nameserver 192.0.2.53\n");
        let mode = |mode| std::fs::set_permissions(&conf, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o644);
        namespace::replace_file("/etc/resolv.conf", &conf);
        let daemon = Builder::default()
            .bare()
            .options(["-nodnslookup", "-noidentlookup", "-dnscache=0", "-block=a.test", "-drop", "-user=65534"])
            .start();
        assert_eq!(daemon.session().bytes, b"");
        mode(0o600);
        std::fs::write(&conf, "nameserver 127.0.0.53\n").unwrap();
        let end = std::time::Instant::now() + DEADLINE;
        while daemon.count_stderr("anew: /etc/resolv.conf: Permission denied; the name servers stay as they were") == 0
        {
            assert_eq!(daemon.session().bytes, b"", "listed, and served all the same");
            assert!(std::time::Instant::now() < end, "{}", daemon.stderr());
        }
        assert_eq!(new.asked().len(), 0);
        let before = old.asked().len();
        assert_eq!(daemon.session().bytes, b"");
        assert_eq!(old.asked().len(), before + 1);
        mode(0o644);
        while new.asked().is_empty() {
            assert_eq!(daemon.session().bytes, b"", "listed, and served all the same");
            assert!(std::time::Instant::now() < end, "{}", daemon.stderr());
        }
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

/// c-ares forgets what resolv.conf says when it fails at another file.
#[test]
fn an_nsswitch_conf_that_the_user_may_not_read_changes_no_name_server() {
    let done = namespace::run(|| {
        let scratch = Scratch::new();
        let server = "192.0.2.53:53";
        let dns = Dns::serve(std::net::UdpSocket::bind(server).unwrap(), std::net::TcpListener::bind(server).unwrap());
        dns.otherwise(Message::new().record(Record::a("127.0.0.2")));
        let conf = "options timeout:1\nnameserver nonsense\nnameserver\t192.0.2.53 # this one\n";
        namespace::replace_file("/etc/resolv.conf", &scratch.file("resolv.conf", conf));
        let switch = scratch.file("nsswitch.conf", "hosts: files dns\n");
        std::fs::set_permissions(&switch, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        namespace::replace_file("/etc/nsswitch.conf", &switch);
        let daemon = Builder::default()
            .bare()
            .options(["-nodnslookup", "-noidentlookup", "-dnscache=0", "-block=a.test", "-drop", "-user=65534"])
            .start();
        assert_eq!(daemon.session().bytes, b"", "listed, and served all the same");
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        daemon.wait_for_stderr("reading the access file and resolv.conf anew");
        assert_eq!(daemon.session().bytes, b"", "listed, and served all the same");
        assert_eq!(dns.asked().len(), 2);
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

#[test]
fn at_the_time_limit_a_connection_goes_on_without_a_list_that_cannot_be_asked() {
    let dns = Dns::start();
    dns.otherwise(Message::new().record(Record::a("127.0.0.2")));
    let daemon = Builder::default()
        .options(["-nodnslookup", "-noidentlookup", "-haproxy", "-proxyfrom=127.0.0.0/8", "-block=a.test", "-drop"])
        .options([&format!("-nameserver={}", dns.address), "-lookuptimeout=1"])
        .start();
    let mut client = before_its_lookups(&daemon);
    take_descriptors(&daemon);
    client.send(HEADER);
    assert!(client.finish().report().is_some());
    daemon.wait_for_stderr("lookups took longer than 1 s");
    daemon.wait_for_stderr("list a.test: no answer in time; taken as not listed");
    assert_eq!(dns.asked().len(), 0);
}

/// All their lookups end at the same moment. Only the one who is next when there is no process is closed.
#[test]
fn without_processes_those_whose_lookups_are_over_wait() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let silent = std::net::UdpSocket::bind((fresh_ip(), 0)).unwrap();
    let user = 60_000 + (std::process::id() + 1) % 5_000;
    let daemon = Builder::default()
        .bare()
        .options(["-noidentlookup", "-lookuptimeout=1", "-maxprocs=30", "-maxperip=30", "-loglevel=info"])
        .options([format!("-user={user}"), format!("-group={user}")])
        .option(format!("-nameserver={}", silent.local_addr().unwrap()))
        .prelude("ulimit -p 5")
        .handler(["/bin/echo", "hello"])
        .start();
    let clients: Vec<Client> = (0..30).map(|_| daemon.connect()).collect();
    let served = clients.into_iter().map(Client::finish).filter(|end| end.text() == "hello\n").count();
    assert!(served >= 15, "{served} of 30 are served: {}", daemon.stderr());
    daemon.wait_for_stderr("cannot run /bin/echo");
    assert_eq!(served + daemon.count_stderr("decision=failed"), 30, "{}", daemon.stderr());
}

#[test]
fn without_processes_a_client_is_closed_and_the_next_one_served() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // Of this user there is nobody else, so the limit counts the daemon and its handlers.
    let user = 60_000 + std::process::id() % 5_000;
    let mut daemon = Builder::default()
        .options([&format!("-user={user}"), &format!("-group={user}"), "-maxperip=100"])
        .prelude("ulimit -p 4")
        .handler(["/bin/cat"])
        .start();
    let mut served = Vec::new();
    let mut closed = 0;
    for _ in 0..8 {
        let mut client = daemon.connect();
        client.send(b"hello\n");
        if client.read_until("hello\n") {
            served.push(client);
        } else {
            closed += 1;
        }
    }
    assert_eq!((served.len(), closed), (3, 5));
    daemon.wait_for_stderr("cannot run /bin/cat");
    assert!(daemon.count_stderr("cannot run") <= 2, "{}", daemon.stderr());
    // The closed ones are not leaked.
    drop(served);
    daemon.wait_for_no_children();
    let mut client = daemon.connect();
    client.send(b"hello\n");
    assert!(client.read_until("hello\n"));
    assert!(!daemon.has_ended());
    // The handler may answer before the daemon has closed its own descriptor.
    wait_for("the descriptor", || procfs::sockets(daemon.pid()) == procfs::listening(daemon.pid()).len());
}

#[test]
fn a_program_that_vanishes_costs_its_connections_only() {
    let scratch = Scratch::new();
    let program = scratch.script("program", "#!/bin/sh\necho served\n");
    let mut daemon = Builder::default().handler([&program]).start();
    assert_eq!(daemon.session().text(), "served\n");
    let away = scratch.join("away");
    std::fs::rename(&program, &away).unwrap();
    for _ in 0..3 {
        assert_eq!(daemon.session().text(), "");
    }
    daemon.wait_for_stderr(program.to_str().unwrap());
    assert!(!daemon.has_ended());
    std::fs::rename(&away, &program).unwrap();
    assert_eq!(daemon.session().text(), "served\n");
}

#[test]
fn it_lives_within_the_limits_of_couriers_scripts() {
    let daemon = Builder::default().prelude("ulimit -d 32768; ulimit -v 131072").option("-maxprocs=40").start();
    for _ in 0..20 {
        assert!(daemon.session().report().is_some());
    }
    assert_eq!(daemon.threads(), 1);
}

#[test]
fn clients_that_hold_on_stop_nobody_else() {
    let mut daemon = Builder::default().options(["-maxprocs=50", "-maxperip=5"]).steps(&["report", "drain"]).start();
    let held: Vec<Client> = (0..40).map(|_| daemon.connect_from("127.0.0.2".parse().unwrap())).collect();
    let mut other = daemon.connect_from("127.0.0.3".parse().unwrap());
    other.report();
    assert!(wait_until(Duration::from_secs(5), || daemon.children().len() == 6), "{:?}", daemon.children());
    assert!(!daemon.has_ended());
    drop(held);
}

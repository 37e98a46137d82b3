//! LIST and the sockets it makes, and the state in which the handler gets a connection. Section 3.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;

use common::procfs::{ANY4, ANY6, listening};
use common::*;

#[test]
fn every_form_of_an_entry() {
    let ip = fresh_ip();
    let port = |n: u16| SocketAddr::from((ip, n));
    // A service above 1023, which any user may listen on; the differential suite has `smtp`.
    let list = format!("{ip}.2001,{ip}:2002,[::ffff:{ip}]:2003,{ip}.postgresql");
    // A mapped address is served by an IPv4 or an IPv6 socket; clients cannot tell.
    let daemon = Builder::default().address(port(2001)).list(list).start();
    for n in [2001, 2002, 2003, 5432] {
        let report = Client::connect(port(n)).finish().report().expect("the handler ran");
        assert_eq!(report.var("TCPLOCALPORT"), Some(n.to_string().as_str()));
        assert_eq!(report.var("TCPLOCALIP"), Some(format!("::ffff:{ip}").as_str()));
    }
    assert_eq!(listening(daemon.pid()).len(), 4);
}

#[test]
fn an_address_option_serves_entries_without_one() {
    let (ip, other) = (fresh_ip(), fresh_ip());
    let daemon = Builder::default()
        .option(format!("-address={ip}"))
        .address(SocketAddr::from((ip, 2001)))
        .list(format!("2001,0.2002,{other}.2003"))
        .start();
    let expected: BTreeSet<SocketAddr> =
        [(ip, 2001), (ip, 2002), (other, 2003)].into_iter().map(SocketAddr::from).collect();
    assert_eq!(listening(daemon.pid()), expected);
}

#[test]
fn the_wildcard_serves_both_families() {
    let run = |v6_only: &str| {
        std::fs::write("/proc/sys/net/ipv6/bindv6only", v6_only).expect("set bindv6only");
        let daemon = Builder::default().address("127.0.0.1:25".parse().unwrap()).list("25").start();
        for (from, to) in [("127.0.0.2", "127.0.0.9:25"), ("2001:db8::2", "[2001:db8::1]:25")] {
            let from: IpAddr = from.parse().unwrap();
            assert!(Client::connect_from(from, to.parse().unwrap()).finish().report().is_some(), "{from}");
        }
        listening(daemon.pid())
    };
    let done = namespace::run(|| {
        assert_eq!(run("0"), BTreeSet::from([SocketAddr::new(ANY6, 25)]));
        let sockets = run("1");
        assert!(sockets.contains(&SocketAddr::new(ANY6, 25)), "{sockets:?}");
        assert!(sockets.iter().all(|s| [ANY4, ANY6].contains(&s.ip())), "{sockets:?}");
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root(), "root may make namespaces");
}

#[test]
fn one_busy_entry_and_nothing_starts() {
    let busy = fresh_address();
    let _holder = TcpListener::bind(busy).unwrap();
    let free = fresh_address();
    let entry = daemon::list_entry(busy);
    let finished = Builder::default().list(format!("{},{entry}", daemon::list_entry(free))).run();
    assert_eq!(finished.code(), 1);
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    assert!(finished.stderr.contains(&entry), "{finished:?}");
    TcpListener::bind(free).expect("the other port is free");
}

#[test]
fn the_same_port_serves_again_at_once() {
    let address = fresh_address();
    let mut first = Builder::default().address(address).steps(&["report", "hold"]).start();
    let mut client = first.connect();
    client.report();
    first.signal(nix::sys::signal::Signal::SIGTERM);
    first.wait();
    // Its old connections are still in the kernel's tables.
    let second = Builder::default().address(address).start();
    assert!(second.session().report().is_some());
}

#[test]
fn an_address_the_host_does_not_have_yet() {
    let daemon = Builder::default().list("192.0.2.77.2525").start();
    assert_eq!(listening(daemon.pid()), BTreeSet::from(["192.0.2.77:2525".parse().unwrap()]));
}

#[test]
fn the_backlog_is_as_told() {
    let backlog = |options: &[&str]| {
        let daemon = Daemon::start(options);
        let port = daemon.address().port();
        let output = Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output().expect("run ss");
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|l| l.contains(&daemon.address().to_string())).expect("a listening socket");
        line.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!(backlog(&["-listen=7"]), "7");
    let somaxconn = "/proc/sys/net/core/somaxconn";
    let most = std::fs::read_to_string(somaxconn).unwrap();
    assert_eq!(backlog(&[]), most.trim());
    // The kernel's limit counts, not what a header takes it for.
    let done = namespace::run(|| {
        std::fs::write(somaxconn, "65535").unwrap();
        assert_eq!((backlog(&["-listen=50000"]), backlog(&[])), ("50000".to_owned(), "65535".to_owned()));
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

#[test]
fn the_handler_gets_a_blocking_connection_with_keepalive() {
    let report = Daemon::start::<&str>([]).session().report().expect("the handler ran");
    assert!(report.keepalive);
    for n in [0, 1] {
        let descriptor = &report.descriptors[&n];
        assert!(descriptor.target.starts_with("socket:"), "{descriptor:?}");
        assert_eq!(descriptor.flags & nix::libc::O_NONBLOCK as u32, 0, "{descriptor:?}");
    }
}

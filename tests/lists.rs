//! DNS access lists: section 6. What the answers mean is tabled in the unit tests of `policy`; here
//! are the queries, the timing and the way from the command line to the handler.

mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::dns::{A, ANY, Dns, Fault, Message, Record, TXT};
use common::*;
use nix::sys::signal::Signal;

fn asking(dns: &Dns) -> Builder {
    Builder::default().option(format!("-nameserver={}", dns.address)).option("-ipv4=plain")
}

fn listed(ip: IpAddr, zone: &str) -> String {
    couriertcpd::addr::reversed(ip, zone)
}

fn a(ip: &str) -> Message {
    Message::new().record(Record::a(ip))
}

/// The variables that are neither TCP… nor inherited, sorted.
#[track_caller]
fn variables(received: &Received) -> Vec<String> {
    let report = received.report().unwrap_or_else(|| panic!("no handler: {received:?}"));
    let mut all: Vec<_> =
        report.env.iter().filter(|(n, _)| !n.starts_with("TCP")).map(|(n, v)| format!("{n}={v}")).collect();
    all.sort();
    all
}

#[test]
fn a_hit_reaches_the_handler_and_drop_refuses() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    dns.set(&listed(client, "bl.test"), A, a("127.0.0.2"));
    dns.set(&listed(client, "bl.test"), TXT, Message::new().record(Record::txt(&[b"see ", b"http://bl.test/\x07"])));
    let text = format!("BLOCK={client} is listed by bl.test");
    for (option, expected) in [
        ("-block=bl.test", vec![text.as_str(), "BLOCK_IP=127.0.0.2", "BLOCK_ZONE=bl.test"]),
        (
            "-block=bl.test=Our list,SPAM,550 @ no",
            vec![&format!("SPAM=550 {client} no"), "SPAM_IP=127.0.0.2", "SPAM_ZONE=Our list"],
        ),
        (
            "-block=bl.test,BLOCK,*",
            vec![
                "BLOCK=see http://bl.test/?",
                "BLOCK_IP=127.0.0.2",
                "BLOCK_TXT=see http://bl.test/?",
                "BLOCK_ZONE=bl.test",
            ],
        ),
        ("-block=bl.test/127.0.0.3", vec![]),
        ("-allow=bl.test", vec!["ALLOW_0=BLOCK", "BLOCK=", "BLOCK_IP=127.0.0.2", "BLOCK_ZONE=bl.test"]),
    ] {
        let daemon = asking(&dns).option(option).start();
        assert_eq!(variables(&daemon.session_from(client)), expected, "{option}");
        assert_eq!(variables(&daemon.session_from(fresh_ip().into())), Vec::<String>::new(), "{option}");
    }
    let daemon = asking(&dns).options(["-block=bl.test", "-drop", "-denymsg=550 go away"]).start();
    let received = daemon.session_from(client);
    assert_eq!((received.text().as_str(), received.end), ("550 go away\r\n", End::Eof));
    daemon.wait_for_stderr(&format!("WARN: dropped blocked connection from {client}"));
    assert!(daemon.session_from(fresh_ip().into()).report().is_some());
}

#[test]
fn each_list_is_asked_once_and_only_if_its_variable_is_unset() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    let daemon = asking(&dns)
        .options(["-block=a.test", "-block=b.test,SET", "-block=a.test,OTHER/127.0.0.9", "-block=c.test,TEXT,*"])
        .env("SET", "")
        .start();
    daemon.session_from(client).report().expect("a handler");
    let asked = dns.asked();
    assert_eq!(dns.count(&listed(client, "a.test"), A), 1);
    assert_eq!(dns.count(&listed(client, "b.test"), ANY), 0);
    assert_eq!((dns.count(&listed(client, "c.test"), A), dns.count(&listed(client, "c.test"), TXT)), (1, 1));
    assert_eq!(asked.len(), 3, "{asked:?}");
}

#[test]
fn ipv6_clients_are_asked_for_by_nibbles() {
    let dns = Dns::start();
    let client: IpAddr = "::1".parse().unwrap();
    dns.set(&listed(client, "bl.test"), A, a("127.0.0.2"));
    let daemon = asking(&dns).address(free_port(client)).option("-block=bl.test").start();
    assert_eq!(variables(&daemon.session())[0], "BLOCK=::1 is listed by bl.test");
}

#[test]
fn answers_that_are_no_listings_are_said_and_do_not_count() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    dns.set("*.parked.test", A, a("203.0.113.5"));
    dns.set("*.quota.test", A, a("127.255.255.254"));
    let lists = ["-block=parked.test", "-block=quota.test=Quota", "-drop"];
    let daemon = asking(&dns).options(lists).start();
    assert_eq!(variables(&daemon.session_from(client)), ["BLOCK_ERROR=parked.test:203.0.113.5 Quota:127.255.255.254"]);
    daemon.session_from(fresh_ip().into());
    daemon.wait_for_stderr("list Quota: answer 127.255.255.254 is no listing");
    assert_eq!(daemon.count_stderr("list parked.test: answer 203.0.113.5 is no listing"), 1);

    let daemon = asking(&dns).options(lists).option("-blockany=parked.test").start();
    assert_eq!(daemon.session_from(client).bytes, b"");
}

#[test]
fn a_failing_list_is_said_once_and_nobody_is_refused() {
    let dns = Dns::start();
    dns.set("*.dead.test", ANY, Message::new().rcode(2));
    let daemon = asking(&dns).options(["-block=dead.test", "-drop"]).start();
    for _ in 0..5 {
        assert!(daemon.session_from(fresh_ip().into()).report().is_some());
    }
    assert_eq!(daemon.count_stderr("list dead.test: lookup failed"), 1);
}

#[test]
fn a_slow_list_behind_a_hit_is_not_waited_for_and_one_before_it_is() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    dns.set("*.slow.test", ANY, Message::new().late(Duration::from_secs(2)));
    dns.set(&listed(client, "fast.test"), A, a("127.0.0.2"));
    let time = |lists: [&str; 2]| {
        let daemon = asking(&dns).options(lists).start();
        let start = Instant::now();
        assert_eq!(variables(&daemon.session_from(client)).len(), 3);
        start.elapsed()
    };
    assert!(time(["-block=fast.test", "-block=slow.test"]) < Duration::from_millis(1500));
    assert!(time(["-block=slow.test", "-block=fast.test"]) >= Duration::from_secs(2));
}

#[test]
fn the_access_record_settles_a_variable_without_a_query() {
    let dns = Dns::start();
    let scratch = Scratch::new();
    let client = IpAddr::from(fresh_ip());
    let file = scratch.join("access.dat");
    let blocked = IpAddr::from(fresh_ip());
    access::make(&file, &[(&client.to_string(), "allow,BLOCK"), (&blocked.to_string(), "allow,BLOCK=by hand")]);
    dns.set("*.bl.test", A, a("127.0.0.2"));
    let daemon =
        asking(&dns).option(format!("-access={}", file.display())).options(["-block=bl.test", "-drop"]).start();
    assert_eq!(variables(&daemon.session_from(client)), ["BLOCK="]);
    assert_eq!(daemon.session_from(blocked).bytes, b"");
    assert!(dns.asked().is_empty());
    assert_eq!(daemon.session_from(fresh_ip().into()).bytes, b"");
}

/// The process may be stopped for longer than the time limit: by a freezer, a debugger, a machine that swaps.
#[test]
fn an_answer_that_has_come_counts_though_the_time_is_over() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    let hit = Message::new().record(Record::a("127.0.0.2")).late(Duration::from_millis(500));
    dns.otherwise(Message::new().rcode(3)).set(&listed(client, "bl.test"), A, hit);
    let daemon = Builder::default()
        .bare()
        .option(format!("-nameserver={}", dns.address))
        .options(["-nodnslookup", "-noidentlookup", "-block=bl.test", "-drop", "-maxpending=1000", "-lookuptimeout=1"])
        .start();
    // The name server is known as fast: an answer half a second late is one to a try that is over.
    (0..5).for_each(|_| assert!(daemon.session_from(fresh_ip().into()).report().is_some()));
    dns.otherwise(Message::new().fault(Fault::Silent));
    // More events than the daemon takes at a time come before the answer.
    let others: Vec<_> = (0..300).map(|_| daemon.connect_from(fresh_ip().into())).collect();
    let listed_client = daemon.connect_from(client);
    wait_for("the list is asked", || dns.count(&listed(client, "bl.test"), A) == 1);
    let since = Instant::now();
    daemon.signal(Signal::SIGSTOP);
    wait_for("the daemon is stopped", || {
        procfs::status(daemon.pid(), "State").is_some_and(|state| state.starts_with('T'))
    });
    others.into_iter().for_each(Client::reset);
    wait_for("the time is over", || since.elapsed() > Duration::from_millis(1300));
    daemon.signal(Signal::SIGCONT);
    assert_eq!(listed_client.finish().bytes, b"");
}

/// It is asked there, with the interface in its address.
#[test]
fn a_name_server_on_the_link_is_asked_through_its_interface() {
    let done = namespace::run(|| {
        let ip =
            std::process::Command::new("ip").args(["-6", "addr", "add", "fe80::53/64", "dev", "lo", "nodad"]).status();
        assert!(ip.unwrap().success());
        let socket = std::net::SocketAddrV6::new("fe80::53".parse().unwrap(), 53, 0, 1);
        let tcp = std::net::TcpListener::bind(socket).unwrap();
        let dns = Dns::serve(std::net::UdpSocket::bind(socket).unwrap(), tcp);
        dns.otherwise(Message::new().record(Record::a("127.0.0.2")));
        for server in ["fe80::53%lo", "[fe80::53%1]:53"] {
            let options = ["-nodnslookup", "-noidentlookup", "-block=bl.test", "-drop"];
            let daemon = Builder::default().bare().options(options).option(format!("-nameserver={server}")).start();
            assert_eq!(daemon.session().bytes, b"", "listed, {server}");
            daemon.wait_for_stderr("dropped blocked connection");
        }
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
    // What c-ares leaves out without a word.
    for (server, why) in [("fec0::1,192.0.2.1", "[fec0::1]:53"), ("[fe80::1%9999]", "[fe80::1%9999]:53")] {
        let finished = Builder::default().options([&format!("-nameserver={server}"), "-block=bl.test"]).run();
        assert_eq!(finished.code(), 1, "{finished:?}");
        let expected = format!("couriertcpd: cannot set up the DNS client: -nameserver: {why} cannot be asked\n");
        assert_eq!(finished.stderr, expected);
    }
}

/// Those who are on the list wait for its text, and nobody would know why.
#[test]
fn a_listing_whose_text_is_not_to_be_had_is_one_and_is_logged() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    let (failing, silent) = (listed(client, "failing.test"), listed(client, "silent.test"));
    dns.set(&failing, A, a("127.0.0.2")).set(&failing, TXT, Message::new().rcode(2));
    dns.set(&silent, A, a("127.0.0.2")).set(&silent, TXT, Message::new().fault(Fault::Silent));
    for zone in ["failing.test", "silent.test"] {
        let options = ["-nodnslookup", "-noidentlookup", "-lookuptimeout=1", "-ipv4=plain"];
        let asking = || {
            let servers = format!("-nameserver={}", dns.address);
            Builder::default().options(options).options([servers, format!("-block={zone},BLOCK,*")])
        };
        let daemon = asking().start();
        assert_eq!(variables(&daemon.session_from(client))[0], format!("BLOCK={client} is listed by {zone}"));
        daemon.wait_for_stderr(&format!(
            "WARN: list {zone}: no answer for the text of a listing; taken as listed without"
        ));
        let explained = asking().option(format!("-explain={client}")).run();
        assert!(explained.stdout.contains("listed; no answer for its text"), "{explained:?}");
    }
}

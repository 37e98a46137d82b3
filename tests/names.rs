//! Host names by DNS: section 5.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::dns::{A, AAAA, ANY, Dns, Fault, Message, PTR, Record};
use common::*;

/// A daemon that looks names up at `dns` and nothing else.
fn asking(dns: &Dns) -> Builder {
    Builder::default().bare().option("-noidentlookup").option(format!("-nameserver={}", dns.address))
}

fn reverse(ip: IpAddr) -> String {
    couriertcpd::addr::reverse_zone_name(ip)
}

#[track_caller]
fn host(daemon: &Daemon, from: IpAddr) -> Option<String> {
    let received = daemon.session_from(from);
    let report = received.report().unwrap_or_else(|| panic!("no handler: {received:?}"));
    report.var("TCPREMOTEHOST").map(str::to_owned)
}

#[test]
fn the_table_of_section_5() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    let here = client.to_string();
    let a = |ip: &str| Message::new().record(Record::a(ip));
    dns.set("good.example", A, a(&here));
    dns.set("other.example", A, a("198.51.100.9"));
    dns.set("broken.example", A, Message::new().rcode(2));
    dns.set(
        "alias.example",
        A,
        Message::new().record(Record::cname("good.example")).record(Record::a(&here).owner("good.example")),
    );
    let ptr = |names: &[&str]| names.iter().fold(Message::new(), |m, name| m.record(Record::ptr(name)));
    let delegated = format!("7.0-25.{}", reverse(client));
    for (what, message, expected) in [
        ("a name that leads back, as spelled", ptr(&["GooD.Example"]), Some("GooD.Example")),
        ("the second leads back", ptr(&["other.example", "good.example"]), Some("good.example")),
        ("the first fails, the second leads back", ptr(&["broken.example", "good.example"]), Some("good.example")),
        ("an alias", ptr(&["alias.example"]), Some("alias.example")),
        (
            "a delegated reverse zone",
            Message::new().record(Record::cname(&delegated)).record(Record::ptr("good.example").owner(&delegated)),
            Some("good.example"),
        ),
        ("NXDOMAIN", Message::new().rcode(3), None),
        ("no data", Message::new(), None),
        ("SERVFAIL", Message::new().rcode(2), Some("softdnserr")),
        ("REFUSED", Message::new().rcode(5), Some("softdnserr")),
        ("the forward lookup fails", ptr(&["broken.example"]), Some("softdnserr")),
        ("one leads elsewhere, one fails", ptr(&["other.example", "broken.example"]), Some("softdnserr")),
        ("none leads back", ptr(&["other.example", "nowhere.example"]), Some("softdnserr")),
        ("no host name", Message::new().record(Record::ptr_bytes(b"a b`c.example")), Some("softdnserr")),
        ("the root", Message::new().record(Record::raw(PTR, vec![0])), Some("softdnserr")),
        ("underscores", ptr(&["a_b.good.example"]), Some("a_b.good.example")),
    ] {
        dns.set("a_b.good.example", A, a(&here));
        dns.set(&reverse(client), PTR, message);
        let daemon = asking(&dns).start();
        assert_eq!(host(&daemon, client).as_deref(), expected, "{what}");
    }
}

#[test]
fn a_mismatch_can_be_left_unset_and_a_failure_cannot() {
    let dns = Dns::start();
    let (liar, unlucky) = (IpAddr::from(fresh_ip()), IpAddr::from(fresh_ip()));
    dns.set(&reverse(liar), PTR, Message::new().record(Record::ptr("other.example")));
    dns.set("other.example", A, Message::new().record(Record::a("198.51.100.9")));
    dns.set(&reverse(unlucky), PTR, Message::new().rcode(2));
    let daemon = asking(&dns).option("-hostmismatch=unset").start();
    assert_eq!(host(&daemon, liar), None);
    assert_eq!(host(&daemon, unlucky).as_deref(), Some("softdnserr"));
}

#[test]
fn the_local_end_has_a_name_too_and_is_asked_for_once() {
    let dns = Dns::start();
    let builder = asking(&dns);
    let local = builder.target().ip();
    dns.set(&reverse(local), PTR, Message::new().record(Record::ptr("mail.example")));
    dns.set("mail.example", A, Message::new().record(Record::a(&local.to_string())));
    let daemon = builder.start();
    for _ in 0..3 {
        let report = daemon.session_from(fresh_ip().into()).report().expect("a handler");
        assert_eq!(report.var("TCPLOCALHOST"), Some("mail.example"));
        assert_eq!(report.var("TCPREMOTEHOST"), None);
    }
    assert_eq!(dns.count(&reverse(local), PTR), 1);
    assert_eq!(dns.count("mail.example", A), 1);
}

#[test]
fn ipv6_clients_are_checked_by_aaaa() {
    let dns = Dns::start();
    let client: IpAddr = "::1".parse().unwrap();
    dns.set(&reverse(client), PTR, Message::new().record(Record::ptr("six.example")));
    dns.set("six.example", AAAA, Message::new().record(Record::a("::1")));
    let daemon = asking(&dns).address(free_port(client)).start();
    let report = daemon.session().report().expect("a handler");
    assert_eq!(report.var("TCPREMOTEHOST"), Some("six.example"));
    assert_eq!(report.var("TCPREMOTEIP"), Some("::1"));
    assert_eq!(dns.count("six.example", A), 0);
}

#[test]
fn truncated_answers_are_asked_again_by_tcp() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    let many = (0..61).fold(Message::new(), |m, i| m.record(Record::ptr(&format!("h{i}.example"))));
    dns.set(&reverse(client), PTR, many.fault(Fault::Truncated));
    let addresses = (0..400).fold(Message::new(), |m, i| m.record(Record::a(&format!("10.9.{}.{}", i / 200, i % 200))));
    dns.set("h60.example", A, addresses.record(Record::a(&client.to_string())).fault(Fault::Truncated));
    let daemon = asking(&dns).start();
    assert_eq!(host(&daemon, client).as_deref(), Some("h60.example"));
    assert!(dns.asked().iter().any(|q| q.tcp && q.name == "h60.example"));
}

#[test]
fn with_nodnslookup_nothing_is_asked_and_nothing_leaks_in() {
    let dns = Dns::start();
    let daemon = asking(&dns)
        .option("-nodnslookup")
        .env("TCPREMOTEHOST", "stale.example")
        .env("TCPLOCALHOST", "stale.example")
        .start();
    let report = daemon.session().report().expect("a handler");
    assert_eq!((report.var("TCPREMOTEHOST"), report.var("TCPLOCALHOST")), (None, None));
    assert!(dns.asked().is_empty());
}

#[test]
fn answers_are_kept_until_sighup_and_not_at_all_with_dnscache_0() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    dns.set(&reverse(client), PTR, Message::new().record(Record::ptr("old.example")));
    dns.set("*.example", A, Message::new().record(Record::a(&client.to_string())));
    let daemon = asking(&dns).start();
    assert_eq!(host(&daemon, client).as_deref(), Some("old.example"));
    dns.set(&reverse(client), PTR, Message::new().record(Record::ptr("new.example")));
    assert_eq!(host(&daemon, client).as_deref(), Some("old.example"));
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_for_stderr("SIGHUP");
    assert_eq!(host(&daemon, client).as_deref(), Some("new.example"));

    let daemon = asking(&dns).option("-dnscache=0").start();
    let before = dns.count(&reverse(client), PTR);
    for _ in 0..3 {
        assert_eq!(host(&daemon, client).as_deref(), Some("new.example"));
    }
    assert_eq!(dns.count(&reverse(client), PTR), before + 3);
}

#[test]
fn connections_that_need_the_same_name_share_one_query() {
    let dns = Dns::start();
    let client = IpAddr::from(fresh_ip());
    // Less than c-ares waits before it asks once more.
    let late = Duration::from_millis(200);
    dns.set(&reverse(client), PTR, Message::new().record(Record::ptr("one.example")).late(late));
    dns.set("one.example", A, Message::new().record(Record::a(&client.to_string())).late(late));
    // With the cache, since on a busy machine the last may connect after the first has its answer.
    let daemon = asking(&dns).options(["-maxperip=20"]).start();
    let clients: Vec<Client> = (0..20).map(|_| daemon.connect_from(client)).collect();
    for client in clients {
        let report = client.finish().report().expect("a handler");
        assert_eq!(report.var("TCPREMOTEHOST"), Some("one.example"));
    }
    assert_eq!(dns.count(&reverse(client), PTR), 1);
    assert_eq!(dns.count("one.example", ANY), 1);
}

/// Every fault a server or somebody between can produce: the connection goes on with a defined
/// result, and no byte that is not printable reaches the log.
#[test]
fn hostile_answers_do_no_harm() {
    let dns = Dns::start();
    let faulty = |fault| Message::new().record(Record::ptr("x.example")).fault(fault);
    let thousands = (0..3000).fold(Message::new(), |m, i| m.record(Record::ptr(&format!("h{i}.example"))));
    let huge = (0..240).fold(Message::new(), |m, _| m.record(Record::txt(&[&[b'x'; 250]])));
    let circle = Message::new()
        .record(Record::cname("b.example"))
        .record(Record::cname("c.example").owner("b.example"))
        .record(Record::cname("b.example").owner("c.example"));
    let cases = [
        ("wrong id", faulty(Fault::WrongId), true),
        ("wrong question", faulty(Fault::WrongQuestion), true),
        ("pointer loop", faulty(Fault::PointerLoop), true),
        ("cut short", faulty(Fault::CutShort), true),
        ("closed over TCP", faulty(Fault::TcpClosed), true),
        ("a circle of CNAMEs", circle, true),
        ("thousands of names", thousands.fault(Fault::Truncated), true),
        ("64 KiB of something else", huge.fault(Fault::Truncated), false),
        ("control characters", Message::new().record(Record::ptr_bytes(b"a\n\x1b[2J\0b.example")), true),
        ("an owner that was not asked for", Message::new().record(Record::ptr("x.example").owner("y.example")), false),
        (
            "a very long name",
            Message::new()
                .record(Record::ptr(&["a23456789012345678901234567890123456789012345678901234567890"; 4].join("."))),
            true,
        ),
    ];
    dns.otherwise(Message::new().rcode(3));
    let daemon = asking(&dns).options(["-lookuptimeout=4", "-loglevel=debug", "-maxprocs=100"]).start();
    let clients: Vec<_> = cases
        .into_iter()
        .map(|(what, message, soft)| {
            let from = IpAddr::from(fresh_ip());
            dns.set(&reverse(from), PTR, message);
            (what, soft, daemon.connect_from(from))
        })
        .collect();
    for (what, soft, client) in clients {
        let received = client.finish();
        let report = received.report().unwrap_or_else(|| panic!("{what}: no handler, {received:?}"));
        assert_eq!(report.var("TCPREMOTEHOST"), soft.then_some("softdnserr"), "{what}");
    }
    assert!(daemon.stderr().bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{}", daemon.stderr());
    assert_eq!(daemon.threads(), 1);
}

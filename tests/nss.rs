//! Host names from the name service switch, asked by helper processes. Section 5, last paragraph.
//!
//! Each test has a network and files of its own: a hosts file, and a scripted name server where
//! `/etc/resolv.conf` says. Needs root.

mod common;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use common::dns::{A, AAAA, Dns, Fault, Message, PTR, Record};
use common::procfs::{children, is_alive, status};
use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NAME_SERVER: &str = "127.0.0.53:53";
const HOSTS: &str = "127.0.0.1 localhost\n192.0.2.7 seven.example seven\n192.0.2.25 mail.example\n\
                     2001:db8::7 six.example\n2001:db8::25 mail6.example\n";

/// What a test has around it.
struct World {
    dns: Dns,
    scratch: Scratch,
}

impl World {
    /// Runs `body` with the files in place and a name server that knows nothing.
    fn run(resolver_options: &str, body: impl FnOnce(&World) + Send) {
        let run = || {
            let address: SocketAddr = NAME_SERVER.parse().unwrap();
            let dns = Dns::serve(UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap());
            let world = World { dns, scratch: Scratch::new() };
            let resolv = format!("nameserver {}\noptions {resolver_options}\n", address.ip());
            for (target, text) in
                [("/etc/hosts", HOSTS), ("/etc/nsswitch.conf", "hosts: files dns\n"), ("/etc/resolv.conf", &resolv)]
            {
                let name = target.rsplit_once('/').unwrap().1;
                namespace::replace_file(target, &world.scratch.file(name, text));
            }
            body(&world);
        };
        namespace::run(run).expect("root may make namespaces");
    }
}

/// A daemon on 192.0.2.25 that asks the switch and no ident.
fn asking(option: &str) -> Builder {
    let address = "192.0.2.25:25".parse().unwrap();
    Builder::default().bare().option("-noidentlookup").option(option).address(address)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// TCPREMOTEHOST of a client from `from`.
#[track_caller]
fn host_of(daemon: &Daemon, from: &str) -> Option<String> {
    let report = daemon.session_from(ip(from)).report().expect("the handler ran");
    report.var("TCPREMOTEHOST").map(str::to_owned)
}

fn helpers_of(pid: i32) -> Vec<i32> {
    let named = |pid: &i32| status(*pid, "Name").as_deref() == Some("couriertcpd-nss");
    children(pid).into_iter().filter(named).collect()
}

/// The helpers, once there are `count`.
#[track_caller]
fn helpers(daemon: &Daemon, count: usize) -> Vec<i32> {
    wait_for("all helpers are there", || helpers_of(daemon.pid()).len() == count);
    helpers_of(daemon.pid())
}

#[test]
fn the_hosts_file_names_both_ends() {
    World::run("timeout:1", |world| {
        let daemon = asking("-resolver=nss").start();
        let report = daemon.session_from(ip("192.0.2.7")).report().expect("the handler ran");
        assert_eq!(report.var("TCPREMOTEHOST"), Some("seven.example"));
        assert_eq!(report.var("TCPLOCALHOST"), Some("mail.example"));
        drop(daemon);

        let daemon = asking("-resolver=nss").address("[2001:db8::25]:25".parse().unwrap()).start();
        let report = daemon.session_from(ip("2001:db8::7")).report().expect("the handler ran");
        assert_eq!(report.var("TCPREMOTEHOST"), Some("six.example"));
        assert_eq!(report.var("TCPLOCALHOST"), Some("mail6.example"));
        assert_eq!(world.dns.asked().len(), 0, "the hosts file knew them all");
    });
}

#[test]
fn the_outcomes_are_those_of_the_table() {
    World::run("timeout:1 attempts:1", |world| {
        let ptr = |last: u8| format!("{last}.2.0.192.in-addr.arpa");
        world
            .dns
            .set(&ptr(10), PTR, Message::new().record(Record::ptr("good.test")))
            .set("good.test", A, Message::new().record(Record::a("192.0.2.99")).record(Record::a("192.0.2.10")))
            .set(&ptr(12), PTR, Message::new().rcode(2))
            .set(&ptr(13), PTR, Message::new().record(Record::ptr("late.test")))
            .set("late.test", A, Message::new().rcode(2))
            .set(&ptr(14), PTR, Message::new().record(Record::ptr("other.test")))
            .set("other.test", A, Message::new().record(Record::a("192.0.2.99")))
            .set(&ptr(15), PTR, Message::new().record(Record::ptr("gone.test")))
            .set(&ptr(16), PTR, Message::new().record(Record::ptr("192.0.2.16")))
            .set(&ptr(17), PTR, Message::new().record(Record::ptr("only6.test")))
            .set("only6.test", AAAA, Message::new().record(Record::a("2001:db8::1")))
            .set("only6.test", A, Message::new());
        let daemon = asking("-resolver=nss").start();
        let unset =
            asking("-resolver=nss").option("-hostmismatch=unset").address("192.0.2.26:25".parse().unwrap()).start();
        for (last, expected, with_unset) in [
            (10, Some("good.test"), Some("good.test")),
            (11, None, None),
            (12, Some("softdnserr"), Some("softdnserr")),
            (13, Some("softdnserr"), Some("softdnserr")),
            (14, Some("softdnserr"), None),
            (15, Some("softdnserr"), None),
            (16, Some("softdnserr"), None),
            (17, Some("softdnserr"), None),
        ] {
            let from = format!("192.0.2.{last}");
            assert_eq!(host_of(&daemon, &from).as_deref(), expected, "{from}");
            assert_eq!(host_of(&unset, &from).as_deref(), with_unset, "{from} with -hostmismatch=unset");
        }
    });
}

#[test]
fn nobody_asks_with_nodnslookup_and_answers_are_kept_until_a_hangup() {
    World::run("timeout:1", |world| {
        let daemon = asking("-resolver=nss:1").option("-nodnslookup").start();
        assert_eq!(host_of(&daemon, "192.0.2.7"), None);
        // No helpers for nothing: the handler was its only child.
        daemon.wait_for_no_children();
        drop(daemon);

        let daemon = asking("-resolver=nss:1").start();
        assert_eq!(host_of(&daemon, "192.0.2.7").as_deref(), Some("seven.example"));
        fs::write(world.scratch.join("hosts"), HOSTS.replace("seven", "neuf")).unwrap();
        assert_eq!(host_of(&daemon, "192.0.2.7").as_deref(), Some("seven.example"));
        daemon.signal(Signal::SIGHUP);
        wait_for("the new name", || host_of(&daemon, "192.0.2.7").as_deref() == Some("neuf.example"));
    });
}

#[test]
fn helpers_are_as_many_as_told_without_rights_or_descriptors() {
    World::run("timeout:1", |_| {
        for (option, count, user) in [("-resolver=nss", 4, None), ("-resolver=nss:2", 2, Some("daemon"))] {
            let builder = asking(option).options(user.map(|user| format!("-user={user}")));
            // `daemon` may not run the test binary.
            let daemon = builder.handler(["/bin/sh", "-c", "echo host=$TCPREMOTEHOST"]).start();
            assert_eq!(daemon.session_from(ip("192.0.2.7")).text(), "host=seven.example\n");
            for helper in helpers(&daemon, count) {
                let field = |name: &str| status(helper, name).unwrap_or_default();
                wait_for("the helper has set itself up", || field("NoNewPrivs") == "1");
                let id = if user.is_some() { "1" } else { "65534" };
                assert_eq!(field("Uid"), [id; 4].join("\t"));
                assert_eq!(field("Gid"), [id; 4].join("\t"));
                assert_eq!(field("Groups"), "");
                assert_eq!(field("CapEff"), "0000000000000000");
                let targets: Vec<_> = fs::read_dir(format!("/proc/{helper}/fd"))
                    .unwrap()
                    .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
                    .collect();
                assert!(targets.iter().all(|target| *target == targets[0]), "one open file: {targets:?}");
            }
        }
    });
}

#[test]
fn helpers_that_die_are_replaced() {
    World::run("timeout:1", |_| {
        let mut daemon = asking("-resolver=nss:2").option("-dnscache=0").start();
        let before = helpers(&daemon, 2);
        for helper in &before {
            kill(Pid::from_raw(*helper), Signal::SIGKILL).unwrap();
        }
        wait_for("two others", || {
            let now = helpers_of(daemon.pid());
            now.len() == 2 && now.iter().all(|helper| !before.contains(helper))
        });
        assert_eq!(host_of(&daemon, "192.0.2.7").as_deref(), Some("seven.example"));
        assert!(daemon.stderr().contains("helper"), "{}", daemon.stderr());
        assert!(!daemon.has_ended());
    });
}

#[test]
fn a_hanging_lookup_costs_one_client_the_time_limit_and_one_helper() {
    World::run("timeout:30", |world| {
        let silent = Message::new().fault(Fault::Silent);
        world.dns.set("10.2.0.192.in-addr.arpa", PTR, silent);
        let daemon = asking("-resolver=nss:2").options(["-lookuptimeout=2", "-user=daemon"]);
        let daemon = daemon.handler(["/bin/sh", "-c", "echo host=$TCPREMOTEHOST"]).start();
        let before = helpers(&daemon, 2);
        let started = Instant::now();
        let client = daemon.connect_from(ip("192.0.2.10"));
        wait_for("the lookup is under way", || world.dns.count("10.2.0.192.in-addr.arpa", PTR) > 0);
        assert_eq!(daemon.session_from(ip("192.0.2.7")).text(), "host=seven.example\n");
        assert!(started.elapsed() < Duration::from_secs(2), "the other helper answers meanwhile");
        assert_eq!(client.finish().text(), "host=softdnserr\n");
        assert!(started.elapsed() >= Duration::from_secs(2), "not before the time limit");
        wait_for("the one that hangs is replaced", || {
            let now = helpers_of(daemon.pid());
            now.len() == 2 && now.iter().filter(|helper| before.contains(helper)).count() == 1
        });
    });
}

/// Whatever ends the daemon, and whatever the helpers are at: none stays.
#[test]
fn helpers_end_with_the_daemon() {
    World::run("timeout:30", |world| {
        world.dns.set("10.2.0.192.in-addr.arpa", PTR, Message::new().fault(Fault::Silent));
        for user in [None, Some("-user=daemon")] {
            for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                // `daemon` may not run the test binary.
                let mut daemon = asking("-resolver=nss:2").options(user).handler(["/bin/cat"]).start();
                let all = helpers(&daemon, 2);
                let asked = world.dns.count("10.2.0.192.in-addr.arpa", PTR);
                let _client = daemon.connect_from(ip("192.0.2.10"));
                wait_for("a helper hangs", || world.dns.count("10.2.0.192.in-addr.arpa", PTR) > asked);
                daemon.signal(signal);
                daemon.wait();
                wait_for("no helper stays", || !all.iter().any(|&helper| is_alive(helper)));
            }
        }
    });
}

/// As in a container, or under a manager, that leaves root without what it takes to be somebody else. Nothing is asked
/// with more rights than a helper should have, and the reason is told.
#[test]
fn helpers_that_cannot_give_up_root_are_not_used() {
    World::run("timeout:1", |_| {
        let daemon = asking("-resolver=nss:1").prelude("set -- setpriv --bounding-set=-setuid \"$@\"").start();
        assert_eq!(host_of(&daemon, "192.0.2.7").as_deref(), Some("softdnserr"));
        daemon.wait_for_stderr("cannot give up its rights: Operation not permitted\n");
    });
}

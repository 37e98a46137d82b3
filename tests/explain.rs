//! `-explain`: what the daemon would do, without doing it.

mod common;

use std::time::Duration;

use common::dns::{A, Dns, Fault, Message, PTR, Record};
use common::*;

/// A line without the time in front.
fn steps(finished: &Finished) -> Vec<&str> {
    finished.stdout.lines().map(|line| line.split_once(" s  ").map_or(line, |(_, text)| text)).collect()
}

#[track_caller]
fn assert_steps(finished: &Finished, code: i32, expected: &[&str]) {
    assert_eq!(finished.code(), code, "{finished:?}");
    let steps = steps(finished);
    let mut rest = steps.iter();
    for line in expected {
        assert!(rest.any(|step| step == line), "no line {line:?}, or not in order, in:\n{}", finished.stdout);
    }
}

#[test]
fn it_has_the_environment_that_a_handler_gets() {
    let scratch = Scratch::new();
    let access = scratch.join("access.dat");
    access::make(&access, &[("127.0.0", "allow,RELAYCLIENT,GREETING=\"a, b\"")]);
    let dns = Dns::start();
    dns.set("2.0.0.127.in-addr.arpa", PTR, Message::new().record(Record::ptr("mx.example")));
    dns.set("mx.example", A, Message::new().record(Record::a("127.0.0.2")));
    dns.set("2.0.0.127.bl.example", A, Message::new().record(Record::a("127.0.0.4")));
    let builder = || {
        let options = [
            format!("-access={}", access.display()),
            format!("-nameserver={}", dns.address),
            "-noidentlookup".into(),
            "-block=bl.example,LISTED,seen @".into(),
            "-block=bl.example,LISTED".into(),
        ];
        let long = "x".repeat(1000);
        Builder::default().bare().options(options).env("LONG", long).env("TCPREMOTEINFO", "stale")
    };
    let daemon = builder().start();
    let mut client = daemon.connect_from("127.0.0.2".parse().unwrap());
    let (from, to) = (client.local(), daemon.address());
    let mut served: Vec<_> = client.report().env.iter().map(|(name, value)| format!("  {name}={value}")).collect();
    // The daemon has the port; nobody else listens here.
    let finished = builder().address(to).option(format!("-explain={from},{to}")).run();
    let expected = [
        &format!("client 127.0.0.2 port {}, to {} port {}", from.port(), to.ip(), to.port()),
        "access: client key 127.0.0.2: no record",
        "access: client key 127.0.0: record \"allow,RELAYCLIENT,GREETING=\"a, b\"\"",
        "access: sets GREETING=\"a, b\"",
        "limits: 4 connections from one address, no limit for a block, 40 slots; taken as not reached",
        "asked PTR 2.0.0.127.in-addr.arpa",
        "asked A mx.example",
        "client's name: mx.example",
        "block bl.example for LISTED: listed",
        "block bl.example for LISTED: listed",
        "verdict: served",
    ];
    assert_steps(&finished, 0, &expected);
    assert_eq!(finished.stderr, "");
    let mut explained: Vec<_> = finished
        .stdout
        .lines()
        .filter(|line| line.starts_with("  ") && line.contains('='))
        .filter(|line| !line.contains(" s  "))
        .map(str::to_owned)
        .collect();
    served.sort();
    explained.sort();
    assert_eq!(explained, served);
}

#[test]
fn refusals_are_told_with_what_decided() {
    let scratch = Scratch::new();
    let access = scratch.join("access.dat");
    access::make(
        &access,
        &[("192.0.2", "deny"), ("*.25", "allow"), ("198.51.100.7", "allow,MAXCPERIP=9,BLOCK=by hand")],
    );
    let access = format!("-access={}", access.display());
    let explain = |whom: &str| {
        let options = [access.as_str(), "-accesslocal", "-drop", "-denymsg=go away", &format!("-explain={whom}")];
        Builder::default().options(options).run()
    };
    let denied = [
        "client 192.0.2.1 port 0, to 203.0.113.5 port 25",
        "access: local key 203.0.113.5.25: no record",
        "access: local key 203: no record",
        "access: local key *.25: record \"allow\"",
        "access: client key 192.0.2.1: no record",
        "access: client key 192.0.2: record \"deny\"",
        "verdict: refused: the access file denies it",
        "the client gets \"go away\"",
    ];
    assert_steps(&explain("192.0.2.1,203.0.113.5:25"), 1, &denied);
    let dropped = [
        "access: client key 198.51.100.7: record \"allow,MAXCPERIP=9,BLOCK=by hand\"",
        "limits: 9 connections from one address (MAXCPERIP, instead of 4), no limit for a block, 40 slots; taken as not reached",
        "verdict: refused: -drop, since BLOCK is set and not empty",
    ];
    assert_steps(&explain("::ffff:198.51.100.7,203.0.113.5:25"), 1, &dropped);
    let v6 = [
        "client 2001:db8::1 port 4, to 2001:db8::2 port 9",
        "access: client: no record applies, let in",
        "verdict: served",
    ];
    assert_steps(&explain("[2001:db8::1]:4,[2001:db8::2]:9"), 0, &v6);
}

#[test]
fn lists_are_told_with_how_they_were_judged() {
    let dns = Dns::start();
    dns.set("1.2.0.192.parked.example", A, Message::new().record(Record::a("203.0.113.80")));
    dns.set("1.2.0.192.silent.example", A, Message::new().fault(Fault::Silent));
    dns.set("1.2.0.192.broken.example", A, Message::new().rcode(2));
    let lists =
        ["parked.example", "parked.example,HIT/203.0.113.80,no", "absent.example", "broken.example", "silent.example"]
            .map(|list| format!("-block={list}"));
    let options = ["-lookuptimeout=1".into(), format!("-nameserver={}", dns.address), "-explain=192.0.2.1".into()];
    let finished = Builder::default().options(lists).options(options).run();
    let expected = [
        "names: not looked up",
        "block parked.example for BLOCK: 203.0.113.80 is no listing, taken as not listed",
        "block parked.example for HIT: listed",
        "block absent.example for BLOCK: not listed",
        "block broken.example for BLOCK: lookup failed, taken as not listed",
        "block silent.example for BLOCK: no answer in time, taken as not listed",
        "verdict: served",
    ];
    assert_steps(&finished, 0, &expected);
    assert!(steps(&finished).contains(&"time is up: what is open counts as failed (-lookuptimeout)"), "{finished:?}");
    let asked = steps(&finished).iter().filter(|step| **step == "asked A 1.2.0.192.parked.example").count();
    assert_eq!(asked, 1, "two lists share the question: {}", finished.stdout);
    assert!(
        finished
            .stdout
            .lines()
            .any(|l| l.contains(" s  answered A 1.2.0.192.parked.example after 0.") && l.ends_with(": 203.0.113.80"))
    );
}

#[test]
fn the_name_service_switch_is_asked_as_well() {
    let options = ["-noidentlookup", "-resolver=nss:1", "-explain=127.0.0.1,127.0.0.1:25"];
    let finished = Builder::default().bare().options(options).run();
    assert_steps(&finished, 0, &["asked for the name of 127.0.0.1", "verdict: served"]);
    assert!(steps(&finished).iter().any(|step| step.starts_with("client's name: ")), "{finished:?}");
}

#[test]
fn nothing_is_started_or_left_behind() {
    let scratch = Scratch::new();
    let (pid_file, ran) = (scratch.join("pid"), scratch.join("ran"));
    let options = [format!("-pid={}", pid_file.display()), "-explain=192.0.2.1".into()];
    let finished = Builder::default().options(options).steps(&[&format!("touch:{}", ran.display())]).run();
    assert_steps(&finished, 0, &["verdict: served"]);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    let refused = Builder::default().option("-explain=192.0.2.1").handler(["/nonexistent/program"]).run();
    assert_eq!((refused.code(), refused.stdout.as_str(), refused.stderr.lines().count()), (1, "", 1), "{refused:?}");
}

/// An address to listen at that stands for all is none that a client comes to.
#[test]
fn the_local_end_is_one_that_the_client_reaches() {
    for list in ["0.0.0.0.2525", "2525", "[::]:2525"] {
        let options = ["-nodnslookup", "-noidentlookup", "-explain=127.0.0.2"];
        let finished = Builder::default().bare().options(options).list(list).run();
        assert_eq!(steps(&finished)[0], "client 127.0.0.2 port 0, to 127.0.0.1 port 2525", "{list}");
    }
}

/// As in the daemon: what has come while the process was stopped counts, though its time is over.
#[test]
fn an_answer_that_has_come_counts_though_the_time_is_over() {
    let dns = Dns::start();
    let hit = Message::new().record(Record::a("127.0.0.2")).late(Duration::from_millis(300));
    dns.otherwise(Message::new().rcode(3)).set("1.2.0.192.bl.example", A, hit);
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_couriertcpd"))
        .args(["-nodnslookup", "-noidentlookup", "-block=bl.example", "-drop", "-lookuptimeout=1"])
        .args([&format!("-nameserver={}", dns.address), "-explain=192.0.2.1", "25", "/bin/true"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the list is asked", || dns.count("1.2.0.192.bl.example", A) == 1);
    let since = std::time::Instant::now();
    let pid = child.id() as i32;
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    signal(nix::sys::signal::Signal::SIGSTOP);
    wait_for("it is stopped", || procfs::status(pid, "State").is_some_and(|state| state.starts_with('T')));
    wait_for("the time is over", || since.elapsed() > Duration::from_millis(1300));
    signal(nix::sys::signal::Signal::SIGCONT);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("block bl.example for BLOCK: listed\n"), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
}

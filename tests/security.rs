//! Promises of docs/security.md on the running daemon, all at once where it matters that all is there
//! at once. The rest of that table is tested where its feature is.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::daemon::Background;
use common::dns::{A, ANY, Dns, Fault, Message, PTR, Record, TXT};
use common::*;

/// Root runs the tests, else says that they are skipped.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: takes root to change the user");
    }
    root
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

#[test]
fn what_was_given_up_is_not_had_again() {
    if !is_root() {
        return;
    }
    // Each line of output is something that worked and must not.
    let tries = "exec 2>/dev/null
        setpriv --reuid=0 true && echo 'user again'
        setpriv --regid=0 --clear-groups true && echo 'group again'
        setpriv --groups=0 true && echo 'groups again'
        setpriv --inh-caps=+all --ambient-caps=+all true && echo 'capabilities again'
        cat /etc/shadow
        kill -0 1 && echo 'root may be signalled'
        echo done; grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapAmb):' /proc/self/status";
    let daemon = Builder::default()
        .options(["-user=33333", "-group=33333"])
        .env("PATH", "/usr/bin:/bin")
        .handler(["/bin/sh", "-c", tries])
        .start();
    let text = daemon.session().text();
    let (tried, status) = text.split_once("done\n").expect("the script ran to its end");
    assert_eq!(tried, "");
    let fields: Vec<Vec<&str>> = status.lines().map(|line| line.split_whitespace().collect()).collect();
    let none = "0000000000000000";
    assert_eq!(
        fields,
        [
            vec!["Uid:", "33333", "33333", "33333", "33333"],
            vec!["Gid:", "33333", "33333", "33333", "33333"],
            vec!["Groups:", "33333"],
            vec!["CapInh:", none],
            vec!["CapPrm:", none],
            vec!["CapEff:", none],
            vec!["CapAmb:", none],
        ]
    );
    // The same for the daemon, whose life is longer.
    for (field, expected) in
        [("Uid", "33333\t33333\t33333\t33333"), ("Groups", "33333"), ("CapPrm", none), ("CapEff", none)]
    {
        assert_eq!(procfs::status(daemon.pid(), field).as_deref(), Some(expected), "{field}");
    }
}

#[test]
fn children_have_nothing_of_a_busy_daemon() {
    let scratch = Scratch::new();
    let dns = Dns::start();
    dns.otherwise(Message::new().fault(Fault::Silent));
    let served = IpAddr::from(fresh_ip());
    let access = scratch.join("access");
    access::make(&access, &[(&served.to_string(), "allow,BLOCK="), ("127.255", "deny")]);
    let errors = scratch.join("errors");
    let option = |name: &str, path: &Path| format!("{name}={}", path.display());
    let daemon = Builder::default()
        .bare()
        .options(["-nodnslookup", "-noidentlookup", "-block=bl.example", "-denymsg=no", "-maxprocs=9"])
        .options([option("-access", &access), option("-stderr", &errors), option("-control", &scratch.join("ctl"))])
        .option(format!("-nameserver={}", dns.address))
        .steps(&["report", "drain"])
        .start();
    // One waits for its lookup, one is refused and does not close, one has a handler.
    let _pending = daemon.connect();
    let _refused = daemon.connect_from("127.255.0.1".parse().unwrap());
    let _other = daemon.connect_from(served);
    wait_for("the query of the first", || !dns.asked().is_empty());
    let before = daemon.descriptors();
    let mut client = daemon.connect_from(served);
    let report = client.report();
    let numbers: Vec<i32> = report.descriptors.keys().copied().collect();
    assert_eq!(numbers, [0, 1, 2]);
    let targets: Vec<&str> = report.descriptors.values().map(|d| d.target.as_str()).collect();
    assert!(targets[0].starts_with("socket:") && targets[0] == targets[1], "{targets:?}");
    assert_eq!(targets[2], errors.to_str().unwrap());
    wait_for("the daemon has closed its end", || daemon.descriptors() <= before);
    assert!(before > 12, "the daemon was busy: {before} descriptors");
}

/// Bytes that a terminal, a shell or a log would trip over.
const NASTY: &[u8] = b"a\r\nERR: forged\x1b[2J\x07\x7f\xc2\x9b\x9b\0z";

#[test]
fn nothing_unprintable_reaches_a_variable_or_a_line() {
    let from = IpAddr::from(fresh_ip());
    let dns = Dns::start();
    let zone = couriertcpd::addr::reversed(from, "bl.example");
    dns.set(&couriertcpd::addr::reverse_zone_name(from), PTR, Message::new().record(Record::ptr_bytes(NASTY)))
        .set(&zone, A, Message::new().record(Record::a("127.0.0.2")))
        .set(&zone, TXT, Message::new().record(Record::txt(&[NASTY])))
        .set("*.example", ANY, Message::new().rcode(3));
    let ident = TcpListener::bind((from, 113)).unwrap();
    let daemon = Builder::default()
        .bare()
        .options(["-block=bl.example,BLOCK,*", "-loglevel=debug", "-ipv4=plain"])
        .option(format!("-nameserver={}", dns.address))
        .start();
    let client = daemon.connect_from(from);
    let (mut stream, _) = ident.accept().unwrap();
    BufReader::new(&stream).read_line(&mut String::new()).unwrap();
    let ports = format!("{},{}", client.local().port(), client.peer().port());
    stream.write_all(&[ports.as_bytes(), b":USERID:UNIX:", &NASTY[3..], b"\r\n"].concat()).unwrap();
    let report = client.finish().report().expect("the handler ran");
    // The report shows other bytes than printable ASCII as escapes.
    assert_eq!(report.var("TCPREMOTEHOST"), Some("softdnserr"));
    assert_eq!(report.var("TCPREMOTEINFO"), Some("ERR: forged?[2J?????z"));
    assert_eq!(report.var("BLOCK"), Some("a??ERR: forged?[2J?????z"));
    assert_eq!(report.var("BLOCK_TXT"), report.var("BLOCK"));
    let names: BTreeSet<&str> = report.env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), report.env.len(), "each variable once");
    daemon.wait_for_stderr("end ip=");
    let log = daemon.stderr();
    assert!(log.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("ERR:")), "{log}");
}

#[test]
fn files_are_as_tight_as_promised_whatever_the_umask() {
    let scratch = Scratch::new();
    let (pid_file, errors) = (scratch.join("t.pid"), scratch.join("errors"));
    let start = Builder::default()
        .prelude("umask 0")
        .options([format!("-pid={}", pid_file.display()), format!("-stderr={}", errors.display())]);
    assert_eq!(start.run().code(), 0);
    let daemon = Background::of(&pid_file);
    for (name, expected) in [("t.pid", 0o644), ("t.pid.lock", 0o600), ("t.pid.ctl", 0o600), ("errors", 0o660)] {
        assert_eq!(mode(&scratch.join(name)), expected, "{name}");
    }
    drop(daemon);
}

#[test]
fn links_in_the_place_of_our_files_are_not_followed() {
    let scratch = Scratch::new();
    let precious = scratch.file("precious", "as it was");
    let before = mode(&precious);
    let pid_file = scratch.join("t.pid");
    let start = || Builder::default().option(format!("-pid={}", pid_file.display())).run();
    // The lock and the draft of FILE are refused or replaced, and FILE itself is replaced.
    symlink(&precious, scratch.join("t.pid.lock")).unwrap();
    let refused = start();
    assert_eq!((refused.code(), refused.stderr.lines().count()), (1, 1), "{refused:?}");
    fs::remove_file(scratch.join("t.pid.lock")).unwrap();
    for name in ["t.pid", "t.pid.tmp", "t.pid.ctl"] {
        symlink(&precious, scratch.join(name)).unwrap();
    }
    let started = start();
    assert_eq!(started.code(), 0, "{started:?}");
    let daemon = Background::of(&pid_file);
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", daemon.pid()));
    assert!(fs::symlink_metadata(&pid_file).unwrap().is_file());
    assert_eq!((fs::read_to_string(&precious).unwrap().as_str(), mode(&precious)), ("as it was", before));
    drop(daemon);
}

/// `FILE::TEST` in docs/security.md; `*` stands for all tests of a file.
#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let tests: Vec<(&str, &str)> = quoted.iter().filter_map(|word| word.split_once(".rs::")).collect();
    assert!(tests.len() > 50, "only {} tests are named", tests.len());
    for (file, name) in tests {
        let source = fs::read_to_string(root.join(format!("{file}.rs"))).unwrap_or_else(|e| panic!("{file}.rs: {e}"));
        assert!(name == "*" || source.contains(&format!("fn {name}(")), "{file}.rs has no test {name}");
    }
    for script in quoted.iter().filter(|word| word.starts_with("scripts/")) {
        let path = script.split(' ').next().unwrap();
        assert!(root.join(path).is_file(), "{script}");
    }
    let targets = fs::read_dir(root.join("tests/fuzz/targets")).unwrap().map(|entry| entry.unwrap().path());
    for target in targets {
        let name = target.file_stem().unwrap().to_str().unwrap();
        assert!(quoted.contains(&name), "the fuzz target {name} is in no row");
    }
}

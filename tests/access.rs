//! The access file of the running daemon: what happens when it is missing, replaced or damaged.
//! Section 4; its keys and values are in the differential suite.

mod common;

use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::path::Path;

use common::*;
use nix::sys::signal::Signal;

const ALICE: &str = "127.0.0.2";
const BOB: &str = "127.0.0.3";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn option(path: &Path) -> String {
    format!("-access={}", path.display())
}

/// True if the handler ran.
fn served(daemon: &Daemon, from: &str) -> bool {
    daemon.session_from(ip(from)).report().is_some()
}

/// Files that are no access file, each as a path.
fn unusable(scratch: &Scratch) -> Vec<std::path::PathBuf> {
    let whole = scratch.join("whole.dat");
    access::make(&whole, &[("127", "deny")]);
    let bytes = fs::read(&whole).unwrap();
    vec![
        scratch.join("missing"),
        scratch.path().to_owned(),
        scratch.file("empty", ""),
        scratch.file("text", "127\tdeny\n".repeat(1000)),
        scratch.file("cut", &bytes[..bytes.len() / 4]),
        scratch.file("zeros", vec![0; 16384]),
    ]
}

#[test]
fn no_start_without_a_usable_file() {
    let scratch = Scratch::new();
    for path in unusable(&scratch) {
        let finished = Builder::default().option(option(&path)).run();
        assert_eq!(finished.code(), 1, "{path:?}: {finished:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{path:?}: {finished:?}");
        assert!(finished.stderr.contains(path.to_str().unwrap()), "{path:?}: {finished:?}");
    }
}

#[test]
fn accessmissing_allow_starts_and_says_that_no_rules_are_in_force() {
    let scratch = Scratch::new();
    for path in unusable(&scratch) {
        let daemon = Daemon::start([option(&path), "-accessmissing=allow".into()]);
        daemon.wait_for_stderr("no access rules");
        assert!(daemon.stderr().contains(path.to_str().unwrap()), "{}", daemon.stderr());
        assert!(served(&daemon, ALICE));
    }
}

#[test]
fn rules_come_into_force_when_the_file_appears() {
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    let daemon = Daemon::start([option(&path), "-accessmissing=allow".into()]);
    assert!(served(&daemon, ALICE));
    access::make(&path, &[(ALICE, "deny")]);
    daemon.signal(Signal::SIGHUP);
    wait_for("the new rules", || !served(&daemon, ALICE));
}

#[test]
fn sighup_opens_the_new_file_at_once() {
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    access::make(&path, &[(ALICE, "deny")]);
    let daemon = Daemon::start([option(&path)]);
    assert!(!served(&daemon, ALICE));
    assert!(served(&daemon, BOB));
    access::make(&path, &[(BOB, "deny")]);
    assert!(served(&daemon, BOB), "a new file alone changes nothing");
    daemon.signal(Signal::SIGHUP);
    let opened = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().flatten();
        let mut targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.any(|target| target == path)
    };
    // Without a connection that would make it look.
    wait_for("the new file is open", opened);
    assert!(served(&daemon, ALICE));
    assert!(!served(&daemon, BOB));
}

#[test]
fn old_rules_stay_when_the_new_file_is_unusable() {
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    access::make(&path, &[(ALICE, "deny")]);
    let daemon = Daemon::start([option(&path)]);
    let before = daemon.descriptors();
    for (n, bad) in unusable(&scratch).into_iter().enumerate() {
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else {
            let _ = fs::remove_file(&path);
        }
        // A rename, as makedat does: the file that is open stays as it is.
        if bad.is_dir() {
            fs::create_dir(&path).unwrap();
        } else if bad.exists() {
            fs::rename(&bad, &path).unwrap();
        }
        daemon.signal(Signal::SIGHUP);
        wait_for("a line about the file", || daemon.count_stderr(path.to_str().unwrap()) > n);
        assert!(!served(&daemon, ALICE), "{bad:?}");
        assert!(served(&daemon, BOB), "{bad:?}");
    }
    assert_eq!(daemon.descriptors(), before);
}

#[test]
fn a_file_damaged_in_place_refuses_what_cannot_be_known() {
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    // Many records, so that what a client needs is not in memory.
    let text: String = (0..20000).map(|n| format!("10.{}.{}.7\tdeny\n", n / 250, n % 250)).collect();
    access::make_from_text(&path, &format!("{text}{ALICE}\tdeny\n"));
    let mut daemon = Daemon::start([option(&path)]);
    assert!(!served(&daemon, ALICE));
    // A reader of a mapped file would die of SIGBUS.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    let clients = (2..=60).map(|n| format!("127.0.0.{n}"));
    let refused = clients.filter(|client| !served(&daemon, client)).count();
    assert!(refused > 50, "{refused} of 59 refused");
    assert!(!daemon.has_ended());
    daemon.wait_for_stderr(path.to_str().unwrap());
    let lines = daemon.stderr().lines().count();
    assert!(lines <= 5, "a line for each client: {lines}");
    // A whole file in its place serves again.
    access::make(&path, &[(ALICE, "deny")]);
    daemon.signal(Signal::SIGHUP);
    wait_for("the new rules", || served(&daemon, BOB));
    assert!(!served(&daemon, ALICE));
}

#[test]
fn damaged_records_never_end_the_daemon() {
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    access::make(&path, &[(ALICE, "deny"), ("127.0", "allow,A=1"), ("*", "allow")]);
    let whole = fs::read(&path).unwrap();
    let mut daemon = Daemon::start([option(&path)]);
    // Bytes of the header, the directory and the bucket, one after the other.
    for n in (0..whole.len()).step_by(whole.len() / 97) {
        let mut bytes = whole.clone();
        bytes[n] ^= 0xff;
        let next = scratch.file("next", &bytes);
        fs::rename(next, &path).unwrap();
        daemon.signal(Signal::SIGHUP);
        let received = daemon.session_from(ip(BOB));
        assert_ne!(received.end, End::Open, "byte {n}");
        assert!(!daemon.has_ended(), "byte {n}");
    }
    access::make(&path, &[(BOB, "deny")]);
    daemon.signal(Signal::SIGHUP);
    wait_for("the whole file", || !served(&daemon, BOB) && served(&daemon, ALICE));
}

#[test]
fn an_unreadable_file_is_no_leave_to_enter() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    access::make(&path, &[(ALICE, "deny")]);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    // The user that the daemon becomes cannot read it: it does not start, or the rules hold.
    let builder = Builder::default().option(option(&path)).option("-user=nobody").handler(["/bin/echo", "served"]);
    match builder.try_start() {
        Err(finished) => {
            assert_eq!(finished.code(), 1);
            assert!(finished.stderr.contains(path.to_str().unwrap()), "{finished:?}");
        }
        Ok(daemon) => assert_eq!(daemon.session_from(ip(ALICE)).text(), ""),
    }
}

#[test]
fn the_message_is_the_last_thing_a_refused_client_gets() {
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    access::make(&path, &[(ALICE, "DENY"), ("127.0.0.4", "allow,BLOCK=x")]);
    let daemon = Daemon::start([option(&path), "-drop".into(), "-denymsg=421 go away".into()]);
    for from in [ALICE, "127.0.0.4"] {
        let mut client = daemon.connect_from(ip(from));
        client.send(&[b'x'; 1000]);
        let received = client.finish();
        assert_eq!((received.text().as_str(), received.end), ("421 go away\r\n", End::Eof), "{from}");
    }
}

//! The daemon's own messages: where they go and that they wait for nobody. Section 11.

mod common;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::daemon::Background;
use common::*;

/// A pipe that nobody reads, full.
fn full_pipe() -> (OwnedFd, File) {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    while nix::unistd::write(&writer, &[b'.'; 4096]).is_ok() {}
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    (reader, File::from(writer))
}

#[test]
fn at_info_each_connection_has_two_lines() {
    let scratch = Scratch::new();
    let rules = scratch.join("rules.dat");
    access::make(&rules, &[("127.0.0.3", "deny")]);
    let daemon = Builder::default()
        .options(["-loglevel=info", &format!("-access={}", rules.display())])
        .steps(&["report", "exit:7"])
        .start();
    let client = daemon.connect_from("127.0.0.2".parse().unwrap());
    let port = client.local().port();
    let report = client.finish().report().unwrap();
    daemon.session_from("127.0.0.3".parse().unwrap());
    daemon.wait_for_stderr("exit=7");
    daemon.wait_for_stderr("decision=refused");
    let text = daemon.stderr();
    let line = |holds: &str| text.lines().find(|l| l.contains(holds)).unwrap_or_else(|| panic!("no {holds}: {text}"));
    let served = line("decision=served");
    for part in ["ip=::ffff:127.0.0.2", &format!("port={port}"), &format!("pid={}", report.pid()), "lookup_ms="] {
        assert!(served.contains(part), "{part} is not in {served}");
    }
    assert!(line("decision=refused").contains("ip=::ffff:127.0.0.3"), "{text}");
    assert!(line("decision=refused").contains("by=access"), "{text}");
    assert!(line("exit=7").contains(&format!("pid={}", report.pid())), "{text}");
    assert_eq!(text.lines().filter(|l| l.contains("ip=")).count(), 3, "{text}");
}

#[test]
fn by_default_an_ordinary_connection_has_no_line() {
    let daemon = Daemon::start::<&str>([]);
    for _ in 0..3 {
        assert!(daemon.session().report().is_some());
    }
    daemon.wait_for_no_children();
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn the_level_holds_messages_back() {
    let daemon = Daemon::start(["-maxprocs=2", "-loglevel=err", "-warn=1"]);
    daemon.session();
    daemon.wait_for_no_children();
    assert_eq!(daemon.stderr(), "");
    let daemon = Daemon::start(["-maxprocs=2", "-loglevel=warning", "-warn=1"]);
    daemon.session();
    daemon.wait_for_stderr("WARN: 1 active connections.");
}

#[test]
fn ipv4_plain_is_used_in_messages_and_environment() {
    let daemon = Builder::default().options(["-ipv4=plain", "-maxperip=1"]).steps(&["report", "drain"]).start();
    let from = "127.0.0.2".parse().unwrap();
    let mut client = daemon.connect_from(from);
    let report = client.report();
    assert_eq!(report.var("TCPREMOTEIP"), Some("127.0.0.2"));
    assert_eq!(report.var("TCPLOCALIP"), Some(daemon.address().ip().to_string().as_str()));
    daemon.session_from(from);
    daemon.wait_for_stderr("ALERT: Maximum connection limit reached for 127.0.0.2\n");
}

/// Runs with a `/dev/log` of its own; skips where that is not permitted.
fn with_syslog(body: impl FnOnce(std::os::unix::net::UnixDatagram) + Send) {
    let done = namespace::run(|| {
        let socket = namespace::syslog_socket();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        body(socket);
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

/// The next datagram that holds `text`.
#[track_caller]
fn receive(socket: &std::os::unix::net::UnixDatagram, text: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let n = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("syslog never got {text:?}: {error}"));
        let datagram = String::from_utf8_lossy(&buffer[..n]).into_owned();
        if datagram.contains(text) {
            return datagram;
        }
    }
}

#[test]
fn syslog_gets_the_priority_in_the_place_of_the_word() {
    with_syslog(|socket| {
        // mail is 2, local3 is 19; alert is 1.
        for (option, priority) in [("-syslog", "<17>"), ("-syslog=local3", "<153>")] {
            let daemon = Daemon::start([option, "-maxprocs=1"]);
            assert!(daemon.session().report().is_some());
            let datagram = receive(&socket, "1 maximum active connections.");
            assert!(datagram.starts_with(priority), "{datagram}");
            assert!(!datagram.contains("ALERT"), "{datagram}");
            assert_eq!(daemon.stderr(), "");
        }
    });
}

#[test]
fn in_the_background_syslog_is_the_default() {
    with_syslog(|socket| {
        let scratch = Scratch::new();
        let pid_file = scratch.join("pid");
        let address = "127.0.0.9:25".parse().unwrap();
        let builder = Builder::default().address(address);
        let finished = builder.options(["-maxprocs=1", &format!("-pid={}", pid_file.display())]).run();
        assert_eq!(finished.code(), 0, "{finished:?}");
        let _daemon = Background::of(&pid_file);
        assert!(Client::connect(address).finish().report().is_some());
        let datagram = receive(&socket, "1 maximum active connections.");
        assert!(datagram.starts_with("<17>"), "{datagram}");
    });
}

#[test]
fn a_stuck_syslog_stops_nobody_and_what_was_lost_is_counted() {
    with_syslog(|socket| {
        let daemon = Daemon::start(["-syslog", "-loglevel=info"]);
        for _ in 0..100 {
            assert!(daemon.session().report().is_some());
        }
        daemon.wait_for_no_children();
        // Whoever reads on learns that lines are missing.
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        wait_for("a line about lost lines", || {
            assert!(daemon.session().report().is_some());
            while let Ok(n) = socket.recv(&mut buffer) {
                got.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
            got.iter().any(|line| line.contains("could not be written"))
        });
        assert!(got.len() < 200, "nothing was lost");
    });
}

#[test]
fn a_full_pipe_stops_nobody() {
    let (reader, writer) = full_pipe();
    let daemon = Builder::default().stderr(writer).options(["-loglevel=debug", "-maxprocs=1"]).start();
    for _ in 0..50 {
        assert!(daemon.session().report().is_some());
    }
    assert_eq!(daemon.threads(), 1);
    drop(reader);
    // Nor does one that is broken.
    for _ in 0..5 {
        assert!(daemon.session().report().is_some());
    }
}

#[test]
fn the_pipes_mode_is_left_alone() {
    // O_NONBLOCK belongs to everybody who has the pipe: a handler would lose its lines.
    let (_reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let daemon = Builder::default().stderr(File::from(writer)).options(["-loglevel=debug"]).start();
    let report = daemon.session().report().unwrap();
    assert!(report.descriptors[&2].target.starts_with("pipe:"));
    assert_eq!(report.descriptors[&2].flags & nix::libc::O_NONBLOCK as u32, 0);
}

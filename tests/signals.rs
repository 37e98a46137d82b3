//! Signals to the daemon, and what it was started with: descriptors, masks, limits. Section 8.

mod common;

use std::fs;
use std::net::IpAddr;

use common::*;
use nix::sys::signal::Signal;

/// Bit of a signal in the masks of `/proc/PID/status`.
fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// The signals that a handler ignores. Less 32 and 33: glibc keeps these for itself, and its
/// posix_spawn, by which a test starts the daemon, leaves them ignored in what it starts.
fn ignored(report: &Report) -> u64 {
    report.signals("SigIgn") & !(0b11 << 31)
}

/// Nothing of the test runner's own: no signal ignored, none blocked.
const CLEAN: &str = "exec env --default-signal -- \"$@\"";

#[test]
fn term_and_int_end_the_group_and_the_daemon() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let builder = || Builder::default().option("-maxperip=10");
        let mut daemon = builder().steps(&["trap-term", "say:goodbye"]).start();
        let mut clients: Vec<Client> = (0..3).map(|_| daemon.connect()).collect();
        for client in &mut clients {
            assert!(client.read_until("waiting\n"));
        }
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0), "{signal}");
        for client in clients {
            let received = client.finish();
            assert_eq!((received.text().as_str(), received.end), ("waiting\ngoodbye\n", End::Eof), "{signal}");
        }
    }
}

#[test]
fn programs_that_left_the_group_or_ignore_term_survive() {
    for step in ["own-group", "ignore-term"] {
        let mut daemon = Builder::default().steps(&[step, "say:here", "echo"]).start();
        let mut client = daemon.connect();
        assert!(client.read_until("here\n"));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0), "{step}");
        client.send(b"still here\n");
        assert!(client.read_until("still here\n"), "{step}");
        client.half_close();
        assert_eq!(client.finish().end, End::Eof, "{step}");
    }
}

#[test]
fn the_port_is_free_when_the_daemon_has_ended() {
    let target = fresh_address();
    for _ in 0..5 {
        let mut daemon = Builder::default().address(target).start();
        assert!(daemon.session().report().is_some());
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

#[test]
fn hup_reads_the_access_file_anew_before_restart_returns() {
    let scratch = Scratch::new();
    let (file, pid_file) = (scratch.join("access"), scratch.join("t.pid"));
    let option = format!("-access={}", file.display());
    let pid_option = format!("-pid={}", pid_file.display());
    let target = fresh_address();
    access::make(&file, &[("127", "allow,RULE=0")]);
    let builder = Builder::default().options([&option, &pid_option]).address(target);
    assert_eq!(builder.steps(&["report", "echo"]).run().code(), 0);
    let daemon = common::daemon::Background::of(&pid_file);
    let mut old = Client::connect(target);
    assert_eq!(old.report().var("RULE"), Some("0"));
    for rule in 1..=20 {
        access::make(&file, &[("127", &format!("allow,RULE={rule}"))]);
        let restart = Builder::default().bare().options([&pid_option, "-restart"]).run_options();
        assert_eq!((restart.code(), restart.stderr.as_str()), (0, ""));
        let mut client = Client::connect(target);
        assert_eq!(client.report().var("RULE"), Some(rule.to_string().as_str()));
    }
    old.send(b"same session\n");
    assert!(old.read_until("same session\n"));
    assert_eq!(common::daemon::lock_holder(&pid_file), Some(daemon.pid()));
}

#[test]
fn hup_reopens_the_stderr_file() {
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let daemon = Builder::default()
        .option(format!("-stderr={}", log.display()))
        .steps(&["line", "stderr:from the handler", "say:done"])
        .start();
    let session = |text: &[u8]| {
        let mut client = daemon.connect();
        client.send(text);
        assert!(client.finish().text().ends_with("done\n"));
    };
    session(b"one\n");
    fs::rename(&log, scratch.join("log.1")).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_for("the file is made anew", || log.exists());
    session(b"two\n");
    let count = |name: &str| fs::read_to_string(scratch.join(name)).unwrap().matches("from the handler").count();
    assert_eq!((count("log.1"), count("log")), (1, 1));
}

#[test]
fn connections_and_limits_are_untouched_by_hup() {
    let daemon = Builder::default().option("-maxperip=2").steps(&["report", "drain"]).start();
    let mut held: Vec<Client> = (0..2).map(|_| daemon.connect()).collect();
    held.iter_mut().for_each(|client| drop(client.report()));
    let full = || daemon.session().bytes.is_empty();
    assert!(full());
    daemon.signal(Signal::SIGHUP);
    assert!(full(), "the count lives on");
    let mut one = held.pop().unwrap();
    one.half_close();
    assert_eq!(one.finish().end, End::Eof);
    wait_for("a place is free again", || daemon.connect().read_until("\nend\n"));
}

#[test]
fn closed_standard_descriptors_do_no_harm() {
    for prelude in ["exec 0<&-", "exec 1>&-", "exec 2>&-", "exec 0<&- 1>&- 2>&-"] {
        let daemon = Builder::default().prelude(prelude).start();
        let report = daemon.session().report().expect(prelude);
        assert_eq!(report.descriptors.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{prelude}");
        let targets: Vec<&str> = report.descriptors.values().map(|d| d.target.as_str()).collect();
        assert!(targets[0].starts_with("socket:") && targets[0] == targets[1], "{prelude}: {targets:?}");
        assert_ne!(targets[2], targets[0], "{prelude}: standard error is not the connection");
    }
}

#[test]
fn foreign_descriptors_are_not_passed_on() {
    let daemon = Builder::default().prelude("exec 3</etc/passwd 9</etc/passwd 4>/dev/null").start();
    for _ in 0..3 {
        let report = daemon.session().report().expect("a handler ran");
        assert_eq!(report.descriptors.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    }
}

#[test]
fn a_handler_has_no_signal_blocked_or_ignored() {
    let daemon = Builder::default().prelude(CLEAN).start();
    let report = daemon.session().report().expect("a handler ran");
    assert_eq!((report.signals("SigBlk"), ignored(&report)), (0, 0));
}

#[test]
fn what_a_write_can_raise_is_blocked_in_the_daemon() {
    let daemon = Builder::default().prelude(CLEAN).start();
    let mask = |field| u64::from_str_radix(&procfs::status(daemon.pid(), field).unwrap(), 16).unwrap();
    for signal in [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGTTOU] {
        assert_eq!((mask("SigBlk") & bit(signal), mask("SigIgn") & bit(signal)), (bit(signal), 0), "{signal}");
    }
}

#[test]
fn a_file_as_large_as_it_may_be_costs_lines_and_no_client() {
    let scratch = Scratch::new();
    let file = scratch.join("stderr");
    fs::write(&file, [b'x'; 4096]).unwrap();
    let mut daemon = Builder::default()
        .options([&format!("-stderr={}", file.display()), "-loglevel=debug"])
        .prelude("ulimit -f 1")
        .start();
    for _ in 0..3 {
        assert!(daemon.session().report().is_some());
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(fs::read(&file).unwrap().len(), 4096);
}

#[test]
fn signals_blocked_at_start_work_all_the_same() {
    let mut daemon =
        Builder::default().prelude("exec env --default-signal --block-signal=TERM,HUP,CHLD,INT,USR2 -- \"$@\"").start();
    let report = daemon.session().report().expect("a handler ran");
    assert_eq!((report.signals("SigBlk"), ignored(&report)), (0, 0));
    daemon.wait_for_no_children();
    daemon.signal(Signal::SIGHUP);
    assert!(daemon.session().report().is_some());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn signals_ignored_at_start_work_and_others_stay_ignored() {
    let mut daemon = Builder::default()
        .prelude("exec env --default-signal --ignore-signal=TERM,HUP,CHLD,INT,PIPE,QUIT,USR1,XFSZ -- \"$@\"")
        .start();
    let report = daemon.session().report().expect("a handler ran");
    assert_eq!(report.signals("SigBlk"), 0);
    // XFSZ is one that the daemon blocks for itself: for the handler it is as it was.
    assert_eq!(ignored(&report), bit(Signal::SIGQUIT) | bit(Signal::SIGUSR1) | bit(Signal::SIGXFSZ));
    daemon.wait_for_no_children();
    daemon.signal(Signal::SIGHUP);
    assert!(daemon.session().report().is_some());
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn what_a_background_daemon_was_started_with_does_no_harm() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let option = format!("-pid={}", pid_file.display());
    let builder = Builder::default().option(&option).prelude(
        "exec env --default-signal --ignore-signal=CHLD,HUP --block-signal=TERM,CHLD -- \
         sh -c 'exec 0<&- 1>&- 2>&- 7</etc/passwd; exec \"$@\"' sh \"$@\"",
    );
    let target = builder.target();
    assert_eq!(builder.run().code(), 0);
    let daemon = common::daemon::Background::of(&pid_file);
    let report = Client::connect(target).finish().report().expect("a handler ran");
    assert_eq!(report.descriptors.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((report.signals("SigBlk"), ignored(&report)), (0, 0));
    wait_for("its children are reaped", || procfs::children(daemon.pid()).is_empty());
    let stop = Builder::default().bare().options([&option, "-stop"]).run_options();
    assert_eq!((stop.code(), daemon.is_alive()), (0, false));
}

/// The limits that Courier's scripts set for esmtpd and imapd.
#[test]
fn it_lives_within_the_limits_of_couriers_scripts() {
    for limit in ["ulimit -d 32768", "ulimit -v 131072"] {
        let scratch = Scratch::new();
        let file = scratch.join("access");
        access::make(&file, &[("*", "allow,RELAYCLIENT")]);
        // A shell, since the test binary may not fit into what it inherits.
        let program = scratch.script("handler", "#!/bin/sh\necho \"served${RELAYCLIENT-not}\"\n");
        let daemon = Builder::default()
            .prelude(limit)
            .options([format!("-access={}", file.display()), "-maxperip=100".into()])
            .handler([program])
            .start();
        for _ in 0..100 {
            assert_eq!(daemon.session().text(), "served\n", "{limit}");
        }
        daemon.wait_for_no_children();
        assert_eq!(daemon.threads(), 1);
    }
}

#[test]
fn hundreds_of_children_that_end_at_once_are_all_reaped() {
    let daemon = Builder::default()
        .options(["-maxprocs=300", "-maxperip=300"])
        .handler(["/bin/sh", "-c", "echo ready; read line"])
        .start();
    let descriptors = daemon.descriptors();
    let from: IpAddr = "127.0.0.1".parse().unwrap();
    for _ in 0..2 {
        let mut clients: Vec<Client> = (0..300).map(|_| daemon.connect_from(from)).collect();
        for client in &mut clients {
            assert!(client.read_until("ready\n"));
        }
        assert_eq!(daemon.children().len(), 300);
        for client in &mut clients {
            client.send(b"end\n");
        }
        daemon.wait_for_no_children();
    }
    assert_eq!(daemon.descriptors(), descriptors);
    assert_eq!(daemon.threads(), 1);
}

//! The command line of the real binary: what ends it, with which line. Section 2.

mod common;

use common::*;

/// Runs it, and expects exit status 1, nothing on standard output, and one line on standard error
/// that holds `names`.
#[track_caller]
fn assert_refused(finished: Finished, names: &str) {
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert_eq!(finished.stdout, "");
    assert_eq!(finished.stderr.lines().count(), 1, "not one line: {:?}", finished.stderr);
    assert!(finished.stderr.contains(names), "{:?} does not name {names:?}", finished.stderr);
}

#[test]
fn a_bad_option_is_named() {
    for (option, names) in [
        ("-nosuch", "nosuch"),
        ("-maxprocs=5x", "-maxprocs"),
        ("-maxprocs=0", "-maxprocs"),
        ("-maxprocs", "-maxprocs"),
        ("-maxperip=", "-maxperip"),
        ("-maxperc=-1", "-maxperc"),
        ("-listen=0", "-listen"),
        ("-warn=many", "-warn"),
        ("-address=localhost", "-address"),
        ("-user=nosuchuser", "nosuchuser"),
        ("-group=nosuchgroup", "nosuchgroup"),
        ("-nameserver=somewhere", "-nameserver"),
        ("-lookuptimeout=soon", "-lookuptimeout"),
        ("-prefix6=129/1", "-prefix6"),
        ("-ipv4=short", "-ipv4"),
        ("-loglevel=loud", "-loglevel"),
        ("-syslog=nosuchfacility", "-syslog"),
        ("-hostmismatch=maybe", "-hostmismatch"),
        ("-accessmissing=perhaps", "-accessmissing"),
        ("-resolver=hosts", "-resolver"),
    ] {
        assert_refused(Builder::default().option(option).run(), names);
    }
}

#[test]
fn list_and_program_are_needed() {
    assert_refused(Builder::default().run_options(), "LIST");
    assert_refused(Builder::default().handler::<&str>([]).run(), "PROGRAM");
    for verb in ["-stop", "-restart"] {
        assert_refused(Builder::default().bare().option(verb).run_options(), "-pid");
    }
}

#[test]
fn a_bad_list_entry_is_named() {
    for list in ["65536", "fd:2", "nosuchservice", "localhost.25", "127.0.0.1.25x", "::1.25.", ",,"] {
        let names = list.trim_matches(',');
        assert_refused(Builder::default().list(list).run(), names);
    }
}

#[test]
fn a_program_that_cannot_run_is_named() {
    let scratch = Scratch::new();
    let text = scratch.file("text", "no program");
    for program in ["/nosuch/program", text.to_str().unwrap(), scratch.path().to_str().unwrap()] {
        assert_refused(Builder::default().handler([program]).run(), program);
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let version = Builder::default().bare().option("-version").run_options();
    assert_eq!((version.code(), version.stderr.as_str()), (0, ""));
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    let help = Builder::default().bare().option("--help").run_options();
    assert_eq!((help.code(), help.stderr.as_str()), (0, ""));
    for option in ["-access", "-maxperip", "-stderrlogger", "-prefix6", "-pid"] {
        assert!(help.stdout.contains(option), "{option} is not in: {}", help.stdout);
    }
}

#[test]
fn an_option_takes_its_value_only_after_the_equals_sign() {
    // `-drop 127.x.25 PROGRAM`: the flag, then LIST.
    let daemon = Builder::default().option("-drop").start();
    assert!(daemon.session().report().is_some());
}

#[test]
fn accesslocal_without_access_is_warned_about() {
    let daemon = Daemon::start(["-accesslocal"]);
    daemon.wait_for_stderr("-accesslocal");
    assert!(daemon.session().report().is_some());
}

#[test]
fn what_follows_the_program_is_its_own() {
    let address = fresh_address();
    let program = handler::command(&["report"]);
    let daemon = Builder::default()
        .address(address)
        .handler([program[0].clone(), program[1].clone(), "report".into(), "say:-drop".into(), "say:--".into()])
        .start();
    let report = daemon.session().report().expect("the handler ran");
    assert_eq!(report.args[0], program[0].to_str().unwrap(), "argument zero is PROGRAM as given");
    assert_eq!(report.args[2..], ["report", "say:-drop", "say:--"]);
    assert_eq!(report.rest, "-drop\n--\n");
}

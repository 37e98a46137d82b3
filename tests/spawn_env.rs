//! The program's world: environment, arguments, descriptors; and what happens if it cannot be
//! started. Section 7.

mod common;

use std::fs;

use common::*;

#[test]
fn the_four_variables_of_every_connection() {
    let daemon = Builder::default().start();
    let client = daemon.connect();
    let (local, remote) = (client.peer(), client.local());
    let report = client.finish().report().expect("a handler ran");
    let mut env = report.env.clone();
    env.sort();
    let expected = [
        ("TCPLOCALIP", format!("::ffff:{}", local.ip())),
        ("TCPLOCALPORT", local.port().to_string()),
        ("TCPREMOTEIP", format!("::ffff:{}", remote.ip())),
        ("TCPREMOTEPORT", remote.port().to_string()),
    ];
    assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value)), "these and nothing else");
}

#[test]
fn plain_ipv4_addresses_on_request_and_ipv6_ones_as_they_are() {
    let daemon = Builder::default().option("-ipv4=plain").start();
    let client = daemon.connect();
    let ip = client.local().ip().to_string();
    assert_eq!(client.finish().report().unwrap().var("TCPREMOTEIP"), Some(ip.as_str()));

    let address = free_port("::1".parse().unwrap());
    let report = Builder::default().address(address).start().session().report().expect("a handler ran");
    assert_eq!((report.var("TCPREMOTEIP"), report.var("TCPLOCALIP")), (Some("::1"), Some("::1")));
}

#[test]
fn the_daemons_environment_is_inherited_without_stale_variables() {
    const STALE: [&str; 9] = [
        "TCPLOCALIP",
        "TCPLOCALPORT",
        "TCPLOCALHOST",
        "TCPREMOTEIP",
        "TCPREMOTEPORT",
        "TCPREMOTEHOST",
        "TCPREMOTEINFO",
        "TCPPROXYIP",
        "TCPPROXYPORT",
    ];
    let mut builder = Builder::default().env("PATH", "/bin:/usr/bin").env("EMPTY", "").env("TCPWRAPPED", "kept");
    for name in STALE {
        builder = builder.env(name, "stale");
    }
    let report = builder.start().session().report().expect("a handler ran");
    assert_eq!(report.var("PATH"), Some("/bin:/usr/bin"));
    assert_eq!(report.var("EMPTY"), Some(""));
    assert_eq!(report.var("TCPWRAPPED"), Some("kept"), "no variable of ours");
    assert!(report.env.iter().all(|(_, value)| value != "stale"), "{:?}", report.env);
    for absent in ["TCPLOCALHOST", "TCPREMOTEHOST", "TCPREMOTEINFO"] {
        assert_eq!(report.var(absent), None);
    }
}

#[test]
fn a_record_overrides_what_is_inherited_once() {
    let scratch = Scratch::new();
    let file = scratch.join("access");
    access::make(&file, &[("127", "allow,RELAYCLIENT,COLOUR=blue,TEXT='a,b'")]);
    let daemon = Builder::default()
        .option(format!("-access={}", file.display()))
        .env("COLOUR", "red")
        .env("OTHER", "kept")
        .start();
    let report = daemon.session().report().expect("a handler ran");
    let values = |name: &str| report.env.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    assert_eq!(values("COLOUR"), ["blue"]);
    assert_eq!(values("RELAYCLIENT"), [""]);
    assert_eq!(values("TEXT"), ["a,b"]);
    assert_eq!(values("OTHER"), ["kept"]);
}

#[test]
fn arguments_are_passed_as_they_are_and_the_first_is_the_program() {
    let command = handler::command(&["report", "exit:0", "-pid=not ours", "--", "two words", "\u{e9}"]);
    let daemon = Builder::default().handler(command.clone()).start();
    let report = daemon.session().report().expect("a handler ran");
    let expected: Vec<String> = command.iter().map(|arg| arg.as_encoded_bytes().escape_ascii().to_string()).collect();
    assert_eq!(report.args, expected);
}

#[test]
fn the_connection_is_input_and_output_and_nothing_else_is_open() {
    let scratch = Scratch::new();
    let file = scratch.join("access");
    access::make(&file, &[("127", "allow")]);
    let daemon = Builder::default().option(format!("-access={}", file.display())).start();
    let held: Vec<Client> = (0..2).map(|_| daemon.connect()).collect();
    let report = daemon.session().report().expect("a handler ran");
    assert_eq!(report.descriptors.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert!(report.descriptors[&0].target.starts_with("socket:"));
    assert_eq!(report.descriptors[&0].target, report.descriptors[&1].target);
    assert!(report.descriptors[&2].target.ends_with("/stderr"), "{:?}", report.descriptors);
    assert_eq!(report.descriptors[&0].flags & nix::libc::O_NONBLOCK as u32, 0);
    drop(held);
}

#[test]
fn standard_error_can_be_the_connection() {
    let daemon = Builder::default().option("-stderr=socket").steps(&["report", "stderr:oops"]).start();
    let received = daemon.session();
    let report = received.report().expect("a handler ran");
    assert_eq!(report.descriptors[&2].target, report.descriptors[&0].target);
    assert_eq!(report.rest, "oops\n");
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn directory_umask_and_group_are_the_daemons() {
    let scratch = Scratch::new();
    let daemon = Builder::default().directory(scratch.path()).prelude("umask 031").start();
    let report = daemon.session().report().expect("a handler ran");
    assert_eq!(report.cwd, fs::canonicalize(scratch.path()).unwrap().to_str().unwrap());
    assert_eq!(report.status["Umask"], "0031");
    assert_eq!((report.pgrp, report.parent()), (daemon.pid(), daemon.pid()));
}

#[test]
fn a_relative_program_is_found_from_the_directory_and_never_by_path() {
    let scratch = Scratch::new();
    scratch.script("program", "#!/bin/sh\necho \"I am $0\"\n");
    let builder =
        || Builder::default().directory(scratch.path()).env("PATH", format!("/bin:{}", scratch.path().display()));
    assert_eq!(builder().handler(["./program"]).start().session().text(), "I am ./program\n");
    assert_eq!(builder().handler(["program"]).start().session().text(), "I am program\n");
    let finished = builder().handler(["sh", "-c", "echo found"]).run();
    assert_eq!((finished.code(), finished.stderr.lines().count()), (1, 1), "{finished:?}");
    assert!(finished.stderr.contains("sh: "), "{finished:?}");
}

#[test]
fn a_program_that_cannot_be_executed_later_is_logged_and_its_client_closed() {
    let scratch = Scratch::new();
    let program = scratch.script("program", "#!/bin/sh\necho served\n");
    let daemon = Builder::default().handler([&program]).start();
    assert_eq!(daemon.session().text(), "served\n");
    let descriptors = daemon.descriptors();
    let away = scratch.join("away");
    fs::rename(&program, &away).unwrap();
    let received = daemon.session();
    assert_eq!((received.text().as_str(), received.end), ("", End::Eof));
    daemon.wait_for_stderr(program.to_str().unwrap());
    daemon.wait_for_stderr("No such file or directory");
    daemon.wait_for_no_children();
    assert_eq!(daemon.descriptors(), descriptors);
    fs::rename(&away, &program).unwrap();
    assert_eq!(daemon.session().text(), "served\n", "and the slot is free again");
}

#[test]
fn a_file_that_is_no_program_is_logged_for_each_client() {
    let scratch = Scratch::new();
    let program = scratch.script("program", "neither a script nor a binary\n");
    let daemon = Builder::default().handler([&program]).start();
    for _ in 0..6 {
        assert_eq!(daemon.session().text(), "");
    }
    daemon.wait_for_stderr("xec format error");
    daemon.wait_for_no_children();
}

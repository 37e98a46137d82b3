//! `-user` and `-group` of the running daemon. Section 9. Most of it takes root.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::*;

/// The ids of Debian's base system, the same everywhere.
const DAEMON: &str = "1";
const MAIL: &str = "8";

/// Root runs the tests, else says that they are skipped.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: takes root to change the user");
    }
    root
}

/// A handler that any user can run.
fn builder(scratch: &Scratch, options: &[&str]) -> Builder {
    let handler = handler::copy_to(scratch.path());
    Builder::default().options(options).handler([handler.as_os_str(), handler::MARK.as_ref(), "report".as_ref()])
}

/// Real, effective, saved and file system ids, all the same one.
fn all(id: &str) -> String {
    [id; 4].join("\\t")
}

fn groups(report: &Report) -> Vec<&str> {
    report.status["Groups"].split_whitespace().collect()
}

#[test]
fn group_then_user_and_no_way_back() {
    if !is_root() {
        return;
    }
    let done = namespace::run(|| {
        let scratch = Scratch::new();
        // daemon is in two more groups here.
        let group = fs::read_to_string("/etc/group").unwrap() + "extra1:x:54321:daemon\nextra2:x:54322:bin,daemon\n";
        namespace::replace_file("/etc/group", &scratch.file("group", group));
        for (options, uid, gid, expected) in [
            (&["-user=daemon"][..], DAEMON, DAEMON, vec![DAEMON, "54321", "54322"]),
            (&["-user=1"], DAEMON, DAEMON, vec![DAEMON, "54321", "54322"]),
            (&["-user=daemon", "-group=mail"], DAEMON, MAIL, vec![MAIL, "54321", "54322"]),
            (&["-group=8", "-user=1"], DAEMON, MAIL, vec![MAIL, "54321", "54322"]),
            (&["-group=mail"], "0", MAIL, vec![MAIL]),
            (&["-user=3999999999", "-group=mail"], "3999999999", MAIL, vec![MAIL]),
            (&["-user=3999999999"], "3999999999", "0", vec![]),
            (&["-group=3999999999"], "0", "3999999999", vec!["3999999999"]),
        ] {
            let daemon = builder(&scratch, options).start();
            let report = daemon.session().report().expect("a handler ran");
            assert_eq!((&report.status["Uid"], &report.status["Gid"]), (&all(uid), &all(gid)), "{options:?}");
            assert_eq!(groups(&report), expected, "{options:?}");
            if uid != "0" {
                for capabilities in ["CapPrm", "CapEff"] {
                    assert_eq!(procfs::status(daemon.pid(), capabilities).unwrap(), "0000000000000000", "{options:?}");
                }
            }
        }
    });
    assert!(done.is_some(), "root may make namespaces");
}

#[test]
fn nothing_asked_for_changes_nothing() {
    let scratch = Scratch::new();
    let report = builder(&scratch, &[]).start().session().report().expect("a handler ran");
    let ids = |name: &str| procfs::status(std::process::id() as i32, name).unwrap().replace('\t', "\\t");
    assert_eq!((&report.status["Uid"], &report.status["Gid"]), (&ids("Uid"), &ids("Gid")));
    assert_eq!(report.status["Groups"].trim(), ids("Groups").trim());
}

#[test]
fn a_user_without_an_entry_keeps_roots_group_with_a_warning() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let daemon = builder(&scratch, &["-user=3999999999"]).start();
    assert_eq!(daemon.count_stderr("-group"), 1, "{}", daemon.stderr());
    let daemon = builder(&scratch, &["-user=3999999999", "-group=8"]).start();
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn files_are_opened_as_the_user_and_the_port_before() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.join("access");
    access::make(&file, &[("127", "allow")]);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let option = format!("-access={}", file.display());
    let finished = builder(&scratch, &["-user=daemon", &option]).run();
    assert_eq!((finished.code(), finished.stderr.lines().count()), (1, 1), "{finished:?}");
    assert!(finished.stderr.contains(file.to_str().unwrap()), "{finished:?}");
    // A program that only root may run is no program for this user.
    let private = scratch.script("private", "#!/bin/sh\n");
    fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    let finished = Builder::default().option("-user=daemon").handler([&private]).run();
    assert_eq!((finished.code(), finished.stderr.lines().count()), (1, 1), "{finished:?}");
    assert!(finished.stderr.contains(private.to_str().unwrap()), "{finished:?}");
    let done = namespace::run(|| {
        let daemon = builder(&scratch, &["-user=daemon"]).address("127.0.0.1:25".parse().unwrap()).start();
        assert_eq!(daemon.session().report().expect("a handler ran").status["Uid"], all(DAEMON));
    });
    assert!(done.is_some(), "root may make namespaces");
}

#[test]
fn file_is_roots_and_emptied_at_the_end_where_the_user_cannot_remove_it() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    for (owner, remains) in [(0, true), (1, false)] {
        let directory = scratch.join(&format!("run{owner}"));
        fs::create_dir(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(owner), Some(owner)).unwrap();
        let pid_file = directory.join("t.pid");
        let option = format!("-pid={}", pid_file.display());
        assert_eq!(builder(&scratch, &["-user=daemon", &option]).run().code(), 0);
        let daemon = common::daemon::Background::of(&pid_file);
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", daemon.pid()));
        let stop = Builder::default().bare().options([&option, "-stop"]).run_options();
        assert_eq!(stop.code(), 0);
        assert_eq!(fs::read_to_string(&pid_file).ok().as_deref(), remains.then_some(""), "owner {owner}");
    }
}

#[test]
fn a_plain_user_can_be_itself_and_nobody_else() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let copy = scratch.join("couriertcpd");
    fs::copy(Program::Ours.path().unwrap(), &copy).unwrap();
    let as_user = |options: &[&str], groups: &str| {
        let program = copy.display();
        builder(&scratch, options)
            .prelude(&format!("shift; exec setpriv --reuid=1 --regid=1 --groups={groups} {program} \"$@\""))
    };
    for options in [&["-user=daemon"][..], &["-user=1", "-group=daemon"], &["-group=1"]] {
        let daemon = as_user(options, "1").start();
        let report = daemon.session().report().expect("a handler ran");
        assert_eq!((&report.status["Uid"], &report.status["Gid"]), (&all(DAEMON), &all(DAEMON)), "{options:?}");
    }
    for (options, groups) in [
        (&["-user=root"][..], "1"),
        (&["-user=nobody"], "1"),
        (&["-group=mail"], "1"),
        (&["-user=daemon", "-group=mail"], "1"),
        // A group that it is not to have, and cannot get rid of.
        (&["-user=daemon"], "0,1"),
    ] {
        let finished = as_user(options, groups).run();
        assert_eq!((finished.code(), finished.stderr.lines().count()), (1, 1), "{options:?}: {finished:?}");
    }
}

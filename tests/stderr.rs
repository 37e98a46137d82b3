//! Where the standard error of handlers goes: the connection, a file, a logger. Sections 2 and 11.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::*;
use nix::sys::signal::Signal;

const COMPLAIN: &[&str] = &["stderr:complaint", "report"];

fn read(path: &std::path::Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A logger that adds what it reads to a file.
fn logger(scratch: &Scratch) -> (String, std::path::PathBuf) {
    let lines = scratch.join("lines");
    let script = scratch.script("logger", &format!("#!/bin/sh\nexec cat >> {}\n", lines.display()));
    (format!("-stderrlogger={}", script.display()), lines)
}

#[test]
fn the_connection() {
    let daemon = Builder::default().option("-stderr=socket").steps(&["report", "stderr:complaint"]).start();
    let report = daemon.session().report().unwrap();
    assert_eq!(report.rest, "complaint\n");
    assert_eq!(report.descriptors[&2].target, report.descriptors[&0].target);
}

#[test]
fn the_daemons_own() {
    let daemon = Builder::default().steps(COMPLAIN).start();
    daemon.session();
    assert_eq!(daemon.count_stderr("complaint"), 1);
}

#[test]
fn a_file_is_made_and_appended_to() {
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let start = || {
        let option = format!("-stderr={}", log.display());
        Builder::default().option(option).prelude("umask 0").steps(COMPLAIN).start()
    };
    let daemon = start();
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o660);
    let report = daemon.session().report().unwrap();
    assert_eq!(report.descriptors[&2].target, log.to_str().unwrap());
    assert_ne!(report.descriptors[&2].flags & nix::libc::O_APPEND as u32, 0);
    drop(daemon);
    start().session();
    assert_eq!(read(&log), "complaint\ncomplaint\n");
}

#[test]
fn the_file_gets_the_daemons_messages_too() {
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let daemon = Builder::default().options(["-maxprocs=1", &format!("-stderr={}", log.display())]).start();
    daemon.session();
    wait_for("the alert", || read(&log).contains("ALERT: 1 maximum active connections.\n"));
    assert_eq!(daemon.count_stderr("ALERT"), 0);
}

#[test]
fn the_file_is_opened_anew_on_sighup() {
    let scratch = Scratch::new();
    let (log, old) = (scratch.join("log"), scratch.join("log.1"));
    let daemon = Builder::default().option(format!("-stderr={}", log.display())).steps(COMPLAIN).start();
    daemon.session();
    fs::rename(&log, &old).unwrap();
    daemon.session();
    assert_eq!(read(&old), "complaint\ncomplaint\n");
    daemon.signal(Signal::SIGHUP);
    wait_for("a new file", || log.exists());
    daemon.session();
    assert!(read(&log).contains("complaint\n"), "{}", read(&log));
    assert_eq!(read(&old).matches("complaint").count(), 2);
}

#[test]
fn a_file_that_cannot_be_opened_anew_is_kept() {
    let scratch = Scratch::new();
    let directory = scratch.join("logs");
    fs::create_dir(&directory).unwrap();
    let log = directory.join("log");
    let daemon = Builder::default().option(format!("-stderr={}", log.display())).steps(COMPLAIN).start();
    let moved = scratch.join("moved");
    fs::rename(&directory, &moved).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_for("a line about it", || read(&moved.join("log")).contains(log.to_str().unwrap()));
    assert!(daemon.session().report().is_some());
    assert!(read(&moved.join("log")).contains("complaint"));
}

#[test]
fn a_full_disk_stops_nobody() {
    let daemon = Daemon::start(["-stderr=/dev/full", "-loglevel=debug"]);
    for _ in 0..5 {
        assert!(daemon.session().report().is_some());
    }
}

#[test]
fn the_logger_is_started_as_promised() {
    let scratch = Scratch::new();
    let seen = scratch.join("seen");
    let program = handler::command(&["report"])[0].to_str().unwrap().to_owned();
    let base = program.rsplit('/').next().unwrap().to_owned();
    // The reporting handler in the place of the shell, with what the shell was told.
    let report = format!("exec {program} {} report-to:{} \"say:$# $1\"", handler::MARK, seen.display());
    let script = scratch.script("logger", &format!("#!/bin/sh\n{report}\n"));
    let option = format!("-stderrlogger={}", script.display());
    for (name, argument) in [(None, base.as_str()), (Some("-stderrloggername=smtpd"), "smtpd")] {
        let _ = fs::remove_file(&seen);
        let daemon = Builder::default()
            .option(&option)
            .options(name)
            .prelude("exec env --default-signal -- \"$@\" 7</dev/null")
            .start();
        wait_for("the logger looks", || read(&seen).ends_with("end\n"));
        let report = Report::parse(read(&seen).as_bytes()).unwrap();
        assert_eq!(report.args.last().unwrap(), &format!("say:1 {argument}"));
        assert!(report.descriptors[&0].target.starts_with("pipe:"), "{report:?}");
        let others: Vec<_> = report.descriptors.iter().skip(1).map(|(n, d)| (*n, d.target.as_str())).collect();
        assert_eq!(others, [(1, "/dev/null"), (2, "/dev/null")]);
        // 32 and 33 are glibc's own.
        assert_eq!((report.signals("SigBlk"), report.signals("SigIgn") & !(0b11 << 31)), (0, 0));
        assert_eq!(report.parent(), daemon.pid());
    }
}

#[test]
fn the_logger_gets_the_handlers_lines_and_the_daemons() {
    let scratch = Scratch::new();
    let (option, lines) = logger(&scratch);
    let daemon = Builder::default().options([&option, "-maxprocs=1"]).steps(COMPLAIN).start();
    daemon.session();
    wait_for("the lines", || {
        let text = read(&lines);
        text.contains("complaint\n") && text.contains("ALERT: 1 maximum active connections.\n")
    });
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn stderr_socket_wins_over_the_logger() {
    let scratch = Scratch::new();
    let (option, _) = logger(&scratch);
    let daemon = Builder::default().options([&option, "-stderr=socket"]).steps(&["report", "stderr:complaint"]).start();
    assert_eq!(daemon.session().report().unwrap().rest, "complaint\n");
}

#[test]
fn a_logger_that_ends_is_started_again_and_no_line_is_lost() {
    let scratch = Scratch::new();
    let lines = scratch.join("lines");
    // Reads one line and ends.
    let text = format!("#!/bin/sh\nread -r line && echo \"$line\" >> {}\n", lines.display());
    let script = scratch.script("logger", &text);
    let daemon = Builder::default().option(format!("-stderrlogger={}", script.display())).steps(COMPLAIN).start();
    for _ in 0..3 {
        // A handler that writes into the pipe of a logger that is gone goes on to its report.
        assert!(daemon.session().report().is_some());
    }
    wait_for("all lines", || read(&lines).matches("complaint\n").count() == 3);
    daemon.wait_for_no_children_but(1);
}

#[test]
fn a_logger_killed_again_and_again_is_replaced_with_pauses() {
    let scratch = Scratch::new();
    let count = scratch.join("count");
    let script = scratch.script("logger", &format!("#!/bin/sh\necho . >> {}\n", count.display()));
    let daemon = Builder::default().option(format!("-stderrlogger={}", script.display())).start();
    wait_for("a second logger", || read(&count).lines().count() >= 2);
    let before = read(&count).lines().count();
    let mut client = daemon.connect();
    assert!(client.read_until("end"));
    let started = read(&count).lines().count() - before;
    assert!(started < 5, "{started} loggers within one session");
    assert_eq!(daemon.threads(), 1);
}

#[test]
fn a_stuck_logger_stops_no_one_who_does_not_log() {
    let scratch = Scratch::new();
    let script = scratch.script("logger", "#!/bin/sh\nexec sleep 1000\n");
    // Fills the pipe; from then on every writer of it waits.
    let handler = ["/bin/sh", "-c", "read line; case $line in fill) exec cat /dev/zero >&2;; *) echo served;; esac"];
    let daemon = Builder::default()
        .options([&format!("-stderrlogger={}", script.display()), "-maxperip=5", "-loglevel=debug"])
        .handler(handler)
        .start();
    let mut filling: Vec<Client> = (0..3).map(|_| daemon.connect()).collect();
    for client in &mut filling {
        client.send(b"fill\n");
    }
    for _ in 0..200 {
        let mut client = daemon.connect_from("127.0.0.7".parse().unwrap());
        client.send(b"work\n");
        assert_eq!(client.finish().text(), "served\n");
    }
    assert_eq!(daemon.threads(), 1);
}

#[test]
fn the_logger_reads_to_the_end_when_the_daemon_is_gone() {
    let scratch = Scratch::new();
    let (lines, go) = (scratch.join("lines"), scratch.join("go"));
    let text =
        format!("#!/bin/sh\nuntil [ -e {} ]; do sleep 0.01; done\nexec cat >> {}\n", go.display(), lines.display());
    let script = scratch.script("logger", &text);
    let mut daemon = Builder::default().option(format!("-stderrlogger={}", script.display())).steps(COMPLAIN).start();
    daemon.session();
    let logger = daemon.children()[0];
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(procfs::is_alive(logger));
    fs::write(go, "").unwrap();
    wait_for("the last line", || read(&lines) == "complaint\n");
    wait_for("the logger's end", || !procfs::is_alive(logger));
}

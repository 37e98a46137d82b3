//! How a running daemon is asked how it does: `-control`, `-status`, SIGUSR1.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::daemon::Background;
use common::dns::{A, Dns, Fault, Message, Record};
use common::*;
use nix::sys::signal::Signal;

/// A daemon with a control socket, in the foreground.
struct Asked {
    daemon: Daemon,
    socket: PathBuf,
    _scratch: Scratch,
}

impl Asked {
    #[track_caller]
    fn start(builder: Builder) -> Asked {
        let scratch = Scratch::new();
        let socket = scratch.join("ctl");
        let daemon = builder.option(control(&socket)).start();
        Asked { daemon, socket, _scratch: scratch }
    }

    #[track_caller]
    fn status(&self, form: &str) -> String {
        let finished = ask(&self.socket, form);
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{finished:?}");
        finished.stdout
    }

    /// Waits until the status has a line.
    #[track_caller]
    fn wait_for_line(&self, form: &str, line: &str) {
        let mut text = String::new();
        let has_line = || {
            text = self.status(form);
            text.lines().any(|l| l.trim_start() == line)
        };
        if !wait_until(DEADLINE, has_line) {
            panic!("no line {line:?} in:\n{text}");
        }
    }
}

fn control(socket: &Path) -> String {
    format!("-control={}", socket.display())
}

fn ask(socket: &Path, form: &str) -> Finished {
    Builder::default().bare().options([control(socket), format!("-status={form}")]).run_options()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn what_happened_is_counted() {
    let scratch = Scratch::new();
    let access = scratch.join("access.dat");
    access::make(&access, &[("127.0.0.9", "deny")]);
    let options = ["-maxperip=1".to_owned(), "-maxprocs=7".to_owned(), format!("-access={}", access.display())];
    let asked = Asked::start(Builder::default().options(options).steps(&["report", "drain"]));
    let daemon = &asked.daemon;
    asked.wait_for_line("text", "handlers 0");
    let mut stays = daemon.connect_from("127.0.0.2".parse().unwrap());
    stays.report();
    for (from, times) in [("127.0.0.2", 3), ("127.0.0.9", 2)] {
        (0..times).for_each(|_| drop(daemon.session_from(from.parse().unwrap())));
    }
    let text = asked.status("text");
    let handler = daemon.children()[0];
    for line in [
        format!("listens on {}; accepting", daemon.address()),
        "slots in use 1 of 7, warning from 6".into(),
        "accepted                           6           6".into(),
        "served                             1           1".into(),
        "refused                            5           5".into(),
        "  access                           2           2".into(),
        "  maxperip                         3           3".into(),
        "handlers 1".into(),
        "messages held back 2, lost 0".into(),
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in:\n{text}");
    }
    assert!(
        text.lines().any(|l| l.starts_with("  127.0.0.2  1, ") && l.ends_with(&format!("process {handler}"))),
        "{text}"
    );
    let json = asked.status("json");
    for line in ["\"accepted\": 6,", "\"access\": 2,", "\"slots_used\": 1,", &format!("\"pid\": {},", daemon.pid())] {
        assert!(json.lines().any(|l| l.trim() == line), "no line {line:?} in:\n{json}");
    }
    drop(stays);
    asked.wait_for_line("prometheus", "couriertcpd_handlers_ended_total 1");
    let text = asked.status("prometheus");
    assert!(text.contains("\ncouriertcpd_refused_connections_total{reason=\"maxperip\"} 3\n"), "{text}");
    assert!(text.contains("\ncouriertcpd_slots_used 0\n"), "{text}");
}

/// Prometheus' own checker has nothing to say. Where it is not installed, only the unit tests say so.
#[test]
fn promtool_finds_no_fault() {
    let asked = Asked::start(Builder::default().options(["-block=bl.example", "-resolver=nss:1", "-dnscache=5"]));
    let metrics = asked.status("prometheus");
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else { return };
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{metrics}");
}

#[test]
fn lists_and_the_resolver_are_counted() {
    let dns = Dns::start();
    dns.set("2.0.0.127.bl.example", A, Message::new().record(Record::a("127.0.0.2")));
    dns.set("3.0.0.127.bl.example", A, Message::new().fault(Fault::Silent));
    let nameserver = format!("-nameserver={}", dns.address);
    let options = ["-nodnslookup", "-noidentlookup", "-block=bl.example", "-lookuptimeout=1", "-drop", &nameserver];
    let asked = Asked::start(Builder::default().bare().options(options));
    let from = |ip: &str| drop(asked.daemon.session_from(ip.parse().unwrap()));
    from("127.0.0.2");
    from("127.0.0.2");
    from("127.0.0.4");
    let waiting = asked.daemon.connect_from("127.0.0.3".parse().unwrap());
    asked.wait_for_line("text", "connections wait for: list bl.example 1");
    assert!(waiting.finish().report().is_some(), "a list that is silent lists nobody");
    let row = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let text = asked.status("text");
    let line = text.lines().find(|line| line.starts_with("block bl.example BLOCK")).expect(&text);
    assert_eq!(row(line)[3..7], ["4", "2", "1", "0"], "{text}");
    assert!(text.contains("answers from the cache 1, shared 0; kept 2 of 1000"), "{text}");
    assert!(text.contains(&format!("name servers {}", dns.address)), "{text}");
    let metrics = asked.status("prometheus");
    for line in [
        "couriertcpd_dns_list_lookups_total{list=\"bl.example\",number=\"1\",kind=\"block\"} 4",
        "couriertcpd_dns_list_errors_total{list=\"bl.example\",number=\"1\",reason=\"late\"} 1",
        "couriertcpd_dns_list_answer_seconds_count{list=\"bl.example\",number=\"1\"} 2",
        "couriertcpd_late_lookups_total 1",
        "couriertcpd_dns_cache_hits_total 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "no line {line:?} in:\n{metrics}");
    }
}

#[test]
fn the_socket_beside_the_pid_file_comes_and_goes_with_the_daemon() {
    let scratch = Scratch::new();
    let (pid_file, socket) = (scratch.join("pid"), scratch.join("pid.ctl"));
    let pid = format!("-pid={}", pid_file.display());
    let verb = |verb: &str| Builder::default().bare().options([&pid, verb]).run_options();
    assert_eq!(verb("-status").code(), 1, "nobody is there");
    for _ in 0..2 {
        let started = Builder::default().option(&pid).run();
        assert!(started.code() == 0 && !started.stderr.contains("control socket"), "{started:?}");
        let daemon = Background::of(&pid_file);
        let found = fs::symlink_metadata(&socket).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        let status = verb("-status");
        assert!(status.stdout.contains(&format!("process {}, up ", daemon.pid())), "{status:?}");
        assert_eq!(verb("-stop").code(), 0);
        assert!(!socket.exists() && !daemon.is_alive());
        // The next one finds what a crash leaves behind.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    }
    let finished = verb("-status");
    assert_eq!(finished.code(), 1);
    assert!(finished.stderr.contains("no daemon answers there: Connection refused"), "{finished:?}");
}

#[test]
fn a_file_in_the_way_stays_and_only_matters_if_the_socket_was_asked_for() {
    let scratch = Scratch::new();
    let (pid_file, target) = (scratch.join("pid"), scratch.file("target", "keep"));
    std::os::unix::fs::symlink(&target, scratch.join("pid.ctl")).unwrap();
    let started = Builder::default().option(format!("-pid={}", pid_file.display())).run();
    let daemon = Background::of(&pid_file);
    assert_eq!(started.code(), 0);
    assert!(started.stderr.contains("pid.ctl: is no socket and stays; there will be no -status"), "{started:?}");
    assert!(daemon.is_alive());
    drop(daemon);
    let refused = Builder::default().option(control(&target)).run();
    assert_eq!((refused.code(), refused.stderr.lines().count()), (1, 1), "{refused:?}");
    assert!(refused.stderr.contains("target: is no socket"), "{refused:?}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "keep");
}

#[test]
fn silent_and_slow_ones_are_dropped_and_hinder_nobody() {
    let asked = Asked::start(Builder::default());
    let before = asked.daemon.descriptors();
    let mut silent: Vec<_> = (0..4).map(|_| UnixStream::connect(&asked.socket).unwrap()).collect();
    silent[0].write_all(b"sta").unwrap();
    wait_for("all four are taken", || asked.daemon.descriptors() == before + 4);
    let refused = ask(&asked.socket, "text");
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("the daemon says: too many ask at the same time"), "{refused:?}");
    assert!(asked.daemon.session().report().is_some(), "clients are served meanwhile");
    let start = Instant::now();
    for stream in &mut silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0, "closed");
    }
    assert!(start.elapsed() < Duration::from_secs(15));
    wait_for("their descriptors are free", || asked.daemon.descriptors() == before);
    assert!(asked.status("text").contains("accepted"));
    assert_eq!(asked.daemon.threads(), 1);
}

#[test]
fn the_socket_is_the_users_and_strangers_are_turned_away() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.join("couriertcpd");
    copy_program(env!("CARGO_BIN_EXE_couriertcpd"), &program);
    let handler = handler::copy_to(scratch.path());
    let command = [handler.into_os_string(), handler::MARK.into(), "report".into()];
    let asked = Asked::start(Builder::default().options(["-user=33333", "-group=33333"]).handler(command));
    let owner = fs::metadata(&asked.socket).unwrap();
    assert_eq!((owner.uid(), owner.gid(), owner.permissions().mode() & 0o777), (33333, 33333, 0o600));
    let ask_as = |uid: u32| {
        let mut command = Command::new(&program);
        let output = command.args([control(&asked.socket), "-status".into()]).uid(uid).gid(uid).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(ask_as(33333), (Some(0), String::new()));
    let (code, said) = ask_as(33334);
    assert!(code == Some(1) && said.contains("Permission denied"), "{said}");
    // Should somebody open the socket to all, the daemon still asks who it is.
    fs::set_permissions(&asked.socket, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(ask_as(33334).0, Some(1));
    asked.daemon.wait_for_stderr("WARN: user 33334 may not use the control socket");
    assert_eq!(ask_as(0), (Some(0), String::new()));
}

#[test]
fn sigusr1_logs_the_short_form_and_handlers_have_it_as_it_was() {
    for (prelude, is_ignored) in [("trap '' USR1", true), (":", false)] {
        let daemon = Builder::default().prelude(prelude).start();
        let report = daemon.session().report().expect("served");
        assert_eq!(report.signals("SigIgn") & 1 << (Signal::SIGUSR1 as i32 - 1) != 0, is_ignored, "{prelude}");
        daemon.signal(Signal::SIGUSR1);
        daemon.wait_for_stderr("status uptime=");
        daemon.wait_for_stderr(" accepted=1 served=1 refused=0 failed=0 gone=0 suppressed=0\n");
        assert!(daemon.session().report().is_some(), "goes on");
    }
}

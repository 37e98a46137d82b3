//! Logs that take no more: a full disk, a stuck syslog, loggers that die, dawdle or stop.
//!
//! They cost lines, which are counted and told of later, and never a client.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Builder, Client, Daemon, Scratch, namespace, procfs, wait_for};
use crate::world::lines;

const GREET: [&str; 2] = ["/bin/echo", "served"];
const LOST: &str = "could not be written";

#[track_caller]
fn serve(daemon: &Daemon, clients: usize) {
    for n in 0..clients {
        assert_eq!(daemon.session().text(), "served\n", "client {n}; {}", daemon.stderr());
    }
}

/// A script that logs standard input to a file, and the file.
fn logger(scratch: &Scratch, how: &str) -> (String, PathBuf) {
    let log = scratch.join("lines");
    let script = scratch.script("logger", &format!("#!/bin/sh\n{}\n", how.replace("LOG", log.to_str().unwrap())));
    (format!("-stderrlogger={}", script.display()), log)
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("signal the logger");
}

/// A file system of 16 KiB, full of the log of the daemon and its handlers.
pub fn a_full_file_system() {
    let done = namespace::run(|| {
        let scratch = Scratch::new();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(scratch.path()).status();
        assert!(mounted.is_ok_and(|status| status.success()), "mount a small file system");
        let log = scratch.join("log");
        let handler = ["/bin/sh", "-c", "echo complaint of a handler >&2; echo served"];
        let daemon = Builder::default()
            .options([&format!("-stderr={}", log.display()), "-loglevel=info"])
            .handler(handler)
            .start();
        let full = |log: &Path| fs::metadata(log).map_or(0, |file| file.len()) > 12_000;
        let mut clients = 0;
        while !full(&log) {
            serve(&daemon, 10);
            clients += 10;
            assert!(clients < 2000, "the log stays small");
        }
        serve(&daemon, 60);
        File::truncate(&log);
        serve(&daemon, 1);
        wait_for("the count", || lines(&log).iter().any(|line| line.contains(LOST)));
        println!(
            "faults: logs: full file system: all of {} clients served; then {:?}",
            clients + 61,
            lost(&lines(&log))
        );
        // Before the mount goes.
        drop(daemon);
        let _ = Command::new("umount").arg(scratch.path()).status();
    });
    said_if_not_permitted(done);
}

struct File;

impl File {
    /// Makes room as log rotation by copy and truncation does.
    fn truncate(path: &Path) {
        fs::File::options().write(true).open(path).and_then(|file| file.set_len(0)).expect("truncate the log");
    }
}

fn lost(lines: &[String]) -> String {
    lines.iter().find(|line| line.contains(LOST)).cloned().unwrap_or_default()
}

fn said_if_not_permitted(done: Option<()>) {
    assert!(done.is_some() || !nix::unistd::geteuid().is_root(), "root may make namespaces");
}

/// Nobody reads /dev/log; then it is gone; then it is back.
pub fn a_stuck_syslog() {
    let done = namespace::run(|| {
        let socket = namespace::syslog_socket();
        let daemon = Builder::default().options(["-syslog", "-loglevel=info"]).handler(GREET).start();
        serve(&daemon, 300);
        let stuck = read_all(&socket);
        assert!(stuck.len() < 300, "the socket takes all {} lines, so this shows nothing", stuck.len());
        serve(&daemon, 1);
        let mut later = Vec::new();
        wait_for("the count", || {
            later.extend(read_all(&socket));
            later.iter().any(|line| line.contains(LOST))
        });
        drop(socket);
        fs::remove_file("/dev/log").expect("remove /dev/log");
        serve(&daemon, 100);
        let socket = UnixDatagram::bind("/dev/log").expect("make /dev/log");
        let mut last = Vec::new();
        wait_for("the count of the second loss", || {
            serve(&daemon, 1);
            last.extend(read_all(&socket));
            last.iter().any(|line| line.contains(LOST))
        });
        println!(
            "faults: logs: stuck syslog: all of 400 clients served; then {:?}, and {:?}",
            lost(&later),
            lost(&last)
        );
    });
    said_if_not_permitted(done);
}

fn read_all(socket: &UnixDatagram) -> Vec<String> {
    socket.set_nonblocking(true).expect("set a flag");
    let mut buffer = [0; 4096];
    let mut all = Vec::new();
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => all.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
            Err(error) => panic!("/dev/log: {error}"),
        }
    }
}

/// SIGSTOP, until the pipe is full, and SIGCONT.
pub fn a_stopped_logger() {
    let scratch = Scratch::new();
    let (option, log) = logger(&scratch, "exec cat >> LOG");
    let daemon = Builder::default().options([&option, "-loglevel=info"]).handler(GREET).start();
    serve(&daemon, 1);
    daemon.wait_for_no_children_but(1);
    let logger = daemon.children()[0];
    send(logger, Signal::SIGSTOP);
    wait_for("it stops", || procfs::state(logger) == Some('T'));
    // Two lines a client, of more than 100 bytes together; the pipe holds 64 KiB.
    serve(&daemon, 1200);
    send(logger, Signal::SIGCONT);
    let mut clients = 1201;
    wait_for("the count", || {
        serve(&daemon, 1);
        clients += 1;
        lines(&log).iter().any(|line| line.contains(LOST))
    });
    assert_eq!(daemon.children().iter().filter(|&&pid| pid == logger).count(), 1, "it is the same logger");
    let lines = lines(&log);
    // None is torn: each has its word, or is a count.
    assert!(lines.iter().all(|line| line.starts_with("INFO: ") || line.contains(LOST)), "{lines:?}");
    println!(
        "faults: logs: stopped logger: all of {clients} clients served; {} lines, {:?}",
        lines.len(),
        lost(&lines)
    );
}

/// A logger that is far slower than those who write: the pipe is full before all is written.
pub fn a_slow_logger() {
    const CLIENTS: usize = 60;
    /// With a line of the longest that a pipe takes in one piece, four times what it holds.
    const LENGTH: usize = 4095;
    const PIPE: usize = 64 << 10;
    let scratch = Scratch::new();
    // It begins when it is told to, so that it is slower than any machine.
    let how = "until [ -e LOG.go ]; do sleep 0.02; done; while read -r line; do echo \"$line\" >> LOG; done";
    let (option, log) = logger(&scratch, how);
    let complaint = "x".repeat(LENGTH);
    let handler = format!("echo {complaint} >&2; echo served");
    let daemon = Builder::default()
        .options([&option, "-maxprocs=100", "-maxperip=100"])
        .handler(["/bin/sh", "-c", &handler])
        .start();
    let clients: Vec<Client> = (0..CLIENTS).map(|_| daemon.connect()).collect();
    // Those whose lines fit in are served, the others wait for the logger and for nothing else.
    let fit = PIPE / (LENGTH + 1);
    wait_for("the pipe is full", || daemon.children().len() == 1 + CLIENTS - fit);
    fs::write(log.with_extension("go"), "").expect("let the logger begin");
    for (n, client) in clients.into_iter().enumerate() {
        assert_eq!(client.finish().text(), "served\n", "client {n}; {}", daemon.stderr());
    }
    wait_for("every line", || lines(&log).iter().filter(|line| **line == complaint).count() == CLIENTS);
    assert_eq!(lines(&log).len(), CLIENTS, "a line is torn");
    println!(
        "faults: logs: slow logger: all of {CLIENTS} clients served, {} of them later, no line lost",
        CLIENTS - fit
    );
}

/// Loggers are killed; what they had not read waits for the next.
pub fn dying_loggers(kills: usize) {
    let scratch = Scratch::new();
    let (option, log) = logger(&scratch, "while read -r line; do echo \"$line\" >> LOG; done");
    // Each handler's line is one of its own.
    let handler = ["/bin/sh", "-c", "echo complaint $$ >&2; echo served $$"];
    let daemon = Builder::default().options([&option, "-loglevel=err"]).handler(handler).start();
    let mut told = BTreeSet::new();
    let mut clients = 0;
    let mut serve = |daemon: &Daemon, number: usize| {
        for _ in 0..number {
            let text = daemon.session().text();
            told.insert(text.trim().strip_prefix("served ").expect("served").to_owned());
            clients += 1;
        }
    };
    let mut before = 0;
    for _ in 0..kills {
        wait_for("a logger", || daemon.children().iter().any(|&pid| pid != before && is_shell(pid, &scratch)));
        let logger = daemon.children().into_iter().find(|&pid| is_shell(pid, &scratch)).expect("just seen");
        serve(&daemon, 20);
        send(logger, Signal::SIGKILL);
        before = logger;
        // While there is none.
        serve(&daemon, 20);
    }
    let got = || -> BTreeSet<String> {
        lines(&log).iter().filter_map(|line| line.strip_prefix("complaint ")).map(str::to_owned).collect()
    };
    // One line may have died in the hands of each logger.
    wait_for("the lines", || got().len() + kills >= told.len());
    assert!(got().is_subset(&told), "{:?}", got().difference(&told));
    println!(
        "faults: logs: {kills} loggers killed: all of {clients} clients served, {} of {} lines lost, at most one a kill",
        told.len() - got().len(),
        told.len()
    );
}

/// True for the logger, not for a handler, nor for a child that has the daemon's arguments until it executes its program.
fn is_shell(pid: i32, scratch: &Scratch) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let script = scratch.join("logger");
    let is_script = |argument: &[u8]| argument == script.as_os_str().as_encoded_bytes();
    line.split(|&byte| byte == 0).any(is_script) && procfs::is_alive(pid)
}

/// Handlers that write to a pipe that nobody reads wait; nobody else does.
pub fn a_full_pipe() {
    let scratch = Scratch::new();
    let (option, log) = logger(&scratch, "until [ -e LOG.go ]; do sleep 0.02; done; exec cat >> LOG");
    let handler = [
        "/bin/sh",
        "-c",
        "read x; case $x in fill) i=0; while [ $i -lt 3000 ]; do echo 'a line of thirty bytes or so' >&2; i=$((i+1)); done;; esac; echo served",
    ];
    let daemon = Builder::default().options([&option, "-maxperip=10"]).handler(handler).start();
    let mut filling = daemon.connect();
    filling.send(b"fill\n");
    assert!(filling.is_silent_for(Duration::from_millis(300)), "the pipe takes it all");
    for _ in 0..50 {
        let mut client = daemon.connect();
        client.send(b"work\n");
        assert_eq!(client.finish().text(), "served\n");
    }
    fs::write(log.with_extension("go"), "").expect("let the logger go on");
    assert_eq!(filling.finish().text(), "served\n");
    wait_for("every line", || lines(&log).len() == 3000);
    println!("faults: logs: full pipe: all of 51 clients served, no line lost");
}

//! The handler under test: tells the client how it was started, then does what it is told.
//!
//! It is the test binary itself. A function in `.init_array` runs before `main`; if the first
//! argument is [`MARK`], it plays the handler and exits. So there is no second program that could
//! be missing or stale, and since Rust's runtime has not started, nothing has touched the signal
//! dispositions (it ignores SIGPIPE) or the descriptors (it opens 0, 1 and 2) that are reported.
//! What it learns comes from `/proc/self`, for the same reason.
//!
//! Its other arguments are steps, done in order; see [`step`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;

use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use nix::sys::socket::{getsockopt, sockopt};

/// First argument of the handler.
pub const MARK: &str = "@handler";

/// PROGRAM and its arguments for a handler that does `steps`.
pub fn command(steps: &[&str]) -> Vec<OsString> {
    let program = std::env::current_exe().expect("the test binary has a path");
    let mut command = vec![program.into_os_string(), MARK.into()];
    command.extend(steps.iter().map(OsString::from));
    command
}

/// The handler as a program that another user can run: a copy in `directory`.
pub fn copy_to(directory: &std::path::Path) -> PathBuf {
    let copy = directory.join("handler");
    super::copy_program(std::env::current_exe().expect("the test binary has a path"), &copy);
    copy
}

// SAFETY: the section holds pointers to functions of exactly this type (the loader passes
// arguments that a C function may ignore), and `entry` needs nothing that `main` sets up.
#[used]
#[unsafe(link_section = ".init_array")]
static ENTRY: extern "C" fn() = entry;

extern "C" fn entry() {
    let Ok(command_line) = std::fs::read("/proc/self/cmdline") else { return };
    let mut arguments = command_line.split(|&b| b == 0).skip(1);
    if arguments.next() != Some(MARK.as_bytes()) {
        return;
    }
    for argument in arguments.filter(|a| !a.is_empty()) {
        step(&String::from_utf8_lossy(argument));
    }
    std::process::exit(0);
}

/// Does one step, `name` or `name:argument`:
/// `report`, `report-to:FILE`, `say:TEXT` (a line to the client), `stderr:TEXT` (a line to standard error), `drain` (read to
/// the end), `echo` (send back until the end), `line` (read a line and send it back), `hold` (until killed),
/// `ignore-term`, `trap-term` (later steps run when TERM comes), `crash`, `exit:N`, `own-group`, `touch:FILE`.
fn step(step: &str) {
    let (name, argument) = step.split_once(':').unwrap_or((step, ""));
    match name {
        "report" => say(&render()),
        "report-to" => std::fs::write(argument, render()).expect("report-to:FILE"),
        "say" => say(&format!("{argument}\n")),
        "stderr" => drop(std::io::stderr().write_all(format!("{argument}\n").as_bytes())),
        "drain" => drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink())),
        "echo" => {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
                say_bytes(&buffer[..n]);
            }
        }
        "line" => {
            let mut line = String::new();
            let _ = std::io::stdin().read_line(&mut line);
            say(&line);
        }
        "hold" => loop {
            nix::unistd::pause();
        },
        // SAFETY: setting a disposition to "ignored" installs no code.
        "ignore-term" => drop(unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }),
        "trap-term" => {
            let mut term = SigSet::empty();
            term.add(Signal::SIGTERM);
            term.thread_block().expect("block TERM");
            say("waiting\n");
            term.wait().expect("wait for TERM");
        }
        "crash" => drop(raise(Signal::SIGKILL)),
        "exit" => std::process::exit(argument.parse().expect("exit:N")),
        "own-group" => drop(nix::unistd::setpgid(nix::unistd::Pid::this(), nix::unistd::Pid::this())),
        "touch" => std::fs::write(argument, "").expect("touch"),
        _ => panic!("unknown step {step}"),
    }
}

fn say(text: &str) {
    say_bytes(text.as_bytes());
}

/// A client that has gone away is no concern of the handler.
fn say_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes);
    let _ = out.flush();
}

/// The report: lines of `kind value`, everything escaped as in Rust byte strings, ended by `end`.
fn render() -> String {
    let mut text = String::new();
    let mut line = |kind: &str, value: &[u8]| {
        text.push_str(&format!("{kind} {}\n", value.escape_ascii()));
    };
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    for argument in read("/proc/self/cmdline").split(|&b| b == 0) {
        line("arg", argument);
    }
    for variable in read("/proc/self/environ").split(|&b| b == 0).filter(|v| !v.is_empty()) {
        line("env", variable);
    }
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let number = entry.file_name().to_string_lossy().into_owned();
        let target = std::fs::read_link(entry.path()).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default();
        // The descriptor that lists the directory is ours, not inherited.
        if target.starts_with("/proc/") && target.ends_with("/fd") {
            continue;
        }
        let info = String::from_utf8_lossy(&read(&format!("/proc/self/fdinfo/{number}"))).into_owned();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap_or("0").trim().to_owned();
        line("fd", format!("{number} {flags} {target}").as_bytes());
    }
    for status in String::from_utf8_lossy(&read("/proc/self/status")).lines() {
        line("status", status.as_bytes());
    }
    let cwd = std::fs::read_link("/proc/self/cwd").unwrap_or_default();
    line("cwd", cwd.as_os_str().as_encoded_bytes());
    line("pgrp", nix::unistd::getpgrp().to_string().as_bytes());
    let keepalive = getsockopt(&std::io::stdin(), sockopt::KeepAlive).unwrap_or(false);
    line("keepalive", keepalive.to_string().as_bytes());
    text.push_str("end\n");
    text
}

/// One open descriptor of the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Open flags (O_…), as in fdinfo.
    pub flags: u32,
    /// What the link in `/proc/self/fd` says: `socket:[1234]`, a path, `pipe:[…]`.
    pub target: String,
}

/// What a handler told of itself. Values are escaped as in Rust byte strings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub descriptors: BTreeMap<i32, Descriptor>,
    /// The lines of `/proc/self/status`, by name.
    pub status: BTreeMap<String, String>,
    pub cwd: String,
    pub pgrp: i32,
    pub keepalive: bool,
    /// What came after the report.
    pub rest: String,
}

impl Report {
    /// Finds the report at the start of what a client received.
    pub fn parse(received: &[u8]) -> Option<Report> {
        let text = std::str::from_utf8(received).ok()?;
        let (report, rest) = text.split_once("\nend\n")?;
        let mut parsed = Report { rest: rest.to_owned(), ..Report::default() };
        for line in report.lines() {
            let (kind, value) = line.split_once(' ')?;
            match kind {
                "arg" => parsed.args.push(value.to_owned()),
                "env" => {
                    let (name, value) = value.split_once('=').unwrap_or((value, ""));
                    parsed.env.push((name.to_owned(), value.to_owned()));
                }
                "fd" => {
                    let mut parts = value.splitn(3, ' ');
                    let number = parts.next()?.parse().ok()?;
                    let flags = u32::from_str_radix(parts.next()?, 8).ok()?;
                    parsed.descriptors.insert(number, Descriptor { flags, target: parts.next()?.to_owned() });
                }
                "status" => {
                    let (name, value) = value.split_once(":").unwrap_or((value, ""));
                    parsed.status.insert(name.to_owned(), value.trim_start_matches("\\t").trim().to_owned());
                }
                "cwd" => parsed.cwd = value.to_owned(),
                "pgrp" => parsed.pgrp = value.parse().ok()?,
                "keepalive" => parsed.keepalive = value == "true",
                _ => return None,
            }
        }
        // The command line ends with a NUL, so the last part is empty.
        parsed.args.pop();
        Some(parsed)
    }

    /// The value of a variable; None if it is not set. The last of doubles.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A signal mask of `/proc/self/status` (`SigBlk`, `SigIgn`, `SigCgt`); bit n-1 is signal n.
    pub fn signals(&self, field: &str) -> u64 {
        u64::from_str_radix(&self.status[field], 16).expect("a mask in hexadecimal")
    }

    pub fn pid(&self) -> i32 {
        self.status["Pid"].parse().expect("a process id")
    }

    pub fn parent(&self) -> i32 {
        self.status["PPid"].parse().expect("a process id")
    }
}

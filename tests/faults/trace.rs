//! strace on a running daemon: what it calls, and one call that fails.
//!
//! The daemon alone is traced, none of its children. It is traced from the moment it is idle, so
//! that the number of a call is the same in each run of the same work.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Scratch, wait_until};

/// One call of the daemon.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: String,
    /// What it was about: the kind of its descriptor, its option, its file. With the name it says
    /// which errors are possible.
    pub subject: String,
    /// Its place among all calls of this name, from 1 on.
    pub nth: usize,
    /// True if it was made to fail.
    pub injected: bool,
    pub line: String,
}

/// strace, attached.
pub struct Trace {
    child: Child,
    output: PathBuf,
    _scratch: Scratch,
}

impl Trace {
    /// None: tracing is not permitted here, or strace is not there.
    pub fn attach(pid: i32, fault: Option<(&str, usize, &str)>) -> Option<Trace> {
        let scratch = Scratch::new();
        let (output, said) = (scratch.join("trace"), scratch.join("said"));
        let mut command = Command::new("strace");
        command.args(["-yy", "-s", "16", "-o"]).arg(&output).args(["-p", &pid.to_string()]);
        if let Some((call, nth, error)) = fault {
            command.arg("-e").arg(format!("inject={call}:error={error}:when={nth}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).expect("a scratch file"));
        let mut child = command.spawn().ok()?;
        let text = || fs::read_to_string(&said).unwrap_or_default();
        let mut ended = false;
        wait_until(crate::common::DEADLINE, || {
            ended = child.try_wait().expect("wait for strace").is_some();
            ended || text().contains("attached")
        });
        if ended {
            eprintln!("strace: {}", text().trim());
            return None;
        }
        Some(Trace { child, output, _scratch: scratch })
    }

    /// Lets the daemon go, and tells what it did.
    pub fn detach(mut self) -> Vec<Call> {
        // It detaches at SIGTERM, without a trace left in the daemon.
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("signal strace");
        self.child.wait().expect("wait for strace");
        parse(&String::from_utf8_lossy(&fs::read(&self.output).expect("strace's output")))
    }

    /// True once the call has been made to fail.
    pub fn has_struck(&self) -> bool {
        fs::read(&self.output).is_ok_and(|text| text.windows(10).any(|w| w == b"(INJECTED)"))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(text: &str) -> Vec<Call> {
    let mut counts = std::collections::HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let count = counts.entry(name.to_owned()).or_insert(0);
        *count += 1;
        // What another program does after that is not the daemon's loop.
        let is_end = name == "execve" && line.ends_with(" = 0");
        calls.push(Call {
            name: name.to_owned(),
            subject: subject(name, rest),
            nth: *count,
            injected: line.contains("(INJECTED)"),
            line: line.to_owned(),
        });
        if is_end {
            break;
        }
    }
    calls
}

/// What tells apart calls of one name that may fail in different ways.
fn subject(name: &str, rest: &str) -> String {
    // strace lines the results up: blanks may stand before the equals sign.
    let result = rest.rfind(" = ").unwrap_or(rest.len());
    let arguments = rest[..result].trim_end().trim_end_matches(')');
    let argument = |n: usize| split(arguments).get(n).map_or("", |a| a.trim()).to_owned();
    match name {
        "epoll_ctl" => argument(1),
        "socket" => argument(1).split('|').next().unwrap_or_default().to_owned(),
        "clone" => if arguments.contains("CLONE_VM") { "program" } else { "helper" }.to_owned(),
        "setsockopt" | "getsockopt" => argument(2),
        "fcntl" => argument(1),
        // With an empty path they are about a descriptor.
        "openat" | "newfstatat" | "statx" if argument(1) != "\"\"" => kind_of_file(argument(1).trim_matches('"')),
        _ => kind_of_descriptor(&argument(0)),
    }
}

/// The arguments; commas within brackets and strings do not separate.
fn split(arguments: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut quoted, mut start) = (Vec::new(), 0, false, 0);
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' | b'(' | b'<' => depth += 1,
            // The arrow of `<TCP:[a->b]>` closes nothing.
            b'>' if at > 0 && arguments.as_bytes()[at - 1] == b'-' => {}
            b']' | b'}' | b')' | b'>' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&arguments[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&arguments[start..]);
    parts
}

/// `7<TCP:[1.2.3.4:5->…]>`, `3<anon_inode:[signalfd]>`, `4</tmp/log>`.
fn kind_of_descriptor(argument: &str) -> String {
    let Some((_, inside)) = argument.split_once('<') else { return String::new() };
    // The parenthesis that closes the arguments is gone already.
    let inside = inside.trim_end_matches("(deleted").trim_end_matches('>');
    match inside {
        _ if inside.contains("signalfd") => "signalfd".to_owned(),
        _ if inside.contains("eventpoll") => "epoll".to_owned(),
        _ if inside.starts_with('/') => kind_of_file(inside),
        _ => inside.split([':', '-']).next().unwrap_or_default().trim_end_matches("v6").to_owned(),
    }
}

fn kind_of_file(path: &str) -> String {
    // Names that differ from run to run are not told apart.
    path.rsplit('/').next().filter(|name| !name.contains(|c: char| c.is_ascii_digit())).unwrap_or("file").to_owned()
}

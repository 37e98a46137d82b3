//! One scenario: how the daemon is started, who comes, and what is seen from outside.
//!
//! What is seen becomes a transcript, one line for each event, which is compared as a whole:
//!
//! - `exit N`: the command ended instead of listening.
//! - `listens on ADDRESS …`: in a scenario without events. A client was served there.
//! - `nobody listens`: where the client went.
//! - `served NAME=VALUE …`: the handler ran. All its variables, sorted; those that the daemon was
//!   started with too. TCPREMOTEIP, TCPREMOTEPORT, TCPLOCALIP and TCPLOCALPORT are left out where
//!   they are what they must be. `+ "text"`: what else the client received.
//! - `closed`, `closed "text"`: the handler did not run; the client received text.
//! - ` reset` behind either: the connection ended with a reset.
//! - `asked NAME TYPE`: a question to the name server, each once, sorted; only in scenarios about that.
//! - `log LINE`: the daemon wrote an ALERT or WARN line to its standard error.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::network;
use crate::common::{Builder, Client, Daemon, End, Program, Received, Scratch, access, procfs, wait_for, wait_until};

/// The end of the connection that clients go to where nothing else is said.
const DAEMON: &str = "127.0.0.9:25";

/// See the top of the file. `{dir}` in options and environment is a directory of the scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub options: &'static [&'static str],
    /// Source text of an access file, which adds `-access`.
    pub access: Option<&'static str>,
    /// The daemon's own environment.
    pub environment: &'static [(&'static str, &'static str)],
    /// What the name server knows, see [`network::serve`]. Empty: there is none.
    pub zone: &'static str,
    /// True to have the questions asked of the name server in the transcript.
    pub questions: bool,
    /// What the client's ident server answers, see [`network::Ident`]. Empty: there is none.
    pub ident: &'static str,
    /// LIST and what follows it. Empty: the address of `DAEMON`, and the handler.
    pub arguments: &'static [&'static str],
    /// What the handler does.
    pub handler: &'static [&'static str],
    pub events: &'static [Event],
    /// What the reference does.
    pub theirs: &'static [&'static str],
    /// Where ours differs on purpose: the id of the difference, and what ours does.
    pub ours: Option<(&'static str, &'static [&'static str])>,
}

/// A scenario of one client of 127.0.0.2.
pub const PLAIN: Scenario = Scenario {
    name: "",
    options: &["-nodnslookup", "-noidentlookup"],
    access: None,
    environment: &[],
    zone: "",
    questions: false,
    ident: "",
    arguments: &[],
    handler: &["report", "drain"],
    events: &[from("127.0.0.2")],
    theirs: &[],
    ours: None,
};

/// Something that happens to the daemon.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A client comes, sends, says that it sends no more, and reads to the end.
    Visit { from: &'static str, to: &'static str, sends: &'static str },
    /// A client comes and stays until the end of the scenario.
    Stay { from: &'static str },
    /// The access file is made anew, and the daemon told.
    Reload(&'static str),
}

pub const fn from(address: &'static str) -> Event {
    Event::Visit { from: address, to: DAEMON, sends: "" }
}

/// A client of 127.0.0.2 that goes to `to`, an address with port.
pub const fn to(to: &'static str) -> Event {
    Event::Visit { from: "127.0.0.2", to, sends: "" }
}

pub const fn sending(from: &'static str, sends: &'static str) -> Event {
    Event::Visit { from, to: DAEMON, sends }
}

pub const fn between(from: &'static str, to: &'static str) -> Event {
    Event::Visit { from, to, sends: "" }
}

pub const fn stay(from: &'static str) -> Event {
    Event::Stay { from }
}

impl Scenario {
    /// Runs it on one program. Err: what was seen and what should have been.
    pub fn check(&self, program: Program) -> Result<(), String> {
        let expected = match (program, self.ours) {
            (Program::Ours, Some((_, lines))) => lines,
            _ => self.theirs,
        };
        let log_lines = expected.iter().filter(|line| line.starts_with("log ")).count();
        let seen = std::panic::catch_unwind(|| self.run(program, log_lines))
            .map_err(|_| format!("{}, {program:?}: failed, see above", self.name))?;
        match self.ours {
            _ if seen == expected => Ok(()),
            Some((id, _)) if program == Program::Ours && seen == self.theirs => {
                Err(format!("{}: difference {id} no longer is one: {seen:#?}", self.name))
            }
            _ => Err(format!("{}, {program:?}: {seen:#?}\nexpected {expected:#?}", self.name)),
        }
    }

    fn run(&self, program: Program, log_lines: usize) -> Vec<String> {
        let dns = (!self.zone.is_empty()).then(|| network::serve(self.zone));
        let _ident = (!self.ident.is_empty()).then(|| network::Ident::serve(self.ident));
        let scratch = Scratch::new();
        let fill = |text: &str| text.replace("{dir}", scratch.path().to_str().expect("a UTF-8 path"));
        let mut builder = Builder::default().program(program).bare().options(self.options.iter().map(|o| fill(o)));
        // The reference makes a file of the name, for -stderr=socket.
        builder = builder.directory(scratch.path());
        for (name, value) in self.environment {
            builder = builder.env(name, fill(value));
        }
        let rules = scratch.join("access.dat");
        if let Some(text) = self.access {
            access::make_from_text(&rules, text);
            builder = builder.option(format!("-access={}", rules.display()));
        }
        builder = match self.arguments {
            [] => builder.address(socket_address(DAEMON)).steps(self.handler),
            [list] => builder.list(list).steps(self.handler),
            [list, command @ ..] => builder.list(list).handler(command),
        };
        let mut daemon = match builder.try_start() {
            Ok(daemon) => daemon,
            Err(finished) => return vec![format!("exit {}", finished.code())],
        };
        let mut seen = Vec::new();
        if self.events.is_empty() {
            return vec![where_it_listens(daemon)];
        }
        let mut staying = Vec::new();
        for event in self.events {
            match *event {
                Event::Visit { from, to, sends } => {
                    let Some(outcome) = visit(&mut daemon, from, to, sends) else {
                        return vec![format!("exit {}", daemon.wait().code().unwrap_or(-1))];
                    };
                    seen.push(outcome);
                    // The slot is free only when the daemon has seen the handler's end.
                    wait_for("the handler is reaped", || daemon.children().len() == staying.len());
                }
                Event::Stay { from } => {
                    let mut client = connect(from, DAEMON).expect("the daemon listens");
                    let served = client.read_until("\nend\n");
                    if served {
                        seen.push("stays".to_owned());
                        staying.push(client);
                    } else {
                        seen.push(render(&client.finish(), None));
                    }
                }
                Event::Reload(text) => {
                    access::make_from_text(&rules, text);
                    daemon.signal(Signal::SIGHUP);
                    wait_for("the daemon takes the signal", || !is_pending(daemon.pid(), Signal::SIGHUP));
                }
            }
        }
        if let Some(dns) = dns.filter(|_| self.questions) {
            seen.extend(network::questions(&dns).iter().map(|question| format!("asked {question}")));
        }
        seen.extend(messages(&daemon, log_lines));
        seen
    }
}

/// A daemon may listen and end all the same: the reference checks some options after that. So one
/// client has to be served.
fn where_it_listens(mut daemon: Daemon) -> String {
    let addresses = procfs::listening(daemon.pid());
    let client = addresses.first().and_then(|address| Client::try_connect(None, *address).ok());
    let served = client.is_some_and(|mut client| {
        client.half_close();
        client.finish().report().is_some()
    });
    match served {
        true => format!("listens on {}", addresses.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" ")),
        false => format!("exit {}", daemon.wait().code().unwrap_or(-1)),
    }
}

fn socket_address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address with port"))
}

/// None: nobody listens there.
fn connect(from: &str, to: &str) -> Option<Client> {
    let from = from.parse::<IpAddr>().expect("an address");
    match Client::try_connect(Some(SocketAddr::new(from, 0)), socket_address(to)) {
        Ok(client) => Some(client),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        Err(error) => panic!("connect from {from} to {to}: {error}"),
    }
}

/// None: the daemon has ended. The reference listens before it has checked its options.
fn visit(daemon: &mut Daemon, from: &str, to: &str, sends: &str) -> Option<String> {
    // What the client sends is there before the daemon accepts, so that it cannot be in time or
    // late by chance.
    daemon.signal(Signal::SIGSTOP);
    wait_for("the daemon stops", || daemon.has_ended() || procfs::state(daemon.pid()) == Some('T'));
    if daemon.has_ended() {
        return None;
    }
    let Some(mut client) = connect(from, to) else { return Some("nobody listens".to_owned()) };
    let ends = (client.local(), client.peer());
    client.send(sends.as_bytes()).half_close();
    daemon.signal(Signal::SIGCONT);
    Some(render(&client.finish(), Some(ends)))
}

fn render(received: &Received, ends: Option<(SocketAddr, SocketAddr)>) -> String {
    let mut line = match received.report() {
        None if received.bytes.is_empty() => "closed".to_owned(),
        None => format!("closed {:?}", received.text()),
        Some(report) => {
            let mut variables: Vec<String> = Vec::new();
            for (name, value) in &report.env {
                let implied = ends.is_some_and(|ends| is_implied(name, value, ends));
                if name == "LD_LIBRARY_PATH" || implied {
                    continue;
                }
                // An ident answer may come through whole, with the port that the client has by chance.
                let port = ends.map(|(client, _)| client.port().to_string());
                let value = port.map_or(value.clone(), |port| value.replace(&port, "{client}"));
                variables.push(format!(" {name}={value}"));
            }
            variables.sort();
            let rest = if report.rest.is_empty() { String::new() } else { format!(" + {:?}", report.rest) };
            format!("served{}{rest}", variables.concat())
        }
    };
    match received.end {
        End::Eof => (),
        End::Reset => line.push_str(" reset"),
        End::Open => line.push_str(" and left open"),
    }
    line
}

/// True for the address variables that say what the client knows of its connection.
fn is_implied(name: &str, value: &str, (client, daemon): (SocketAddr, SocketAddr)) -> bool {
    let printed = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => format!("::ffff:{ip}"),
        IpAddr::V6(ip) => ip.to_string(),
    };
    match name {
        "TCPREMOTEIP" => value == printed(client),
        "TCPREMOTEPORT" => value == client.port().to_string(),
        "TCPLOCALIP" => value == printed(daemon),
        "TCPLOCALPORT" => value == daemon.port().to_string(),
        _ => false,
    }
}

/// The ALERT and WARN lines, after as many as are expected have had time to come.
fn messages(daemon: &Daemon, expected: usize) -> Vec<String> {
    let lines = || -> Vec<String> {
        let text = daemon.stderr();
        let lines = text.lines().filter(|l| l.starts_with("ALERT:") || l.starts_with("WARN:"));
        lines.map(|l| format!("log {l}")).collect()
    };
    wait_until(Duration::from_secs(5), || lines().len() >= expected);
    lines()
}

/// True while a signal that was sent has not been taken.
fn is_pending(pid: i32, signal: Signal) -> bool {
    ["SigPnd", "ShdPnd"].iter().any(|field| {
        let mask = procfs::status(pid, field).and_then(|m| u64::from_str_radix(&m, 16).ok());
        mask.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
    })
}

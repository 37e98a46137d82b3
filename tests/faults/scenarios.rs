//! The work that is done while a call of the daemon fails.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::dns::ANY;
use crate::common::{Builder, Client, DEADLINE, Daemon, Scratch, namespace, procfs, wait_until};
use crate::world::{self, Outcome, TELL, World, reverse, talk, variable};

type Outcomes = Vec<(&'static str, Outcome)>;

/// Some work, and how to see that all is well afterwards.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub prepare: fn() -> World,
    pub start: fn(&World) -> Builder,
    /// What is done with the daemon before its calls count.
    pub begin: fn(&World) -> Outcome,
    pub work: fn(&World, &Daemon) -> Outcomes,
    /// Must be right in all, once the fault is over.
    pub check: fn(&World, &Daemon) -> Outcomes,
    /// What is in a log other than the daemon's standard error.
    pub log: fn(&World) -> String,
    /// `-maxprocs`.
    pub slots: usize,
    /// It takes files in /etc and ports of its own, and so namespaces.
    pub own_files: bool,
    /// The daemon ends with its work.
    pub ends: bool,
    /// Calls, by name and subject, that mean something else than in the scenarios before.
    pub own_calls: &'static [(&'static str, &'static str)],
    /// Children and sockets of a daemon that has nothing to do.
    pub children: usize,
    pub sockets: usize,
}

impl Scenario {
    /// Runs `body` where the scenario wants to be. None: no namespaces are permitted here.
    pub fn in_place<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Option<T> {
        if !self.own_files {
            return Some(body());
        }
        namespace::run(|| {
            let scratch = Scratch::new();
            namespace::replace_file("/etc/hosts", &scratch.file("hosts", "127.0.0.1 localhost\n"));
            namespace::replace_file("/etc/nsswitch.conf", &scratch.file("nsswitch.conf", "hosts: files\n"));
            body()
        })
    }

    /// A daemon that is in its loop, with nothing to do.
    pub fn daemon(&self, world: &World) -> Daemon {
        let daemon = (self.start)(world).start();
        assert_eq!((self.begin)(world), Outcome::Right, "{}", daemon.stderr());
        // It listens before it is in its loop. Once a first client is gone, it is.
        assert_eq!(world.plain_client(), Outcome::Right, "{}", daemon.stderr());
        let settled = || procfs::sockets(daemon.pid()) == self.sockets && daemon.children().len() == self.children;
        assert!(
            wait_until(DEADLINE, settled),
            "{}: children {:?}, {} sockets",
            self.name,
            daemon.children(),
            procfs::sockets(daemon.pid())
        );
        daemon
    }

    /// All that is said: on standard error, and in its log if there is one.
    pub fn said(&self, world: &World, daemon: &Daemon) -> String {
        daemon.stderr() + &(self.log)(world)
    }
}

/// From accept to the end, on every way.
pub const SERVE: Scenario = Scenario {
    name: "serve",
    prepare: World::new,
    start: |world| plainly(world),
    begin: |_| Outcome::Right,
    work: clients,
    check: clients,
    log: |_| String::new(),
    slots: 12,
    own_files: false,
    ends: false,
    own_calls: &[],
    children: 0,
    sockets: 2,
};

/// SIGHUP: the access file and the log are others now.
pub const RELOAD: Scenario = Scenario {
    name: "reload",
    prepare: World::new,
    start: |world| plainly(world).option(format!("-stderr={}", log_file(world).display())),
    begin: |_| Outcome::Right,
    work: |world, daemon| {
        vec![("SIGHUP", reload(world, daemon, "two", Duration::from_millis(700))), ("named", world.named_client())]
    },
    check: |world, daemon| vec![("SIGHUP", reload(world, daemon, "three", DEADLINE))],
    log,
    slots: 12,
    own_files: false,
    ends: false,
    own_calls: &[],
    children: 0,
    sockets: 2,
};

/// The logger ends and is started again.
pub const LOGGER: Scenario = Scenario {
    name: "logger",
    prepare: World::new,
    start: |world| plainly(world).option(format!("-stderrlogger={}", logger(world).display())),
    begin: |_| Outcome::Right,
    work: |world, daemon| vec![("logger", kill_child(daemon, Duration::from_secs(4))), ("plain", world.plain_client())],
    check: |world, daemon| {
        vec![("logger", kill_child(daemon, Duration::from_secs(15))), ("plain", world.plain_client())]
    },
    log,
    slots: 12,
    own_files: false,
    ends: false,
    own_calls: &[],
    children: 1,
    sockets: 2,
};

/// A helper of the name service switch is killed and replaced.
pub const HELPER: Scenario = Scenario {
    name: "helper",
    prepare: World::new,
    start: |world| plainly(world).option("-resolver=nss:1"),
    begin: |_| Outcome::Right,
    work: |world, daemon| {
        vec![
            ("host name", host_name(world)),
            ("helper", kill_child(daemon, Duration::from_secs(4))),
            ("host name", host_name(world)),
        ]
    },
    check: |world, daemon| {
        let replaced = kill_child(daemon, Duration::from_secs(15));
        // Until the failure that the cache may hold is over.
        wait_until(Duration::from_secs(12), || host_name(world) == Outcome::Right);
        vec![("helper", replaced), ("host name", host_name(world))]
    },
    log: |_| String::new(),
    slots: 12,
    own_files: true,
    ends: false,
    own_calls: &[],
    children: 1,
    sockets: 3,
};

/// Name servers of resolv.conf, which are others after SIGHUP; and answers by TCP.
pub const NAMES: Scenario = Scenario {
    name: "names",
    prepare: World::with_resolv_conf,
    start: |world| plainly(world).option("-noidentlookup"),
    begin: |_| Outcome::Right,
    work: |world, daemon| {
        let before = vec![("named", named_without_ident(world)), ("listed", world.listed_client())];
        let between = vec![("resolv.conf", change_servers(world, daemon, Duration::from_millis(700)))];
        let after = vec![
            ("named after", named_without_ident(world)),
            ("listed after", world.listed_client()),
            ("denied", world.denied_client()),
        ];
        [before, between, after].concat()
    },
    check: |world, daemon| {
        let changed = change_servers(world, daemon, DEADLINE);
        vec![("resolv.conf", changed), ("named", named_without_ident(world)), ("listed", world.listed_client())]
    },
    log: |_| String::new(),
    slots: 12,
    own_files: true,
    ends: false,
    // Of DNS, where they are of ident elsewhere.
    own_calls: &[
        ("socket", "SOCK_STREAM"),
        ("connect", "TCP"),
        ("sendto", "TCP"),
        ("recvfrom", "TCP"),
        ("getsockname", "TCP"),
    ],
    children: 0,
    sockets: 2,
};

/// The control socket, a service manager, and another program in the place of this one.
pub const UPGRADE: Scenario = Scenario {
    name: "upgrade",
    prepare: World::new,
    start: watched,
    // The program that was started holds descriptors that the next ones do not.
    begin: |world| world.verb("-upgrade").0,
    work: |world, daemon| {
        vec![
            ("status", status(world)),
            ("manager", tell_manager(world, daemon, Duration::from_secs(2))),
            ("named", world.named_client()),
            ("listed", world.listed_client()),
            ("upgrade", world.verb("-upgrade").0),
            ("plain", world.plain_client()),
        ]
    },
    check: |world, daemon| {
        vec![
            ("status", status(world)),
            ("manager", tell_manager(world, daemon, DEADLINE)),
            ("upgrade", world.verb("-upgrade").0),
            ("listed", world.listed_client()),
        ]
    },
    log: |_| String::new(),
    slots: 12,
    own_files: false,
    ends: false,
    own_calls: &[],
    children: 0,
    sockets: 4,
};

/// A daemon that is to finish what it has begun: a handler, and lookups.
pub const DRAIN: Scenario = Scenario {
    name: "drain",
    prepare: World::new,
    start: watched,
    begin: |_| Outcome::Right,
    work: drain,
    check: |_, _| Vec::new(),
    log: |_| String::new(),
    slots: 12,
    own_files: false,
    ends: true,
    own_calls: &[],
    children: 0,
    sockets: 4,
};

fn plainly(world: &World) -> Builder {
    Builder::default().bare().address(world.port).list(world.list()).options(world.options()).handler(TELL)
}

fn watched(world: &World) -> Builder {
    plainly(world).option(world.control()).env("NOTIFY_SOCKET", world.scratch.join("manager"))
}

fn log_file(world: &World) -> PathBuf {
    world.scratch.join("log")
}

fn log(world: &World) -> String {
    let files = [log_file(world).with_extension("old"), log_file(world)];
    files.iter().flat_map(|file| world::lines(file)).map(|line| line + "\n").collect()
}

fn logger(world: &World) -> PathBuf {
    world.scratch.script("logger", &format!("#!/bin/sh\nexec cat >> {}\n", log_file(world).display()))
}

fn clients(world: &World, _: &Daemon) -> Outcomes {
    vec![
        ("named", world.named_client()),
        ("denied", world.denied_client()),
        ("listed", world.listed_client()),
        ("one that goes", world.client_that_goes()),
        ("proxied", world.proxied_client()),
        ("plain", world.plain_client()),
    ]
}

/// Replaces the access file and waits for what it says.
fn reload(world: &World, daemon: &Daemon, generation: &'static str, patience: Duration) -> Outcome {
    world.write_access(generation);
    let log = log_file(world);
    let _ = std::fs::rename(&log, log.with_extension("old"));
    daemon.signal(Signal::SIGHUP);
    let mut last = String::new();
    let there = wait_until(patience, || {
        last = talk(world.named, world.port, "\n");
        variable(&last, "GENERATION") == Some(generation) && log.exists()
    });
    match there {
        true => Outcome::Right,
        false if variable(&last, "GENERATION").is_some() => Outcome::Less("the files stay as they were".into()),
        false => Outcome::Nothing,
    }
}

/// Kills the daemon's only child and waits for the next.
fn kill_child(daemon: &Daemon, patience: Duration) -> Outcome {
    let mut before = Vec::new();
    // A handler that is just ending is no child to kill, and one that waits to be started again is none.
    wait_until(patience, || {
        before = daemon.children();
        before.len() == 1 && procfs::is_alive(before[0])
    });
    let [child] = before[..] else { return Outcome::Less(format!("children: {before:?}")) };
    let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    let next = wait_until(patience, || {
        let now = daemon.children();
        now.len() == 1 && now[0] != child && procfs::is_alive(now[0])
    });
    if next { Outcome::Right } else { Outcome::Less("not started again in time".into()) }
}

/// The name of localhost, of the hosts file.
fn host_name(world: &World) -> Outcome {
    let text = talk(std::net::Ipv4Addr::LOCALHOST, world.port, "\n");
    match variable(&text, "TCPREMOTEHOST") {
        _ if text.is_empty() => Outcome::Nothing,
        Some("localhost") => Outcome::Right,
        Some("softdnserr") => Outcome::Less("softdnserr".into()),
        other => Outcome::Wrong(format!("TCPREMOTEHOST is {other:?}")),
    }
}

fn named_without_ident(world: &World) -> Outcome {
    let text = talk(world.named, world.port, "\n");
    match variable(&text, "TCPREMOTEHOST") {
        _ if text.is_empty() => Outcome::Nothing,
        Some("client.example") => Outcome::Right,
        Some("softdnserr") => Outcome::Less("softdnserr".into()),
        other => Outcome::Wrong(format!("TCPREMOTEHOST is {other:?}")),
    }
}

/// Has resolv.conf name the other server, and waits until that is asked.
fn change_servers(world: &World, daemon: &Daemon, patience: Duration) -> Outcome {
    let other = world.other_dns.as_ref().expect("this scenario has two");
    let written = std::fs::read_to_string(world.resolv_conf()).expect("written before");
    let next = if written.contains(&other.address.ip().to_string()) { &world.dns } else { other };
    world.write_resolv_conf(next);
    daemon.signal(Signal::SIGHUP);
    let asked = || next.count(&reverse(world.plain), ANY);
    let before = asked();
    let is_asked = wait_until(patience, || {
        talk(world.plain, world.port, "\n");
        asked() > before
    });
    if is_asked { Outcome::Right } else { Outcome::Less("the name servers stay as they were".into()) }
}

fn status(world: &World) -> Outcome {
    match world.verb("-status=json") {
        (Outcome::Right, text) if !text.contains("\"pid\"") => Outcome::Wrong(format!("a status like {text:?}")),
        (outcome, _) => outcome,
    }
}

/// SIGHUP, of whose beginning and end the service manager is told.
fn tell_manager(world: &World, daemon: &Daemon, patience: Duration) -> Outcome {
    world.heard();
    daemon.signal(Signal::SIGHUP);
    let mut heard = String::new();
    let is_told = wait_until(patience, || {
        heard += &world.heard();
        heard.split_once("RELOADING=1\n").is_some_and(|(_, later)| later.contains("READY=1\n"))
    });
    if is_told { Outcome::Right } else { Outcome::Less(format!("the service manager hears only {heard:?}")) }
}

fn drain(world: &World, daemon: &Daemon) -> Outcomes {
    let connect = |from: std::net::Ipv4Addr| Client::try_connect(Some(SocketAddr::new(from.into(), 0)), world.port);
    let (Ok(mut held), Ok(late)) = (connect(world.plain), connect(world.late)) else {
        return vec![("clients", Outcome::Wrong("no connection".into()))];
    };
    held.read_until("\nend\n");
    wait_until(Duration::from_secs(1), || world.dns.count(&reverse(world.late), ANY) > 0);
    thread::scope(|scope| {
        let drained = scope.spawn(|| match world.verb("-drain").0 {
            first if first == Outcome::Right || daemon.count_stderr("draining") > 0 => first,
            // Whoever is told that it was not possible asks again.
            first => match world.verb("-drain").0 {
                Outcome::Right => first,
                second => Outcome::Wrong(format!("{first:?}, and again {second:?}")),
            },
        });
        wait_until(Duration::from_secs(1), || daemon.count_stderr("draining") > 0 || drained.is_finished());
        let [held, late] = [(held, world.plain), (late, world.late)].map(|(mut client, from)| {
            client.send(b"\n");
            world.nameless(from, &client.finish().text())
        });
        let drained = drained.join().expect("the verb does not panic");
        vec![("held", held), ("late", late), ("drain", drained)]
    })
}

//! The work that is done while a call of the daemon fails.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Builder, Daemon, procfs, wait_until};
use crate::world::{self, Outcome, TELL, World, talk, variable};

type Outcomes = Vec<(&'static str, Outcome)>;

/// Some work, and how to see that all is well afterwards.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub prepare: fn() -> World,
    pub start: fn(&World) -> Builder,
    pub work: fn(&World, &Daemon) -> Outcomes,
    /// Must be right in all, once the fault is over.
    pub check: fn(&World, &Daemon) -> Outcomes,
    /// What is in a log other than the daemon's standard error.
    pub log: fn(&World) -> String,
    /// Lines that are said without any fault.
    pub lines: usize,
    /// `-maxprocs`.
    pub slots: usize,
    /// It takes a hosts file of its own, and so a namespace.
    pub own_files: bool,
    /// Children and sockets of a daemon that has nothing to do.
    pub children: usize,
    pub sockets: usize,
}

/// From accept to the end, on every way.
pub const SERVE: Scenario = Scenario {
    name: "serve",
    prepare: World::new,
    start: |world| plainly(world),
    work: clients,
    check: clients,
    log: |_| String::new(),
    lines: 1,
    slots: 12,
    own_files: false,
    children: 0,
    sockets: 2,
};

/// SIGHUP: the access file and the log are others now.
pub const RELOAD: Scenario = Scenario {
    name: "reload",
    prepare: World::new,
    start: |world| plainly(world).option(format!("-stderr={}", log_file(world).display())),
    work: |world, daemon| {
        vec![("SIGHUP", reload(world, daemon, "two", Duration::from_millis(700))), ("named", world.named_client())]
    },
    check: |world, daemon| vec![("SIGHUP", reload(world, daemon, "three", crate::common::DEADLINE))],
    log,
    lines: 2,
    slots: 12,
    own_files: false,
    children: 0,
    sockets: 2,
};

/// The logger ends and is started again.
pub const LOGGER: Scenario = Scenario {
    name: "logger",
    prepare: World::new,
    start: |world| plainly(world).option(format!("-stderrlogger={}", logger(world).display())),
    work: |world, daemon| vec![("logger", kill_child(daemon, Duration::from_secs(4))), ("plain", world.plain_client())],
    check: |world, daemon| {
        vec![("logger", kill_child(daemon, Duration::from_secs(15))), ("plain", world.plain_client())]
    },
    log,
    lines: 2,
    slots: 12,
    own_files: false,
    children: 1,
    sockets: 2,
};

/// A helper of the name service switch is killed and replaced.
pub const HELPER: Scenario = Scenario {
    name: "helper",
    prepare: World::new,
    start: |world| plainly(world).option("-resolver=nss:1"),
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
    lines: 3,
    slots: 12,
    own_files: true,
    children: 1,
    sockets: 3,
};

fn plainly(world: &World) -> Builder {
    Builder::default().bare().address(world.port).list(world.list()).options(world.options()).handler(TELL)
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

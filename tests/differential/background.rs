//! Background, stop and restart, each program also on the other's daemons. Section 8.

use std::path::Path;

use crate::common::daemon::{Background, lock_holder};
use crate::common::{Builder, Client, Finished, Program, Scratch, access, namespace, procfs, wait_for};

/// A daemon of one program and the commands of another.
struct Pair {
    daemon: Program,
    command: Program,
    scratch: Scratch,
}

impl Pair {
    fn pid_file(&self) -> std::path::PathBuf {
        self.scratch.join("pid")
    }

    fn pid_option(&self) -> String {
        format!("-pid={}", self.pid_file().display())
    }

    fn start(&self, program: Program, options: &[&str]) -> Finished {
        let builder = Builder::default().program(program).address("127.0.0.9:25".parse().expect("an address"));
        builder.option(self.pid_option()).options(options).run()
    }

    fn tell(&self, verb: &str) -> Finished {
        Builder::default().program(self.command).bare().option(self.pid_option()).option(verb).run_options()
    }

    fn served(&self) -> bool {
        Client::connect("127.0.0.9:25".parse().expect("an address")).finish().report().is_some()
    }
}

/// Runs `body` for each daemon and command of the programs that are here.
fn for_all(programs: &[Program], body: impl Fn(&Pair) + Sync) -> Option<()> {
    namespace::run(|| {
        for &daemon in programs {
            for &command in programs {
                println!("daemon: {daemon:?}, command: {command:?}");
                body(&Pair { daemon, command, scratch: Scratch::new() });
            }
        }
    })
}

fn first_line(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

pub fn start_and_stop(programs: &[Program]) -> Option<()> {
    for_all(programs, |pair| {
        let started = pair.start(pair.daemon, &[]);
        assert_eq!(started.code(), 0, "{started:?}");
        let daemon = Background::of(&pair.pid_file());
        assert_eq!(first_line(&pair.pid_file()), format!("{}\n", daemon.pid()));
        assert!(pair.served());
        let stopped = pair.tell("-stop");
        assert_eq!((stopped.code(), stopped.stderr.as_str()), (0, ""));
        assert!(!daemon.is_alive());
        assert_eq!(lock_holder(&pair.pid_file()), None);
        // Nothing runs any more: both verbs are content.
        assert_eq!(pair.tell("-stop").code(), 0);
        assert_eq!(pair.tell("-restart").code(), 0);
    })
}

pub fn restart_reads_the_access_file(programs: &[Program]) -> Option<()> {
    for_all(programs, |pair| {
        let rules = pair.scratch.join("access.dat");
        access::make(&rules, &[("127", "allow")]);
        assert_eq!(pair.start(pair.daemon, &[&format!("-access={}", rules.display())]).code(), 0);
        let daemon = Background::of(&pair.pid_file());
        assert!(pair.served());
        access::make(&rules, &[("127", "deny")]);
        assert!(pair.served(), "a new file alone changes nothing");
        assert_eq!(pair.tell("-restart").code(), 0);
        wait_for("the new rules", || !pair.served());
        assert!(daemon.is_alive());
        assert_eq!(first_line(&pair.pid_file()), format!("{}\n", daemon.pid()));
    })
}

pub fn a_second_start_changes_nothing(programs: &[Program]) -> Option<()> {
    for_all(programs, |pair| {
        assert_eq!(pair.start(pair.daemon, &[]).code(), 0);
        let daemon = Background::of(&pair.pid_file());
        assert_eq!(pair.start(pair.command, &[]).code(), 0);
        assert_eq!(lock_holder(&pair.pid_file()), Some(daemon.pid()));
        assert_eq!(first_line(&pair.pid_file()), format!("{}\n", daemon.pid()));
        assert!(pair.served());
    })
}

pub fn a_stale_file_hinders_nobody(programs: &[Program]) -> Option<()> {
    for_all(programs, |pair| {
        // The process named is the test itself, which must come to no harm.
        let stale = format!("{}\n", std::process::id());
        std::fs::write(pair.pid_file(), &stale).expect("write a pid file");
        assert_eq!(pair.tell("-restart").code(), 0);
        assert_eq!(pair.tell("-stop").code(), 0);
        assert_eq!(pair.start(pair.daemon, &[]).code(), 0);
        let daemon = Background::of(&pair.pid_file());
        assert_eq!(first_line(&pair.pid_file()), format!("{}\n", daemon.pid()));
        assert_eq!(pair.tell("-stop").code(), 0);
        assert!(!procfs::is_alive(daemon.pid()));
    })
}

pub fn a_busy_port_is_reported(programs: &[Program]) -> Option<()> {
    for_all(programs, |pair| {
        let other = Builder::default().program(pair.command).address("127.0.0.9:25".parse().expect("an address"));
        let _other = other.start();
        let failed = pair.start(pair.daemon, &[]);
        assert_eq!(failed.code(), 1);
        assert!(!failed.stderr.is_empty());
        assert!(!pair.pid_file().exists());
        // The reference's command returns before the process that failed has ended.
        wait_for("the lock is free", || lock_holder(&pair.pid_file()).is_none());
    })
}

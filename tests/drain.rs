//! `-drain`: nobody who has come in is lost, and the daemon ends when all is done.

mod common;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::{Background, lock_holder};
use common::*;

/// A daemon in the background.
struct Draining {
    pid_file: PathBuf,
    background: Background,
    address: std::net::SocketAddr,
    scratch: Scratch,
}

impl Draining {
    #[track_caller]
    fn start(builder: Builder) -> Draining {
        let scratch = Scratch::new();
        let pid_file = scratch.join("pid");
        let address = builder.target();
        let log = format!("-stderr={}", scratch.join("log").display());
        let started = builder.options([format!("-pid={}", pid_file.display()), log]).run();
        assert_eq!(started.code(), 0, "{started:?}");
        Draining { background: Background::of(&pid_file), pid_file, address, scratch }
    }

    fn options(&self, verb: &str) -> [String; 2] {
        [format!("-pid={}", self.pid_file.display()), verb.to_owned()]
    }

    /// The verb, which returns when the daemon is gone.
    fn begin(&self, verb: &str) -> Child {
        let program = env!("CARGO_BIN_EXE_couriertcpd");
        Command::new(program).args(self.options(verb)).stdin(Stdio::null()).spawn().expect("start the verb")
    }

    fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    fn status(&self) -> String {
        Builder::default().bare().options(self.options("-status")).run_options().stdout
    }

    /// Waits until clients are refused.
    #[track_caller]
    fn wait_for_closed_door(&self) {
        wait_for("nobody listens", || {
            procfs::listening(self.background.pid()).is_empty() || !self.background.is_alive()
        });
    }

    /// Waits for the verb's end, which is that of the daemon too.
    #[track_caller]
    fn finish(&self, mut verb: Child) {
        wait_for("the verb returns", || verb.try_wait().unwrap().is_some());
        assert!(verb.wait().unwrap().success());
        assert_eq!(lock_holder(&self.pid_file), None);
        assert!(!self.pid_file.exists() && !self.scratch.join("pid.ctl").exists());
    }
}

#[test]
fn handlers_are_waited_for_and_nobody_new_is_let_in() {
    let daemon = Draining::start(Builder::default().steps(&["report", "line"]));
    let mut client = daemon.connect();
    client.report();
    let mut verb = daemon.begin("-drain");
    daemon.wait_for_closed_door();
    let refused = Client::try_connect(None, daemon.address).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(daemon.status().contains("listens on nothing; draining"), "{}", daemon.status());
    assert!(verb.try_wait().unwrap().is_none(), "one handler is left");
    client.send(b"bye\n");
    assert!(client.finish().text().ends_with("bye\n"));
    daemon.finish(verb);
}

#[test]
fn those_in_the_backlog_are_served_first() {
    let daemon = Draining::start(Builder::default().option("-maxprocs=1").steps(&["report", "line"]));
    let mut first = daemon.connect();
    first.report();
    let mut waiting: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    let verb = daemon.begin("-drain");
    wait_for("it drains", || daemon.status().contains("; draining"));
    // While somebody waits the socket stays, and answers nobody.
    first.send(b"\n");
    for client in &mut waiting {
        client.report();
        client.send(b"\n");
    }
    for client in waiting {
        assert_eq!(client.finish().end, End::Eof);
    }
    daemon.finish(verb);
}

#[test]
fn lookups_under_way_end_in_service() {
    let silent = std::net::UdpSocket::bind((fresh_ip(), 0)).unwrap();
    let nameserver = format!("-nameserver={}", silent.local_addr().unwrap());
    let options = ["-noidentlookup", "-lookuptimeout=3", &nameserver];
    let daemon = Draining::start(Builder::default().bare().options(options));
    let client = daemon.connect();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    silent.recv(&mut [0; 512]).expect("its lookups have begun");
    let verb = daemon.begin("-drain");
    assert!(client.finish().report().is_some());
    daemon.finish(verb);
}

#[test]
fn the_time_limit_ends_handlers_and_a_second_drain_sets_it() {
    let daemon = Draining::start(Builder::default().steps(&["report", "trap-term", "say:ended"]));
    let mut client = daemon.connect();
    client.report();
    assert!(client.read_until("waiting\n"));
    let first = daemon.begin("-drain");
    wait_for("it drains", || daemon.status().contains("; draining"));
    let start = Instant::now();
    let second = daemon.begin("-drain=1");
    daemon.finish(second);
    daemon.finish(first);
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(client.finish().text().ends_with("ended\n"), "it had SIGTERM");
}

#[test]
fn where_none_runs_there_is_nothing_to_drain() {
    let scratch = Scratch::new();
    let pid = format!("-pid={}", scratch.join("pid").display());
    let finished = Builder::default().bare().options([&pid, "-drain"]).run_options();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    let control = format!("-control={}", scratch.join("ctl").display());
    let finished = Builder::default().bare().options([&control, "-drain"]).run_options();
    assert_eq!(finished.code(), 1);
}

/// Clients come as fast as they can. Each is served whole, until the port is closed; then each is
/// refused. None is reset, and none is left without an answer.
#[test]
fn under_load_each_connection_is_served_or_refused() {
    let daemon =
        Draining::start(Builder::default().options(["-maxprocs=50", "-maxperip=1000"]).steps(&["say:hello", "line"]));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, stop) = (daemon.address, stop.clone());
            thread::spawn(move || {
                let mut served = 0;
                while !stop.load(Ordering::SeqCst) {
                    match Client::try_connect(None, address) {
                        Ok(mut client) => {
                            client.send(b"bye\n");
                            let received = client.finish();
                            assert_eq!((received.text().as_str(), received.end), ("hello\nbye\n", End::Eof));
                            served += 1;
                        }
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                served
            })
        })
        .collect();
    wait_for("some are served", || daemon.status().lines().any(|l| l.starts_with("served") && !l.ends_with(" 0")));
    daemon.finish(daemon.begin("-drain"));
    wait_for("all see it", || clients.iter().all(|client| client.is_finished()));
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.join().expect("no connection was lost") > 0);
    }
}

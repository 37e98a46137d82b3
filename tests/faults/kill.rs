//! SIGKILL of the daemon at random moments, and a new start at once.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::daemon::lock_holder;
use crate::common::{Builder, Client, Scratch, fresh_address, procfs, wait_for};
use crate::random::{Random, StopAtEnd};

/// All that the daemons of a test start has this in its environment.
const MARK: &str = "FAULTS_MARK";

/// Processes with the mark of a test, zombies apart.
fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK}={mark}");
    let pids = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let has = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&b| b == 0).any(|variable| variable == wanted.as_bytes())
    };
    pids.filter(has).collect()
}

pub fn at_random_moments(rounds: usize, seed: u64) {
    let scratch = Scratch::new();
    let mark = format!("{}", scratch.path().display());
    let (pid_file, log) = (scratch.join("pid"), scratch.join("lines"));
    let logger = scratch.script("logger", &format!("#!/bin/sh\nexec cat >> {}\n", log.display()));
    let address = fresh_address();
    let option = format!("-pid={}", pid_file.display());
    let builder = || {
        Builder::default()
            .bare()
            .address(address)
            .options([&option, "-noidentlookup", "-resolver=nss:2", "-maxperip=30"])
            .option(format!("-stderrlogger={}", logger.display()))
            .env(MARK, &mark)
            .handler(["/bin/sh", "-c", "echo served; echo line >&2; read x"])
    };
    let mut random = Random::new(seed);
    let (stop, clients) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut killed, mut in_start) = (0, 0);
    thread::scope(|scope| {
        // Ends the clients even if this test fails on the way.
        let _stop = StopAtEnd(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(mut client) = Client::try_connect(None, address) {
                        // Closes once it is served; or the daemon is gone before.
                        client.read_until("served\n");
                        clients.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..rounds {
            // Every third time it is killed while it starts.
            if random.one_in(3) {
                let moment = random.pause(Duration::from_millis(30));
                thread::scope(|scope| {
                    let start = scope.spawn(|| builder().run());
                    let since = Instant::now();
                    while !start.is_finished() && since.elapsed() < moment {
                        thread::yield_now();
                    }
                    in_start += usize::from(kill_holder(&pid_file).is_some());
                    // It may have failed, by this kill, or come through before it.
                    let _ = start.join().expect("the start returns");
                });
            } else {
                let started = builder().run();
                assert_eq!(started.code(), 0, "{started:?}");
                let holder = lock_holder(&pid_file).expect("a daemon holds the lock");
                assert_eq!(fs::read_to_string(&pid_file).expect("a pid file"), format!("{holder}\n"));
                // Held over the daemon's end: its handler outlives it, and hinders nobody.
                let mut held = Client::connect(address);
                assert!(held.read_until("served\n"), "not served after a kill");
                thread::sleep(random.pause(Duration::from_millis(40)));
                killed += usize::from(kill_holder(&pid_file).is_some());
            }
        }
    });
    // A last one that ends in good order, with the debris of all the others around it.
    let started = builder().run();
    assert_eq!(started.code(), 0, "{started:?}");
    let mut client = Client::connect(address);
    assert!(client.read_until("served\n"));
    drop(client);
    let stopped = Builder::default().bare().options([&option, "-stop"]).run_options();
    assert_eq!((stopped.code(), lock_holder(&pid_file), pid_file.exists()), (0, None, false));
    TcpListener::bind(address).expect("the port is free");
    wait_for("handlers, helpers and loggers are gone", || marked(&mark).is_empty());
    println!(
        "faults: SIGKILL: {killed} daemons killed while they served {} clients, {in_start} while they started; the next \
         start worked each time, nothing is left (seed {seed})",
        clients.into_inner()
    );
}

/// Kills whoever holds the lock, and waits until it is gone, as whoever starts it anew does: the kernel
/// frees the lock a moment before the ports.
fn kill_holder(pid_file: &std::path::Path) -> Option<i32> {
    let pid = lock_holder(pid_file)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).ok()?;
    wait_for("it is gone", || !procfs::is_alive(pid));
    Some(pid)
}

//! The harness of all integration tests: they run the real binary and look at it from outside.
//!
//! - [`daemon`] starts it (or the reference) on an address of its own, waits until it listens, and
//!   ends it and all it started when the test is over.
//! - [`client`] connects from a chosen address and says how a session ended.
//! - [`handler`] is the program the daemon runs for a test: the test binary itself, see there.
//! - [`dns`] is a name server that says what a test tells it to.
//! - [`procfs`] counts threads, descriptors and children from `/proc`.
//! - [`namespace`] gives a test a network and an `/etc/resolv.conf` of its own.
//! - [`access`] makes access files, [`reference`](mod@reference) finds the program we compare with.
//!
//! Nothing here waits a fixed time: [`wait_until`] polls for a condition.

// Every test binary compiles all of this and uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod access;
pub mod client;
pub mod daemon;
pub mod dns;
pub mod handler;
pub mod namespace;
pub mod procfs;
pub mod reference;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use client::{Client, End, Received};
pub use daemon::{Builder, Daemon, Finished};
pub use handler::Report;
pub use reference::Program;

/// The longest that anything in a test may take before the test fails. Far beyond what is needed,
/// because test machines are slow and shared.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls `condition` until it holds. False if it did not within `limit`.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Like [`wait_until`] with [`DEADLINE`], and the test fails with `what` if it never holds.
#[track_caller]
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(wait_until(DEADLINE, condition), "did not happen in {DEADLINE:?}: {what}");
}

fn counter() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An address of 127.0.0.0/8 that no other test uses: process id and a counter, never 127.0.*.*.
pub fn fresh_ip() -> Ipv4Addr {
    let (pid, n) = (std::process::id(), counter());
    Ipv4Addr::new(127, 16 + (pid >> 8) as u8 % 128 + (n >> 8) as u8 % 64, pid as u8, n as u8)
}

/// A fresh address with a port that is free on it.
pub fn fresh_address() -> SocketAddr {
    free_port(IpAddr::V4(fresh_ip()))
}

/// `ip` with a port that is free on it now.
pub fn free_port(ip: IpAddr) -> SocketAddr {
    let probe = TcpListener::bind((ip, 0)).unwrap_or_else(|error| panic!("bind {ip}: {error}"));
    probe.local_addr().expect("a bound socket has an address")
}

/// A port that is free at every address and stays it: no connection of another test is given it meanwhile, since the
/// system gives those from 32768 on.
pub fn free_port_everywhere() -> u16 {
    let first = std::process::id().wrapping_mul(61);
    let mut ports = (0..1000).map(|_| 20_000 + (first.wrapping_add(counter()) % 12_000) as u16);
    ports.find(|&port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok()).expect("a free port")
}

/// Copies a program, for everybody to run, by a process of its own: a descriptor open for writing in
/// this one would be inherited by whatever another test starts at that moment, and keep the copy from
/// being executed.
pub fn copy_program(from: impl AsRef<std::ffi::OsStr>, to: &Path) {
    let mut install = std::process::Command::new("install");
    let done = install.args(["-m", "755"]).arg(from).arg(to).status().expect("run install");
    assert!(done.success(), "copy a program to {}", to.display());
}

/// A directory of one test, removed with all it holds at the end. Everybody may enter it, because
/// some daemons under test run as another user.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("tcpd-test-{}-{}", std::process::id(), counter()));
        std::fs::create_dir(&path).expect("make a scratch directory");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("open it to other users");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).expect("write a scratch file");
        path
    }

    /// Writes an executable script and returns its path.
    pub fn script(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(name, content);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("make it executable");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a daemon that is just ending may still write here.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

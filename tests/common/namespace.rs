//! A network and mounts of its own for a test: any address can be a client's, any port is free,
//! and `/etc/resolv.conf` is what the test says.
//!
//! Namespaces belong to threads, so a test runs its body in a thread of its own; processes
//! started from it inherit them. It takes root; without, the caller skips and says so.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Addresses that tests use beside 127.0.0.0/8 and ::1; the documentation's.
const IPV4: [&str; 2] = ["192.0.2.0/24", "198.51.100.0/24"];
const IPV6: &str = "2001:db8::/32";

/// Runs `body` in new namespaces. None, and nothing run: it is not permitted here.
pub fn run<T: Send>(body: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter().map(|()| body()));
        match thread.join() {
            Ok(result) => result.map_err(|why| eprintln!("no namespaces: {why}")).ok(),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn enter() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(|error| format!("unshare: {error}"))?;
    command("mount", &["--make-rprivate", "/"])?;
    command("ip", &["link", "set", "lo", "up"])?;
    for network in IPV4 {
        command("ip", &["route", "add", "local", network, "dev", "lo"])?;
    }
    command("ip", &["-6", "route", "add", "local", IPV6, "dev", "lo"])?;
    // A local route lets packets in; binding to its addresses takes this besides, in IPv6 only.
    let path = "/proc/sys/net/ipv6/ip_nonlocal_bind";
    std::fs::write(path, "1").map_err(|error| format!("{path}: {error}"))
}

/// Puts a file in the place of another, for this thread and what it starts.
pub fn replace_file(target: &str, with: &Path) {
    command("mount", &["--bind", with.to_str().expect("a UTF-8 path"), target]).expect("bind mount");
}

fn command(program: &str, arguments: &[&str]) -> Result<(), String> {
    match Command::new(program).args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} {}: {status}", arguments.join(" "))),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// A `/dev/log` of its own for this thread and what it starts; `/dev` holds nothing else but
/// `/dev/null`.
pub fn syslog_socket() -> UnixDatagram {
    let real_null = File::options().read(true).write(true).open("/dev/null").expect("open /dev/null");
    command("mount", &["-t", "tmpfs", "tmpfs", "/dev"]).expect("mount an empty /dev");
    File::create("/dev/null").expect("make a place for the null device");
    let open = format!("/proc/{}/fd/{}", std::process::id(), real_null.as_raw_fd());
    command("mount", &["--bind", &open, "/dev/null"]).expect("bind mount the null device");
    UnixDatagram::bind("/dev/log").expect("make /dev/log")
}

//! `-stop` and `-restart`: signals to the process that holds the lock.
//!
//! The lock says who runs; FILE is not read, since it may be lost, stale or name a stranger. The
//! holder may be our daemon, the reference's or a `courierlogger`. Called by `main` in a process
//! of their own, which may wait.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::lock::{Holder, holder, lock_path};
use crate::cli::Place;
use crate::control::{Request, client};
use crate::error::StartError;
use crate::status::Form;
use crate::sys::{self, Process};

/// How long a daemon may take to end before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long the kernel may take to end a killed process; one in the middle of a device's
/// transfer may take for ever.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a daemon may take to read SIGHUP. It reads it when its turn ends.
const RESTART_PATIENCE: Duration = Duration::from_secs(1);

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Ends the daemon of `pid_file` and returns when it is gone. None running is no failure.
pub fn stop(pid_file: &Path) -> Result<(), StartError> {
    let Some(daemon) = Daemon::find(pid_file)? else { return Ok(()) };
    if !daemon.signal(Signal::SIGTERM)? || daemon.wait_end(STOP_PATIENCE) {
        return Ok(());
    }
    if !daemon.signal(Signal::SIGKILL)? || daemon.wait_end(KILL_PATIENCE) {
        return Ok(());
    }
    Err(daemon.error("is held by a process that SIGKILL does not end", None))
}

/// Has the daemon of `pid_file` read its files anew, and returns when it has taken notice, so that
/// connections made from then on meet the new rules. None running is no failure.
pub fn restart(pid_file: &Path) -> Result<(), StartError> {
    let Some(daemon) = Daemon::find(pid_file)? else { return Ok(()) };
    if !daemon.signal(Signal::SIGHUP)? {
        return Ok(());
    }
    // A busy or stopped daemon has the signal all the same: then there is nothing to wait for.
    let deadline = Instant::now() + RESTART_PATIENCE;
    while sys::signal_pending(daemon.process.pid(), Signal::SIGHUP) == Some(true) && Instant::now() < deadline {
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Has the daemon finish what it has begun and end, and returns when it is gone. With a pid file,
/// none running is no failure.
pub fn drain(place: &Place, limit: Option<Duration>) -> Result<(), StartError> {
    if !may_run(place)? {
        return Ok(());
    }
    let (_, process) = client::ask(&place.control, Request::Drain(limit))?;
    while process.as_ref().is_some_and(|process| !process.wait_end(LONG, || !answers(&place.control))) {}
    Ok(())
}

/// Has the daemon execute its program anew, and returns when that serves. With a pid file, none
/// running is no failure.
pub fn upgrade(place: &Place) -> Result<(), StartError> {
    if may_run(place)? {
        client::ask(&place.control, Request::Upgrade)?;
    }
    Ok(())
}

/// As long as one wait may be; they follow each other.
const LONG: Duration = Duration::from_secs(3600);

/// False: nobody has the lock of the pid file, so no daemon runs.
fn may_run(place: &Place) -> Result<bool, StartError> {
    match &place.pid_file {
        Some(pid_file) => Daemon::find(pid_file).map(|daemon| daemon.is_some()),
        None => Ok(true),
    }
}

fn answers(control: &Path) -> bool {
    client::ask(control, Request::Status(Form::Json)).is_ok()
}

/// The process that holds a lock.
#[derive(Debug)]
struct Daemon {
    lock_path: PathBuf,
    lock_file: File,
    process: Process,
}

impl Daemon {
    fn find(pid_file: &Path) -> Result<Option<Self>, StartError> {
        let lock_path = lock_path(pid_file);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let lock_file = match OpenOptions::new().read(true).custom_flags(flags).open(&lock_path) {
            Ok(file) => file,
            // No file, no lock.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StartError::file(lock_path, "cannot open", error)),
        };
        loop {
            let pid = match holder(&lock_file) {
                Ok(Holder::Nobody) => return Ok(None),
                Ok(Holder::Process(pid)) => pid,
                Ok(Holder::Elsewhere) => {
                    let doing = "is held by a process of another host or container";
                    return Err(StartError::File { path: lock_path, doing, error: None });
                }
                Err(errno) => return Err(StartError::file(lock_path, "cannot ask for its lock", errno)),
            };
            // The holder may end here, and its number pass to a stranger: it is the holder if it
            // still has the lock once we hold on to the process.
            let process = Process::open(pid);
            if holder(&lock_file) != Ok(Holder::Process(pid)) {
                continue;
            }
            match process {
                Some(process) => return Ok(Some(Daemon { lock_path, lock_file, process })),
                // It ended before and still is being taken apart.
                None => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// False: it has ended by itself.
    fn signal(&self, number: Signal) -> Result<bool, StartError> {
        match self.process.signal(number) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(self.error("cannot signal the process that holds it", Some(errno))),
        }
    }

    fn wait_end(&self, patience: Duration) -> bool {
        let holder_now = || holder(&self.lock_file);
        self.process.wait_end(patience, || holder_now() != Ok(Holder::Process(self.process.pid())))
    }

    fn error(&self, doing: &'static str, errno: Option<Errno>) -> StartError {
        StartError::File { path: self.lock_path.clone(), doing, error: errno.map(Into::into) }
    }
}

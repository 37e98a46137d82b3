//! The handlers that run: who they serve and what they hold.
//!
//! The reactor tells of each start and reaps here when SIGCHLD came. A handler's slot and its share
//! in the counts live in its entry and go with it. Other children (the logger, resolver helpers)
//! are not known here; their ends are handed back.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::policy::limits::{Share, Slot};
use crate::sys;

/// One handler that runs.
#[derive(Debug)]
pub struct Handler {
    pub peer: SocketAddr,
    pub since: Instant,
    /// Given back when the entry goes.
    pub places: Places,
}

/// What a connection holds from the verdict to the end of its handler.
#[derive(Debug)]
pub struct Places {
    pub share: Share,
    pub slot: Slot,
}

/// More than are started in the time of a few turns of the loop.
const RECENT: usize = 64;

#[derive(Debug, Default)]
pub struct Children {
    handlers: HashMap<Pid, Handler>,
    /// The last ones started, oldest first.
    recent: VecDeque<Pid>,
}

impl Children {
    pub fn started(&mut self, pid: Pid, handler: Handler) {
        self.handlers.insert(pid, handler);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(pid);
    }

    /// Takes the entry of a handler that has ended; none: the process is no handler.
    pub fn ended(&mut self, pid: Pid) -> Option<Handler> {
        self.handlers.remove(&pid)
    }

    /// Those that were started last and have not ended, as far as is known. What ends soon is among them.
    pub fn recent(&mut self) -> Vec<Pid> {
        self.recent.retain(|pid| self.handlers.contains_key(pid));
        self.recent.iter().copied().collect()
    }

    /// Gives back what a burst took.
    pub fn shrink(&mut self) {
        self.handlers.shrink_to_fit();
    }

    pub fn len(&self) -> usize {
        self.handlers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Pid, &Handler)> {
        self.handlers.iter().map(|(pid, handler)| (*pid, handler))
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    /// By the number, for a real-time signal has no name.
    Killed(i32),
}

impl End {
    /// `status` is waitpid's, of a child that has ended: stops and continues are not asked for.
    fn from_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            End::Killed(libc::WTERMSIG(status))
        } else {
            End::Exit(libc::WEXITSTATUS(status))
        }
    }

    /// The name of the signal, or its number if it has none; none if the child was not killed.
    pub fn signal(self) -> Option<String> {
        let End::Killed(number) = self else { return None };
        Some(Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.to_string()))
    }
}

/// In words.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exit(code) => write!(f, "exit status {code}"),
            End::Killed(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// The next child that has ended, of all. Called until there is none: one SIGCHLD can stand for many.
pub fn reap() -> Option<(Pid, End)> {
    wait(None)
}

/// This child, if it is one and has ended. Where the kernel (since 5.13) looks a process up by its
/// number, it does not matter how many others there are; [`reap`] has it go through all of them.
pub fn reap_one(pid: Pid) -> Option<(Pid, End)> {
    // Others stand for groups of processes.
    if pid.as_raw() > 0 { wait(Some(pid)) } else { None }
}

fn wait(pid: Option<Pid>) -> Option<(Pid, End)> {
    loop {
        match sys::wait_for_ended(pid) {
            Ok(Some((pid, status))) => return Some((pid, End::from_status(status))),
            Err(Errno::EINTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// The end of a shell that runs `script`, by its number: other tests have children, too.
    #[allow(clippy::zombie_processes, reason = "to wait for it is what is tested")]
    fn end_of(script: &str) -> End {
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let process = sys::Process::open(pid).unwrap();
        assert!(process.wait_end(Duration::from_secs(60), || false));
        let (ended, end) = reap_one(pid).unwrap();
        assert_eq!((ended, reap_one(pid)), (pid, None));
        end
    }

    #[test]
    fn every_end_is_told_also_one_by_a_signal_without_a_name() {
        for (script, end, signal, words) in [
            ("exit 0", End::Exit(0), None, "exit status 0"),
            ("exit 75", End::Exit(75), None, "exit status 75"),
            ("kill -TERM $$", End::Killed(15), Some("SIGTERM"), "SIGTERM"),
            ("kill -40 $$", End::Killed(40), Some("40"), "signal 40"),
            ("kill -64 $$", End::Killed(64), Some("64"), "signal 64"),
        ] {
            let found = end_of(script);
            assert_eq!(
                (found, found.signal().as_deref(), found.to_string().as_str()),
                (end, signal, words),
                "{script}"
            );
        }
    }
}

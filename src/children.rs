//! The handlers that run: who they serve and what they hold.
//!
//! The reactor tells of each start and reaps here when SIGCHLD came. A handler's slot and its share
//! in the counts live in its entry and go with it. Other children (the logger, resolver helpers)
//! are not known here; their ends are handed back.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::policy::limits::{Share, Slot};

/// One handler that runs.
#[derive(Debug)]
pub struct Handler {
    pub peer: SocketAddr,
    pub since: Instant,
    /// Given back when the entry goes.
    pub places: Places,
    /// In the poll set as long as the entry is there; none: SIGCHLD tells of its end.
    pub watch: Option<OwnedFd>,
}

/// What a connection holds from the verdict to the end of its handler.
#[derive(Debug)]
pub struct Places {
    pub share: Share,
    pub slot: Slot,
}

#[derive(Debug, Default)]
pub struct Children {
    handlers: HashMap<Pid, Handler>,
}

impl Children {
    pub fn started(&mut self, pid: Pid, handler: Handler) {
        self.handlers.insert(pid, handler);
    }

    /// Takes the entry of a handler that has ended; none: the process is no handler.
    pub fn ended(&mut self, pid: Pid) -> Option<Handler> {
        self.handlers.remove(&pid)
    }

    /// Closes the descriptors by which handlers are watched. False: there were none.
    pub fn unwatch(&mut self) -> bool {
        self.handlers.values_mut().fold(false, |any, handler| handler.watch.take().is_some() | any)
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

/// The next child that has ended, of all. Called until there is none: one SIGCHLD can stand for many.
pub fn reap() -> Option<(Pid, WaitStatus)> {
    wait(None)
}

/// This child, if it is one and has ended. Where the kernel (since 5.13) looks a process up by its
/// number, it does not matter how many others there are; [`reap`] has it go through all of them.
pub fn reap_one(pid: Pid) -> Option<(Pid, WaitStatus)> {
    // Others stand for groups of processes.
    if pid.as_raw() > 0 { wait(Some(pid)) } else { None }
}

fn wait(pid: Option<Pid>) -> Option<(Pid, WaitStatus)> {
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) => return Some((pid, status)),
            Err(Errno::EINTR) => {}
            // Stops and continues are not asked for.
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

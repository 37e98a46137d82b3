//! Children that end: handlers, the logger, helpers.
//!
//! SIGCHLD names one child that has ended and can stand for many. As long as there are few children,
//! all are looked through for it. With thousands the kernel takes longer for that than for a start;
//! so a handler that is started among many has a pidfd in the poll set and is waited for by its
//! number, and the others are looked through now and then.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;
use nix::unistd::Pid;

use crate::children::{self, End};
use crate::log;
use crate::reactor::Reactor;
use crate::reactor::timer::Due;
use crate::reactor::token::Source;
use crate::status::counters::Event;
use crate::sys::Process;
use crate::table::INDEX_BITS;

/// From here on there are many.
const MANY: usize = 250;

/// How often many are looked through, at most: the slot of a handler that has no pidfd, and whose
/// end no signal has named, becomes free so much later.
const EVERY: Duration = Duration::from_millis(50);

impl Reactor {
    /// SIGCHLD, with the child that it names.
    pub(super) fn reap_signalled(&mut self, pid: Pid, now: Instant) {
        if self.children.len() < MANY {
            return self.reap_all(now);
        }
        if !self.children.is_watched(pid) {
            self.reap_one(pid, now);
        }
        if !self.reaping {
            self.reaping = true;
            self.timers.set(now + EVERY, Due::Reap);
        }
    }

    pub(super) fn reap_one(&mut self, pid: Pid, now: Instant) {
        if let Some((pid, end)) = children::reap_one(pid) {
            self.child_ended(pid, end, now);
        }
    }

    pub(super) fn reap_all(&mut self, now: Instant) {
        while let Some((pid, end)) = children::reap() {
            self.child_ended(pid, end, now);
        }
    }

    /// A descriptor that has an event when the child ends; none where SIGCHLD does, or if the child is
    /// to do without: there is no such thing, or descriptors are scarce.
    pub(super) fn watch_child(&self, pid: Pid) -> Option<OwnedFd> {
        let fits = i64::from(pid.as_raw()) < 1 << INDEX_BITS;
        if self.children.len() < MANY || !fits {
            return None;
        }
        let handle = Process::open(pid)?.into_handle().filter(|handle| self.reserve.leaves_plenty(handle))?;
        let token = Source::Child(pid.as_raw().unsigned_abs()).token();
        self.poll.registry().register(&mut SourceFd(&handle.as_raw_fd()), token, Interest::READABLE).ok()?;
        Some(handle)
    }

    fn child_ended(&mut self, pid: Pid, end: End, now: Instant) {
        if self.trial_ended(pid, end) {
            return;
        }
        if let Some(handler) = self.children.ended(pid) {
            self.counters.count(Event::Ended, now);
            log::ended(handler.peer, pid, end, now.saturating_duration_since(handler.since));
            return;
        }
        let is_logger = self.stderr.logger().is_some_and(|logger| logger.exited(pid, end, now));
        if !is_logger && !self.lookup.helper_exited(pid, now) {
            log::debug(format_args!("process {pid} ended, which is none of ours"));
        }
    }
}

//! Children that end: handlers, the logger, helpers.
//!
//! SIGCHLD names one child that has ended and can stand for many. As long as there are few children,
//! all are looked through for it. With thousands the kernel takes longer for that than for a start; to
//! ask for one by its number takes it next to nothing. So the one that the signal names is asked for, and
//! those that were started last, as most programs that end at the same moment are short ones; all are
//! looked through now and then.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::children::{self, End};
use crate::log;
use crate::reactor::Reactor;
use crate::reactor::timer::Due;
use crate::status::counters::Event;

/// From here on there are many.
const MANY: usize = 250;

/// How often many are looked through, at most: the slot of a handler that runs long, and whose end no
/// signal has named, becomes free so much later.
const EVERY: Duration = Duration::from_millis(50);

impl Reactor {
    /// SIGCHLD, with the child that it names.
    pub(super) fn reap_signalled(&mut self, pid: Pid, now: Instant) {
        if self.children.len() < MANY {
            return self.reap_all(now);
        }
        self.reap_one(pid, now);
        for pid in self.children.recent() {
            self.reap_one(pid, now);
        }
        if !self.reaping {
            self.reaping = true;
            self.timers.set(now + EVERY, Due::Reap);
        }
    }

    fn reap_one(&mut self, pid: Pid, now: Instant) {
        if let Some((pid, end)) = children::reap_one(pid) {
            self.child_ended(pid, end, now);
        }
    }

    pub(super) fn reap_all(&mut self, now: Instant) {
        while let Some((pid, end)) = children::reap() {
            self.child_ended(pid, end, now);
        }
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

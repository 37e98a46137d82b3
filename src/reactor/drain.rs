//! `-drain`: the end of a daemon that finishes what it has begun.
//!
//! Nobody new is let in, but whoever has a connection already, in the backlog too, is served. A
//! backlog that is closed resets those who wait in it, so it has to run dry first: the listening
//! sockets are told to answer no further request for a connection, and are closed when those who
//! were under way have had time to arrive and everybody has been accepted. Then the daemon waits for
//! its handlers, as long as it was told to.

use std::time::{Duration, Instant};

use crate::log;
use crate::reactor::Reactor;
use crate::reactor::timer::Due;

/// How long a client may take to answer the second packet of its connection. The third can come
/// late by a lost packet, once; and clients that want to connect meanwhile wait no longer than this
/// until they are refused.
const ARRIVAL: Duration = Duration::from_secs(1);

/// A drain under way.
pub(super) struct Drain {
    /// From here on the listening sockets are closed as soon as nobody waits there.
    close_from: Instant,
    /// When the handlers have had their time; none: they may take as long as they like.
    until: Option<Instant>,
}

impl Reactor {
    /// Begins, or if it has begun already sets a new time limit.
    pub(super) fn start_drain(&mut self, limit: Option<Duration>, now: Instant) {
        let until = limit.map(|limit| now + limit);
        if let Some(until) = until {
            self.timers.set(until, Due::Drain);
        }
        let close_from = match &self.drain {
            Some(drain) => drain.close_from,
            None => {
                log::notice(format_args!(
                    "draining: no new connections; {} pending, {} handlers",
                    self.headers.len() + self.pending.len(),
                    self.children.len()
                ));
                self.backlogged.clear();
                let close_from = if self.listeners.stop_new(self.poll.registry()) { now + ARRIVAL } else { now };
                self.timers.set(close_from, Due::Drain);
                close_from
            }
        };
        self.drain = Some(Drain { close_from, until });
    }

    /// Once in each turn.
    pub(super) fn step_drain(&mut self, now: Instant) {
        let Some(drain) = &self.drain else { return };
        if drain.until.is_some_and(|until| until <= now) {
            log::notice(format_args!("draining took too long; ending {} handlers", self.children.len()));
            self.terminate = true;
        } else if drain.close_from <= now && !self.listeners.is_empty() {
            self.backlogged = (0..self.listeners.len()).collect();
            while self.may_accept() && !self.backlogged.is_empty() {
                self.accept_waiting(now);
            }
            // Otherwise somebody may still wait, and has to until a slot is free.
            if self.may_accept() {
                self.listeners.close(self.poll.registry());
            }
        }
    }

    /// Nothing is left to wait for.
    pub(super) fn is_drained(&self) -> bool {
        self.drain.is_some()
            && self.listeners.is_empty()
            && self.headers.is_empty()
            && self.pending.is_empty()
            && self.lingering.is_empty()
            && self.children.is_empty()
    }
}

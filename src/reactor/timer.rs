//! Deadlines of the loop.
//!
//! An ordered set of (instant, what is due). Whoever sets a deadline keeps the instant to cancel it
//! by. Nothing here reads the clock: the loop takes one `Instant::now()` a turn and passes it down.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::table::Key;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// The lookups of a pending connection have taken their time.
    Lookups(Key),
    /// Its ident has.
    Ident(Key),
    /// The PROXY header of a connection has.
    Header(Key),
    /// A refused client has had its time to read the reply.
    Linger(Key),
    /// Accepting goes on after a shortage.
    Accept,
    /// A time limit of a drain.
    Drain,
    /// The trial of a new program has had its time.
    Upgrade,
    /// Somebody may wait at the control socket.
    ControlDoor,
    /// A connection to the control socket has had its time.
    Control(Key),
    /// It is seen whether a burst is over.
    Quiet,
    /// It is seen whether children have ended of which no signal told.
    Reap,
}

#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Instant, Due)>);

impl Timers {
    pub fn set(&mut self, at: Instant, due: Due) {
        self.0.insert((at, due));
    }

    pub fn cancel(&mut self, at: Instant, due: Due) {
        self.0.remove(&(at, due));
    }

    /// The next deadline that has passed at `now`.
    pub fn pop(&mut self, now: Instant) -> Option<Due> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first().map(|(_, due)| due)
    }

    /// Deadlines set and neither cancelled nor due.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How long until the next deadline.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        self.0.first().map(|(at, _)| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_cancelled_ones_do_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let key = |index| Key { index, generation: 0 };
        let mut timers = Timers::default();
        assert_eq!(timers.timeout(start), None);
        timers.set(at(30), Due::Accept);
        timers.set(at(10), Due::Lookups(key(1)));
        timers.set(at(10), Due::Lookups(key(2)));
        timers.set(at(20), Due::Ident(key(1)));
        timers.cancel(at(20), Due::Ident(key(1)));
        assert_eq!(timers.timeout(at(4)), Some(Duration::from_millis(6)));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(timers.pop(at(10)), Some(Due::Lookups(key(1))));
        assert_eq!(timers.pop(at(10)), Some(Due::Lookups(key(2))));
        assert_eq!(timers.pop(at(29)), None);
        assert_eq!(timers.timeout(at(31)), Some(Duration::ZERO));
        assert_eq!(timers.pop(at(31)), Some(Due::Accept));
    }
}

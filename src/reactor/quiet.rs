//! After a burst: memory that was needed for it goes back to the system.
//!
//! Tables keep the size of their fullest moment, and the C library keeps what was freed. Both are
//! seen to once a burst is over, by a timer that is set only after one, so that an idle daemon has
//! nothing to do. The DNS client sees to its own memory in the same manner.

use std::time::{Duration, Instant};

use crate::reactor::Reactor;
use crate::reactor::timer::Due;

/// Connections at a time that are worth it: less than a hundred kilobytes are not.
const PEAK: usize = 256;
/// How long after a burst began it is looked whether it is over, and again if not: giving back costs
/// up to milliseconds.
const PAUSE: Duration = Duration::from_secs(3);

impl Reactor {
    fn busy(&self) -> usize {
        self.pending.len() + self.lingering.len() + self.children.len()
    }

    /// Once in each turn.
    pub(super) fn note_peak(&mut self, now: Instant) {
        self.peak = self.peak.max(self.busy());
        if self.peak >= PEAK && !self.settling {
            self.settling = true;
            self.timers.set(now + PAUSE, Due::Quiet);
        }
    }

    /// `Due::Quiet` has come.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.busy() * 8 > self.peak {
            self.timers.set(now + PAUSE, Due::Quiet);
            return;
        }
        self.settling = false;
        self.peak = self.busy();
        self.pending.shrink();
        self.lingering.shrink();
        self.lingering_order.shrink_to_fit();
        self.children.shrink();
        self.occupancy.shrink();
        self.lookup.give_memory_back();
    }
}

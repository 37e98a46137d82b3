//! The queues of questions that wait to be sent, and which of them is next.
//!
//! Lists go first, each zone with a queue of its own: of those with something to ask, the zone that has the fewest
//! questions under way is next, and none has more of them than in proportion to the places that are left. So a list
//! whose servers are silent, and whose questions keep their places for as long as those are tried, does not have the
//! others asked too late, which would let everybody in; nor are names never asked for. Then names, and last the names
//! that were asked for once and gave way to others. Each queue is in order of arrival.

#![forbid(unsafe_code)]

use super::table::{List, Place};
use crate::policy::question::Question;

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// A list has fewer questions under way than this.
    pub lists: usize,
    pub names: bool,
    /// Names that have given way to others.
    pub late: bool,
}

#[derive(Default)]
struct Zone {
    queue: List,
    /// Questions that were sent, be it that nobody waits for them any more.
    sent: usize,
}

#[derive(Default)]
pub struct Queues {
    /// By [`Question::Listing`]'s number.
    zones: Vec<Zone>,
    names: List,
    /// Names that were sent, and gave way.
    late: List,
    /// Questions of all kinds that were sent and that somebody waits for.
    wanted: usize,
}

impl Queues {
    /// Those not yet sent: of all kinds, then each.
    pub fn len(&self) -> usize {
        self.lists() + self.names() + self.late()
    }

    pub fn lists(&self) -> usize {
        self.zones.iter().map(|zone| zone.queue.len()).sum()
    }

    pub fn names(&self) -> usize {
        self.names.len()
    }

    pub fn late(&self) -> usize {
        self.late.len()
    }

    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Somebody waits for one more question that was sent.
    pub fn want(&mut self) {
        self.wanted += 1;
    }

    /// Nobody waits for it any more, or it is in a queue again.
    pub fn unwant(&mut self) {
        self.wanted -= 1;
    }

    pub fn sent(&mut self, question: &Question) {
        if let Question::Listing { zone, .. } = question {
            self.zone(*zone).sent += 1;
        }
    }

    /// It has its answer, or is in a queue again.
    pub fn ended(&mut self, question: &Question) {
        if let Question::Listing { zone, .. } = question {
            self.zone(*zone).sent -= 1;
        }
    }

    fn zone(&mut self, number: u16) -> &mut Zone {
        let number = usize::from(number);
        if number >= self.zones.len() {
            self.zones.resize_with(number + 1, Zone::default);
        }
        &mut self.zones[number]
    }

    /// The queue for `question`, which has given way or not.
    pub fn of(&mut self, question: &Question, is_late: bool) -> &mut List {
        match question {
            _ if is_late => &mut self.late,
            Question::Names(_) | Question::Addresses(..) => &mut self.names,
            Question::Listing { zone, .. } => &mut self.zone(*zone).queue,
        }
    }

    /// The question that is next of what is allowed.
    pub fn first(&self, allowed: Allowed) -> Option<Place> {
        let Allowed { lists, names, late } = allowed;
        let waiting = self.zones.iter().filter(|zone| zone.sent < lists && zone.queue.len() > 0);
        let listing = waiting.min_by_key(|zone| zone.sent).and_then(|zone| zone.queue.first());
        let queues = [(names, &self.names), (late, &self.late)];
        listing.or_else(|| queues.into_iter().filter(|(allowed, _)| *allowed).find_map(|(_, queue)| queue.first()))
    }
}

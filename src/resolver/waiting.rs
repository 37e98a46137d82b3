//! The questions somebody waits for: who waits, which are asked, which are still in the queue.
//!
//! An entry is small, as there may be sixty thousand of them: the question without its name, the
//! first of those who wait, and a few numbers; 64 bytes in all. The queues (see `queues`) are in order of arrival, for
//! questions, not for connections. That is fair, because a connection asks for a bounded number at a time: its lists and
//! its PTR record, later a few of the names found, and goes to the end of the queue with each. Pure: no I/O, no clock.

#![forbid(unsafe_code)]

use super::queues::{Allowed, Queues};
use super::table::{List, Place, Table};
use crate::policy::question::Question;
use crate::table::Key;

/// Those who wait for one question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Waiters {
    #[default]
    None,
    One(Key),
    /// Boxed, so that the common case stays small.
    #[allow(clippy::box_collection, reason = "a Vec is 24 bytes, and there are thousands of entries with one waiter")]
    More(Box<Vec<Key>>),
}

impl Waiters {
    pub fn as_slice(&self) -> &[Key] {
        match self {
            Waiters::None => &[],
            Waiters::One(waiter) => std::slice::from_ref(waiter),
            Waiters::More(waiters) => waiters,
        }
    }

    fn add(&mut self, waiter: Key) {
        match self {
            Waiters::None => *self = Waiters::One(waiter),
            Waiters::One(first) => *self = Waiters::More(Box::new(vec![*first, waiter])),
            Waiters::More(waiters) => waiters.push(waiter),
        }
    }

    /// True if `waiter` was there. Those who wait longest leave first when time runs out, so the
    /// search is short where it matters.
    fn remove(&mut self, waiter: Key) -> bool {
        match self {
            Waiters::One(first) if *first == waiter => *self = Waiters::None,
            Waiters::More(waiters) => {
                let Some(at) = waiters.iter().position(|w| *w == waiter) else { return false };
                waiters.swap_remove(at);
                if waiters.is_empty() {
                    *self = Waiters::None;
                }
            }
            _ => return false,
        }
        true
    }

    fn is_empty(&self) -> bool {
        matches!(self, Waiters::None)
    }
}

/// Bits of a query's number. A query ends within minutes, so that in that time no number comes again.
const NUMBER_BITS: u32 = 25;

/// Queries beside the first that one question can have under way.
const MORE_MAX: u32 = 15;

/// How long a query is left alone before a newcomer has its question asked once more, in milliseconds.
/// A name server that was silent and is back then serves newcomers at once, whereas c-ares' next try
/// of the old query can be five seconds away.
const PRESS_AFTER: u32 = 500;

/// The number after `number`.
pub fn next_number(number: u32) -> u32 {
    (number + 1) & ((1 << NUMBER_BITS) - 1)
}

/// True if query `a` was started before query `b`, both being recent.
pub fn is_before(a: u32, b: u32) -> bool {
    ((a.wrapping_sub(b) << (u32::BITS - NUMBER_BITS)) as i32) < 0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In the queue.
    Queued,
    /// In the queue of those that were sent and given up for others.
    Late,
    /// Sent; the query that was last started for it. An answer to an earlier one does not count.
    Sent(u32),
    /// The same, on a socket that no other query shares.
    Alone(u32),
}

/// A bit of an entry's stage: it was asked for before, and has given way to others.
const WAS_LATE: u32 = 1 << 6;

struct Entry {
    waiters: Waiters,
    /// When it was first asked for, in milliseconds by a clock that may wrap.
    since: u32,
    /// A [`Stage`] in two bits, the queries beside the first in four, whether it has given way in one, the number in
    /// the others.
    stage: u32,
}

impl Entry {
    fn stage(&self) -> Stage {
        let number = self.stage >> (u32::BITS - NUMBER_BITS);
        match self.stage & 3 {
            0 => Stage::Queued,
            1 => Stage::Sent(number),
            2 => Stage::Alone(number),
            _ => Stage::Late,
        }
    }

    /// Also forgets further queries.
    fn set_stage(&mut self, stage: Stage) {
        let number = |number: u32| number << (u32::BITS - NUMBER_BITS);
        let was_late = self.stage & WAS_LATE;
        self.stage = was_late
            | match stage {
                Stage::Queued => 0,
                Stage::Sent(n) => number(n) | 1,
                Stage::Alone(n) => number(n) | 2,
                Stage::Late => WAS_LATE | 3,
            };
    }

    fn was_late(&self) -> bool {
        self.stage & WAS_LATE != 0
    }

    /// Queries under way beside the first.
    fn more(&self) -> u32 {
        self.stage >> 2 & MORE_MAX
    }

    fn set_more(&mut self, more: u32) {
        self.stage = self.stage & !(MORE_MAX << 2) | more << 2;
    }

    fn is_sent(&self) -> bool {
        matches!(self.stage(), Stage::Sent(_) | Stage::Alone(_))
    }
}

/// What is expected of a query that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Somebody waits for the answer.
    pub wanted: bool,
    /// No other query shared its socket.
    pub alone: bool,
    /// The question had given way to others before.
    pub late: bool,
}

#[derive(Default)]
pub struct Waiting {
    table: Table<Entry>,
    /// Not yet sent.
    queues: Queues,
}

/// What came of adding a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The question is new.
    Queued,
    /// The waiter shares a question that others wait for.
    Shared,
    /// The same, and its query, of this number, has been without an answer for long.
    Overdue(Place, u32),
}

impl Waiting {
    /// Questions, queued and sent, those that nobody waits for any more included.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn queued(&self) -> usize {
        self.queues.len()
    }

    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// Questions sent that somebody waits for.
    pub fn wanted(&self) -> usize {
        self.queues.wanted()
    }

    /// Adds a waiter. A question whose query was started before query `fresh` is queued again: the
    /// servers may have changed since, and the old ones be dead.
    pub fn add(&mut self, question: &Question, waiter: Key, now: u32, fresh: Option<u32>) -> Added {
        let Some(place) = self.table.find(question) else {
            let entry = Entry { waiters: Waiters::One(waiter), since: now, stage: 0 };
            let place = self.table.insert(question.clone(), entry);
            self.enqueue_as(place, Stage::Queued);
            return Added::Queued;
        };
        let Some(entry) = self.table.get_mut(place) else { return Added::Queued };
        let silent_for = now.wrapping_sub(entry.since);
        if entry.waiters.is_empty() {
            self.queues.want();
            entry.since = now;
        }
        entry.waiters.add(waiter);
        if entry.stage() == Stage::Late {
            // Whoever comes new does not wait longer for others having waited.
            self.dequeue(place);
            self.enqueue_as(place, Stage::Queued);
            return Added::Shared;
        }
        let (Stage::Sent(number) | Stage::Alone(number)) = entry.stage() else { return Added::Shared };
        if fresh.is_some_and(|fresh| is_before(number, fresh)) {
            self.requeue(place);
            return Added::Shared;
        }
        if silent_for > PRESS_AFTER * (entry.more() + 1) && entry.more() < MORE_MAX {
            return Added::Overdue(place, number);
        }
        Added::Shared
    }

    /// Notes one more query, under the same number, for the question at `place`: the first answer of any counts,
    /// and a failure only if it is the last.
    pub fn press(&mut self, place: Place) -> Option<&Question> {
        let entry = self.table.get_mut(place)?;
        entry.set_more(entry.more() + 1);
        Some(self.table.question(place))
    }

    /// A query of the question at `place` has failed. True if another one is still under way.
    pub fn has_another(&mut self, place: Place) -> bool {
        let Some(entry) = self.table.get_mut(place) else { return false };
        let more = entry.more();
        if more > 0 {
            entry.set_more(more - 1);
        }
        more > 0
    }

    /// Takes a waiter off. A queued question that nobody waits for goes away; one that was sent is
    /// kept for its answer.
    pub fn remove(&mut self, question: &Question, waiter: Key) {
        let Some(place) = self.table.find(question) else { return };
        let Some(entry) = self.table.get_mut(place) else { return };
        if !entry.waiters.remove(waiter) || !entry.waiters.is_empty() {
            return;
        }
        if entry.is_sent() {
            self.queues.unwant();
        } else {
            self.dequeue(place);
            self.table.remove(place);
        }
    }

    /// True if there is something that [`Waiting::send_next`] would take.
    pub fn has_next(&self, allowed: Allowed) -> bool {
        self.queues.first(allowed).is_some()
    }

    /// Takes the question that is next, to be sent as query `number`.
    pub fn send_next(&mut self, number: u32, allowed: Allowed) -> Option<(Place, &Question)> {
        let place = self.queues.first(allowed)?;
        self.dequeue(place);
        self.table.get_mut(place)?.set_stage(Stage::Sent(number));
        let question = self.table.question(place);
        self.queues.want();
        self.queues.sent(question);
        Some((place, question))
    }

    /// A question that was sent is sent once more, by itself, as query `number`.
    pub fn send_alone(&mut self, place: Place, number: u32) -> Option<&Question> {
        self.table.get_mut(place)?.set_stage(Stage::Alone(number));
        Some(self.table.question(place))
    }

    /// What is expected of the answer to query `number` for the question at `place`; none if it is
    /// not expected any more.
    pub fn expects(&self, place: Place, number: u32) -> Option<Expected> {
        let entry = self.table.get(place)?;
        let (wanted, late) = (!entry.waiters.is_empty(), entry.was_late());
        match entry.stage() {
            Stage::Sent(n) if n == number => Some(Expected { wanted, alone: false, late }),
            Stage::Alone(n) if n == number => Some(Expected { wanted, alone: true, late }),
            _ => None,
        }
    }

    /// Puts a question that was sent and is waited for at the end of the queue again.
    pub fn requeue(&mut self, place: Place) {
        self.take_back(place, Stage::Queued);
    }

    /// The same, behind all that were not sent yet.
    pub fn postpone(&mut self, place: Place) {
        self.take_back(place, Stage::Late);
    }

    fn take_back(&mut self, place: Place, stage: Stage) {
        if self.table.get(place).is_some_and(Entry::is_sent) {
            self.queues.unwant();
            self.queues.ended(self.table.question(place));
            self.enqueue_as(place, stage);
        }
    }

    fn queue_of(&mut self, place: Place) -> &mut List {
        let is_late = self.table.get(place).is_some_and(|entry| entry.stage() == Stage::Late);
        self.queues.of(self.table.question(place), is_late)
    }

    fn enqueue_as(&mut self, place: Place, stage: Stage) {
        let Some(entry) = self.table.get_mut(place) else { return };
        entry.set_stage(stage);
        let mut queue = std::mem::take(self.queue_of(place));
        self.table.push(&mut queue, place);
        *self.queue_of(place) = queue;
    }

    fn dequeue(&mut self, place: Place) {
        let mut queue = std::mem::take(self.queue_of(place));
        self.table.unlink(&mut queue, place);
        *self.queue_of(place) = queue;
    }

    /// Since when the question at `place` is asked for.
    pub fn since(&self, place: Place) -> u32 {
        self.table.get(place).map_or(0, |entry| entry.since)
    }

    pub fn question(&self, place: Place) -> &Question {
        self.table.question(place)
    }

    /// Takes out a question that was sent, for its answer has come; also since when it was asked for.
    pub fn finish(&mut self, place: Place) -> Option<(Question, Waiters, u32)> {
        let (question, entry) = self.table.remove(place)?;
        self.queues.ended(&question);
        if !entry.waiters.is_empty() {
            self.queues.unwant();
        }
        Some((question, entry.waiters, entry.since))
    }

    /// Whether `question` has been sent, and since when it is asked for; none if nobody waits for it.
    pub fn state(&self, question: &Question) -> Option<(bool, u32)> {
        let entry = self.table.get(self.table.find(question)?)?;
        (!entry.waiters.is_empty()).then_some((entry.stage() != Stage::Queued, entry.since))
    }

    pub fn shrink(&mut self) {
        self.table.shrink();
    }
}

#[cfg(test)]
mod tests;

//! The questions somebody waits for: who waits, which are asked, which are still in the queue.
//!
//! An entry is small, as there may be sixty thousand of them: the question without its name, the
//! first of those who wait, and a few numbers; 64 bytes in all. The queue is in order of arrival, for
//! questions, not for connections. That is fair, because a connection asks for a bounded number at
//! a time: its lists and its PTR record, later a few of the names found, and goes to the end of the
//! queue with each. Pure: no I/O, no clock.

#![forbid(unsafe_code)]

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

struct Entry {
    waiters: Waiters,
    /// The query that was last started for it; an answer to an earlier one does not count.
    generation: u32,
    /// When it was first asked for, in milliseconds by a clock that may wrap.
    since: u32,
    /// True once its query has been started; until then it is in the queue.
    sent: bool,
}

#[derive(Default)]
pub struct Waiting {
    table: Table<Entry>,
    queue: List,
    /// Entries that were sent and are still waited for.
    wanted: usize,
}

/// What came of adding a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The question is new.
    Queued,
    /// The waiter shares a question that others wait for.
    Shared,
}

impl Waiting {
    /// Questions, queued and sent, those that nobody waits for any more included.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Questions sent that somebody waits for.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Adds a waiter. A question whose query was started before generation `fresh` is queued again:
    /// the servers may have changed since, and the old ones be dead.
    pub fn add(&mut self, question: &Question, waiter: Key, now: u32, fresh: Option<u32>) -> Added {
        let Some(place) = self.table.find(question) else {
            let entry = Entry { waiters: Waiters::One(waiter), generation: 0, since: now, sent: false };
            let place = self.table.insert(question.clone(), entry);
            self.table.push(&mut self.queue, place);
            return Added::Queued;
        };
        let Some(entry) = self.table.get_mut(place) else { return Added::Queued };
        if entry.sent && entry.waiters.is_empty() {
            self.wanted += 1;
            entry.since = now;
        }
        entry.waiters.add(waiter);
        if entry.sent && fresh.is_some_and(|fresh| is_before(entry.generation, fresh)) {
            self.requeue(place);
        }
        Added::Shared
    }

    /// Takes a waiter off. A queued question that nobody waits for goes away; one that was sent is
    /// kept for its answer.
    pub fn remove(&mut self, question: &Question, waiter: Key) {
        let Some(place) = self.table.find(question) else { return };
        let Some(entry) = self.table.get_mut(place) else { return };
        if !entry.waiters.remove(waiter) || !entry.waiters.is_empty() {
            return;
        }
        if entry.sent {
            self.wanted -= 1;
        } else {
            self.table.unlink(&mut self.queue, place);
            self.table.remove(place);
        }
    }

    /// Takes the question that has been longest in the queue, to be sent as query `generation`.
    pub fn send_next(&mut self, generation: u32) -> Option<(Place, &Question)> {
        let place = self.queue.first()?;
        self.table.unlink(&mut self.queue, place);
        let entry = self.table.get_mut(place)?;
        (entry.sent, entry.generation) = (true, generation);
        self.wanted += 1;
        Some((place, self.table.question(place)))
    }

    /// True if the answer to query `generation` of the entry at `place` is still the one expected,
    /// and if so, whether somebody waits for it.
    pub fn expects(&self, place: Place, generation: u32) -> Option<bool> {
        let entry = self.table.get(place)?;
        (entry.sent && entry.generation == generation).then(|| !entry.waiters.is_empty())
    }

    /// Puts a question that was sent at the end of the queue again.
    pub fn requeue(&mut self, place: Place) {
        if let Some(entry) = self.table.get_mut(place)
            && std::mem::take(&mut entry.sent)
        {
            self.wanted -= 1;
            self.table.push(&mut self.queue, place);
        }
    }

    /// Takes out a question that was sent, for its answer has come.
    pub fn finish(&mut self, place: Place) -> Option<(Question, Waiters)> {
        let (question, entry) = self.table.remove(place)?;
        self.wanted -= usize::from(!entry.waiters.is_empty());
        Some((question, entry.waiters))
    }

    /// Whether `question` is sent, and since when it is asked for; none if nobody waits for it.
    pub fn state(&self, question: &Question) -> Option<(bool, u32)> {
        let entry = self.table.get(self.table.find(question)?)?;
        (!entry.waiters.is_empty()).then_some((entry.sent, entry.since))
    }

    pub fn shrink(&mut self) {
        self.table.shrink();
    }
}

/// True if query `a` was started before query `b`; the numbers may wrap.
pub fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn question(n: u8) -> Question {
        Question::Names(IpAddr::from([192, 0, 2, n]))
    }

    fn key(index: u32) -> Key {
        Key { index, generation: 0 }
    }

    #[test]
    fn an_entry_has_64_bytes() {
        // Question, Entry and the three links of the table.
        assert!(size_of::<Question>() + size_of::<Entry>() + 3 * size_of::<Place>() <= 64);
    }

    #[test]
    fn questions_are_sent_in_order_of_arrival_and_shared() {
        let mut waiting = Waiting::default();
        for n in [1, 2, 3] {
            assert_eq!(waiting.add(&question(n), key(n.into()), 0, None), Added::Queued);
        }
        assert_eq!(waiting.add(&question(2), key(9), 5, None), Added::Shared);
        let mut order = Vec::new();
        let mut places = Vec::new();
        while let Some((place, question)) = waiting.send_next(places.len() as u32) {
            order.push(question.clone());
            places.push(place);
        }
        assert_eq!(order, [question(1), question(2), question(3)]);
        assert_eq!((waiting.wanted(), waiting.queued()), (3, 0));
        assert_eq!(waiting.state(&question(2)), Some((true, 0)));
        assert_eq!(waiting.expects(places[1], 1), Some(true));
        assert_eq!(waiting.expects(places[1], 0), None);
        let (asked, waiters) = waiting.finish(places[1]).unwrap();
        assert_eq!((asked, waiters.as_slice()), (question(2), &[key(2), key(9)][..]));
        assert_eq!((waiting.wanted(), waiting.len()), (2, 2));
    }

    /// One connection has sixty names to confirm and asks for four at a time; another that comes in
    /// between waits behind those four, not behind sixty.
    #[test]
    fn a_connection_with_many_names_does_not_starve_another() {
        let mut waiting = Waiting::default();
        let mut names = 0;
        let mut ask = |waiting: &mut Waiting| {
            names += 1;
            waiting.add(&question(names), key(1), 0, None);
        };
        (0..4).for_each(|_| ask(&mut waiting));
        waiting.add(&question(200), key(2), 0, None);
        let mut sent = 0;
        loop {
            let (place, asked) = waiting.send_next(sent).unwrap();
            let done = *asked == question(200);
            sent += 1;
            waiting.finish(place);
            if done {
                break;
            }
            ask(&mut waiting);
        }
        assert_eq!(sent, 5);
    }

    #[test]
    fn a_queued_question_goes_with_its_last_waiter_and_a_sent_one_stays() {
        let mut waiting = Waiting::default();
        waiting.add(&question(1), key(1), 0, None);
        waiting.add(&question(1), key(2), 0, None);
        waiting.add(&question(2), key(1), 0, None);
        waiting.remove(&question(1), key(1));
        waiting.remove(&question(1), key(7));
        assert_eq!(waiting.queued(), 2);
        waiting.remove(&question(1), key(2));
        assert_eq!((waiting.queued(), waiting.state(&question(1))), (1, None));
        let (place, asked) = waiting.send_next(0).unwrap();
        assert_eq!(*asked, question(2));
        waiting.remove(&question(2), key(1));
        assert_eq!((waiting.wanted(), waiting.len(), waiting.expects(place, 0)), (0, 1, Some(false)));
        assert_eq!(waiting.add(&question(2), key(3), 50, None), Added::Shared);
        assert_eq!((waiting.wanted(), waiting.state(&question(2))), (1, Some((true, 50))));
        assert_eq!(waiting.finish(place).unwrap().1, Waiters::One(key(3)));
        assert_eq!((waiting.wanted(), waiting.len()), (0, 0));
    }

    #[test]
    fn what_the_old_servers_were_asked_is_asked_again() {
        let mut waiting = Waiting::default();
        waiting.add(&question(1), key(1), 0, None);
        let (place, _) = waiting.send_next(u32::MAX).unwrap();
        waiting.add(&question(1), key(2), 0, Some(0));
        assert_eq!((waiting.queued(), waiting.wanted()), (1, 0));
        assert_eq!(waiting.expects(place, u32::MAX), None, "the old answer no longer counts");
        let (again, _) = waiting.send_next(0).unwrap();
        assert_eq!((again, waiting.wanted()), (place, 1));
        waiting.add(&question(1), key(3), 0, Some(0));
        assert_eq!(waiting.queued(), 0);
        assert_eq!(waiting.finish(place).unwrap().1.as_slice().len(), 3);
    }
}

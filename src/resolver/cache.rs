//! Answers kept for a while, so that a client that comes again costs no query.
//!
//! At most as many as `-dnscache` says; the least recently used one makes room. Each is kept for
//! its time to live, which the caller has brought within bounds. Everything is O(1). Pure: the
//! caller brings the time, in whole seconds since some start, so that an entry stays small and
//! cannot come to life again by a counter that wraps.

#![forbid(unsafe_code)]

use super::table::{List, Table};
use crate::policy::question::Question;

struct Kept<V> {
    answer: V,
    /// The first second in which the answer no longer counts.
    expires: u32,
}

pub struct Cache<V> {
    table: Table<Kept<V>>,
    /// All entries, the least recently used first.
    by_use: List,
    /// `-dnscache`; 0 keeps nothing.
    most: usize,
}

impl<V: Clone> Cache<V> {
    pub fn new(most: usize) -> Self {
        Cache { table: Table::default(), by_use: List::default(), most }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// The answer kept for `question`, which is then the most recently used.
    pub fn get(&mut self, question: &Question, second: u32) -> Option<V> {
        let place = self.table.find(question)?;
        self.table.unlink(&mut self.by_use, place);
        let kept = self.table.get(place)?;
        if second >= kept.expires {
            self.table.remove(place);
            return None;
        }
        let answer = kept.answer.clone();
        self.table.push(&mut self.by_use, place);
        Some(answer)
    }

    /// Keeps `answer` for `seconds`, in place of what was kept for the same question.
    pub fn put(&mut self, question: Question, answer: V, second: u32, seconds: u32) {
        if self.most == 0 {
            return;
        }
        let kept = Kept { answer, expires: second.saturating_add(seconds) };
        let place = match self.table.find(&question) {
            Some(place) => {
                self.table.unlink(&mut self.by_use, place);
                *self.table.get_mut(place).expect("found just now") = kept;
                place
            }
            None => {
                while self.table.len() >= self.most {
                    let Some(oldest) = self.by_use.first() else { break };
                    self.table.unlink(&mut self.by_use, oldest);
                    self.table.remove(oldest);
                }
                self.table.insert(question, kept)
            }
        };
        self.table.push(&mut self.by_use, place);
    }

    /// Takes out the answer that was used longest ago, with the second in which it ends.
    pub fn pop(&mut self) -> Option<(Question, V, u32)> {
        let oldest = self.by_use.first()?;
        self.table.unlink(&mut self.by_use, oldest);
        let (question, Kept { answer, expires }) = self.table.remove(oldest)?;
        Some((question, answer, expires))
    }

    /// Forgets everything, memory included.
    pub fn clear(&mut self) {
        *self = Cache::new(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::question::Answer;
    use std::net::IpAddr;

    fn question(n: u8) -> Question {
        Question::Names(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn answers_end_with_their_time() {
        let mut cache = Cache::new(10);
        cache.put(question(1), Answer::Absent, 100, 10);
        assert_eq!(cache.get(&question(1), 109), Some(Answer::Absent));
        assert_eq!(cache.get(&question(2), 109), None);
        assert_eq!(cache.get(&question(1), 110), None);
        assert_eq!(cache.len(), 0, "what has ended is dropped");
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut cache = Cache::new(3);
        for n in 1..=3 {
            cache.put(question(n), Answer::Absent, 0, 60);
        }
        assert!(cache.get(&question(1), 1).is_some());
        cache.put(question(4), Answer::Failed, 1, 60);
        let there: Vec<_> = (1..=4).filter(|&n| cache.get(&question(n), 1).is_some()).collect();
        assert_eq!(there, [1, 3, 4]);
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn a_later_answer_replaces_the_earlier() {
        let mut cache = Cache::new(2);
        cache.put(question(1), Answer::Failed, 0, 10);
        cache.put(question(1), Answer::Absent, 5, 10);
        assert_eq!(cache.len(), 1);
        assert_eq!(cache.get(&question(1), 12), Some(Answer::Absent));
    }

    #[test]
    fn a_cache_of_none_keeps_nothing_and_clear_forgets() {
        let mut cache = Cache::new(0);
        cache.put(question(1), Answer::Absent, 0, 60);
        assert_eq!(cache.get(&question(1), 0), None);
        let mut cache = Cache::new(5);
        cache.put(question(1), Answer::Absent, 0, 60);
        cache.clear();
        assert_eq!(cache.get(&question(1), 0), None);
        cache.put(question(1), Answer::Absent, 0, 60);
        assert!(cache.get(&question(1), 0).is_some());
    }
}

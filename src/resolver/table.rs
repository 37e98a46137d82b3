//! Entries found by their question, and threaded on lists: the store under both the questions that
//! are waited for and the cache.
//!
//! Made for many small entries that come and go in bursts. Everything is linked by index, so an
//! entry costs its value, its question and 12 bytes. The entries live in chunks of 64, a new one
//! takes the lowest place free, and a chunk that empties is freed: what a burst took goes away
//! with it, although others still wait. The hash is keyed, since strangers choose the names.
//! Pure: no I/O, no clock.

#![forbid(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::policy::question::Question;

/// The place of an entry; good until the entry is removed.
pub type Place = u32;

/// Ends a chain of links.
const NONE: Place = Place::MAX;
/// Entries in a chunk: as many as `Chunk::used` has bits.
const CHUNK: usize = u64::BITS as usize;

struct Entry<V> {
    question: Question,
    /// The next entry of the same bucket.
    chained: Place,
    /// Neighbours on the list that the entry is on; meaningless while it is on none.
    before: Place,
    after: Place,
    value: V,
}

struct Chunk<V> {
    /// One bit for each entry that is there.
    used: u64,
    entries: [Option<Entry<V>>; CHUNK],
}

/// A list through the entries of one table. An entry may be on one list at a time.
#[derive(Debug)]
pub struct List {
    first: Place,
    last: Place,
    length: usize,
}

impl Default for List {
    fn default() -> Self {
        List { first: NONE, last: NONE, length: 0 }
    }
}

impl List {
    pub fn first(&self) -> Option<Place> {
        (self.first != NONE).then_some(self.first)
    }

    pub fn len(&self) -> usize {
        self.length
    }
}

pub struct Table<V> {
    chunks: Vec<Option<Box<Chunk<V>>>>,
    /// No chunk before this one has a place free.
    vacancy: usize,
    length: usize,
    /// First entry of each bucket; a power of two of them, or none at all.
    buckets: Vec<Place>,
    hasher: RandomState,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table { chunks: Vec::new(), vacancy: 0, length: 0, buckets: Vec::new(), hasher: RandomState::new() }
    }
}

impl<V> Table<V> {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn find(&self, question: &Question) -> Option<Place> {
        if self.buckets.is_empty() {
            return None;
        }
        let mut place = self.buckets[self.bucket(question)];
        while place != NONE {
            let entry = self.entry(place);
            if entry.question == *question {
                return Some(place);
            }
            place = entry.chained;
        }
        None
    }

    pub fn question(&self, place: Place) -> &Question {
        &self.entry(place).question
    }

    /// The value at `place`; none if nothing is there any more.
    pub fn get(&self, place: Place) -> Option<&V> {
        let chunk = self.chunks.get(place as usize / CHUNK)?.as_deref()?;
        Some(&chunk.entries[place as usize % CHUNK].as_ref()?.value)
    }

    pub fn get_mut(&mut self, place: Place) -> Option<&mut V> {
        let chunk = self.chunks.get_mut(place as usize / CHUNK)?.as_deref_mut()?;
        Some(&mut chunk.entries[place as usize % CHUNK].as_mut()?.value)
    }

    /// Adds an entry. The caller has made sure that the question has none.
    pub fn insert(&mut self, question: Question, value: V) -> Place {
        if self.length >= self.buckets.len() {
            self.rehash((self.buckets.len() * 2).max(16));
        }
        let bucket = self.bucket(&question);
        let chained = self.buckets[bucket];
        let place = self.take_place(Entry { question, chained, before: NONE, after: NONE, value });
        self.buckets[bucket] = place;
        self.length += 1;
        place
    }

    /// Takes an entry out. The caller has taken it off its list.
    pub fn remove(&mut self, place: Place) -> Option<(Question, V)> {
        let (index, offset) = (place as usize / CHUNK, place as usize % CHUNK);
        let chunk = self.chunks.get_mut(index)?.as_deref_mut()?;
        let entry = chunk.entries[offset].take()?;
        chunk.used &= !(1 << offset);
        if chunk.used == 0 {
            self.chunks[index] = None;
            while let Some(None) = self.chunks.last() {
                self.chunks.pop();
            }
        }
        self.vacancy = self.vacancy.min(index);
        self.length -= 1;
        let bucket = self.bucket(&entry.question);
        if self.buckets[bucket] == place {
            self.buckets[bucket] = entry.chained;
        } else {
            let mut before = self.buckets[bucket];
            while self.entry(before).chained != place {
                before = self.entry(before).chained;
            }
            self.entry_mut(before).chained = entry.chained;
        }
        Some((entry.question, entry.value))
    }

    /// Puts an entry that is on no list at the end of `list`.
    pub fn push(&mut self, list: &mut List, place: Place) {
        let last = std::mem::replace(&mut list.last, place);
        let entry = self.entry_mut(place);
        (entry.before, entry.after) = (last, NONE);
        match last {
            NONE => list.first = place,
            last => self.entry_mut(last).after = place,
        }
        list.length += 1;
    }

    /// Takes an entry off `list`, which it is on.
    pub fn unlink(&mut self, list: &mut List, place: Place) {
        let Entry { before, after, .. } = *self.entry(place);
        match before {
            NONE => list.first = after,
            before => self.entry_mut(before).after = after,
        }
        match after {
            NONE => list.last = before,
            after => self.entry_mut(after).before = before,
        }
        list.length -= 1;
    }

    /// Gives back what the buckets and the chunk list hold beyond need.
    pub fn shrink(&mut self) {
        if self.length == 0 {
            self.buckets = Vec::new();
        } else if self.length * 8 <= self.buckets.len() {
            self.rehash((self.length * 2).next_power_of_two().max(16));
        }
        self.chunks.shrink_to_fit();
    }

    fn bucket(&self, question: &Question) -> usize {
        // The low bits of the hash are as good as any; truncating it on 32-bit hosts keeps them.
        self.hasher.hash_one(question) as usize & (self.buckets.len() - 1)
    }

    /// The entry at a place that the links of this table name.
    fn entry(&self, place: Place) -> &Entry<V> {
        self.chunks[place as usize / CHUNK]
            .as_deref()
            .and_then(|chunk| chunk.entries[place as usize % CHUNK].as_ref())
            .expect("links lead to entries that are there")
    }

    fn entry_mut(&mut self, place: Place) -> &mut Entry<V> {
        self.chunks[place as usize / CHUNK]
            .as_deref_mut()
            .and_then(|chunk| chunk.entries[place as usize % CHUNK].as_mut())
            .expect("links lead to entries that are there")
    }

    fn take_place(&mut self, entry: Entry<V>) -> Place {
        loop {
            if self.vacancy == self.chunks.len() {
                self.chunks.push(None);
            }
            let chunk = self.chunks[self.vacancy]
                .get_or_insert_with(|| Box::new(Chunk { used: 0, entries: [const { None }; CHUNK] }));
            let offset = chunk.used.trailing_ones() as usize;
            if offset < CHUNK {
                chunk.used |= 1 << offset;
                chunk.entries[offset] = Some(entry);
                return (self.vacancy * CHUNK + offset) as Place;
            }
            self.vacancy += 1;
        }
    }

    fn rehash(&mut self, size: usize) {
        self.buckets = vec![NONE; size];
        for index in 0..self.chunks.len() {
            let mut used = self.chunks[index].as_deref().map_or(0, |chunk| chunk.used);
            while used != 0 {
                let place = (index * CHUNK) as Place + used.trailing_zeros();
                used &= used - 1;
                let bucket = self.bucket(&self.entry(place).question);
                let first = std::mem::replace(&mut self.buckets[bucket], place);
                self.entry_mut(place).chained = first;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn question(n: u32) -> Question {
        Question::Names(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn entries_are_found_until_removed() {
        let mut table = Table::default();
        let places: Vec<_> = (0..1000).map(|n| table.insert(question(n), n)).collect();
        assert_eq!(table.len(), 1000);
        for n in (0..1000).step_by(2) {
            assert_eq!(table.remove(places[n as usize]), Some((question(n), n)));
            assert_eq!(table.remove(places[n as usize]), None);
        }
        for n in 0..1000 {
            assert_eq!(table.find(&question(n)).is_some(), n % 2 == 1, "{n}");
        }
        for n in (1..1000).step_by(2) {
            let place = table.find(&question(n)).unwrap();
            assert_eq!(table.get(place), Some(&n));
            table.remove(place);
        }
        assert_eq!(table.len(), 0);
        assert!(table.chunks.is_empty(), "empty chunks are freed");
        table.shrink();
        assert_eq!(table.buckets.capacity(), 0);
        assert_eq!(table.find(&question(1)), None);
    }

    #[test]
    fn freed_places_are_taken_again_from_the_lowest() {
        let mut table = Table::default();
        for n in 0..300 {
            table.insert(question(n), n);
        }
        for n in 0..200 {
            table.remove(n);
        }
        assert_eq!(table.insert(question(1000), 0), 0);
        assert_eq!(table.chunks.iter().filter(|chunk| chunk.is_some()).count(), 3);
        table.shrink();
        assert!(table.find(&question(299)).is_some());
        assert!(table.find(&question(1000)).is_some());
    }

    #[test]
    fn lists_keep_their_order_when_the_middle_goes() {
        let mut table = Table::default();
        let mut list = List::default();
        for n in 0..5 {
            let place = table.insert(question(n), n);
            table.push(&mut list, place);
        }
        for gone in [2, 0, 4] {
            table.unlink(&mut list, gone);
            table.remove(gone);
        }
        assert_eq!(list.len(), 2);
        let mut order = Vec::new();
        while let Some(place) = list.first() {
            table.unlink(&mut list, place);
            order.push(table.remove(place).unwrap().1);
        }
        assert_eq!(order, [1, 3]);
        assert_eq!(list.len(), 0);
    }
}

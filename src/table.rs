//! A table whose keys outlive its entries safely.
//!
//! An entry's key holds its index and the generation of that index. Whoever keeps a key longer than
//! the entry lives (an answer that comes late, an event that epoll had already queued) finds
//! nothing, never another connection. Indexes are reused, so the table is as big as its fullest
//! moment, until [`Table::shrink`].

#![forbid(unsafe_code)]

/// Bits of a generation. Index, generation and a four-bit kind share an event token, which has the
/// size of a pointer.
pub const GENERATION_BITS: u32 = if usize::BITS >= 64 { 28 } else { 10 };
/// Bits of an index: a table holds fewer entries than this allows.
pub const INDEX_BITS: u32 = if usize::BITS >= 64 { 32 } else { 18 };
/// Entries that a table can have.
pub const MOST: usize = 1 << (INDEX_BITS - 1);

const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// Names one entry of one table, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub index: u32,
    pub generation: u32,
}

impl Key {
    /// As a number, for rooms that carry keys without reading them.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub fn from_bits(bits: u64) -> Self {
        Key { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

#[derive(Debug)]
pub struct Table<T> {
    entries: Vec<Entry<T>>,
    /// Indexes of vacant entries; the last one is used next.
    vacant: Vec<u32>,
    /// Where generations of new indexes start: beyond all that a shrunken table has given out.
    first_generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { entries: Vec::new(), vacant: Vec::new(), first_generation: 0 }
    }
}

impl<T> Table<T> {
    /// The key that the next [`insert`](Self::insert) will use.
    pub fn next_key(&self) -> Key {
        match self.vacant.last() {
            Some(&index) => Key { index, generation: self.entries[index as usize].generation },
            None => Key { index: self.entries.len() as u32, generation: self.first_generation },
        }
    }

    pub fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        match self.vacant.pop() {
            Some(index) => self.entries[index as usize].value = Some(value),
            None => {
                assert!(self.entries.len() < MOST, "table full");
                self.entries.push(Entry { generation: key.generation, value: Some(value) });
            }
        }
        key
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        self.entries.get(key.index as usize).filter(|e| e.generation == key.generation)?.value.as_ref()
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key.index as usize).filter(|e| e.generation == key.generation)?.value.as_mut()
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize).filter(|e| e.generation == key.generation)?;
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.vacant.push(key.index);
        Some(value)
    }

    pub fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Live entries with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let key = Key { index: index as u32, generation: entry.generation };
            entry.value.as_ref().map(|value| (key, value))
        })
    }

    /// Gives back what lies behind the last live entry. Old keys stay invalid.
    pub fn shrink(&mut self) {
        let live = self.entries.iter().rposition(|entry| entry.value.is_some()).map_or(0, |last| last + 1);
        let newest = self.entries.drain(live..).map(|entry| entry.generation).max();
        self.first_generation = self.first_generation.max(newest.unwrap_or(0));
        self.entries.shrink_to_fit();
        self.vacant.retain(|&index| (index as usize) < live);
        self.vacant.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_outlive_its_entry() {
        let mut table = Table::default();
        let first = table.insert('a');
        assert_eq!(table.remove(first), Some('a'));
        assert_eq!(table.remove(first), None);
        let second = table.insert('b');
        assert_eq!(first.index, second.index);
        assert_eq!((table.get(first), table.get(second)), (None, Some(&'b')));
        assert_eq!(Key::from_bits(second.to_bits()), second);
    }

    #[test]
    fn shrinking_does_not_revive_old_keys() {
        let mut table = Table::default();
        let keys: Vec<_> = (0..10).map(|i| table.insert(i)).collect();
        for &key in &keys {
            table.remove(key);
        }
        table.shrink();
        assert_eq!(table.entries.capacity(), 0);
        for i in 10..20 {
            table.insert(i);
        }
        assert!(keys.iter().all(|&key| table.get(key).is_none()));
        assert_eq!(table.len(), 10);
    }

    #[test]
    fn shrinking_keeps_the_live_and_drops_what_is_behind() {
        let mut table = Table::default();
        let keys: Vec<_> = (0..10).map(|i| table.insert(i)).collect();
        for &key in keys.iter().filter(|key| key.index != 4) {
            table.remove(key.to_owned());
        }
        table.shrink();
        assert_eq!((table.entries.len(), table.len(), table.get(keys[4])), (5, 1, Some(&4)));
        let again: Vec<_> = (0..9).map(|i| table.insert(i)).collect();
        assert_eq!((table.entries.len(), table.len()), (10, 10));
        assert!(again.iter().all(|key| !keys.contains(key)));
    }

    #[test]
    fn the_next_key_is_the_one_that_insert_gives() {
        let mut table = Table::default();
        for i in 0..20 {
            let expected = table.next_key();
            let key = table.insert(i);
            assert_eq!(key, expected);
            if i % 3 == 0 {
                table.remove(key);
            }
        }
        assert_eq!(table.iter().count(), table.len());
    }
}

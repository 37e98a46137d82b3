//! All rules together: which of them counts for an address, and the keys that say the same.
//!
//! The narrowest rule counts. That is what the daemon's walk does by itself, from long keys to
//! short ones, except among rules whose keys have the same length, such as 192.0.2.0/25 and
//! 192.0.2.1: there the table gives each key to the narrowest block. Rules and databases both
//! become tables, so that one can be compared with the other. Pure.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use crate::addr;
use crate::policy::access::{Keys, Lookup, find};

use super::place::{Block, Family, Special};
use super::problem::{Origin, Problems, Severity};
use super::source::{RecordId, Records, Rule, Rules};

#[derive(Debug, Default)]
pub struct Table {
    pub records: Records,
    /// Sorted: a block comes before those inside it. None is there twice.
    pub blocks: Vec<(Block, Rule)>,
    pub specials: BTreeMap<Special, Rule>,
}

impl Table {
    /// Puts the rules in order. Tells of those that contradict another and of those that are for
    /// nothing.
    pub fn new(rules: Rules, problems: &mut Problems) -> Table {
        let Rules { records, mut blocks, specials, .. } = rules;
        let mut table = Table { records, blocks: Vec::new(), specials: BTreeMap::new() };
        for (special, rule) in specials {
            match table.specials.get(&special) {
                Some(&first) => table.twice(first, rule, &special_key(special), problems),
                None => drop(table.specials.insert(special, rule)),
            }
        }
        // Stable, so that of two the one that was read first stays.
        blocks.sort_by_key(|(block, _)| *block);
        let mut told = None;
        blocks.dedup_by(|later, first| {
            let twice = later.0 == first.0;
            // A range that is there twice is told of once, though all its blocks are.
            if twice && told != Some((first.1.origin, later.1.origin)) {
                table.twice(first.1, later.1, &first.0.to_string(), problems);
                told = Some((first.1.origin, later.1.origin));
            }
            twice
        });
        table.blocks = blocks;
        table.tell_hidden(problems);
        table
    }

    fn twice(&self, first: Rule, later: Rule, what: &str, problems: &mut Problems) {
        let place = problems.place(first.origin);
        let (severity, text) = if first.record == later.record {
            (Severity::Warning, format!("{what} is at {place} too"))
        } else {
            (Severity::Error, format!("{what} has another record at {place}"))
        };
        problems.add(later.origin, severity, text);
    }

    /// A rule is for nothing if narrower ones cover all of it.
    fn tell_hidden(&self, problems: &mut Problems) {
        /// A block whose inner blocks are being counted; None: more than the number holds.
        struct Open {
            block: Block,
            index: usize,
            inside: Option<u128>,
        }
        let mut open: Vec<Open> = Vec::new();
        let mut hidden = vec![false; self.blocks.len()];
        let mut close = |open: &mut Vec<Open>| {
            let Some(this) = open.pop() else { return };
            let size = (this.block.last() - this.block.first).checked_add(1);
            hidden[this.index] = this.inside == size;
            if let (Some(outer), Some(size)) = (open.last_mut(), size) {
                outer.inside = outer.inside.and_then(|sum| sum.checked_add(size));
            }
        };
        for (index, &(block, _)) in self.blocks.iter().enumerate() {
            while open.last().is_some_and(|o| o.block.family != block.family || o.block.last() < block.first) {
                close(&mut open);
            }
            open.push(Open { block, index, inside: Some(0) });
        }
        while !open.is_empty() {
            close(&mut open);
        }
        // By line: a range is hidden if all its blocks are.
        let mut lines: BTreeMap<Origin, bool> = BTreeMap::new();
        for (index, (_, rule)) in self.blocks.iter().enumerate() {
            if hidden[index] {
                lines.entry(rule.origin).or_insert(true);
            }
        }
        for (index, (_, rule)) in self.blocks.iter().enumerate() {
            if !hidden[index] && !lines.is_empty() {
                lines.entry(rule.origin).and_modify(|all| *all = false);
            }
        }
        for (origin, _) in lines.into_iter().filter(|(_, all)| *all) {
            problems.add(origin, Severity::Warning, "narrower rules hide all of this one".to_owned());
        }
    }

    /// Every key with its record: the special ones, then by family, length and address.
    pub fn for_each_key<E>(&self, mut each: impl FnMut(&str, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut key = String::new();
        for (special, rule) in &self.specials {
            special.key(&mut key);
            each(&key, self.records.get(rule.record))?;
        }
        for family in [Family::V4, Family::V6] {
            for level in 1..=family.bits() / family.part_bits() {
                let blocks = self.blocks.iter().filter(|(b, _)| b.family == family && b.level() == level);
                let step = 1_u128.checked_shl(u32::from(family.bits() - level * family.part_bits())).unwrap_or(0);
                let mut result = Ok(());
                innermost(blocks.map(|(block, rule)| (*block, rule.record)), |first, last, record| {
                    let mut at = first;
                    while result.is_ok() {
                        addr::access_key(family.ip(at), level.into(), &mut key);
                        result = each(&key, self.records.get(record));
                        match at.checked_add(step) {
                            Some(next) if next <= last => at = next,
                            _ => break,
                        }
                    }
                });
                result?;
            }
        }
        Ok(())
    }

    /// The number of keys, at most: those of blocks that others hide in part are counted too.
    pub fn most_keys(&self) -> u64 {
        self.specials.len() as u64 + self.blocks.iter().map(|(block, _)| block.keys()).sum::<u64>()
    }

    /// The blocks of one family.
    pub fn family(&self, family: Family) -> impl Iterator<Item = (Block, RecordId)> {
        let from = self.blocks.partition_point(|(block, _)| block.family < family);
        self.blocks[from..]
            .iter()
            .take_while(move |(block, _)| block.family == family)
            .map(|(block, rule)| (*block, rule.record))
    }

    /// All keys in memory, to be asked as the daemon asks a database.
    pub fn map(&self) -> Map {
        let mut map = HashMap::new();
        let Ok(()) = self.for_each_key(|key, record| {
            map.insert(key.as_bytes().to_vec(), record.to_vec());
            Ok::<(), Infallible>(())
        });
        Map(map)
    }
}

fn special_key(special: Special) -> String {
    let mut key = String::new();
    special.key(&mut key);
    key
}

/// Cuts nested blocks into stretches of addresses, each with the value of the innermost block
/// there. The blocks come sorted and of one family; so do the stretches.
pub fn innermost(blocks: impl Iterator<Item = (Block, u32)>, mut each: impl FnMut(u128, u128, u32)) {
    let mut open: Vec<(u128, u32)> = Vec::new();
    // The first address not yet given away; None behind the very last.
    let mut next = Some(0);
    let mut give = |next: &mut Option<u128>, last: u128, value: u32| {
        if let Some(first) = next.filter(|&first| first <= last) {
            each(first, last, value);
            *next = last.checked_add(1);
        }
    };
    for (block, value) in blocks {
        while let Some(&(last, outer)) = open.last() {
            if last >= block.first {
                if let Some(before) = block.first.checked_sub(1) {
                    give(&mut next, before, outer);
                }
                break;
            }
            give(&mut next, last, outer);
            open.pop();
        }
        next = Some(block.first);
        open.push((block.last(), value));
    }
    while let Some((last, value)) = open.pop() {
        give(&mut next, last, value);
    }
}

/// Keys and records in memory.
#[derive(Debug, Default)]
pub struct Map(HashMap<Vec<u8>, Vec<u8>>);

impl Lookup for Map {
    type Error = Infallible;

    fn fetch(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(key).cloned())
    }
}

impl Map {
    /// The record for a client.
    pub fn remote(&mut self, ip: IpAddr) -> Option<Vec<u8>> {
        let Ok(found) = find(self, Keys::remote(ip), |_| {});
        found.map(|found| found.value)
    }

    /// The record for our own end.
    pub fn local(&mut self, address: SocketAddr) -> Option<Vec<u8>> {
        let Ok(found) = find(self, Keys::local(address), |_| {});
        found.map(|found| found.value)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn table(text: &str) -> (Table, String) {
        let mut problems = Problems::default();
        let mut rules = Rules::default();
        let file = problems.add_file(Path::new("r"));
        rules.parse(text.as_bytes(), file, &mut problems);
        let table = Table::new(rules, &mut problems);
        let mut out = Vec::new();
        problems.print(&mut out).unwrap();
        (table, String::from_utf8(out).unwrap())
    }

    fn keys(text: &str) -> Vec<String> {
        let (table, problems) = table(text);
        assert_eq!(problems, "", "{text}");
        let mut keys = Vec::new();
        let Ok(()) = table.for_each_key(|key, record| {
            keys.push(format!("{key}={}", record.escape_ascii()));
            Ok::<(), Infallible>(())
        });
        keys
    }

    #[test]
    fn blocks_become_the_keys_that_cover_them() {
        assert_eq!(keys("*\tallow\n*.25\tdeny\n10.0.0.1.25\tallow\n"), ["*=allow", "*.25=deny", "10.0.0.1.25=allow"]);
        assert_eq!(
            keys("192.0.2.0/30\tdeny\n10\tdeny\n"),
            ["10=deny", "192.0.2.0=deny", "192.0.2.1=deny", "192.0.2.2=deny", "192.0.2.3=deny"]
        );
        assert_eq!(keys("0.0.0.0/0 deny").len(), 256);
        assert_eq!(keys("::/0 deny").len(), 65536);
        assert_eq!(keys("2001:db8::/31 deny"), [":2001:0db8=deny", ":2001:0db9=deny"]);
        assert_eq!(keys("255.255.255.254/31 deny"), ["255.255.255.254=deny", "255.255.255.255=deny"]);
        let last = keys("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127 deny");
        assert_eq!(last.len(), 2);
    }

    #[test]
    fn the_narrowest_rule_has_the_key() {
        assert_eq!(
            keys("10.0.0.0/30 deny\n10.0.0.1 allow\n10.0.0.2/31 allow,A\n"),
            ["10.0.0.0=deny", "10.0.0.1=allow", "10.0.0.2=allow,A", "10.0.0.3=allow,A"]
        );
    }

    #[test]
    fn contradictions_and_repetitions_are_told_with_both_lines() {
        for (text, expected) in [
            ("10 deny\n10/8 allow\n", "r:2: error: 10.0.0.0/8 has another record at r:1\n"),
            ("10 deny\n10.0.0.0-10.255.255.255 deny\n", "r:2: warning: 10.0.0.0/8 is at r:1 too\n"),
            ("* deny\n* allow\n", "r:2: error: * has another record at r:1\n"),
            ("*.25 deny\n*.25 deny\n", "r:2: warning: *.25 is at r:1 too\n"),
            (
                "2001:db8::1 deny\n:2001:0db8:0000:0000:0000:0000:0000:0001 allow\n",
                "r:2: error: 2001:db8::1 has another record at r:1\n",
            ),
            ("10.0.0.1-10.0.0.6 deny\n10.0.0.1-10.0.0.6 allow\n", "r:2: error: 10.0.0.1 has another record at r:1\n"),
        ] {
            assert_eq!(table(text).1, expected, "{text}");
        }
    }

    #[test]
    fn a_rule_that_narrower_ones_cover_is_told() {
        let hidden = |line| format!("r:{line}: warning: narrower rules hide all of this one\n");
        for (text, expected) in [
            ("10.0.0.0/24 deny\n10.0.0.0/25 allow\n10.0.0.128/25 allow\n", hidden(1)),
            ("10.0.0.0/24 deny\n10.0.0.0/25 allow\n", String::new()),
            (
                "10.0.0.0/24 deny\n10.0.0.0/25 allow\n10.0.0.128/26 allow\n10.0.0.192/27 allow\n10.0.0.224/27 deny\n",
                hidden(1),
            ),
            ("10.0.0.4-10.0.0.7 deny\n10.0.0.4/31 allow\n10.0.0.6/31 allow\n", hidden(1)),
            ("10.0.0.3-10.0.0.7 deny\n10.0.0.4/31 allow\n10.0.0.6/31 allow\n", String::new()),
            ("0.0.0.0/0 deny\n0.0.0.0/1 allow\n128.0.0.0/1 allow\n", hidden(1)),
            ("::/0 deny\n::/1 allow\n8000::/1 allow\n", hidden(1)),
            ("::/0 deny\n::/1 allow\n", String::new()),
        ] {
            assert_eq!(table(text).1, expected, "{text}");
        }
    }
}

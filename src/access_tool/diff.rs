//! `diff`: the addresses whose outcome two access files differ in.
//!
//! Two records have the same outcome if both refuse, or both set the same variables; no record at
//! all is as good as a plain `allow`. Neighbouring addresses with the same change are put together
//! and written as the fewest blocks.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};

use crate::policy::access::Record;

use super::place::{Family, Span, Special};
use super::record;
use super::table::{Table, innermost};

/// Numbers for outcomes, so that comparing them is cheap.
#[derive(Default)]
struct Outcomes {
    numbers: HashMap<Option<BTreeMap<Vec<u8>, Vec<u8>>>, u32>,
    /// A record for each, for the output.
    texts: Vec<Vec<u8>>,
}

impl Outcomes {
    fn number(&mut self, value: Option<&[u8]>) -> u32 {
        let record = value.map_or(Record::Allow(Vec::new()), Record::parse);
        let text = record::canonical(&record).record;
        let outcome = match record {
            Record::Deny => None,
            Record::Allow(variables) => Some(variables.into_iter().map(|v| (v.name, v.value)).collect()),
        };
        *self.numbers.entry(outcome).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() as u32 - 1
        })
    }

    /// The outcome of each record of a table.
    fn of(&mut self, table: &Table) -> Vec<u32> {
        (0..table.records.len()).map(|id| self.number(Some(table.records.get(id as u32)))).collect()
    }
}

/// One file, seen as outcomes.
struct Side<'a> {
    table: &'a Table,
    of_record: Vec<u32>,
    /// For clients that no block holds.
    everybody: u32,
}

impl<'a> Side<'a> {
    fn new(table: &'a Table, outcomes: &mut Outcomes) -> Self {
        let of_record = outcomes.of(table);
        let everybody = match table.specials.get(&Special::Everybody) {
            Some(rule) => of_record[rule.record as usize],
            None => outcomes.number(None),
        };
        Side { table, of_record, everybody }
    }

    /// The whole family, cut where the outcome may change: each stretch by its last address.
    fn stretches(&self, family: Family) -> Vec<(u128, u32)> {
        let mut stretches = Vec::new();
        let mut next = 0;
        innermost(self.table.family(family), |first, last, record| {
            if next < first {
                stretches.push((first - 1, self.everybody));
            }
            stretches.push((last, self.of_record[record as usize]));
            // Behind the very last address of all, where nothing follows, the sum stays there.
            next = last.saturating_add(1);
        });
        if stretches.last().is_none_or(|&(last, _)| last < family.last()) {
            stretches.push((family.last(), self.everybody));
        }
        stretches
    }
}

/// Writes the differences, `ADDRESSES`, old and new record, a tab between. True if there are any.
pub fn diff(old: &Table, new: &Table, out: &mut impl Write) -> io::Result<bool> {
    let mut outcomes = Outcomes::default();
    let (old_side, new_side) = (Side::new(old, &mut outcomes), Side::new(new, &mut outcomes));
    let mut any = diff_specials(old, new, &mut outcomes, out)?;
    for family in [Family::V4, Family::V6] {
        let (left, right) = (old_side.stretches(family), new_side.stretches(family));
        let (mut l, mut r, mut first) = (0, 0, 0);
        // The change that goes on up to here, and where it began.
        let mut open: Option<(u128, (u32, u32))> = None;
        while l < left.len() && r < right.len() {
            let pair = (left[l].1, right[r].1);
            if open.is_none_or(|(_, before)| before != pair) {
                if let Some((from, change)) = open {
                    any |= write_change(Span { family, first: from, last: first - 1 }, change, &outcomes, out)?;
                }
                open = Some((first, pair));
            }
            let last = left[l].0.min(right[r].0);
            l += usize::from(left[l].0 == last);
            r += usize::from(right[r].0 == last);
            first = last.saturating_add(1);
        }
        if let Some((from, change)) = open {
            any |= write_change(Span { family, first: from, last: family.last() }, change, &outcomes, out)?;
        }
    }
    Ok(any)
}

fn write_change(span: Span, (old, new): (u32, u32), outcomes: &Outcomes, out: &mut impl Write) -> io::Result<bool> {
    if old == new {
        return Ok(false);
    }
    for block in span.blocks() {
        write_line(&block.to_string(), old, new, outcomes, out)?;
    }
    Ok(true)
}

fn write_line(what: &str, old: u32, new: u32, outcomes: &Outcomes, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{what}\t")?;
    out.write_all(&outcomes.texts[old as usize])?;
    out.write_all(b"\t")?;
    out.write_all(&outcomes.texts[new as usize])?;
    out.write_all(b"\n")
}

/// Our own ends of connections (`-accesslocal`): those that either file names.
fn diff_specials(old: &Table, new: &Table, outcomes: &mut Outcomes, out: &mut impl Write) -> io::Result<bool> {
    let named: BTreeSet<_> = old.specials.keys().chain(new.specials.keys()).copied().collect();
    if named.iter().all(|special| *special == Special::Everybody) {
        return Ok(false);
    }
    let mut any = false;
    let (mut old_map, mut new_map) = (old.map(), new.map());
    let mut key = String::new();
    for special in named {
        let values = match special {
            // Clients show it, block by block.
            Special::Everybody => continue,
            Special::Port(_) => {
                let of = |table: &Table| {
                    let rule = table.specials.get(&special).or(table.specials.get(&Special::Everybody));
                    rule.map(|rule| table.records.get(rule.record).to_vec())
                };
                (of(old), of(new))
            }
            Special::Local(ip, port) => (old_map.local((ip, port).into()), new_map.local((ip, port).into())),
        };
        let (before, after) = (outcomes.number(values.0.as_deref()), outcomes.number(values.1.as_deref()));
        if before != after {
            special.key(&mut key);
            write_line(&key, before, after, outcomes, out)?;
            any = true;
        }
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_tool::problem::Problems;
    use crate::access_tool::source::Rules;

    fn table(text: &str) -> Table {
        let mut problems = Problems::default();
        let file = problems.add_file("r".as_ref());
        let mut rules = Rules::default();
        rules.parse(text.as_bytes(), file, &mut problems);
        let table = Table::new(rules, &mut problems);
        assert_eq!(problems.errors(), 0);
        table
    }

    #[test]
    fn changes_are_told_in_the_fewest_blocks() {
        for (old, new, expected) in [
            ("", "", ""),
            ("", "10 allow", ""),
            ("10 deny", "10.0.0.0/9 deny\n10.128.0.0/9 deny", ""),
            ("10 allow,A=1,B=2", "10 allow,B=2,A=\"1\"", ""),
            ("10 deny", "11 deny", "10.0.0.0/8\tdeny\tallow\n11.0.0.0/8\tallow\tdeny\n"),
            (
                "",
                "192.0.2.0-192.0.2.6 deny",
                "192.0.2.0/30\tallow\tdeny\n192.0.2.4/31\tallow\tdeny\n192.0.2.6\tallow\tdeny\n",
            ),
            ("10.0.0.0/25 deny", "10.0.0.128/25 deny\n10.0.0.0/25 deny", "10.0.0.128/25\tallow\tdeny\n"),
            ("", "10.0.0.0/25 deny\n10.0.0.128/25 deny", "10.0.0.0/24\tallow\tdeny\n"),
            ("* deny", "* allow,A=1", "0.0.0.0/0\tdeny\tallow,A=1\n::/0\tdeny\tallow,A=1\n"),
            ("* deny\n::/1 allow", "* deny\n8000::/1 allow", "::/1\tallow\tdeny\n8000::/1\tdeny\tallow\n"),
            ("255.255.255.255 deny", "", "255.255.255.255\tdeny\tallow\n"),
            ("0.0.0.0 deny", "", "0.0.0.0\tdeny\tallow\n"),
            ("*.25 deny", "*.26 deny", "*.25\tdeny\tallow\n*.26\tallow\tdeny\n"),
            ("127.0.0.1.25 deny", "127.0.0.1 deny", "127.0.0.1\tallow\tdeny\n"),
            ("127.0.0.1.25 deny", "", "127.0.0.1.25\tdeny\tallow\n"),
        ] {
            let mut out = Vec::new();
            let any = diff(&table(old), &table(new), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{old:?} {new:?}");
            assert_eq!(any, !expected.is_empty());
        }
    }
}

//! Access files of either kind as tables: the sources of `build`, and databases.

#![forbid(unsafe_code)]

use std::path::Path;

use crate::accessdb::{self, AccessDb};
use crate::error::StartError;
use crate::policy::access::Lookup;

use super::place::Place;
use super::problem::{Origin, Problems};
use super::source::{Rule, Rules};
use super::table::Table;

/// A database, or a source without errors.
#[derive(Debug)]
pub struct Loaded {
    pub table: Table,
    /// Records of a database under keys that no lookup asks for.
    pub unreachable: Vec<(Vec<u8>, Vec<u8>)>,
}

/// True if `path` is to be opened as a database.
pub fn is_database(path: &Path) -> bool {
    path != Path::new("-") && (accessdb::has_magic(path) || path.extension().is_some_and(|e| e == "dat"))
}

/// Reads either kind. A source's problems are added to `problems`.
pub fn load(path: &Path, problems: &mut Problems) -> Result<Loaded, StartError> {
    if is_database(path) {
        return database(path, problems);
    }
    let rules = Rules::read(path, problems)?;
    Ok(Loaded { table: Table::new(rules, problems), unreachable: Vec::new() })
}

fn database(path: &Path, problems: &mut Problems) -> Result<Loaded, StartError> {
    let mut db = AccessDb::open(path)?;
    let unreadable = |error| StartError::file(path, "cannot read", error);
    // Nothing will be said of this line: no key of a database is there twice.
    let origin = Origin { file: problems.add_file(path), line: 0 };
    let (mut rules, mut unreachable) = (Rules::default(), Vec::new());
    for key in db.keys().map_err(unreadable)? {
        let Some(value) = db.fetch(&key).map_err(unreadable)? else { continue };
        let place = std::str::from_utf8(&key).ok().and_then(from_key);
        let Some(place) = place else {
            unreachable.push((key, value));
            continue;
        };
        let rule = Rule { record: rules.records.add(&value), origin };
        match place {
            Place::Special(special) => rules.specials.push((special, rule)),
            Place::Span(span) => rules.blocks.extend(span.blocks().map(|block| (block, rule))),
        }
    }
    unreachable.sort();
    Ok(Loaded { table: Table::new(rules, problems), unreachable })
}

/// What the daemon looks `key` up for, if it does: keys are compared byte by byte, so that only
/// the daemon's own spelling counts.
fn from_key(key: &str) -> Option<Place> {
    let place = Place::parse(key).ok()?;
    let mut spelled = String::new();
    match place {
        Place::Special(special) => special.key(&mut spelled),
        Place::Span(span) => span.blocks().next()?.key(&mut spelled)?,
    }
    (spelled == key).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_spelling_of_the_daemon_is_a_key() {
        for (key, good) in [
            ("*", true),
            ("*.25", true),
            ("10", true),
            ("10.0.0.1", true),
            ("10.0.0.1.25", true),
            (":2001:0db8", true),
            (":2001:0db8:0000:0000:0000:0000:0000:0001.25", true),
            ("10/8", false),
            ("10.0.0.0/8", false),
            ("10.0.0.1-10.0.0.1", false),
            ("2001:db8::1", false),
            ("2001:db8::1.25", false),
            (" 10", false),
            ("x", false),
        ] {
            assert_eq!(from_key(key).is_some(), good, "{key}");
        }
    }
}

//! Reads the text that access files are made from: a file, a directory of files, standard input.
//!
//! A line is `ADDRESSES`, blanks, and a record; what is wrong goes to [`Problems`] and the reading
//! goes on, so that one run shows all of it. What lines mean together is the table's affair.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::StartError;
use crate::log::Escaped;

use super::place::{Block, Place, Special};
use super::problem::{Origin, Problems, Severity};
use super::record;

/// Most keys that lines which need more than one may come to, all together. Beyond it a few lines
/// have become a file that nobody can handle.
pub const MOST_EXPANDED_KEYS: u64 = 1_000_000;

/// Where a record stands in [`Records`].
pub type RecordId = u32;

/// The texts of all records, each once.
#[derive(Debug, Default)]
pub struct Records {
    texts: Vec<Box<[u8]>>,
    ids: HashMap<Box<[u8]>, RecordId>,
}

impl Records {
    pub fn get(&self, id: RecordId) -> &[u8] {
        &self.texts[id as usize]
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    fn known(&self, text: &[u8]) -> Option<RecordId> {
        self.ids.get(text).copied()
    }

    pub fn add(&mut self, text: &[u8]) -> RecordId {
        if let Some(id) = self.known(text) {
            return id;
        }
        let id = self.texts.len() as RecordId;
        self.texts.push(text.into());
        self.ids.insert(text.into(), id);
        id
    }
}

/// What a source says, line by line. A line may come to several blocks.
#[derive(Debug, Default)]
pub struct Rules {
    pub records: Records,
    pub blocks: Vec<(Block, Rule)>,
    pub specials: Vec<(Special, Rule)>,
    /// For each record: it has neither errors nor warnings, and need not be looked at again.
    flawless: Vec<bool>,
    /// Keys that the lines read so far need, of those lines that need more than one.
    expanded: u64,
}

/// The record of a line, and the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub record: RecordId,
    pub origin: Origin,
}

impl Rules {
    /// Reads `source`: a file, a directory, or `-`.
    pub fn read(source: &Path, problems: &mut Problems) -> Result<Rules, StartError> {
        let mut rules = Rules::default();
        for path in files(source, is_left_out)? {
            let file = problems.add_file(&path);
            rules.parse(&read_all(&path)?, file, problems);
        }
        Ok(rules)
    }

    /// Reads the text of one file.
    pub fn parse(&mut self, text: &[u8], file: u32, problems: &mut Problems) {
        for (line, number) in text.split(|&b| b == b'\n').zip(1..) {
            self.line(line.trim_ascii(), Origin { file, line: number }, problems);
        }
    }

    fn line(&mut self, line: &[u8], origin: Origin, problems: &mut Problems) {
        if line.is_empty() || line[0] == b'#' {
            return;
        }
        let line = match comment_start(line) {
            Some(at) => {
                if line[..at].contains(&b'=') && line.get(at + 1).is_some_and(|b| !b.is_ascii_whitespace()) {
                    let text = "a comment begins at the #; if it is part of a value, put the value in quotes";
                    problems.add(origin, Severity::Warning, text.to_owned());
                }
                line[..at].trim_ascii_end()
            }
            None => line,
        };
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (address, record) = (&line[..end], line[end..].trim_ascii_start());
        let shown = Escaped(address);
        let known = self.records.known(record).filter(|&id| self.flawless[id as usize]);
        let (mut usable, mut flawless) = (true, true);
        if known.is_none() {
            record::check(record, |severity, text| {
                flawless = false;
                usable &= severity == Severity::Warning;
                problems.add(origin, severity, format!("{shown}: {text}"));
            });
        }
        let place = match std::str::from_utf8(address).map_err(|_| "bad address".to_owned()).and_then(Place::parse) {
            Ok(place) => place,
            Err(text) => return problems.add(origin, Severity::Error, format!("{shown}: {text}")),
        };
        if usable {
            let record = self.records.add(record);
            self.flawless.resize(self.records.len(), flawless);
            self.add(place, Rule { record, origin }, shown, problems);
        }
    }

    fn add(&mut self, place: Place, rule: Rule, shown: Escaped<'_>, problems: &mut Problems) {
        let span = match place {
            Place::Special(special) => return self.specials.push((special, rule)),
            Place::Span(span) => span,
        };
        let keys: u64 = span.blocks().map(Block::keys).sum();
        if keys > 1 {
            let before = self.expanded;
            self.expanded += keys;
            if self.expanded > MOST_EXPANDED_KEYS {
                if before <= MOST_EXPANDED_KEYS {
                    let text = format!(
                        "{shown}: this block needs {keys} keys, and all blocks so far {}: more than {MOST_EXPANDED_KEYS}",
                        self.expanded
                    );
                    problems.add(rule.origin, Severity::Error, text);
                }
                return;
            }
        }
        self.blocks.extend(span.blocks().map(|block| (block, rule)));
    }
}

/// Where a comment begins: at a `#` outside of quotes with a blank before it.
pub fn comment_start(line: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut before = b' ';
    line.iter().position(|&byte| {
        let found = quote.is_none() && byte == b'#' && before.is_ascii_whitespace();
        match quote {
            None if byte == b'"' || byte == b'\'' => quote = Some(byte),
            Some(open) if open == byte => quote = None,
            _ => {}
        }
        before = byte;
        found
    })
}

/// What lies in a directory of rules without being one: hidden files, backups of editors, and
/// what package managers leave beside a file that was changed.
fn is_left_out(name: &[u8]) -> bool {
    let contains = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    name.starts_with(b".") || name.ends_with(b"~") || contains(b".dpkg-") || contains(b".rpm")
}

/// The files of `source`: itself, or those in it by name.
pub fn files(source: &Path, left_out: impl Fn(&[u8]) -> bool) -> Result<Vec<PathBuf>, StartError> {
    use std::os::unix::ffi::OsStrExt;
    if !source.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let unreadable = |error| StartError::file(source, "cannot read", error);
    let mut files = Vec::new();
    for entry in fs::read_dir(source).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        // Through symbolic links, so that a shared file can be linked in.
        if !left_out(entry.file_name().as_bytes()) && fs::metadata(&path).is_ok_and(|m| m.is_file()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The bytes of a file, or of standard input for `-`.
pub fn read_all(path: &Path) -> Result<Vec<u8>, StartError> {
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        io::stdin().lock().read_to_end(&mut text).map(|_| text)
    } else {
        fs::read(path)
    };
    text.map_err(|error| StartError::file(path, "cannot read", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Rules, String) {
        let mut problems = Problems::default();
        let mut rules = Rules::default();
        let file = problems.add_file(Path::new("rules"));
        rules.parse(text.as_bytes(), file, &mut problems);
        let mut out = Vec::new();
        problems.print(&mut out).unwrap();
        (rules, String::from_utf8(out).unwrap())
    }

    #[test]
    fn lines_comments_and_blanks() {
        let text = "# all of it\n\n10\tdeny\r\n  192.0.2.1   allow,A=\"x # y\"   # why\n*\tallow";
        let (rules, problems) = read(text);
        assert_eq!(problems, "");
        assert_eq!(rules.blocks.len(), 2);
        assert_eq!(rules.records.get(rules.blocks[1].1.record), b"allow,A=\"x # y\"");
        assert_eq!(rules.specials.len(), 1);
        assert_eq!(rules.specials[0].1.origin.line, 5);
    }

    #[test]
    fn all_mistakes_of_all_lines_are_told() {
        let (rules, problems) =
            read("x\tdeny\n10\n10 maybe\n10.0.0.1/24 yes\n11 allow,A=550 room #5\n12\tallow,B = 1\n13\tallow,B = 1\n");
        let lines: Vec<_> = problems.lines().collect();
        for (line, expected) in lines.iter().zip([
            "rules:1: error: x: bad address",
            "rules:2: error: 10: neither deny nor allow",
            "rules:3: error: 10: unknown word maybe",
            "rules:4: error: 10.0.0.1/24: unknown word yes",
            "rules:4: error: 10.0.0.1/24: host bits are set: the block is 10.0.0.0/24",
            "rules:5: warning: a comment begins",
            "rules:6: warning: 12: the blanks around =",
            "rules:7: warning: 13: the blanks around =",
        ]) {
            assert!(line.starts_with(expected), "{line}");
        }
        assert_eq!(lines.len(), 8);
        assert_eq!(rules.blocks.len(), 3);
    }

    #[test]
    fn the_line_that_makes_too_many_keys_is_named_once() {
        let text: String = (0..40).map(|i| format!("3{:03x}::/17 deny\n", i * 16)).collect();
        let (_, problems) = read(&text);
        assert!(problems.starts_with("rules:31: error: 3"), "{problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }

    #[test]
    fn names_that_are_no_rules() {
        for (name, left_out) in
            [("a", false), (".a", true), ("a~", true), ("a.dpkg-new", true), ("a.rpmsave", true), ("a.conf", false)]
        {
            assert_eq!(is_left_out(name.as_bytes()), left_out, "{name}");
        }
    }
}

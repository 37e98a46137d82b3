//! What a daemon says while a call fails, next to what it says if none does.

use std::collections::BTreeMap;

/// Lines, and how often each is said. Numbers are not told apart: addresses, processes and times are
/// others in each run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines(BTreeMap<String, usize>);

impl Lines {
    pub fn of(text: &str) -> Lines {
        let mut lines = Lines::default();
        for line in text.lines() {
            *lines.0.entry(without_numbers(line)).or_default() += 1;
        }
        lines
    }

    /// Each as often as in the one where it is oftener.
    pub fn or(mut self, other: Lines) -> Lines {
        for (line, count) in other.0 {
            let ours = self.0.entry(line).or_default();
            *ours = count.max(*ours);
        }
        self
    }

    /// What is here beyond what is in `usual`.
    pub fn beyond(&self, usual: &Lines) -> Lines {
        let beyond = self.0.iter().filter_map(|(line, count)| {
            let more = count.saturating_sub(usual.0.get(line).copied().unwrap_or(0));
            (more > 0).then(|| (line.clone(), more))
        });
        Lines(beyond.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many different ones.
    pub fn kinds(&self) -> usize {
        self.0.len()
    }

    /// One that is said again and again.
    pub fn repeated(&self) -> Option<&str> {
        self.0.iter().find(|(_, count)| **count > 1).map(|(line, _)| line.as_str())
    }
}

fn without_numbers(line: &str) -> String {
    // The same message, of which some were held back before.
    let line = match line.rsplit_once(" (") {
        Some((line, rest)) if rest.ends_with(" more since the last such message)") => line,
        _ => line,
    };
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        match c.is_ascii_digit() {
            false => text.push(c),
            true if text.ends_with('N') => {}
            true => text.push('N'),
        }
    }
    text
}

#[test]
fn lines_are_compared_without_their_numbers() {
    let usual = Lines::of("WARN: dropped blocked connection from ::ffff:127.1.2.3\n")
        .or(Lines::of("ERR: logger ended with signal 9; next start in 1 s\n"));
    let text = "WARN: dropped blocked connection from ::ffff:127.16.200.44\nWARN: DNS lookup failed: 12\n";
    let beyond = Lines::of(text).beyond(&usual);
    assert_eq!((beyond.kinds(), beyond.repeated()), (1, None));
    let again = format!("{text}WARN: DNS lookup failed: 7 (3 more since the last such message)\n");
    assert_eq!(Lines::of(&again).beyond(&usual).repeated(), Some("WARN: DNS lookup failed: N"));
    assert!(Lines::of("WARN: dropped blocked connection from ::ffff:127.9.9.9\n").beyond(&usual).is_empty());
}

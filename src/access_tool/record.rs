//! The right column of a source: `deny`, `allow`, `allow,NAME=VALUE,…`.
//!
//! The daemon takes every record, this room does not: it finds what was hardly meant. What passes
//! reads the same in the daemon and in the original. Also writes records back as text. Pure.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use crate::log::{Escaped, Whole};
use crate::policy::access::{Record, Variable, assignments};

use super::problem::Severity;

/// Tells `problem` all that is wrong with the text of a record.
pub fn check(text: &[u8], mut problem: impl FnMut(Severity, String)) {
    if text == b"deny" || text == b"allow" {
        return;
    }
    let word_end = text.iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (word, rest) = text.split_at(word_end);
    match (word, rest.first()) {
        (b"allow", Some(b',')) => {}
        (b"allow", Some(_)) => return problem(Severity::Error, "a comma must follow allow".to_owned()),
        (b"deny", Some(_)) => {
            return problem(Severity::Error, "nothing may follow deny: a refused client has no variables".to_owned());
        }
        _ if text.is_empty() => return problem(Severity::Error, "neither deny nor allow".to_owned()),
        _ => {
            let word = if word.is_empty() { text } else { word };
            return problem(Severity::Error, format!("unknown word {}: write deny or allow", Escaped(word)));
        }
    }
    if text.contains(&0) {
        problem(Severity::Error, "a record cannot hold a NUL".to_owned());
    }
    if open_quote(text) {
        problem(Severity::Error, "a quote is not closed".to_owned());
    }
    for assignment in assignments(text) {
        check_assignment(assignment, &mut problem);
    }
}

fn check_assignment(text: &[u8], problem: &mut impl FnMut(Severity, String)) {
    let Some(Variable { name, value }) = Variable::parse(text) else {
        let nameless = text.contains(&b'=');
        let (severity, what) = if nameless {
            (Severity::Error, "a variable without a name")
        } else {
            (Severity::Warning, "an empty assignment sets nothing here, and a variable without a name in the original")
        };
        return problem(severity, what.to_owned());
    };
    let trimmed = name.trim_ascii_end();
    if !is_name(trimmed) {
        problem(Severity::Error, format!("{} cannot be the name of a variable", Escaped(trimmed)));
    } else if trimmed.len() != name.len() || value.first().is_some_and(|b| b.is_ascii_whitespace()) {
        let name = String::from_utf8_lossy(trimmed);
        problem(Severity::Warning, format!("the blanks around = belong to the name and the value of {name}"));
    }
}

/// A name as the shell has it: others reach the program, but hardly anything can use them.
pub fn is_name(name: &[u8]) -> bool {
    name.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

fn open_quote(text: &[u8]) -> bool {
    let mut quote = None;
    for &byte in text {
        match quote {
            None if byte == b'"' || byte == b'\'' => quote = Some(byte),
            Some(open) if open == byte => quote = None,
            _ => {}
        }
    }
    quote.is_some()
}

/// A record as text that `build` takes, and what of it no text can say.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    pub record: Vec<u8>,
    /// Variables left out, for a comment.
    pub lost: Vec<String>,
}

/// The text of a stored value: as it stands if `build` would take it without an error.
pub fn text(value: &[u8]) -> Text {
    let mut good = !value.contains(&b'\n') && !value.trim_ascii().is_empty() && value.trim_ascii() == value;
    check(value, |severity, _| good &= severity != Severity::Error);
    if good && super::source::comment_start(value).is_none() {
        return Text { record: value.to_vec(), lost: Vec::new() };
    }
    canonical(&Record::parse(value))
}

/// A record in its plainest words. Of variables set twice the last is written.
pub fn canonical(record: &Record) -> Text {
    let Record::Allow(variables) = record else {
        return Text { record: b"deny".to_vec(), lost: Vec::new() };
    };
    let mut text = Text { record: b"allow".to_vec(), lost: Vec::new() };
    for (i, variable) in variables.iter().enumerate() {
        if variables[i + 1..].iter().any(|later| later.name == variable.name) {
            continue;
        }
        if !is_name(&variable.name) || variable.value.contains(&b'\n') {
            let mut lost = String::new();
            let _ = write!(lost, "{}={}", Whole(&variable.name), Whole(&variable.value));
            text.lost.push(lost);
            continue;
        }
        text.record.push(b',');
        text.record.extend_from_slice(&variable.name);
        if !variable.value.is_empty() {
            text.record.push(b'=');
            quote(&variable.value, &mut text.record);
        }
    }
    text
}

/// Writes `value` so that commas, quotes and `#` in it are themselves.
fn quote(value: &[u8], out: &mut Vec<u8>) {
    if !value.iter().any(|b| b",'\"#".contains(b)) {
        return out.extend_from_slice(value);
    }
    for run in value.chunk_by(|a, b| (*a == b'"') == (*b == b'"')) {
        let mark = if run[0] == b'"' { b'\'' } else { b'"' };
        out.push(mark);
        out.extend_from_slice(run);
        out.push(mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &[u8]) -> String {
        let mut all = Vec::new();
        check(text, |severity, text| all.push(format!("{severity}: {text}")));
        all.join("; ")
    }

    #[test]
    fn good_records_have_no_problems() {
        for text in
            ["deny", "allow", "allow,A", "allow,A=1,B_2=x y", "allow,A=\"x,y\",B='\"'", "allow,A==", "allow, A=1"]
        {
            assert_eq!(problems(text.as_bytes()), "", "{text}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, expected) in [
            ("", "error: neither deny"),
            ("DENY", "error: unknown word DENY"),
            ("Allow,A=1", "error: unknown word Allow"),
            ("ok", "error: unknown word ok"),
            ("A=1", "error: unknown word A"),
            ("denyX", "error: unknown word denyX"),
            ("deny,A=1", "error: nothing may follow deny"),
            ("deny # x", "error: nothing may follow deny"),
            ("allow A=1", "error: a comma must follow allow"),
            ("allow,=x", "error: a variable without a name"),
            ("allow,1A=x", "error: 1A cannot be the name"),
            ("allow,A B=x", "error: A B cannot be the name"),
            ("allow,A-B", "error: A-B cannot be the name"),
            ("allow,A=\"x", "error: a quote is not closed"),
            ("allow,A='x,B=1", "error: a quote is not closed"),
            ("allow,A = 1", "warning: the blanks around = belong"),
            ("allow,A= 1", "warning: the blanks around = belong"),
            ("allow,,A=1", "warning: an empty assignment"),
            ("allow,A=x\0", "error: a record cannot hold a NUL"),
        ] {
            let got = problems(text.as_bytes());
            assert!(got.starts_with(expected), "{text}: {got}");
        }
    }

    #[test]
    fn what_a_database_holds_becomes_text_that_means_the_same() {
        for (value, expected) in [
            (&b"deny"[..], "deny"),
            (b"DENY", "deny"),
            (b"denyX", "deny"),
            (b"", "allow"),
            (b"A=1", "allow,A=1"),
            (b"allow A=1", "allow,A=1"),
            (b"allow,A='x,y'", "allow,A='x,y'"),
            (b"A='x,y'", "allow,A=\"x,y\""),
            (b"A='say \"hi\", no'", "allow,A=\"say \"'\"'\"hi\"'\"'\", no\""),
            (b"A=1,B=2,A=3", "allow,B=2,A=3"),
            (b"allow,A=550 room #5", "allow,A=\"550 room #5\""),
        ] {
            let text = text(value);
            assert_eq!(String::from_utf8_lossy(&text.record), expected);
            assert!(text.lost.is_empty());
            assert_eq!(problems(&text.record), "");
            let last_ones = |value: &[u8]| canonical(&Record::parse(value));
            assert_eq!(last_ones(&text.record), last_ones(value), "{}", value.escape_ascii());
        }
        assert_eq!(text(b"1"), Text { record: b"allow".to_vec(), lost: vec!["1=".to_owned()] });
        assert_eq!(text(b"allow,A=x\ny,B").lost.len(), 1);
    }
}

//! Text from outside, made fit for a line: host names, ident replies, TXT records, PROXY headers.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

/// As much as is shown of one text. A host name has at most 253 bytes.
const SHOWN_MAX: usize = 255;

/// Printable ASCII as it is, a backslash doubled, every other byte as `\xNN`. What is longer than
/// 255 bytes is cut, with `...` behind it.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_cut(f, self.0, |_| false)
    }
}

/// [`Escaped`], however long it is: for those who have asked to see it.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'a>(pub &'a [u8]);

impl fmt::Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, |_| false)
    }
}

/// The value of a `key=value` field: bare if it is made of letters, digits and `. _ - : / @ + %`,
/// else in double quotes, where it is [`Escaped`] and a double quote is `\x22`. A text that is
/// just `-` is quoted too, since a bare one means that there is no value; so does `None`.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a>(pub Option<&'a [u8]>);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_char('-'),
            Some(text) => {
                let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-:/@+%".contains(b);
                if !text.is_empty() && text != b"-" && text.len() <= SHOWN_MAX && text.iter().all(plain) {
                    return write_cut(f, text, |_| false);
                }
                f.write_char('"')?;
                write_cut(f, text, |byte| byte == b'"')?;
                f.write_char('"')
            }
        }
    }
}

fn write_cut(f: &mut fmt::Formatter<'_>, text: &[u8], also: impl Fn(u8) -> bool) -> fmt::Result {
    write_escaped(f, &text[..text.len().min(SHOWN_MAX)], also)?;
    if text.len() > SHOWN_MAX { f.write_str("...") } else { Ok(()) }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &[u8], also: impl Fn(u8) -> bool) -> fmt::Result {
    for &byte in text {
        match byte {
            b'\\' => f.write_str("\\\\")?,
            b' '..=b'~' if !also(byte) => f.write_char(char::from(byte))?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_plain_text_are_written_in_hex() {
        for (text, expected) in [
            (&b"mx.example.org"[..], "mx.example.org"),
            (b"a b\"=", "a b\"="),
            (b"one\r\ntwo\0\x1b[1m\x7f", "one\\x0d\\x0atwo\\x00\\x1b[1m\\x7f"),
            (b"C:\\x41", "C:\\\\x41"),
            ("\u{fc}".as_bytes(), "\\xc3\\xbc"),
            (b"", ""),
        ] {
            assert_eq!(Escaped(text).to_string(), expected);
        }
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(Escaped(&[b'a'; 255]).to_string(), "a".repeat(255));
        assert_eq!(Escaped(&[b'a'; 256]).to_string(), "a".repeat(255) + "...");
        assert_eq!(Value(Some(&[b'a'; 256])).to_string(), format!("\"{}...\"", "a".repeat(255)));
        assert_eq!(Escaped(&[b'\n'; 1000]).to_string().len(), 255 * 4 + 3);
        assert_eq!(Whole(&[b'\n'; 1000]).to_string(), "\\x0a".repeat(1000));
    }

    #[test]
    fn a_value_cannot_leave_its_field() {
        for (text, expected) in [
            (None, "-"),
            (Some(&b"-"[..]), "\"-\""),
            (Some(b""), "\"\""),
            (Some(b"mx.example.org"), "mx.example.org"),
            (Some(b"::ffff:192.0.2.1"), "::ffff:192.0.2.1"),
            (Some(b"a decision=served"), "\"a decision=served\""),
            (Some(b"a\" decision=\"served"), "\"a\\x22 decision=\\x22served\""),
            (Some(b"tail\\"), "\"tail\\\\\""),
            (Some(b"a=b"), "\"a=b\""),
            (Some(b"a\nERR: b"), "\"a\\x0aERR: b\""),
        ] {
            assert_eq!(Value(text).to_string(), expected);
        }
    }
}

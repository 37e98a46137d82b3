//! What an ident server's answer says (RFC 1413).
//!
//! Pure: bytes in, one of three words out. `ident::Ident` reads the bytes and calls [`parse`] each
//! time more have come. Only the first line counts, whatever follows it; a line without its end is
//! no answer, since nobody knows what is missing. What comes out is safe to put into an
//! environment: bounded and without control characters.

#![forbid(unsafe_code)]

use crate::text::printable;

/// The longest line looked at, without its line end.
pub const MAX_LINE: usize = 1000;

/// Bytes that a line of [`MAX_LINE`] takes with its CR and LF: nobody needs to read more.
pub const MAX_READ: usize = MAX_LINE + 2;

/// The ports a question named and its answer must repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The client's port, at the host that is asked.
    pub remote: u16,
    /// Our port, at the host that asks.
    pub local: u16,
}

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The first line has not ended yet.
    Incomplete,
    /// A `USERID` answer. The user id may be empty: the server said so.
    User(Vec<u8>),
    /// Any other answer, or none that could be read as one.
    Nobody,
}

/// Reads the first line of `bytes`: `REMOTE , LOCAL : USERID : TYPE : USER`.
pub fn parse(bytes: &[u8], ports: Ports) -> Reply {
    let Some(end) = bytes.iter().take(MAX_READ).position(|&b| b == b'\n') else {
        return if bytes.len() < MAX_READ { Reply::Incomplete } else { Reply::Nobody };
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    if line.len() > MAX_LINE {
        return Reply::Nobody;
    }
    // The user id is all after the third colon: it may hold colons itself. The type before it
    // ("UNIX", "OTHER", "UNIX, UTF-8") tells nothing that matters here.
    let mut fields = line.splitn(4, |&b| b == b':');
    match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(pair), Some(kind), Some(_), Some(user)) if is_pair(pair, ports) && trim(kind) == b"USERID" => {
            Reply::User(printable(trim_start(user)))
        }
        _ => Reply::Nobody,
    }
}

/// True if `text` is our pair of ports, with blanks wherever the server likes them.
fn is_pair(text: &[u8], ports: Ports) -> bool {
    let mut numbers = text.split(|&b| b == b',').map(|text| number(trim(text)));
    numbers.next() == Some(Some(ports.remote)) && numbers.next() == Some(Some(ports.local)) && numbers.next().is_none()
}

/// Digits only: `parse` alone would take a sign as well.
fn number(text: &[u8]) -> Option<u16> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim_start(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|b| is_blank(b)).count()..]
}

fn trim(text: &[u8]) -> &[u8] {
    let text = trim_start(text);
    &text[..text.len() - text.iter().rev().take_while(|b| is_blank(b)).count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { remote: 40000, local: 25 };

    fn user(text: &[u8]) -> Reply {
        Reply::User(text.to_vec())
    }

    #[test]
    fn lines_of_servers_are_read() {
        let cases: &[(&str, &[u8], Reply)] = &[
            ("as in the RFC", b"40000, 25 : USERID : UNIX : alice\r\n", user(b"alice")),
            ("no blanks", b"40000,25:USERID:UNIX:alice\r\n", user(b"alice")),
            ("blanks and tabs everywhere", b" 40000 ,\t25\t: \tUSERID\t : UNIX : \t alice\r\n", user(b"alice")),
            ("LF only", b"40000,25:USERID:UNIX:alice\n", user(b"alice")),
            ("type OTHER", b"40000 , 25 : USERID : OTHER : 0123abcd\r\n", user(b"0123abcd")),
            ("type with a character set", b"40000,25 : USERID : UNIX, UTF-8 : \xc3\xa5sa\r\n", user(b"\xc3\xa5sa")),
            ("no type", b"40000,25:USERID::alice\r\n", user(b"alice")),
            ("inner and trailing blanks stay", b"40000,25:USERID:UNIX: a b  \r\n", user(b"a b  ")),
            ("colons in the user id stay", b"40000,25:USERID:UNIX:a:b::c\r\n", user(b"a:b::c")),
            ("empty user id", b"40000,25:USERID:UNIX:  \r\n", user(b"")),
            ("leading zeros", b"040000,0025:USERID:UNIX:alice\r\n", user(b"alice")),
            ("what follows the line is not ours", b"40000,25:USERID:UNIX:a\r\n40000,25:USERID:UNIX:b\r\n", user(b"a")),
            ("error", b"40000,25:ERROR:NO-USER\r\n", Reply::Nobody),
            ("error with more colons", b"40000,25:ERROR:X:alice\r\n", Reply::Nobody),
            ("hidden", b"40000,25:ERROR:HIDDEN-USER\r\n", Reply::Nobody),
            ("lower case", b"40000,25:userid:UNIX:alice\r\n", Reply::Nobody),
            ("too few colons", b"40000,25:USERID:UNIX\r\n", Reply::Nobody),
            ("empty line", b"\r\n", Reply::Nobody),
            ("bad line before the good one", b"hello\r\n40000,25:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("other remote port", b"40001,25:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("other local port", b"40000,26:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("swapped ports", b"25,40000:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("one port", b"40000:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("three ports", b"40000,25,1:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("signs", b"+40000,+25:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("port beyond 16 bits", b"105536,25:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("no ports", b",:USERID:UNIX:alice\r\n", Reply::Nobody),
            ("nothing yet", b"", Reply::Incomplete),
            ("no line end yet", b"40000,25:USERID:UNIX:alice", Reply::Incomplete),
            ("half a line end", b"40000,25:USERID:UNIX:alice\r", Reply::Incomplete),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(parse(bytes, PORTS), *expected, "{name}");
        }
    }

    #[test]
    fn control_characters_become_question_marks() {
        let cases: &[(&str, &[u8], &[u8])] = &[
            ("CR", b"a\rb", b"a?b"),
            ("a CR before CR LF", b"a\r", b"a?"),
            ("NUL", b"a\0b", b"a?b"),
            ("tab inside", b"a\tb", b"a?b"),
            ("escape and delete", b"\x1b[2J\x7f", b"?[2J?"),
            ("C1 in UTF-8", b"a\xc2\x9b2J", b"a?2J"),
            ("C1 as a byte", b"a\x9b2J", b"a?2J"),
            ("Latin-1", b"\xe5sa", b"\xe5sa"),
            ("UTF-8 whose bytes look like C1", "š€".as_bytes(), "š€".as_bytes()),
        ];
        for (name, sent, expected) in cases {
            let line = [b"40000,25:USERID:UNIX:", *sent, b"\r\n"].concat();
            assert_eq!(parse(&line, PORTS), user(expected), "{name}");
        }
    }

    #[test]
    fn a_line_of_a_thousand_bytes_is_the_longest() {
        let line = |length: usize, end: &str| {
            let mut line = b"40000,25:USERID:UNIX:".to_vec();
            line.resize(length, b'x');
            [&line, end.as_bytes()].concat()
        };
        for end in ["\n", "\r\n"] {
            assert_eq!(parse(&line(MAX_LINE, end), PORTS), user(&[b'x'; MAX_LINE - 21]), "{end:?}");
            assert_eq!(parse(&line(MAX_LINE + 1, end), PORTS), Reply::Nobody, "{end:?}");
        }
        assert_eq!(parse(&line(MAX_READ - 1, ""), PORTS), Reply::Incomplete);
        assert_eq!(parse(&line(MAX_READ, ""), PORTS), Reply::Nobody);
        assert_eq!(parse(&line(100_000, "\r\n"), PORTS), Reply::Nobody);
    }

    /// An answer in pieces ends as it does in one, wherever it is cut.
    #[test]
    fn pieces_make_no_difference() {
        let line = b"40000 , 25 : USERID : UNIX : alice\r\n";
        for cut in 0..line.len() {
            assert_eq!(parse(&line[..cut], PORTS), Reply::Incomplete, "{cut}");
        }
        assert_eq!(parse(line, PORTS), user(b"alice"));
    }
}

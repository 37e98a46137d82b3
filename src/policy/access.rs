//! The access file's rules: which keys an address is looked up by, and what a record says.
//!
//! One record is used for a lookup, that of the most specific key: [`Keys`] names the keys in
//! order, [`find`] asks a [`Lookup`] for them, [`Record::parse`] reads what was found, and
//! [`decide`] puts the local and the remote address together. The daemon and `couriertcpd-access`
//! both go through here, so what one shows is what the other does. Where the database lies and
//! what its errors are is the backend's affair; a test uses a map.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::env::Delta;
use crate::addr;

/// Where records are kept. "No such key" is `Ok(None)`; an error means that nobody knows.
pub trait Lookup {
    type Error;

    fn fetch(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// The key that every address is looked up by last.
pub const EVERYBODY: &str = "*";

/// Room for the longest key: eight words of an IPv6 address and a port.
const LONGEST_KEY: usize = 8 * 5 + ".65535".len();

/// The keys of one lookup, the most specific first. One buffer serves them all.
#[derive(Debug, Clone)]
pub struct Keys {
    text: String,
    /// Set for the local address.
    port: Option<u16>,
    next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// `text` is the key, as it stands.
    AsWritten,
    /// `text` without its last part.
    Shorter,
    EverybodyAtPort,
    Everybody,
    End,
}

impl Keys {
    /// For the client's address: the address, its prefixes by whole octets or words, `*`.
    pub fn remote(ip: IpAddr) -> Self {
        let ip = addr::fold(ip);
        let mut text = String::with_capacity(LONGEST_KEY);
        addr::access_key(ip, addr::key_parts(ip), &mut text);
        Keys { text, port: None, next: Next::AsWritten }
    }

    /// For our own end of the connection (`-accesslocal`): `ADDRESS.PORT`, the address and its
    /// prefixes, `*.PORT`, `*`. No prefix is tried with the port.
    pub fn local(address: SocketAddr) -> Self {
        let mut keys = Keys::remote(address.ip());
        keys.port = Some(address.port());
        let _ = write!(keys.text, ".{}", address.port());
        keys
    }

    /// The next key to try. Not an `Iterator`, because each key is written over the last.
    pub fn next_key(&mut self) -> Option<&str> {
        match self.next {
            Next::AsWritten => self.next = Next::Shorter,
            Next::Shorter => match self.text.rfind(['.', ':']) {
                Some(at) if at > 0 => self.text.truncate(at),
                _ => {
                    self.next = if self.port.is_some() { Next::EverybodyAtPort } else { Next::Everybody };
                    return self.next_key();
                }
            },
            Next::EverybodyAtPort => {
                self.next = Next::Everybody;
                self.text.clear();
                let _ = write!(self.text, "{EVERYBODY}.{}", self.port.unwrap_or_default());
            }
            Next::Everybody => {
                self.next = Next::End;
                self.text.clear();
                self.text.push_str(EVERYBODY);
            }
            Next::End => return None,
        }
        Some(&self.text)
    }
}

/// A record, and the key that it stands under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub key: String,
    pub value: Vec<u8>,
}

/// Looks `keys` up until one has a record. `missed` is told every key that has none, in order.
pub fn find<L: Lookup>(db: &mut L, mut keys: Keys, mut missed: impl FnMut(&str)) -> Result<Option<Found>, L::Error> {
    while let Some(key) = keys.next_key() {
        match db.fetch(key.as_bytes())? {
            Some(value) => return Ok(Some(Found { key: keys.text, value })),
            None => missed(key),
        }
    }
    Ok(None)
}

/// `NAME=VALUE` of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Deny,
    /// The variables in the order written; a later one of the same name counts.
    Allow(Vec<Variable>),
}

const DENY: &[u8] = b"deny";
const ALLOW: &[u8] = b"allow";

impl Record {
    /// Reads a record. There is no bad one: what does not begin with `deny` lets the client in.
    /// The plain `deny` and `allow` allocate nothing.
    pub fn parse(value: &[u8]) -> Record {
        if value.get(..DENY.len()).is_some_and(|word| word.eq_ignore_ascii_case(DENY)) {
            return Record::Deny;
        }
        Record::Allow(assignments(value).filter_map(Variable::parse).collect())
    }
}

/// The text between the separating commas, behind the optional `allow` and its comma. A NUL ends
/// the record, since neither the original nor the environment can hold one.
pub(crate) fn assignments(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let until_nul = value.split(|&b| b == 0).next().unwrap_or_default();
    let rest = until_nul.strip_prefix(ALLOW).unwrap_or(until_nul);
    let rest = rest.strip_prefix(b",").unwrap_or(rest);
    let mut rest = (!rest.is_empty()).then_some(rest);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut quote = None;
        let end = text.iter().position(|&b| {
            step_quote(&mut quote, b);
            quote.is_none() && b == b','
        });
        rest = end.map(|end| &text[end + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

/// Follows quotes through a text: inside one kind, the other is an ordinary character. An
/// unclosed quote runs to the end. True if `byte` is a quote that opens or closes.
fn step_quote(quote: &mut Option<u8>, byte: u8) -> bool {
    match *quote {
        None if byte == b'"' || byte == b'\'' => *quote = Some(byte),
        Some(open) if open == byte => *quote = None,
        _ => return false,
    }
    true
}

/// Blanks as C's isspace has them in the C locale; `u8::is_ascii_whitespace` lacks the vertical tab.
fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

impl Variable {
    /// None for an empty assignment, and for one without a name, which no environment can hold.
    pub(crate) fn parse(text: &[u8]) -> Option<Variable> {
        let mut quote = None;
        let mut plain: Vec<u8> = text.iter().copied().filter(|&b| !step_quote(&mut quote, b)).collect();
        // Blanks go after the quotes: those at the ends go even if they were quoted.
        let end = plain.iter().rposition(|&b| !is_blank(b))? + 1;
        plain.truncate(end);
        let start = plain.iter().position(|&b| !is_blank(b))?;
        plain.drain(..start);
        let (name, value) = match plain.iter().position(|&b| b == b'=') {
            Some(at) => (plain[..at].to_vec(), plain[at + 1..].to_vec()),
            None => (plain, Vec::new()),
        };
        (!name.is_empty()).then_some(Variable { name, value })
    }
}

/// Which end of the connection a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Remote,
    Local,
}

/// What the access file says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Admitted,
    /// By the record of this end's address.
    Refused(End),
}

/// Looks the client's address up and, with `-accesslocal`, our own; either can refuse. The
/// variables go to `delta`, the local ones first, so that the remote ones override them.
///
/// An error is for the caller to take as a refusal: a listed client must not slip in.
pub fn decide<L: Lookup>(
    db: &mut L,
    remote: IpAddr,
    local: Option<SocketAddr>,
    delta: &mut Delta,
) -> Result<Access, L::Error> {
    decide_step_by_step(db, remote, local, delta, |_, _| {})
}

/// A step of [`decide`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// This key has no record.
    Missed(&'a str),
    /// The record that counts.
    Found(&'a Found),
    /// No key had one.
    Nothing,
}

/// [`decide`], telling `observer` each step.
pub fn decide_step_by_step<L: Lookup>(
    db: &mut L,
    remote: IpAddr,
    local: Option<SocketAddr>,
    delta: &mut Delta,
    mut observer: impl FnMut(End, Step<'_>),
) -> Result<Access, L::Error> {
    let lookups = local.map(|local| (End::Local, Keys::local(local)));
    for (end, keys) in lookups.into_iter().chain([(End::Remote, Keys::remote(remote))]) {
        let Some(found) = find(db, keys, |key| observer(end, Step::Missed(key)))? else {
            observer(end, Step::Nothing);
            continue;
        };
        observer(end, Step::Found(&found));
        match Record::parse(&found.value) {
            Record::Deny => return Ok(Access::Refused(end)),
            Record::Allow(variables) => {
                for variable in &variables {
                    delta.set(&variable.name, &variable.value);
                }
            }
        }
    }
    Ok(Access::Admitted)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A map as a backend; the key `broken` cannot be read.
    struct Map(HashMap<&'static str, &'static str>);

    impl Map {
        fn new<const N: usize>(records: [(&'static str, &'static str); N]) -> Self {
            Map(records.into())
        }
    }

    impl Lookup for Map {
        type Error = ();

        fn fetch(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, ()> {
            let value = self.0.get(std::str::from_utf8(key).unwrap());
            if value == Some(&"broken") { Err(()) } else { Ok(value.map(|v| v.as_bytes().to_vec())) }
        }
    }

    fn all(mut keys: Keys) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(key) = keys.next_key() {
            all.push(key.to_owned());
        }
        all
    }

    fn remote(ip: &str) -> Vec<String> {
        all(Keys::remote(ip.parse().unwrap()))
    }

    #[test]
    fn keys_go_from_the_whole_address_to_everybody() {
        let v4 = ["192.0.2.1", "192.0.2", "192.0", "192", "*"];
        assert_eq!(remote("192.0.2.1"), v4);
        assert_eq!(remote("::ffff:192.0.2.1"), v4);
        assert_eq!(
            remote("2001:db8::1"),
            [
                ":2001:0db8:0000:0000:0000:0000:0000:0001",
                ":2001:0db8:0000:0000:0000:0000:0000",
                ":2001:0db8:0000:0000:0000:0000",
                ":2001:0db8:0000:0000:0000",
                ":2001:0db8:0000:0000",
                ":2001:0db8:0000",
                ":2001:0db8",
                ":2001",
                "*"
            ]
        );
    }

    #[test]
    fn local_keys_have_the_port_at_the_whole_address_and_at_the_star() {
        assert_eq!(
            all(Keys::local("192.0.2.1:25".parse().unwrap())),
            ["192.0.2.1.25", "192.0.2.1", "192.0.2", "192.0", "192", "*.25", "*"]
        );
        assert_eq!(
            all(Keys::local("[::ffff:10.0.0.1]:65535".parse().unwrap())),
            ["10.0.0.1.65535", "10.0.0.1", "10.0.0", "10.0", "10", "*.65535", "*"]
        );
        let v6 = all(Keys::local("[fe80::1]:993".parse().unwrap()));
        assert_eq!(v6.len(), 11);
        assert_eq!(v6[0], ":fe80:0000:0000:0000:0000:0000:0000:0001.993");
        assert_eq!(v6[1], ":fe80:0000:0000:0000:0000:0000:0000:0001");
        assert_eq!(v6[8..], [":fe80", "*.993", "*"]);
    }

    #[test]
    fn the_longest_key_needs_no_second_allocation() {
        let mut keys = Keys::local("[2001:db8::1]:65535".parse().unwrap());
        assert_eq!(keys.next_key().map(str::len), Some(LONGEST_KEY));
        assert_eq!(keys.text.capacity(), LONGEST_KEY);
    }

    #[test]
    fn the_most_specific_record_is_found_and_the_misses_are_told() {
        let mut db = Map::new([("10", "a"), ("10.1", "b"), ("*", "c")]);
        let mut missed = Vec::new();
        let keys = Keys::remote("10.1.2.3".parse().unwrap());
        let found = find(&mut db, keys, |key| missed.push(key.to_owned())).unwrap().unwrap();
        assert_eq!((found.key.as_str(), found.value.as_slice()), ("10.1", &b"b"[..]));
        assert_eq!(missed, ["10.1.2.3", "10.1.2"]);
    }

    /// The outcome as one line: `deny`, or the variables as `NAME=VALUE` joined by `|`.
    fn read(value: &[u8]) -> String {
        match Record::parse(value) {
            Record::Deny => "deny".to_owned(),
            Record::Allow(variables) => variables
                .iter()
                .map(|v| format!("{}={}", v.name.escape_ascii(), v.value.escape_ascii()))
                .collect::<Vec<_>>()
                .join("|"),
        }
    }

    /// Every row was seen at the original 1.0.16, except those of `differs` below.
    #[test]
    fn records_read_as_the_original_reads_them() {
        let rows: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"deny", "deny"),
            (b"denyX", "deny"),
            (b"deny,A=1", "deny"),
            (b"deny\0", "deny"),
            (b"den", "den="),
            (b" deny", "deny="),
            (b"\"deny\"", "deny="),
            (b"allow", ""),
            (b"allow,A=1", "A=1"),
            (b"allow A=1", "A=1"),
            (b"allow\tA=1", "A=1"),
            (b"allowX,A=1", "X=|A=1"),
            (b"allow:A=1", ":A=1"),
            (b" allow,A=1", "allow=|A=1"),
            (b"ALLOW,A=1", "ALLOW=|A=1"),
            (b"A=1,B=2", "A=1|B=2"),
            (b"1", "1="),
            (b"allow,A,B", "A=|B="),
            (b"allow,A=\"x,y\",B=2", "A=x,y|B=2"),
            (b"allow,A='x,y',B=2", "A=x,y|B=2"),
            (b"allow,A=x\"y,z\"w,B", "A=xy,zw|B="),
            (b"allow,\"A=1,B=2\"", "A=1,B=2"),
            (b"allow,\"A\"=1", "A=1"),
            (b"allow,A=\"it's\",B=2", "A=it\\'s|B=2"),
            (b"allow,A='say \"hi\"'", "A=say \\\"hi\\\""),
            (b"allow,A=\"open,B=2", "A=open,B=2"),
            (b"allow,A='a'b\"c\"", "A=abc"),
            (b"al'low,A=1',B=2", "allow,A=1|B=2"),
            (b"allow, A = 1 , B=2 ", "A = 1|B=2"),
            (b"allow,A=\" x \"", "A= x"),
            (b"allow,' A'=1", "A=1"),
            (b"allow,A=x\x0b,\x0bB=2\x0c\r\n", "A=x|B=2"),
            (b"allow,A=a b", "A=a b"),
            (b"allow,A==b", "A==b"),
            (b"allow,A=\xff\x01", "A=\\xff\\x01"),
            (b"allow,A=1\0B,C=2", "A=1"),
            (b"allow\0,A=1", ""),
            (b"allow,A=\"\"", "A="),
        ];
        for (value, expected) in rows {
            assert_eq!(read(value), *expected, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn records_differ_from_the_original_where_it_is_wrong() {
        let rows: &[(&[u8], &str)] = &[
            (b"DENY", "deny"),
            (b"Deny,A=1", "deny"),
            (b"allow,,A=1,,B=2,", "A=1|B=2"),
            (b"allow ,A=1", "A=1"),
            (b",A=1", "A=1"),
            (b"allow,\"\",\" \"", ""),
            (b"allow,=x", ""),
        ];
        for (value, expected) in rows {
            assert_eq!(read(value), *expected, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn plain_records_hold_no_memory() {
        for value in [&b"allow"[..], b"", b"allow,"] {
            let Record::Allow(variables) = Record::parse(value) else { panic!("{}", value.escape_ascii()) };
            assert_eq!(variables.capacity(), 0, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn either_end_can_refuse_and_the_remote_variables_count_last() {
        let local = "127.0.0.1:25";
        let rows: [(&str, Map, Option<&str>, Result<Access, ()>, &str); 8] = [
            ("no record", Map::new([("9", "deny")]), None, Ok(Access::Admitted), ""),
            ("remote", Map::new([("10", "deny")]), None, Ok(Access::Refused(End::Remote)), ""),
            ("local not asked", Map::new([("127", "deny")]), None, Ok(Access::Admitted), ""),
            ("local", Map::new([("127", "deny"), ("10", "allow")]), Some(local), Ok(Access::Refused(End::Local)), ""),
            (
                "both",
                Map::new([("*.25", "allow,A=1,B=1"), ("10", "B=2,C=2")]),
                Some(local),
                Ok(Access::Admitted),
                "A=1 B=2 C=2",
            ),
            ("one star for both", Map::new([("*", "allow,S=1")]), Some(local), Ok(Access::Admitted), "S=1"),
            ("unreadable", Map::new([("10", "broken"), ("*", "allow")]), None, Err(()), ""),
            ("unreadable local", Map::new([("127", "broken"), ("*", "allow")]), Some(local), Err(()), ""),
        ];
        for (name, mut db, local, expected, variables) in rows {
            let mut delta = Delta::default();
            let local = local.map(|l| l.parse().unwrap());
            assert_eq!(decide(&mut db, "10.0.0.1".parse().unwrap(), local, &mut delta), expected, "{name}");
            let text: Vec<_> =
                delta.iter().map(|(n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii())).collect();
            assert_eq!(text.join(" "), variables, "{name}");
        }
    }
}

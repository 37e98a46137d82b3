//! `query`: what the daemon would do with an address, and why, by the daemon's own code.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use crate::addr;
use crate::log::{Escaped, Whole};
use crate::policy::access::{Access, End, Found, Keys, Lookup, decide, find};
use crate::policy::env::Delta;

/// What came of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Served,
    Refused,
    /// The database could not be read: the daemon refuses such a client.
    Unknown,
}

/// `IP`, `IP:PORT` or `[IP]:PORT`. A client's port means nothing to the access file.
pub fn parse_client(text: &str) -> Option<IpAddr> {
    let ip = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok();
    ip.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()).map(addr::fold)
}

/// `IP:PORT` or `[IP]:PORT`, and also `IP.PORT`, as the keys have it.
pub fn parse_local(text: &str) -> Option<SocketAddr> {
    let dotted = || {
        let (ip, port) = text.rsplit_once('.')?;
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    text.parse().ok().or_else(dotted).map(addr::fold_socket)
}

/// Writes what is known of `client`, who connects to `local`, to `out`.
pub fn query<L>(db: &mut L, client: IpAddr, local: Option<SocketAddr>, out: &mut impl Write) -> io::Result<Outcome>
where
    L: Lookup,
    L::Error: Display,
{
    let mut delta = Delta::default();
    let verdict = decide(db, client, local, &mut delta);
    let (outcome, word) = match &verdict {
        Ok(Access::Admitted) => (Outcome::Served, "served".to_owned()),
        Ok(Access::Refused(_)) => (Outcome::Refused, "refused".to_owned()),
        Err(error) => (Outcome::Unknown, format!("refused, since the database cannot be read: {error}")),
    };
    writeln!(out, "{client}: {word}")?;
    if verdict.is_ok() {
        if let Some(local) = local {
            explain(db, "our end", Keys::local(local), out)?;
        }
        if !matches!(verdict, Ok(Access::Refused(End::Local))) {
            explain(db, "client", Keys::remote(client), out)?;
        }
    }
    if outcome == Outcome::Served {
        for (name, value) in delta.iter() {
            writeln!(out, "  sets     {}={}", Escaped(name), Whole(value))?;
        }
    }
    Ok(outcome)
}

/// The keys of one lookup, and the record.
fn explain<L: Lookup>(db: &mut L, whose: &str, keys: Keys, out: &mut impl Write) -> io::Result<()> {
    let mut missed = Vec::new();
    // An error shows itself in the verdict.
    let found = find(db, keys, |key| missed.push(key.to_owned())).ok().flatten();
    if !missed.is_empty() {
        writeln!(out, "  {whose:8} no record of {}", missed.join(", "))?;
    }
    match found {
        Some(Found { key, value }) => writeln!(out, "  {whose:8} record of {key}: {}", Whole(&value)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_tool::problem::Problems;
    use crate::access_tool::source::Rules;
    use crate::access_tool::table::Table;

    fn ask(rules: &str, client: &str, local: Option<&str>) -> (Outcome, String) {
        let mut problems = Problems::default();
        let file = problems.add_file("r".as_ref());
        let mut source = Rules::default();
        source.parse(rules.as_bytes(), file, &mut problems);
        let mut map = Table::new(source, &mut problems).map();
        assert_eq!(problems.errors(), 0);
        let mut out = Vec::new();
        let client = parse_client(client).unwrap();
        let local = local.map(|text| parse_local(text).unwrap());
        let outcome = query(&mut map, client, local, &mut out).unwrap();
        (outcome, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_answer_shows_keys_record_and_variables() {
        let rules = "192.0.2 allow,A=1,B=\"x\"\n10 deny\n*.25 allow,L=1\n127.0.0.1.26 deny\n";
        assert_eq!(ask(rules, "192.0.2.7", None), (
            Outcome::Served,
            "192.0.2.7: served\n  client   no record of 192.0.2.7\n  client   record of 192.0.2: allow,A=1,B=\"x\"\n  sets     A=1\n  sets     B=x\n".to_owned()
        ));
        assert_eq!(
            ask(rules, "::ffff:10.0.0.1", None),
            (
                Outcome::Refused,
                "10.0.0.1: refused\n  client   no record of 10.0.0.1, 10.0.0, 10.0\n  client   record of 10: deny\n"
                    .to_owned()
            )
        );
        let (outcome, text) = ask(rules, "[2001:db8::1]:99", Some("127.0.0.1:25"));
        assert_eq!(outcome, Outcome::Served);
        assert!(
            text.contains("  our end  record of *.25: allow,L=1\n") && text.ends_with("  sets     L=1\n"),
            "{text}"
        );
        let (outcome, text) = ask(rules, "192.0.2.7", Some("127.0.0.1.26"));
        assert_eq!(outcome, Outcome::Refused);
        assert_eq!(text, "192.0.2.7: refused\n  our end  record of 127.0.0.1.26: deny\n");
    }

    #[test]
    fn addresses_are_read_with_and_without_a_port() {
        for (text, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:25", Some("192.0.2.1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:25", Some("2001:db8::1")),
            ("192.0.2", None),
            ("host", None),
        ] {
            assert_eq!(parse_client(text).map(|ip| ip.to_string()).as_deref(), expected, "{text}");
        }
        for (text, expected) in [
            ("192.0.2.1:25", Some("192.0.2.1:25")),
            ("192.0.2.1.25", Some("192.0.2.1:25")),
            ("[::ffff:192.0.2.1]:25", Some("192.0.2.1:25")),
            ("::1.25", Some("[::1]:25")),
            ("192.0.2.1", None),
        ] {
            assert_eq!(parse_local(text).map(|a| a.to_string()).as_deref(), expected, "{text}");
        }
    }
}

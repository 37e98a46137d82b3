//! `makedat`: what Courier's program of that name does, so that its scripts work on ours.
//!
//! Keys and values of any kind, not of access files alone: a line is a key, a tab and a value,
//! and is taken as it stands. With `-cidr` a key that is a block or a range of addresses becomes
//! the keys of the addresses. Nothing is checked that the original does not check.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use getopts::{HasArg, Occur, Options, ParsingStyle};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::addr;
use crate::error::StartError;

use super::place::{Family, Span};
use super::source::{files, read_all};
use super::write::{Failure, Filling, replace};

/// The value of a line that has none.
const DEFAULT_VALUE: &[u8] = b"1";

#[derive(Debug, PartialEq, Eq)]
struct Request {
    source: PathBuf,
    file: PathBuf,
    temporary: PathBuf,
    /// Holds the number of a process that wants to know of the new file.
    hup: Option<PathBuf>,
    cidr: bool,
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut options = Options::new();
    options.long_only(true).parsing_style(ParsingStyle::StopAtFirstFree);
    for name in ["src", "file", "tmp", "hup"] {
        options.opt("", name, "", "", HasArg::Yes, Occur::Optional);
    }
    options.opt("", "cidr", "", "", HasArg::No, Occur::Optional);
    let matches = options.parse(arguments).map_err(|error| error.to_string())?;
    if let Some(extra) = matches.free.first() {
        return Err(format!("{extra}: there are no other arguments than options"));
    }
    let needed = |name| matches.opt_str(name).map(PathBuf::from).ok_or(format!("-{name}= is missing"));
    Ok(Request {
        source: needed("src")?,
        file: needed("file")?,
        temporary: needed("tmp")?,
        hup: matches.opt_str("hup").map(PathBuf::from),
        cidr: matches.opt_present("cidr"),
    })
}

/// Does the job; the text of a failure is one line, or two for wrong usage.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let request = parse(arguments).map_err(|error| {
        format!("{error}\nusage: makedat -src=SOURCE -file=FILE -tmp=TEMPORARY [-hup=PIDFILE] [-cidr]")
    })?;
    make(&request).map_err(|failure| match failure {
        Failure::File(error) => error.to_string(),
        Failure::Twice(key) => format!("{key}: this key is there twice"),
        Failure::Content(text) => text,
    })?;
    match &request.hup {
        Some(hup) => signal(hup).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

fn make(request: &Request) -> Result<(), Failure> {
    let mut texts = Vec::new();
    for path in files(&request.source, is_left_out)? {
        let text = read_all(&path)?;
        texts.push((path, text));
    }
    replace(&request.file, &request.temporary, |filling| {
        for (path, text) in &texts {
            for (line, number) in text.split(|&b| b == b'\n').zip(1..) {
                insert(line, request.cidr, filling).map_err(|failure| match failure {
                    Failure::Content(text) => Failure::Content(format!("{}:{number}: {text}", path.display())),
                    Failure::Twice(key) => Failure::Twice(format!("{}:{number}: {key}", path.display())),
                    other => other,
                })?;
            }
        }
        Ok(())
    })
}

fn insert(line: &[u8], cidr: bool, filling: &mut Filling<'_>) -> Result<(), Failure> {
    if line.starts_with(b"#") {
        return Ok(());
    }
    if let Some((span, value)) = cidr.then(|| addresses(line)).flatten() {
        let span = span.map_err(Failure::Content)?;
        let mut key = String::new();
        for block in span.blocks() {
            let step = 1_u128 << (u32::from(block.family.bits()) - u32::from(block.level() * block.family.part_bits()));
            for i in 0..u128::from(block.keys()) {
                addr::access_key(block.family.ip(block.first + i * step), block.level().into(), &mut key);
                filling.insert(key.as_bytes(), value)?;
            }
        }
        return Ok(());
    }
    let (key, value) = match line.iter().position(|&b| b == b'\t') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &b""[..]),
    };
    if key.is_empty() { Ok(()) } else { filling.insert(key, or_default(value)) }
}

fn or_default(value: &[u8]) -> &[u8] {
    if value.is_empty() { DEFAULT_VALUE } else { value }
}

/// A line that begins with a block or a range, with any blanks behind it. Words that only look a
/// little like one, such as `a-host.example`, are ordinary keys.
fn addresses(line: &[u8]) -> Option<(Result<Span, String>, &[u8])> {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let word = std::str::from_utf8(&line[..end]).ok()?;
    let at = word.find(['/', '-'])?;
    let (left, right) = (&word[..at], &word[at + 1..]);
    let like_address =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b));
    if !like_address(left) || !like_address(right) {
        return None;
    }
    let span = if word.as_bytes()[at] == b'/' { block(left, right) } else { range(left, right) };
    let span = span.ok_or_else(|| format!("{word}: no such block of addresses"));
    Some((span, or_default(line[end..].trim_ascii_start())))
}

fn range(first: &str, last: &str) -> Option<Span> {
    let (family, first) = Family::of(first.parse().ok()?);
    let (last_family, last) = Family::of(last.parse().ok()?);
    (family == last_family && first <= last).then_some(Span { family, first, last })
}

/// Host bits do not matter; an IPv4 address may leave out its last octets, an IPv6 one may be
/// written as a key.
fn block(address: &str, prefix: &str) -> Option<Span> {
    let ip: IpAddr = if let Some(words) = address.strip_prefix(':').filter(|rest| !rest.starts_with(':')) {
        let whole = if words.split(':').count() < 8 { format!("{words}::") } else { words.to_owned() };
        whole.parse().ok()?
    } else if address.contains(':') {
        address.parse().ok()?
    } else {
        let mut octets = [0; 4];
        for (i, octet) in address.split('.').enumerate() {
            *octets.get_mut(i)? = octet.parse::<u8>().ok()?;
        }
        octets.into()
    };
    let prefix: u8 = prefix.parse().ok()?;
    let (family, number) = Family::of(ip);
    (prefix <= family.bits()).then(|| {
        let (_, first) = Family::of(addr::network(ip, prefix));
        let (family, last) = (family, first | (family.last().checked_shr(prefix.into()).unwrap_or(0)));
        debug_assert!(first <= number && number <= last);
        Span { family, first, last }
    })
}

/// Backups of editors, and what Debian's package manager leaves.
fn is_left_out(name: &[u8]) -> bool {
    let dpkg = b".dpkg-";
    let at = name.windows(dpkg.len()).rposition(|window| window == dpkg);
    name.ends_with(b"~") || at.is_some_and(|at| name[at + dpkg.len()..].iter().all(u8::is_ascii_lowercase))
}

/// SIGHUP to the process whose number the file holds. No file: nobody wants to know.
fn signal(hup: &Path) -> Result<(), StartError> {
    let text = match std::fs::read_to_string(hup) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|error| StartError::file(hup, "cannot read", error))?,
    };
    // Not 0 and not -1, which are all of a group and everybody.
    let Some(pid) = text.trim().parse().ok().filter(|pid| *pid > 1) else {
        return Err(StartError::File { path: hup.into(), doing: "holds no process number", error: None });
    };
    match kill(Pid::from_raw(pid), Signal::SIGHUP) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(StartError::file(hup, "cannot signal that process", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(line: &str) -> String {
        match addresses(line.as_bytes()) {
            None => "no".to_owned(),
            Some((Err(_), _)) => "bad".to_owned(),
            Some((Ok(span), value)) => {
                let blocks: Vec<_> = span.blocks().map(|b| b.to_string()).collect();
                format!("{} {}", blocks.join(","), value.escape_ascii())
            }
        }
    }

    /// Every row was seen at the original.
    #[test]
    fn blocks_and_ranges_as_the_original_takes_them() {
        for (line, expected) in [
            ("10.0.0.0/8\tdeny", "10.0.0.0/8 deny"),
            ("192.0.2.5/30\tdeny", "192.0.2.4/30 deny"),
            ("192.168.0/24\tx", "192.168.0.0/24 x"),
            ("10/8\tx", "10.0.0.0/8 x"),
            ("10.0.0.0/16 x\tdeny", "10.0.0.0/16 x\\tdeny"),
            ("10.0.0.2/32", "10.0.0.2 1"),
            ("10.0.0.1-10.0.0.2\tx", "10.0.0.1,10.0.0.2 x"),
            (":2001:0db8/32\tx", "2001:db8::/32 x"),
            ("2001:DB8::/32\tx", "2001:db8::/32 x"),
            ("fe80::1/64\tx", "fe80::/64 x"),
            ("0.0.0.0/0\tx", "0.0.0.0/0 x"),
            ("10.0.0.9-10.0.0.5\tx", "bad"),
            ("10.0.0.1/33\tx", "bad"),
            ("256.0.0.0/8\tx", "bad"),
            ("a/24\tx", "bad"),
            ("10.0.0.1-::1\tx", "bad"),
            ("10.0.0.0/\tx", "no"),
            (" 10.0.0.0/8\tx", "no"),
            ("foo/8\tx", "no"),
            ("foo-bar\tx", "no"),
            ("10\tx", "no"),
        ] {
            assert_eq!(spans(line), expected, "{line}");
        }
    }

    #[test]
    fn options_as_the_original_has_them() {
        let parse = |words: &[&str]| parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        let request = parse(&["-src=a", "-file=b", "-tmp=c", "-hup=d", "-cidr"]).unwrap();
        assert_eq!(request.hup, Some("d".into()));
        assert!(request.cidr);
        assert_eq!(parse(&["-src=a", "-file=b", "-tmp=c"]).unwrap().hup, None);
        for (words, part) in [
            (&["-src=a", "-file=b"][..], "-tmp= is missing"),
            (&["-file=b", "-tmp=c"], "-src= is missing"),
            (&["-src=a", "-file=b", "-tmp=c", "-foo"], "foo"),
            (&["-src=a", "-file=b", "-tmp=c", "x"], "x: there are no"),
        ] {
            assert!(parse(words).unwrap_err().contains(part), "{words:?}");
        }
    }

    #[test]
    fn names_that_are_left_out_of_a_directory() {
        for (name, left_out) in [
            ("a", false),
            (".a", false),
            ("a~", true),
            ("a.dpkg-new", true),
            ("a.dpkg-", true),
            ("a.dpkg", false),
            ("a.dpkg-old.x", false),
            ("a.rpmsave", false),
        ] {
            assert_eq!(is_left_out(name.as_bytes()), left_out, "{name}");
        }
    }
}

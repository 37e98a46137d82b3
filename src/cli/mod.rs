//! The command line: argv in, an [`Action`] out.
//!
//! `main` calls [`parse`] once. Here are the order of the steps and the words of their errors; the
//! options themselves are rows of the table in `options`, their values are read in `values`, `list`,
//! `dnslist` and `proxy`, and `draft` makes the finished [`Config`] of them.
//! Nothing here prints, opens or starts anything; the one look outside is the services database,
//! for ports that are given by name.

#![forbid(unsafe_code)]

mod dnslist;
mod draft;
mod list;
mod options;
mod proxy;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use getopts::{Fail, HasArg, Matches, Occur, Options, ParsingStyle};

use crate::config::Config;
use crate::error::StartError;
use crate::status::Form;
use crate::sys;

use draft::Draft;
use options::{Apply, OPTIONS, OptionRow, Takes};
use values::shown;

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// Serve.
    Run(Box<Config>),
    /// `-explain`: say what would become of a connection.
    Explain(Box<Config>, Explain),
    /// `-stop`: end the daemon of this `-pid` file.
    Stop(PathBuf),
    /// `-restart`: send SIGHUP to the daemon of this `-pid` file.
    Restart(PathBuf),
    /// `-drain`: have the daemon end when all is done, within this time.
    Drain(Place, Option<Duration>),
    /// `-upgrade`: have the daemon execute its program anew.
    Upgrade(Place),
    /// `-status`: ask the daemon behind this control socket how it does.
    Status(PathBuf, Form),
    /// `-help`, `-version`: text for standard output, its last newline included.
    Print(String),
}

/// Where a verb finds its daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub control: PathBuf,
    /// With `-pid`: its lock says whether a daemon runs.
    pub pid_file: Option<PathBuf>,
}

/// The connection that `-explain` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explain {
    pub peer: SocketAddr,
    /// None: where LIST has it come to.
    pub local: Option<SocketAddr>,
}

/// An [`Action`], and what is odd about it but no error. The caller logs the warnings.
#[derive(Debug)]
pub struct Parsed {
    pub action: Action,
    pub warnings: Vec<String>,
}

/// Reads the arguments after argv\[0\].
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Parsed, StartError> {
    parse_with(argv.into_iter().collect(), &sys::service_port).map_err(StartError::Usage)
}

/// [`parse`] with the services database as an argument.
fn parse_with(mut argv: Vec<OsString>, services: &list::Services<'_>) -> Result<Parsed, String> {
    let words = split_off_words(&mut argv);
    let matches = matches(&argv)?;
    for row in OPTIONS {
        if let (Apply::Print(text), true) = (&row.apply, matches.opt_present(row.name)) {
            return Ok(Parsed { action: Action::Print(text()), warnings: Vec::new() });
        }
    }
    let mut draft = Draft::default();
    for (row, value) in in_order(&matches) {
        apply(&mut draft, row, value)?;
    }
    draft.finish(words, services)
}

/// Takes LIST, PROGRAM and what belongs to it off `argv`, which keeps the options alone: getopts
/// would stumble over a program's argument that is not UTF-8.
fn split_off_words(argv: &mut Vec<OsString>) -> Vec<OsString> {
    let is_option = |word: &OsString| matches!(word.as_bytes(), [b'-', rest @ ..] if !rest.is_empty() && rest != b"-");
    let end = argv.iter().position(|word| !is_option(word)).unwrap_or(argv.len());
    let mut words = argv.split_off(end);
    if words.first().is_some_and(|word| word == "-" || word == "--") {
        words.remove(0);
    }
    words
}

/// Has getopts sort out names and values. Every option may come several times and without a
/// value here, so that the next word is never taken for one; the table says what is right.
fn matches(argv: &[OsString]) -> Result<Matches, String> {
    let mut parser = Options::new();
    parser.long_only(true).parsing_style(ParsingStyle::StopAtFirstFree);
    for row in OPTIONS {
        let has_arg = if matches!(row.takes, Takes::Nothing) { HasArg::No } else { HasArg::Maybe };
        parser.opt("", row.name, row.help, "", has_arg, Occur::Multi);
    }
    parser.parse(argv.iter().map(|word| to_chars(word.as_bytes()))).map_err(|fail| {
        let name = |name: &str| shown(&to_bytes(name));
        match &fail {
            Fail::UnrecognizedOption(option) => format!("unknown option -{} (see -help)", name(option)),
            Fail::UnexpectedArgument(option) => format!("option -{} takes no value", name(option)),
            Fail::ArgumentMissing(option) | Fail::OptionMissing(option) | Fail::OptionDuplicated(option) => {
                format!("option -{}: {fail}", name(option))
            }
        }
    })
}

/// The options given, with their values, in the order of the command line.
fn in_order(matches: &Matches) -> Vec<(&'static OptionRow, Option<Vec<u8>>)> {
    let mut given = Vec::new();
    for row in OPTIONS {
        let mut values = matches.opt_strs_pos(row.name).into_iter().peekable();
        for position in matches.opt_positions(row.name) {
            let value = values.next_if(|(at, _)| *at == position).map(|(_, text)| to_bytes(&text));
            given.push((position, row, value));
        }
    }
    given.sort_by_key(|(position, ..)| *position);
    given.into_iter().map(|(_, row, value)| (row, value)).collect()
}

/// Puts one option into the draft. A later one of the same name overrides, as in the reference.
fn apply(draft: &mut Draft, row: &OptionRow, value: Option<Vec<u8>>) -> Result<(), String> {
    let missing = match row.takes {
        Takes::Nothing | Takes::Optional(_) => false,
        Takes::ValueOrEmpty(_) => value.is_none(),
        Takes::Value(_) => value.as_ref().is_none_or(Vec::is_empty),
    };
    if missing {
        return Err(format!("option -{} needs a value: {}", row.name, row.usage()));
    }
    match row.apply {
        Apply::Set(set) => {
            let bytes = value.as_deref().unwrap_or_default();
            set(draft, bytes).map_err(|why| match value {
                Some(_) => format!("-{}={}: {why}", row.name, shown(bytes)),
                None => format!("-{}: {why}", row.name),
            })
        }
        Apply::Print(_) => unreachable!("printed before any option is applied"),
    }
}

/// Bytes as the characters of the same number. Values need not be UTF-8, but getopts wants text.
fn to_chars(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// The reverse of [`to_chars`].
fn to_bytes(chars: &str) -> Vec<u8> {
    chars.chars().map(|c| u8::try_from(c).expect("made from a byte by to_chars")).collect()
}

#[cfg(test)]
mod tests;

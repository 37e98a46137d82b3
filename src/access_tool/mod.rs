//! `couriertcpd-access`: makes, checks, asks and compares access files.
//!
//! The left column of a source is read by `place`, the right one by `record`, lines by `source`;
//! `table` puts them in order. `load` does the same for databases. The commands are `build` (with
//! `write`), `query`, `dump` and `diff`, and `makedat` does the job of Courier's program. Keys,
//! records and databases are the daemon's own code: `addr`, `policy::access`, `accessdb`.
//!
//! This file reads the command line and turns outcomes into lines and exit statuses. Called by
//! `src/bin/couriertcpd-access.rs` and by nobody else; the daemon has no part in it.

pub mod diff;
pub mod dump;
pub mod load;
pub mod makedat;
pub mod place;
pub mod problem;
pub mod progress;
pub mod query;
pub mod record;
pub mod source;
pub mod table;
pub mod write;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use getopts::{Matches, Options, ParsingStyle};

use crate::accessdb::AccessDb;
use crate::daemon::verbs;
use crate::error::errno_text;

use load::{Loaded, is_database, load};
use problem::Problems;
use progress::Progress;
use query::Outcome;
use write::{Failure, beside, replace};

/// All went well; for `query`: all are served; for `diff`: no difference.
const SUCCESS: u8 = 0;
/// A source has errors, a file could not be written; for `query`: somebody is refused; for
/// `diff`: there are differences.
const FAILURE: u8 = 1;
/// `query` and `diff` cannot tell.
const TROUBLE: u8 = 2;

const USAGE: &str = "\
usage: couriertcpd-access build [-o FILE] [--reload PIDFILE] SOURCE
       couriertcpd-access check SOURCE
       couriertcpd-access query [--local IP:PORT] FILE IP[:PORT]...
       couriertcpd-access dump FILE
       couriertcpd-access diff OLD NEW
SOURCE is a file of rules, a directory of them, or - for standard input.
FILE, OLD and NEW are databases or sources.
";

/// Why a command ended early: a line for standard error, and the exit status.
struct Stop {
    text: String,
    status: u8,
}

impl Stop {
    fn new(text: impl Display, status: u8) -> Self {
        Stop { text: format!("couriertcpd-access: {text}"), status }
    }

    fn usage(text: impl Display, status: u8) -> Self {
        Stop { text: format!("couriertcpd-access: {text}\n{}", USAGE.trim_end()), status }
    }

    /// A reader that has had enough, such as head(1), is no failure worth a word.
    fn output(error: io::Error, status: u8) -> Self {
        if error.kind() == ErrorKind::BrokenPipe {
            return Stop { text: String::new(), status };
        }
        Stop::new(format_args!("standard output: {}", errno_text(&error)), status)
    }
}

/// The whole program: arguments with the program's name in, exit status out.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let mut words = Vec::new();
    for argument in arguments {
        match argument.into_string() {
            Ok(word) => words.push(word),
            Err(word) => return stop(Stop::new(format_args!("{}: not UTF-8", word.to_string_lossy()), TROUBLE)),
        }
    }
    if Path::new(&program).file_name().is_some_and(|name| name == OsStr::new("makedat")) {
        return match makedat::run(&words) {
            Ok(()) => SUCCESS,
            Err(text) => stop(Stop { text: format!("makedat: {text}"), status: FAILURE }),
        };
    }
    command(&words).unwrap_or_else(stop)
}

fn stop(stop: Stop) -> u8 {
    if !stop.text.is_empty() {
        eprintln!("{}", stop.text);
    }
    stop.status
}

fn command(words: &[String]) -> Result<u8, Stop> {
    let Some((command, rest)) = words.split_first() else { return Err(Stop::usage("what is to be done?", FAILURE)) };
    match command.as_str() {
        "build" => build(rest),
        "check" => check(rest),
        "query" => query_all(rest),
        "dump" => dump_file(rest),
        "diff" => diff_files(rest),
        "help" | "-h" | "-help" | "--help" => print(USAGE),
        "version" | "-version" | "--version" => print(concat!("couriertcpd-access ", env!("CARGO_PKG_VERSION"), "\n")),
        other => Err(Stop::usage(format_args!("{other}: no such command"), FAILURE)),
    }
}

fn print(text: &str) -> Result<u8, Stop> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| Stop::output(error, FAILURE))?;
    Ok(SUCCESS)
}

/// The options of one command, and its other arguments, of which there are `least` to `most`.
fn parse(options: &Options, words: &[String], least: usize, most: usize, status: u8) -> Result<Matches, Stop> {
    let matches = options.parse(words).map_err(|error| Stop::usage(error, status))?;
    match matches.free.len() {
        n if n < least => Err(Stop::usage("an argument is missing", status)),
        n if n > most => Err(Stop::usage(format_args!("{}: one argument too many", matches.free[most]), status)),
        _ => Ok(matches),
    }
}

/// Reads a source or a database, and shows what is wrong with it.
fn load_shown(path: &Path, status: u8) -> Result<Loaded, Stop> {
    let mut problems = Problems::default();
    let loaded = load(path, &mut problems).map_err(|error| Stop::new(error, status))?;
    // Where standard error cannot be written there is nobody to tell.
    let _ = problems.print(&mut BufWriter::new(io::stderr().lock()));
    match problems.errors() {
        0 => Ok(loaded),
        1 => Err(Stop::new("there is 1 error", status)),
        errors => Err(Stop::new(format_args!("there are {errors} errors"), status)),
    }
}

fn build(words: &[String]) -> Result<u8, Stop> {
    let mut options = Options::new();
    options.optopt("o", "output", "", "FILE").optopt("", "reload", "", "PIDFILE");
    let matches = parse(&options, words, 1, 1, FAILURE)?;
    let source = Path::new(&matches.free[0]);
    let file = match matches.opt_str("output") {
        Some(file) => PathBuf::from(file),
        None if source == Path::new("-") => return Err(Stop::usage("-o FILE is needed with -", FAILURE)),
        None => beside_source(source),
    };
    if load::is_database(source) {
        return Err(Stop::new(format_args!("{}: a database; its text is what dump writes", source.display()), FAILURE));
    }
    let table = load_shown(source, FAILURE)?.table;
    let mut progress = Progress::on_terminal("writing", table.most_keys());
    let result = replace(&file, &beside(&file), |filling| {
        table.for_each_key(|key, record| {
            progress.step();
            filling.insert(key.as_bytes(), record)
        })
    });
    drop(progress);
    result.map_err(|failure| match failure {
        Failure::File(error) => Stop::new(error, FAILURE),
        Failure::Twice(text) | Failure::Content(text) => Stop::new(text, FAILURE),
    })?;
    if let Some(pid_file) = matches.opt_str("reload") {
        verbs::restart(Path::new(&pid_file)).map_err(|error| Stop::new(error, FAILURE))?;
    }
    Ok(SUCCESS)
}

/// `smtpaccess` and `smtpaccess/` become `smtpaccess.dat`, as Courier has it.
fn beside_source(source: &Path) -> PathBuf {
    let mut name = source.file_name().unwrap_or(OsStr::new("access")).to_owned();
    name.push(".dat");
    source.with_file_name(name)
}

fn check(words: &[String]) -> Result<u8, Stop> {
    let matches = parse(&Options::new(), words, 1, 1, FAILURE)?;
    load_shown(Path::new(&matches.free[0]), FAILURE)?;
    Ok(SUCCESS)
}

fn query_all(words: &[String]) -> Result<u8, Stop> {
    let mut options = Options::new();
    options.parsing_style(ParsingStyle::FloatingFrees).optopt("", "local", "", "IP:PORT");
    let matches = parse(&options, words, 2, usize::MAX, TROUBLE)?;
    let bad = |text: &str| Stop::usage(format_args!("{text}: bad address"), TROUBLE);
    let local = match matches.opt_str("local") {
        Some(text) => Some(query::parse_local(&text).ok_or_else(|| bad(&text))?),
        None => None,
    };
    let clients: Vec<_> = matches.free[1..]
        .iter()
        .map(|text| query::parse_client(text).ok_or_else(|| bad(text)))
        .collect::<Result<_, _>>()?;
    let path = Path::new(&matches.free[0]);
    let mut out = BufWriter::new(io::stdout().lock());
    // A database is asked as the daemon asks it, not read whole.
    let mut ask: Box<dyn FnMut(_, &mut BufWriter<_>) -> io::Result<Outcome>> = if is_database(path) {
        let mut db = AccessDb::open_to_ask(path).map_err(|error| Stop::new(error, TROUBLE))?;
        Box::new(move |client, out| query::query(&mut db, client, local, out))
    } else {
        let mut map = load_shown(path, TROUBLE)?.table.map();
        Box::new(move |client, out| query::query(&mut map, client, local, out))
    };
    let mut status = SUCCESS;
    for client in clients {
        let outcome = ask(client, &mut out).map_err(|error| Stop::output(error, TROUBLE))?;
        status = status.max(match outcome {
            Outcome::Served => SUCCESS,
            Outcome::Refused => FAILURE,
            Outcome::Unknown => TROUBLE,
        });
    }
    out.flush().map_err(|error| Stop::output(error, TROUBLE))?;
    Ok(status)
}

fn dump_file(words: &[String]) -> Result<u8, Stop> {
    let matches = parse(&Options::new(), words, 1, 1, FAILURE)?;
    let loaded = load_shown(Path::new(&matches.free[0]), FAILURE)?;
    let mut out = BufWriter::new(io::stdout().lock());
    dump::dump(&loaded, &mut out).and_then(|()| out.flush()).map_err(|error| Stop::output(error, FAILURE))?;
    Ok(SUCCESS)
}

fn diff_files(words: &[String]) -> Result<u8, Stop> {
    let matches = parse(&Options::new(), words, 2, 2, TROUBLE)?;
    let old = load_shown(Path::new(&matches.free[0]), TROUBLE)?;
    let new = load_shown(Path::new(&matches.free[1]), TROUBLE)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let differ = diff::diff(&old.table, &new.table, &mut out)
        .and_then(|differ| out.flush().map(|()| differ))
        .map_err(|error| Stop::output(error, TROUBLE))?;
    Ok(if differ { FAILURE } else { SUCCESS })
}

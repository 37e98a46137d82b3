//! The daemon's own messages: what a line looks like, where it goes, and how often it is said.
//!
//! Every room but `policy` says what it has to say here; the logger is the thread's own, so nobody
//! carries it around. [`begin`] takes hold of standard error while the program still has its
//! privileges; [`open`], called by `stderr`, sends the lines to where the options want them.
//! Between the two, and for ever in the foreground, they go to standard error.
//!
//! Nothing here waits. A line that finds no room is counted, and the count is said before the next
//! line that gets through. What strangers can cause goes through [`limited`]. Text from outside
//! goes through [`Escaped`] or [`Value`]; what control characters are left in a line become `?`.
//!
//! A line begins with a word that courierlogger(1) turns into a syslog priority. It knows none for
//! `notice`: such a line stands bare, and courierlogger takes it as `info`.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::os::fd::AsFd;
use std::time::Instant;

use crate::addr::Ipv4Form;
use crate::config::{Config, Facility, Level};

mod escape;
mod events;
mod limit;
mod sink;
mod syslog;

pub use escape::{Escaped, Value, Whole};
pub use events::*;
pub use limit::{Key, Kind};
pub use sink::Descriptor;

use limit::{Limiter, Verdict};
use syslog::Syslog;

/// The longest line, its word and newline not counted. courierlogger cuts at 510 bytes and the
/// receivers of syslog at 1,024 or more; a pipe takes up to 4,096 in one piece.
const TEXT_MAX: usize = 980;

/// Where the lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The caller's standard error.
    Standard,
    /// `-stderr=FILE`, or the pipe of `-stderrlogger` even if the handlers do not write to it.
    Handlers,
    Syslog(Facility),
}

impl Destination {
    /// What the options ask for: `-syslog` in any case; else the logger or the file; else standard
    /// error, or in the background, where there is none, syslog.
    pub fn of(config: &Config) -> Self {
        use crate::config::HandlerStderr::File;
        match config.log.syslog {
            Some(facility) => Destination::Syslog(facility),
            None if config.logger.is_some() || matches!(config.stderr, File(_)) => Destination::Handlers,
            None if config.pid_file.is_none() => Destination::Standard,
            None => Destination::Syslog(Facility::MAIL),
        }
    }
}

enum Sink {
    Lines(Descriptor),
    Syslog(Syslog),
    /// Standard error is closed.
    Nowhere,
}

impl Sink {
    fn standard() -> Self {
        Descriptor::beside(std::io::stderr().as_fd()).map_or(Sink::Nowhere, Sink::Lines)
    }

    /// True if the line is written, all of it.
    fn put(&mut self, level: Level, text: &str, now: Instant) -> bool {
        match self {
            Sink::Lines(descriptor) => {
                let mut line = String::with_capacity(text.len() + 8);
                line.push_str(word(level));
                line.push_str(text);
                line.push('\n');
                descriptor.write(line.as_bytes()).is_ok()
            }
            Sink::Syslog(syslog) => syslog.write(level, text, now),
            Sink::Nowhere => false,
        }
    }
}

struct Log {
    level: Level,
    /// How the events print IPv4 addresses.
    ipv4: Ipv4Form,
    sink: Sink,
    /// Lines that could not be written, and of which nothing has been said yet.
    lost: u64,
    /// Lines that could not be written, ever.
    lost_ever: u64,
    limiter: Limiter,
}

impl Log {
    fn new(sink: Sink) -> Self {
        Log {
            level: Level::Notice,
            ipv4: Ipv4Form::default(),
            sink,
            lost: 0,
            lost_ever: 0,
            limiter: Limiter::default(),
        }
    }

    fn put(&mut self, level: Level, text: &str, now: Instant) {
        // Whether there is room again is asked by the count itself, which is said at any level.
        if self.lost > 0 {
            let messages = if self.lost == 1 { "message" } else { "messages" };
            let count = format!("{} {messages} could not be written", self.lost);
            if !self.sink.put(Level::Warning, &count, now) {
                self.lose();
                return;
            }
            self.lost = 0;
        }
        if !self.sink.put(level, text, now) {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.lost += 1;
        self.lost_ever += 1;
    }

    fn put_limited(&mut self, kind: Kind, key: Option<Key>, level: Level, text: &mut Text, now: Instant) {
        match self.limiter.ask(kind, key, now) {
            Verdict::Hold => (),
            Verdict::Say { held } => {
                if held > 0 && !kind.wording_is_fixed() {
                    text.append(format_args!(" ({held} more since the last such message)"));
                }
                self.put(level, &text.0, now);
            }
        }
    }
}

thread_local! {
    static LOG: RefCell<Log> = RefCell::new(Log::new(Sink::standard()));
}

/// Runs `f` on the logger. A thread that is ending has none any more.
fn with<R>(f: impl FnOnce(&mut Log) -> R) -> Option<R> {
    // Lines are formatted before this, so no foreign Display code runs inside the borrow.
    LOG.try_with(|log| f(&mut log.borrow_mut())).ok()
}

/// Takes hold of standard error. To be called once at the very start, when descriptor 2 is open
/// and no privileges are dropped: another user's pipe or terminal cannot be reopened later.
pub fn begin() {
    with(|log| log.sink = Sink::standard());
}

/// Sends the lines to where `config` wants them from here on. `handlers` is the daemon's own way
/// to the file or the logger, used if the lines go there.
pub fn open(config: &Config, handlers: Option<Descriptor>) {
    let sink = match (Destination::of(config), handlers) {
        (Destination::Standard, _) => None,
        (Destination::Handlers, handlers) => handlers.map(Sink::Lines),
        (Destination::Syslog(facility), _) => {
            let (syslog, connected) = Syslog::open(facility, syslog::PATH, Instant::now());
            if let Err(error) = connected {
                // Still goes to standard error, where whoever starts the daemon sees it.
                warning(format_args!(
                    "{}: no syslog there: {}; messages are lost until there is",
                    syslog::PATH,
                    crate::error::errno_text(&error)
                ));
            }
            Some(Sink::Syslog(syslog))
        }
    };
    with(|log| {
        log.level = config.log.level;
        log.ipv4 = config.ipv4;
        if let Some(sink) = sink {
            log.sink = sink;
        }
    });
}

/// The file of `-stderr` has been opened anew: the lines that go there follow.
pub fn reopened(handlers: Descriptor) {
    with(|log| log.sink = Sink::Lines(handlers));
}

/// True if lines of `level` are written at all.
pub fn enabled(level: Level) -> bool {
    with(|log| level <= log.level).unwrap_or(false)
}

/// Writes one line.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    if enabled(level) {
        let text = Text::new(text);
        with(|log| log.put(level, &text.0, Instant::now()));
    }
}

/// Writes one line unless one of this kind was written within the last minute.
pub fn limited(kind: Kind, level: Level, text: fmt::Arguments<'_>) {
    limited_at(kind, None, level, text);
}

/// Writes one line unless one of this kind was written about `key` within the last minute.
pub fn limited_by(kind: Kind, key: impl Into<Key>, level: Level, text: fmt::Arguments<'_>) {
    limited_at(kind, Some(key.into()), level, text);
}

fn limited_at(kind: Kind, key: Option<Key>, level: Level, text: fmt::Arguments<'_>) {
    if enabled(level) {
        let mut text = Text::new(text);
        with(|log| log.put_limited(kind, key, level, &mut text, Instant::now()));
    }
}

/// How many lines the limits have held back since the start.
pub fn suppressed() -> u64 {
    with(|log| log.limiter.suppressed()).unwrap_or(0)
}

/// How many lines could not be written since the start.
pub fn lost() -> u64 {
    with(|log| log.lost_ever).unwrap_or(0)
}

pub fn alert(text: fmt::Arguments<'_>) {
    write(Level::Alert, text);
}

pub fn err(text: fmt::Arguments<'_>) {
    write(Level::Err, text);
}

pub fn warning(text: fmt::Arguments<'_>) {
    write(Level::Warning, text);
}

pub fn notice(text: fmt::Arguments<'_>) {
    write(Level::Notice, text);
}

pub fn info(text: fmt::Arguments<'_>) {
    write(Level::Info, text);
}

pub fn debug(text: fmt::Arguments<'_>) {
    write(Level::Debug, text);
}

/// What courierlogger reads as the priority. It knows no `NOTICE:`, and would keep it as text.
fn word(level: Level) -> &'static str {
    match level {
        Level::Alert => "ALERT: ",
        Level::Err => "ERR: ",
        Level::Warning => "WARN: ",
        Level::Notice => "",
        Level::Info => "INFO: ",
        Level::Debug => "DEBUG: ",
    }
}

/// A line's text: at most [`TEXT_MAX`] bytes, without control characters.
struct Text(String);

impl Text {
    fn new(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Text(String::new());
        text.append(arguments);
        text
    }

    fn append(&mut self, arguments: fmt::Arguments<'_>) {
        // The only error is that of a full line, which is cut there.
        let _ = self.write_fmt(arguments);
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        for c in piece.chars() {
            let c = if c.is_control() { '?' } else { c };
            if self.0.len() + c.len_utf8() > TEXT_MAX {
                return Err(fmt::Error);
            }
            self.0.push(c);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;

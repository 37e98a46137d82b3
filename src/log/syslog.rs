//! The local syslog daemon as a sink.
//!
//! The `syslog` crate sends, over a datagram socket of ours that never blocks. Its own formats
//! carry a time in UTC, which receivers take for local time; ours carries none, and the receiver
//! puts in its own. The crate never connects anew, so that is done here, at most once a second.
//! A receiver with a stream socket at `/dev/log` is none: rsyslog, syslog-ng, journald and busybox
//! all have a datagram socket there.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::syslog::{LogFormat, Logger, LoggerBackend, Severity};

use crate::config::{Facility, Level};

pub(super) const PATH: &str = "/dev/log";

/// The pause between two attempts to reach a receiver that is not there.
const RECONNECT: Duration = Duration::from_secs(1);

/// `<priority>couriertcpd[pid]: text`, RFC 3164 without its time and host.
struct Format(Facility);

impl<T: std::fmt::Display> LogFormat<T> for Format {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, text: T) -> Result<(), ::syslog::Error> {
        // The daemon's process id is not that of the process that opened the log if it detached
        // in between, so it is asked for with each line.
        let (priority, pid) = (u32::from(self.0.0) * 8 + severity as u32, std::process::id());
        write!(w, "<{priority}>couriertcpd[{pid}]: {text}").map_err(::syslog::Error::Write)
    }
}

pub(super) struct Syslog {
    path: PathBuf,
    facility: Facility,
    logger: Option<Logger<LoggerBackend, Format>>,
    /// The last attempt to connect.
    tried: Instant,
}

impl Syslog {
    /// Also tells whether anybody is there now; if not, later lines try again.
    pub(super) fn open(facility: Facility, path: impl AsRef<Path>, now: Instant) -> (Self, io::Result<()>) {
        let mut syslog = Syslog { path: path.as_ref().to_owned(), facility, logger: None, tried: now };
        let connected = syslog.connect(now);
        (syslog, connected)
    }

    /// Neither connecting nor sending waits: a datagram socket knows no handshake.
    fn connect(&mut self, now: Instant) -> io::Result<()> {
        self.logger = None;
        self.tried = now;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        self.logger = Some(Logger::new(LoggerBackend::Unix(socket), Format(self.facility)));
        Ok(())
    }

    /// True if the receiver has the line.
    pub(super) fn write(&mut self, level: Level, text: &str, now: Instant) -> bool {
        match self.send(level, text) {
            Ok(()) => return true,
            // Its queue is full. The socket is as good as before.
            Err(error) if is_full(&error) => return false,
            Err(_) => (),
        }
        self.logger = None;
        now.saturating_duration_since(self.tried) >= RECONNECT
            && self.connect(now).is_ok()
            && self.send(level, text).is_ok()
    }

    fn send(&mut self, level: Level, text: &str) -> io::Result<()> {
        let Some(logger) = &mut self.logger else { return Err(io::ErrorKind::NotConnected.into()) };
        let sent = match level {
            Level::Alert => logger.alert(text),
            Level::Err => logger.err(text),
            Level::Warning => logger.warning(text),
            Level::Notice => logger.notice(text),
            Level::Info => logger.info(text),
            Level::Debug => logger.debug(text),
        };
        sent.map_err(|error| match error {
            ::syslog::Error::Write(error) | ::syslog::Error::Io(error) => error,
            ::syslog::Error::Initialization(_) => io::ErrorKind::Other.into(),
        })
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(nix::libc::ENOBUFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> UnixDatagram {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_line_has_priority_tag_and_text_and_no_time() {
        let dir = super::super::tests::Dir::new();
        let path = dir.path("log");
        let receiver = bind(&path);
        let now = Instant::now();
        let (mut syslog, connected) = Syslog::open(Facility::MAIL, &path, now);
        connected.unwrap();
        for (level, priority) in [
            (Level::Alert, 17),
            (Level::Err, 19),
            (Level::Warning, 20),
            (Level::Notice, 21),
            (Level::Info, 22),
            (Level::Debug, 23),
        ] {
            assert!(syslog.write(level, "some text", now));
            let pid = std::process::id();
            assert_eq!(received(&receiver), format!("<{priority}>couriertcpd[{pid}]: some text"));
        }
        let (mut local7, _) = Syslog::open(Facility(23), &path, now);
        assert!(local7.write(Level::Err, "x", now));
        assert!(received(&receiver).starts_with("<187>"));
    }

    #[test]
    fn a_receiver_that_does_not_read_costs_the_line_not_the_time() {
        let dir = super::super::tests::Dir::new();
        let path = dir.path("log");
        let receiver = bind(&path);
        let now = Instant::now();
        let (mut syslog, _) = Syslog::open(Facility::MAIL, &path, now);
        let taken = (0..10_000).take_while(|_| syslog.write(Level::Err, "x", now)).count();
        assert!(taken < 10_000, "the queue has an end");
        assert!(!syslog.write(Level::Err, "x", now + RECONNECT), "full is no reason to connect anew");
        received(&receiver);
        assert!(syslog.write(Level::Err, "fits again", now));
    }

    #[test]
    fn a_receiver_that_comes_back_is_found_at_most_once_a_second() {
        let dir = super::super::tests::Dir::new();
        let path = dir.path("log");
        let now = Instant::now();
        let (mut syslog, connected) = Syslog::open(Facility::MAIL, &path, now);
        assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!syslog.write(Level::Err, "nobody", now));

        let first = bind(&path);
        assert!(!syslog.write(Level::Err, "too early", now + RECONNECT / 2));
        assert!(syslog.write(Level::Err, "one", now + RECONNECT));
        assert!(received(&first).ends_with("one"));

        // The receiver is restarted: a new socket of the same name.
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = bind(&path);
        assert!(syslog.write(Level::Err, "two", now + RECONNECT * 3));
        assert!(received(&second).ends_with("two"));
    }
}

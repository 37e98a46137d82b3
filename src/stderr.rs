//! What handlers have as standard error, and with it the place of the daemon's own lines.
//!
//! [`Stderr::open`] opens the file of `-stderr`, or makes the pipe of `-stderrlogger`, and points
//! `log` to where section 11 of the behaviour wants the lines. The daemon calls it once it has the
//! privileges that it keeps: a file it makes is then its own, and a reopened one (SIGHUP) is opened
//! by the same rights. Opening never waits, not even for the reader of a FIFO.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::config::{Config, HandlerStderr};
use crate::error::{StartError, errno_text};
use crate::handover;
use crate::log::{self, Descriptor, Destination};
use crate::logger::{Logger, set_blocking};

/// The handlers' standard error. Lives as long as the daemon.
#[derive(Debug)]
pub struct Stderr {
    handlers: Handlers,
    logger: Option<Logger>,
    /// The daemon's own lines go to the file too, and move with it.
    lines_in_file: bool,
}

#[derive(Debug)]
enum Handlers {
    /// The daemon's own, or the connection: nothing is kept for them here.
    Nothing,
    File(File),
    Logger,
}

impl Stderr {
    pub fn open(config: &Config) -> Result<Self, StartError> {
        Self::open_with(config, None)
    }

    /// With the logger's pipe that the program before this one had, if there is one.
    pub fn open_with(config: &Config, handed: Option<handover::Logger<OwnedFd>>) -> Result<Self, StartError> {
        let mut own = None;
        let handlers = match &config.stderr {
            HandlerStderr::Inherit | HandlerStderr::Socket => Handlers::Nothing,
            HandlerStderr::Logger => Handlers::Logger,
            HandlerStderr::File(path) => {
                let (file, way) = File::open(path).map_err(|errno| StartError::file(path, "cannot open", errno))?;
                own = Some(way);
                Handlers::File(file)
            }
        };
        let logger = match (&config.logger, handed) {
            (Some(logger), Some(handed)) => Some(Logger::take_on(logger, handed, Instant::now())),
            (Some(logger), None) => Some(Logger::new(logger)?),
            (None, _) => None,
        };
        if let Some(logger) = &logger {
            own = Some(logger.own_way()?);
        }
        let lines_in_file = logger.is_none() && own.is_some() && Destination::of(config) == Destination::Handlers;
        log::open(config, own);
        Ok(Stderr { handlers, logger, lines_in_file })
    }

    /// The logger's pipe, for the program that takes over.
    pub fn logger_state(&self, now: Instant) -> Option<handover::Logger<RawFd>> {
        self.logger.as_ref().map(|logger| logger.state(now))
    }

    /// What a handler gets, if it is neither the connection nor the daemon's own.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.handlers {
            Handlers::Nothing => None,
            Handlers::File(file) => Some(file.handlers.as_fd()),
            Handlers::Logger => self.logger.as_ref().map(Logger::writer),
        }
    }

    /// The program of `-stderrlogger`, for the reactor to keep running.
    pub fn logger(&mut self) -> Option<&mut Logger> {
        self.logger.as_mut()
    }

    /// SIGHUP: opens the file anew, so that it can be rotated. If that fails the old one stays.
    pub fn reopen(&mut self) {
        let Handlers::File(file) = &mut self.handlers else { return };
        match File::open(&file.path) {
            Ok((new, way)) => {
                *file = new;
                if self.lines_in_file {
                    log::reopened(way);
                }
            }
            Err(errno) => log::err(format_args!(
                "{}: cannot open: {}; the file that was open before stays in use",
                file.path.display(),
                errno_text(&errno.into())
            )),
        }
    }
}

/// The file of `-stderr`.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Blocking, as programs expect it.
    handlers: OwnedFd,
    /// Of a FIFO both ends, so that a reader that ends kills no handler that writes.
    _both_ends: Option<OwnedFd>,
}

impl File {
    /// Also returns the daemon's own way to the file, which never waits.
    fn open(path: &Path) -> nix::Result<(Self, Descriptor)> {
        let (first, mut both_ends) = match open_to_append(path) {
            // A FIFO without a reader. With both ends in hand one can open it to write.
            Err(Errno::ENXIO) => {
                let both_ends = open_both_ends(path)?;
                (open_to_append(path)?, Some(both_ends))
            }
            first => (first?, None),
        };
        let kind = SFlag::from_bits_truncate(fstat(&first)?.st_mode) & SFlag::S_IFMT;
        let (handlers, own) = if kind == SFlag::S_IFREG {
            // Writes to a regular file do not wait for anybody, so one description serves both.
            let own = first.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
            (first, own)
        } else {
            if kind == SFlag::S_IFIFO && both_ends.is_none() {
                // Without leave to read it, the FIFO is what its reader makes of it.
                both_ends = open_both_ends(path).ok();
            }
            (open_to_append(path)?, first)
        };
        set_blocking(&handlers)?;
        Ok((File { path: path.to_owned(), handlers, _both_ends: both_ends }, Descriptor::own(own)))
    }
}

fn open_to_append(path: &Path) -> nix::Result<OwnedFd> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    // The umask takes its share.
    open(path, flags, Mode::from_bits_truncate(0o660))
}

fn open_both_ends(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoggerProgram;
    use crate::log::tests::{Caught, Dir, config};

    use std::fs::{self, read_to_string};
    use std::os::unix::fs::PermissionsExt;

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::unistd::{mkfifo, read, write};

    use crate::config::Level;

    fn is_nonblocking(fd: BorrowedFd<'_>) -> bool {
        OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
    }

    /// As `open` makes it for `-stderr=FILE` alone.
    fn with_file(path: &Path) -> nix::Result<Stderr> {
        let (file, own) = File::open(path)?;
        log::reopened(own);
        Ok(Stderr { handlers: Handlers::File(file), logger: None, lines_in_file: true })
    }

    #[test]
    fn a_file_is_made_with_its_mode_and_appended_to() {
        let (dir, _caught) = (Dir::new(), Caught::new(Level::Notice));
        let path = dir.path("err");
        let stderr = with_file(&path).unwrap();
        // The test's umask is not known; 0660 is the most.
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode & !0o660, mode & 0o600), (0, 0o600));
        log::err(format_args!("ours"));
        write(stderr.descriptor().unwrap(), b"a handler's\n").unwrap();
        drop(stderr);
        let again = with_file(&path).unwrap();
        log::err(format_args!("ours again"));
        assert!(!is_nonblocking(again.descriptor().unwrap()));
        assert_eq!(read_to_string(&path).unwrap(), "ERR: ours\na handler's\nERR: ours again\n");
    }

    #[test]
    fn a_rotated_file_is_followed_when_told_so() {
        let (dir, _caught) = (Dir::new(), Caught::new(Level::Notice));
        let (path, old) = (dir.path("err"), dir.path("err.1"));
        let mut stderr = with_file(&path).unwrap();
        fs::rename(&path, &old).unwrap();
        log::err(format_args!("before"));
        stderr.reopen();
        log::err(format_args!("after"));
        write(stderr.descriptor().unwrap(), b"a handler's\n").unwrap();
        assert_eq!(read_to_string(&old).unwrap(), "ERR: before\n");
        assert_eq!(read_to_string(&path).unwrap(), "ERR: after\na handler's\n");
    }

    #[test]
    fn a_file_that_cannot_be_reopened_leaves_the_old_one() {
        let (dir, _caught) = (Dir::new(), Caught::new(Level::Notice));
        let (path, old) = (dir.path("err"), dir.path("err.1"));
        let mut stderr = with_file(&path).unwrap();
        fs::rename(&path, &old).unwrap();
        fs::create_dir(&path).unwrap();
        stderr.reopen();
        write(stderr.descriptor().unwrap(), b"a handler's\n").unwrap();
        assert_eq!(
            read_to_string(&old).unwrap(),
            format!(
                "ERR: {}: cannot open: Is a directory; the file that was open before stays in use\na handler's\n",
                path.display()
            )
        );
    }

    #[test]
    fn a_fifo_needs_no_reader_and_survives_its_readers() {
        let (dir, _caught) = (Dir::new(), Caught::new(Level::Notice));
        let path = dir.path("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let stderr = with_file(&path).unwrap();
        assert!(!is_nonblocking(stderr.descriptor().unwrap()));
        log::err(format_args!("one"));
        for (_, line) in [(1, b"two\n"), (2, b"six\n")] {
            write(stderr.descriptor().unwrap(), line).unwrap();
            // A reader that comes late, and goes.
            let reader = open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).unwrap();
            let mut buffer = [0; 100];
            let length = read(&reader, &mut buffer).unwrap();
            assert!(buffer[..length].ends_with(line));
        }
        // The daemon's own lines find no room at last, and do not wait for it.
        for n in 0..20_000 {
            log::err(format_args!("nobody reads line {n}"));
        }
        let reader = open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).unwrap();
        let mut buffer = vec![0; 1 << 20];
        assert!(read(&reader, &mut buffer).unwrap() > 4096);
        log::err(format_args!("seen"));
        let length = read(&reader, &mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]);
        assert!(text.starts_with("WARN: ") && text.ends_with(" could not be written\nERR: seen\n"), "{text}");
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let _caught = Caught::new(Level::Notice);
        let stderr = with_file(Path::new("/dev/full")).unwrap();
        log::err(format_args!("lost"));
        assert!(!is_nonblocking(stderr.descriptor().unwrap()));
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        log::reopened(Descriptor::own(writer));
        log::err(format_args!("seen"));
        let mut buffer = [0; 100];
        let length = read(&reader, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WARN: 1 message could not be written\nERR: seen\n");
    }

    #[test]
    fn the_options_say_what_handlers_get_and_where_lines_go() {
        let (dir, _caught) = (Dir::new(), Caught::new(Level::Notice));
        let path = dir.path("err");
        let file = Config { stderr: HandlerStderr::File(path.clone()), ..config() };
        let mut stderr = Stderr::open(&file).unwrap();
        assert!(stderr.descriptor().is_some() && stderr.logger().is_none() && stderr.lines_in_file);
        log::info(format_args!("by level"));
        log::err(format_args!("in the file"));
        assert_eq!(read_to_string(&path).unwrap(), "ERR: in the file\n");

        // With -stderr=socket the logger has the daemon's lines alone.
        for (handlers, given) in [(HandlerStderr::Logger, true), (HandlerStderr::Socket, false)] {
            let logger = LoggerProgram { program: "/lib/log".into(), name: "imapd".into() };
            let config = Config { stderr: handlers, logger: Some(logger), ..config() };
            let mut stderr = Stderr::open(&config).unwrap();
            assert_eq!(stderr.descriptor().is_some(), given);
            assert!(!stderr.lines_in_file);
            log::err(format_args!("to the logger"));
            let mut text = [0; 100];
            let read_all = |input: BorrowedFd<'_>| {
                let length = read(input, &mut text).unwrap();
                assert_eq!(&text[..length], b"ERR: to the logger\n");
                Ok(nix::unistd::Pid::from_raw(1))
            };
            stderr.logger().unwrap().start(std::time::Instant::now(), read_all).unwrap();
        }
        assert_eq!(read_to_string(&path).unwrap(), "ERR: in the file\n");

        let missing = Config { stderr: HandlerStderr::File(dir.path("no/err")), ..config() };
        let text = Stderr::open(&missing).unwrap_err().to_string();
        assert_eq!(text, format!("{}: cannot open: No such file or directory", dir.path("no/err").display()));
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let dir = Dir::new();
        assert_eq!(File::open(&dir.path("no/err")).unwrap_err(), Errno::ENOENT);
        assert_eq!(File::open(&dir.path("")).unwrap_err(), Errno::EISDIR);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path("socket")).unwrap();
        assert_eq!(File::open(&dir.path("socket")).unwrap_err(), Errno::ENXIO);
    }
}

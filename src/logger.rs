//! The program of `-stderrlogger`: its pipe, and when it is started again.
//!
//! The daemon keeps both ends of the pipe for as long as it runs. With the read end in hand, a
//! logger that died kills no handler that writes; its lines wait in the pipe for the next logger.
//! Once the daemon is gone and the last handler too, the logger reads the end of the pipe.
//!
//! A state machine without a clock. The reactor starts it once ([`Logger::start`]), tells it of
//! every child that ended ([`Logger::exited`]), and calls [`Logger::tick`] when
//! [`Logger::deadline`] has come. How a process is started is the caller's to say.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Pid, pipe2};

use crate::children::End;
use crate::config::{Level, LoggerProgram};
use crate::error::{StartError, errno_text};
use crate::handover;
use crate::log::{self, Descriptor, Escaped, Kind};

/// The pause before the first new start; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A logger that ran so long was sound, and the pauses begin anew.
const SOUND: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Logger {
    program: OsString,
    /// What the logger reads, and what keeps the pipe alive when there is none.
    reader: OwnedFd,
    /// The handlers' standard error. Blocking, as programs expect it.
    writer: OwnedFd,
    state: State,
    /// The pause after the next failure.
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not yet started.
    New,
    Running {
        pid: Pid,
        since: Instant,
    },
    /// Ended, or could not be started; to be started again.
    Resting {
        until: Instant,
    },
}

impl Logger {
    /// Makes the pipe. Whoever calls this is the user that the daemon stays, so that the pipe can
    /// be reopened.
    pub fn new(logger: &LoggerProgram) -> Result<Self, StartError> {
        let (reader, writer) =
            pipe2(OFlag::O_CLOEXEC).map_err(|errno| StartError::system("cannot make a pipe for the logger", errno))?;
        Ok(Logger { program: logger.program.clone(), reader, writer, state: State::New, pause: FIRST_PAUSE })
    }

    /// The pipe that the program before this one had, and its logger if one runs. If none does, it is
    /// started as after any other end: what keeps it from running must not end the daemon.
    pub fn take_on(logger: &LoggerProgram, handed: handover::Logger<OwnedFd>, now: Instant) -> Self {
        let handover::Logger { reader, writer, process } = handed;
        let state = match process {
            Some((pid, age)) => State::Running { pid: Pid::from_raw(pid), since: now.checked_sub(age).unwrap_or(now) },
            None => State::Resting { until: now },
        };
        Logger { program: logger.program.clone(), reader, writer, state, pause: FIRST_PAUSE }
    }

    /// What [`Logger::take_on`] needs.
    pub fn state(&self, now: Instant) -> handover::Logger<RawFd> {
        let process = match self.state {
            State::Running { pid, since } => Some((pid.as_raw(), now.saturating_duration_since(since))),
            State::New | State::Resting { .. } => None,
        };
        handover::Logger { reader: self.reader.as_raw_fd(), writer: self.writer.as_raw_fd(), process }
    }

    /// True until it is started for the first time.
    pub fn is_new(&self) -> bool {
        self.state == State::New
    }

    /// The end that handlers write to.
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// The daemon's own way into the pipe, which never waits.
    pub fn own_way(&self) -> Result<Descriptor, StartError> {
        Descriptor::beside(self.writer.as_fd())
            .map_err(|errno| StartError::system("cannot write to the logger's pipe", errno))
    }

    /// The first start, whose failure is the daemon's. `spawn` starts the program with the given
    /// descriptor as standard input.
    pub fn start(
        &mut self,
        now: Instant,
        spawn: impl FnOnce(BorrowedFd<'_>) -> nix::Result<Pid>,
    ) -> Result<(), StartError> {
        let pid = self.spawn(spawn).map_err(|errno| StartError::file(&self.program, "cannot run the logger", errno))?;
        self.state = State::Running { pid, since: now };
        Ok(())
    }

    /// A child has ended. True if it was the logger, which then is to be started again at
    /// [`Logger::deadline`].
    pub fn exited(&mut self, ended: Pid, end: End, now: Instant) -> bool {
        match self.state {
            State::Running { pid, since } if pid == ended => {
                if now.saturating_duration_since(since) >= SOUND {
                    self.pause = FIRST_PAUSE;
                }
                self.rest(now, format_args!("ended with {end}"));
                true
            }
            _ => false,
        }
    }

    /// The process that runs.
    pub fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// When [`Logger::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Resting { until } => Some(until),
            _ => None,
        }
    }

    /// Starts the program again if its pause is over.
    pub fn tick(&mut self, now: Instant, spawn: impl FnOnce(BorrowedFd<'_>) -> nix::Result<Pid>) {
        if self.deadline().is_none_or(|until| now < until) {
            return;
        }
        match self.spawn(spawn) {
            Ok(pid) => self.state = State::Running { pid, since: now },
            Err(errno) => {
                self.rest(now, format_args!("cannot be started: {}", errno_text(&io::Error::from(errno))));
            }
        }
    }

    fn spawn(&self, spawn: impl FnOnce(BorrowedFd<'_>) -> nix::Result<Pid>) -> nix::Result<Pid> {
        // All loggers share the description they read by. One that made it nonblocking must not
        // leave that to the next, which would take an empty pipe for an error.
        set_blocking(&self.reader)?;
        spawn(self.reader.as_fd())
    }

    fn rest(&mut self, now: Instant, what: fmt::Arguments<'_>) {
        let pause = self.pause;
        self.state = State::Resting { until: now + pause };
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        // Without -syslog this waits in the pipe for the next logger, as all lines do.
        log::limited(
            Kind::Logger,
            Level::Err,
            format_args!("logger {} {what}; next start in {} s", Escaped(self.program.as_bytes()), pause.as_secs()),
        );
    }
}

/// Takes O_NONBLOCK from the description of `fd`.
pub(crate) fn set_blocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::Caught;

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::unistd::{read, write};

    fn logger() -> Logger {
        Logger::new(&LoggerProgram { program: "/lib/log".into(), name: "imapd".into() }).unwrap()
    }

    fn pid(n: i32) -> Pid {
        Pid::from_raw(n)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_program_that_cannot_be_run_is_a_start_error() {
        let mut logger = logger();
        let error = logger.start(Instant::now(), |_| Err(Errno::ENOENT)).unwrap_err();
        assert_eq!(error.to_string(), "/lib/log: cannot run the logger: No such file or directory");
        assert_eq!(logger.deadline(), None);
    }

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew_after_a_sound_run() {
        let caught = Caught::new(Level::Notice);
        let (mut logger, mut now) = (logger(), Instant::now());
        logger.start(now, |_| Ok(pid(100))).unwrap();
        let mut current = 100;
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            // Others' ends are none of its business.
            assert!(!logger.exited(pid(current + 1), End::Exit(0), now));
            assert_eq!(logger.deadline(), None);
            assert!(logger.exited(pid(current), End::Exit(1), now));
            assert_eq!(logger.deadline(), Some(now + seconds * SECOND));
            assert!(!logger.exited(pid(current), End::Exit(1), now), "ended already");

            now += seconds * SECOND;
            logger.tick(now - SECOND / 1000, |_| panic!("too early"));
            current += 1;
            logger.tick(now, |_| Ok(pid(current)));
            logger.tick(now, |_| panic!("runs already"));
        }
        // Nearly a minute is not enough, a minute is.
        now += SOUND - SECOND;
        assert!(logger.exited(pid(current), End::Killed(libc::SIGKILL), now));
        assert_eq!(logger.deadline(), Some(now + LONGEST_PAUSE));
        now += LONGEST_PAUSE;
        logger.tick(now, |_| Ok(pid(1)));
        now += SOUND;
        assert!(logger.exited(pid(1), End::Killed(libc::SIGKILL), now));
        assert_eq!(logger.deadline(), Some(now + FIRST_PAUSE));
        assert!(caught.text().starts_with("ERR: logger /lib/log ended with exit status 1; next start in 1 s\n"));
    }

    #[test]
    fn a_start_that_fails_is_tried_again() {
        let caught = Caught::new(Level::Notice);
        let (mut logger, now) = (logger(), Instant::now());
        logger.start(now, |_| Ok(pid(1))).unwrap();
        assert!(logger.exited(pid(1), End::Killed(libc::SIGSEGV), now));
        assert!(caught.text().contains("ended with SIGSEGV"));
        logger.tick(now + SECOND, |_| Err(Errno::EAGAIN));
        assert_eq!(logger.deadline(), Some(now + 3 * SECOND));
        logger.tick(now + 3 * SECOND, |_| Ok(pid(2)));
        assert_eq!(logger.deadline(), None);
    }

    #[test]
    fn lines_wait_in_the_pipe_while_no_logger_runs() {
        let mut logger = logger();
        let mut own = logger.own_way().unwrap();
        own.write(b"ours\n").unwrap();
        write(logger.writer(), b"a handler's\n").unwrap();
        let mut buffer = [0; 100];
        logger
            .start(Instant::now(), |input| {
                let length = read(input, &mut buffer).unwrap();
                assert_eq!(&buffer[..length], b"ours\na handler's\n");
                Ok(pid(1))
            })
            .unwrap();
    }

    #[test]
    fn a_full_pipe_holds_up_handlers_and_not_the_daemon() {
        let logger = logger();
        let mut own = logger.own_way().unwrap();
        assert!((0..100_000).any(|_| own.write(b"a line that nobody reads\n") == Err(Errno::EAGAIN)));
        let flags = OFlag::from_bits_retain(fcntl(&logger.writer, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn a_logger_leaves_no_flags_to_the_next() {
        let (mut logger, now) = (logger(), Instant::now());
        let _caught = Caught::new(Level::Notice);
        logger
            .start(now, |input| {
                fcntl(input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
                Ok(pid(1))
            })
            .unwrap();
        logger.exited(pid(1), End::Exit(0), now);
        logger.tick(now + SECOND, |input| {
            let flags = OFlag::from_bits_retain(fcntl(input, FcntlArg::F_GETFL).unwrap());
            assert!(!flags.contains(OFlag::O_NONBLOCK));
            Ok(pid(2))
        });
        assert_eq!(logger.deadline(), None);
    }

    #[test]
    fn the_pipe_ends_with_its_last_writer() {
        let mut logger = logger();
        let own = logger.own_way().unwrap();
        let mut input = None;
        logger
            .start(Instant::now(), |fd| {
                input = Some(fd.try_clone_to_owned().unwrap());
                Ok(pid(1))
            })
            .unwrap();
        drop((logger, own));
        let input = input.unwrap();
        let mut ask = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ask, PollTimeout::ZERO), Ok(1));
        assert_eq!(read(&input, &mut [0; 10]), Ok(0));
    }
}

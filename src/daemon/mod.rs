//! The process itself: what it was started with, its way to the background, and its answer to
//! whoever started it.
//!
//! `main` calls [`sanitize`] before anything else, then [`detach`] (with `-pid`) or [`foreground`],
//! and in the process that stays: `signal::Signals::new`, [`lock::Lock::acquire`], the sockets,
//! the pid file, [`privs`], and [`Readiness::ready`] at last. Signals come before the lock because
//! the lock is what makes `-restart` send one. Nothing here serves connections.

pub mod lock;
pub mod privs;
pub mod verbs;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use daemonize::{Daemonize, Outcome};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, chdir, dup2_stdin, getpid, pipe2, setpgid};

use crate::error::StartError;
use crate::{log, sys};

/// Begins each line on standard error.
const NAME: &str = "couriertcpd";

/// The byte that ends what the daemon writes to the waiting command, and says how it went. Text
/// before it has no control characters but newlines.
const READY: u8 = 0;
const FAILED: u8 = 1;
/// Begins a line for standard output; others are for standard error.
const OUTPUT: u8 = 2;

/// What [`sanitize`] found.
#[derive(Debug)]
pub struct Inherited {
    /// Descriptors above 2 that were open at the start; nobody here owns them.
    descriptors: Vec<RawFd>,
}

impl Inherited {
    /// Takes a descriptor over, so that it stays open. EBADF: it was not open at the start, or has
    /// been taken. Of those that every process has only standard input can be.
    pub fn take(&mut self, number: RawFd) -> Result<OwnedFd, Errno> {
        if number == 0 {
            let taken = io::stdin().as_fd().try_clone_to_owned();
            let null = sys::dev_null();
            let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            // Two descriptors of one socket would keep it open when one is closed.
            dup2_stdin(null.map_err(errno)?)?;
            return taken.map_err(errno);
        }
        let at = self.descriptors.iter().position(|&listed| listed == number).ok_or(Errno::EBADF)?;
        self.descriptors.remove(at);
        // SAFETY: `sanitize` listed it before anything of ours was opened, and off the list nobody
        // takes or closes it again.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

/// Makes the process one that the rest can rely on, whatever it was started with: 0, 1 and 2 are
/// open and no child gets another descriptor of the caller's; no signal is blocked but those of
/// [`sys::OF_WRITES`]; SIGCHLD is not ignored, which would reap children unseen, nor SIGPIPE, as the
/// Rust runtime has it. Other dispositions are left alone, and so are the children's.
/// To be called while nothing has been opened. `keep_mask`: the program before this one in the same
/// process has blocked what has to wait.
pub fn sanitize(keep_mask: bool) -> Result<Inherited, StartError> {
    let failed = |errno: Errno| StartError::system("cannot set up the process", errno);
    for number in 0..=2 {
        match sys::descriptor_flags(number) {
            // A child inherits its standard error: it must pass exec.
            Ok(_) => sys::set_close_on_exec(number, false).map_err(failed)?,
            Err(_) => sys::fill_with_dev_null(number).map_err(|e| StartError::system("cannot open /dev/null", e))?,
        }
    }
    let descriptors = sys::open_descriptors(3);
    for &number in &descriptors {
        sys::set_close_on_exec(number, true).map_err(failed)?;
    }
    let how = if keep_mask { SigmaskHow::SIG_BLOCK } else { SigmaskHow::SIG_SETMASK };
    sigprocmask(how, Some(&sys::OF_WRITES.into_iter().collect()), None).map_err(failed)?;
    for signal in [Signal::SIGCHLD, Signal::SIGPIPE] {
        sys::default_action(signal).map_err(failed)?;
    }
    Ok(Inherited { descriptors })
}

/// Which process [`detach`] returned in.
#[derive(Debug)]
pub enum Side {
    /// Not the daemon: the process exits with this status. All there was to say has been said.
    Caller(i32),
    /// The daemon.
    Daemon(Readiness),
}

/// Goes to the background. The starting process waits in here until the daemon has spoken by its
/// [`Readiness`] or has ended. The daemon keeps the current directory and the umask, leads its own
/// process group and has /dev/null as standard input, output and error.
pub fn detach(inherited: Inherited) -> Result<Side, StartError> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| StartError::system("cannot make a pipe", errno))?;
    // A daemon that held the caller's other descriptors would keep whoever reads them waiting.
    for number in inherited.descriptors {
        // SAFETY: `sanitize` listed it before anything of ours was opened, and nobody adopts these.
        unsafe { sys::close_foreign(number) };
    }
    // Changing to where we are changes nothing. From a directory that may not be searched no
    // relative path leads anywhere, so nothing is lost by leaving it.
    let directory = if chdir(".").is_ok() { "." } else { "/" };
    let outcome = Daemonize::new().working_directory(directory).umask(sys::current_umask()).execute();
    match outcome {
        Outcome::Parent(result) => {
            drop(write);
            let failure = result.err().map(|error| background_error(error.to_string()));
            Ok(Side::Caller(await_daemon(File::from(read), failure, &mut io::stdout(), &mut io::stderr())))
        }
        Outcome::Child(result) => {
            drop(read);
            let readiness = Readiness { caller: Caller::Waits(File::from(write)) };
            let begun = match result {
                Ok(_) => lead_group(),
                Err(error) => Err(background_error(error.to_string())),
            };
            match begun {
                Ok(()) => Ok(Side::Daemon(readiness)),
                Err(error) => Ok(Side::Caller(readiness.fail(&error))),
            }
        }
    }
}

/// Stays in the foreground: standard error, session and directory as they are, in a process group
/// of its own, so that ending all programs of the group ends none of the caller's.
pub fn foreground() -> Result<Readiness, StartError> {
    lead_group()?;
    Ok(Readiness { caller: Caller::Foreground })
}

/// Stays as it is after an upgrade. What there is to say goes to the log, which never waits: standard error may be a
/// pipe that is full, and connections are in hand.
pub fn resumed() -> Result<Readiness, StartError> {
    lead_group()?;
    Ok(Readiness { caller: Caller::Gone })
}

fn lead_group() -> Result<(), StartError> {
    match setpgid(Pid::from_raw(0), Pid::from_raw(0)) {
        // A session leader may not, and leads its group already.
        Err(errno) if nix::unistd::getpgrp() != getpid() => {
            Err(StartError::system("cannot make a process group", errno))
        }
        _ => Ok(()),
    }
}

/// Prints one line on standard error, as the command does for all it has to say.
pub fn say(line: impl fmt::Display) {
    // Nobody is left to be told of a failure.
    let _ = io::stderr().write_all(clean_line(line).as_bytes());
}

/// One line, with the program's name, without control characters: a path may hold any.
fn clean_line(line: impl fmt::Display) -> String {
    let mut text = format!("{NAME}: {line}").replace(|c: char| c.is_control(), "?");
    text.push('\n');
    text
}

/// The daemon's word to the process that started it. Dropped without one, that process reports a
/// failure. In the foreground there is no such process, and lines go to standard error.
#[derive(Debug)]
#[must_use = "the starting command waits for it"]
pub struct Readiness {
    caller: Caller,
}

#[derive(Debug)]
enum Caller {
    /// There is none but this process, which has its standard error.
    Foreground,
    Waits(File),
    /// It was told long ago.
    Gone,
}

impl Readiness {
    /// A line for the caller's standard error: a warning that does not keep us from starting.
    pub fn note(&self, line: impl fmt::Display) {
        match &self.caller {
            Caller::Foreground => say(line),
            // A caller that has gone away hinders nothing.
            Caller::Waits(pipe) => drop((&*pipe).write_all(clean_line(line).as_bytes())),
            Caller::Gone => {
                let line = line.to_string();
                log::warning(format_args!("{}", line.strip_prefix("warning: ").unwrap_or(&line)));
            }
        }
    }

    /// A line for the caller's standard output.
    pub fn print(&self, line: impl fmt::Display) {
        // Nobody who does not listen is hindered by it, as above.
        let _ = match &self.caller {
            Caller::Foreground => writeln!(io::stdout(), "{line}"),
            Caller::Gone => Ok(()),
            Caller::Waits(pipe) => (&*pipe).write_all(format!("{}{line}\n", char::from(OUTPUT)).as_bytes()),
        };
    }

    /// The daemon listens: the starting command exits 0.
    pub fn ready(self) {
        self.end(READY);
    }

    /// The daemon could not start: the starting command prints why and exits 1, and so does this
    /// process with the status returned. To be called when sockets and lock are given up: the
    /// caller may try again at once, and must not meet what is left of this try.
    pub fn fail(self, error: &StartError) -> i32 {
        self.note(error);
        self.end(FAILED);
        1
    }

    /// Another daemon has the lock: the starting command says so and exits 0, as does this process.
    pub fn runs_already(self, holder: Option<Pid>) -> i32 {
        match holder {
            Some(pid) => self.note(format_args!("already running, process {pid}")),
            None => self.note("already running"),
        }
        self.end(READY);
        0
    }

    fn end(self, how: u8) {
        if let Caller::Waits(mut pipe) = self.caller {
            let _ = pipe.write_all(&[how]);
        }
    }
}

/// Copies what the daemon says to standard output and error until it has said how it went; the
/// exit status.
fn await_daemon(
    mut daemon: impl Read,
    failure: Option<StartError>,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> i32 {
    let mut buffer = [0; 512];
    let mut line = Vec::new();
    let mut silent = true;
    loop {
        let length = match daemon.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in &buffer[..length] {
            match byte {
                READY => return 0,
                FAILED => return 1,
                b'\n' => {
                    line.push(byte);
                    // Nobody is left to be told of a failure.
                    let _ = match line.strip_prefix(&[OUTPUT]) {
                        Some(line) => stdout.write_all(line),
                        None => {
                            silent = false;
                            stderr.write_all(&line)
                        }
                    };
                    line.clear();
                }
                _ => line.push(byte),
            }
        }
    }
    // The pipe ended without a word: the daemon died, or never came to be.
    match failure {
        Some(error) => drop(stderr.write_all(clean_line(error).as_bytes())),
        None if silent => drop(stderr.write_all(clean_line("the daemon ended before it listened").as_bytes())),
        None => {}
    }
    1
}

/// The crate tells its errors as text that ends in the number of the system's.
fn background_error(text: String) -> StartError {
    let number = text.rsplit(' ').next().and_then(|number| number.parse().ok());
    let error = number.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error);
    StartError::system("cannot go to the background", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(speak: impl FnOnce(Readiness)) -> (i32, String) {
        let (status, said, printed) = told_and_printed(speak);
        assert_eq!(printed, "");
        (status, said)
    }

    fn told_and_printed(speak: impl FnOnce(Readiness)) -> (i32, String, String) {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        speak(Readiness { caller: Caller::Waits(File::from(write)) });
        let mut said = Vec::new();
        let mut printed = Vec::new();
        let status = await_daemon(File::from(read), None, &mut printed, &mut said);
        (status, String::from_utf8(said).unwrap(), String::from_utf8(printed).unwrap())
    }

    #[test]
    fn lines_for_standard_output_go_there() {
        let outcome = told_and_printed(|r| {
            r.note("one");
            r.print("two");
            r.note("three");
            r.ready();
        });
        assert_eq!(outcome, (0, "couriertcpd: one\ncouriertcpd: three\n".to_owned(), "two\n".to_owned()));
    }

    #[test]
    fn the_caller_prints_what_the_daemon_says() {
        let error = StartError::Unknown { option: "user", name: "nobody\nelse".into() };
        assert_eq!(told(Readiness::ready), (0, String::new()));
        assert_eq!(
            told(|r| assert_eq!(r.fail(&error), 1)),
            (1, "couriertcpd: -user=nobody?else: unknown user\n".to_owned())
        );
        assert_eq!(
            told(|r| assert_eq!(r.runs_already(Some(Pid::from_raw(12))), 0)),
            (0, "couriertcpd: already running, process 12\n".to_owned())
        );
        let long = "x".repeat(5_000);
        let two = told(|r| {
            r.note(&long);
            r.note("and more");
            r.ready();
        });
        assert_eq!(two, (0, format!("couriertcpd: {long}\ncouriertcpd: and more\n")));
    }

    #[test]
    fn a_daemon_that_dies_has_failed() {
        let silent = "couriertcpd: the daemon ended before it listened\n".to_owned();
        assert_eq!(told(drop), (1, silent));
        assert_eq!(told(|r| r.note("a warning")), (1, "couriertcpd: a warning\n".to_owned()));
    }

    #[test]
    fn an_error_of_detaching_has_the_systems_text() {
        let again = crate::error::errno_text(&io::Error::from_raw_os_error(libc::EAGAIN));
        for (text, shown) in [("unable to fork, errno 11", again.as_str()), ("something else", "something else")] {
            let shown = format!("cannot go to the background: {shown}");
            assert_eq!(background_error(text.to_owned()).to_string(), shown);
        }
    }
}

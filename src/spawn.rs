//! Starts handlers and the logger by posix_spawn.
//!
//! A [`Spawner`] is made once for each program and holds all that does not differ between two
//! starts: path, arguments, signal mask and dispositions. A start costs the parent a vfork-like
//! clone that does not grow with the daemon's memory. Called by the reactor for handlers and by
//! the logger's room; whoever starts a child reaps it. Nothing here waits, retries or logs.
//!
//! All descriptors of the daemon but 0, 1 and 2 are close-on-exec, so a child has what it is
//! given here and nothing else. That 0, 1 and 2 are always taken (`daemon::sanitize`) means that
//! no source of a duplicate is also a target, where the flag would stay on.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{AccessFlags, Pid, faccessat};

use crate::config::{Handler, LoggerProgram};
use crate::error::StartError;
use crate::sys;

/// The signals that the daemon catches or ignores; a child has their default actions. Others that
/// were ignored when the daemon started stay ignored: the daemon does not touch them.
const RESET: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGCHLD,
    sys::IGNORED[0],
    sys::IGNORED[1],
    sys::IGNORED[2],
];

/// The standard error of a handler.
#[derive(Debug, Clone, Copy)]
pub enum StderrFor<'a> {
    /// The daemon's own.
    Inherit,
    /// The connection.
    Connection,
    /// A file, or the write end of the logger's pipe.
    Descriptor(BorrowedFd<'a>),
}

/// One program, ready to be started any number of times.
#[derive(Debug)]
pub struct Spawner {
    program: CString,
    /// Argument zero is the program as given.
    argv: Vec<CString>,
    attributes: PosixSpawnAttr,
}

impl Spawner {
    /// For PROGRAM; its children stay in the daemon's process group.
    pub fn handler(handler: &Handler) -> Result<Self, StartError> {
        Self::new(&handler.program, &handler.args, PosixSpawnFlags::empty())
    }

    /// For the logger, in a process group of its own: what ends the handlers leaves it alone.
    pub fn logger(logger: &LoggerProgram) -> Result<Self, StartError> {
        Self::new(&logger.program, std::slice::from_ref(&logger.name), PosixSpawnFlags::POSIX_SPAWN_SETPGROUP)
    }

    fn new(program: &OsStr, args: &[OsString], flags: PosixSpawnFlags) -> Result<Self, StartError> {
        let text = |value: &OsStr| {
            CString::new(value.as_bytes()).map_err(|_| StartError::File {
                path: PathBuf::from(program),
                doing: "an argument contains a NUL",
                error: None,
            })
        };
        let program = text(program)?;
        let mut argv = vec![program.clone()];
        for arg in args {
            argv.push(text(arg)?);
        }
        let attributes = attributes(flags).map_err(|errno| StartError::system("cannot prepare to spawn", errno))?;
        Ok(Spawner { program, argv, attributes })
    }

    /// Fails if the program is missing or this process may not execute it. To be asked with the
    /// privileges that it is started with later; there is no search of PATH.
    pub fn check(&self) -> Result<(), StartError> {
        let path = PathBuf::from(OsStr::from_bytes(self.program.as_bytes()));
        let refuse = |errno: Errno| StartError::file(path.clone(), "cannot execute", errno);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(refuse(Errno::EACCES)),
            Err(error) => return Err(StartError::file(path, "cannot execute", error)),
        }
        faccessat(AT_FDCWD, self.program.as_c_str(), AccessFlags::X_OK, AtFlags::AT_EACCESS).map_err(refuse)
    }

    /// Starts a handler: descriptors 0 and 1 are the connection, 2 is as told. The connection is
    /// in blocking mode already. EBADF: a descriptor below 3 was given.
    pub fn spawn(&self, connection: BorrowedFd<'_>, stderr: StderrFor<'_>, envp: &[&CStr]) -> Result<Pid, Errno> {
        let connection = source(connection)?;
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(connection, libc::STDIN_FILENO)?;
        actions.add_dup2(connection, libc::STDOUT_FILENO)?;
        match stderr {
            StderrFor::Inherit => {}
            StderrFor::Connection => actions.add_dup2(connection, libc::STDERR_FILENO)?,
            StderrFor::Descriptor(file) => actions.add_dup2(source(file)?, libc::STDERR_FILENO)?,
        }
        posix_spawn(self.program.as_c_str(), &actions, &self.attributes, &self.argv, envp)
    }

    /// Starts the logger: it reads `input`, the read end of the pipe; `null` is /dev/null.
    pub fn spawn_logger(&self, input: BorrowedFd<'_>, null: BorrowedFd<'_>, envp: &[&CStr]) -> Result<Pid, Errno> {
        let null = source(null)?;
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(source(input)?, libc::STDIN_FILENO)?;
        actions.add_dup2(null, libc::STDOUT_FILENO)?;
        actions.add_dup2(null, libc::STDERR_FILENO)?;
        posix_spawn(self.program.as_c_str(), &actions, &self.attributes, &self.argv, envp)
    }
}

fn attributes(flags: PosixSpawnFlags) -> Result<PosixSpawnAttr, Errno> {
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(flags | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&RESET.into_iter().collect())?;
    // Group 0 is a new one that the child leads; without the flag it is not looked at.
    attributes.set_pgroup(Pid::from_raw(0))?;
    Ok(attributes)
}

/// A descriptor that may be duplicated onto 0, 1 and 2 in any order.
fn source(descriptor: BorrowedFd<'_>) -> Result<RawFd, Errno> {
    match descriptor.as_raw_fd() {
        number if number > libc::STDERR_FILENO => Ok(number),
        _ => Err(Errno::EBADF),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, stdin};
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::FdFlag;
    use nix::sys::signal::SigmaskHow;
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    fn shell(script: &str) -> Spawner {
        let args = ["-c", script, "zero", "one"].map(OsString::from).to_vec();
        Spawner::handler(&Handler { program: "/bin/sh".into(), args }).unwrap()
    }

    /// What the script says on descriptor 1 when it is run with `stderr` and reads `input`.
    fn run(script: &str, stderr: StderrFor<'_>, envp: &[&CStr], input: &[u8]) -> String {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let pid = shell(script).spawn(theirs.as_fd(), stderr, envp).unwrap();
        drop(theirs);
        ours.write_all(input).unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        let mut output = String::new();
        ours.read_to_string(&mut output).unwrap();
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
        output
    }

    #[test]
    fn the_connection_is_input_and_output() {
        assert_eq!(run("cat; echo \"$0 $1\"", StderrFor::Inherit, &[], b"text\n"), "text\nzero one\n");
    }

    #[test]
    fn the_environment_is_what_is_given() {
        let path = CString::new("PATH=/usr/bin:/bin").unwrap();
        let variable = CString::new("TCPREMOTEIP=::ffff:192.0.2.1").unwrap();
        let output = run("exec env", StderrFor::Inherit, &[&path, &variable], b"");
        let mut lines: Vec<_> =
            output.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["PATH=/usr/bin:/bin", "TCPREMOTEIP=::ffff:192.0.2.1"]);
    }

    #[test]
    fn the_child_has_three_descriptors() {
        // A close-on-exec one that must not show up, and one as standard error.
        let null = sys::dev_null().unwrap();
        // What whoever runs the tests left open to all its children is not ours to count.
        let foreign =
            sys::open_descriptors(3).into_iter().filter(|&number| sys::descriptor_flags(number) == Ok(FdFlag::empty()));
        let expected: Vec<i32> = [0, 1, 2].into_iter().chain(foreign).collect();
        // The test drops the directory that the shell itself had open for its pattern.
        let listing = "for n in /proc/$$/fd/*; do [ -h $n ] && echo ${n##*/}; done; true";
        let output = run(listing, StderrFor::Descriptor(null.as_fd()), &[], b"");
        let mut numbers: Vec<i32> = output.lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, expected);
        let target = "readlink /proc/$$/fd/2";
        let path = CString::new("PATH=/usr/bin:/bin").unwrap();
        assert_eq!(run(target, StderrFor::Descriptor(null.as_fd()), &[&path], b""), "/dev/null\n");
        assert_eq!(run("echo err >&2", StderrFor::Connection, &[], b""), "err\n");
    }

    #[test]
    fn signals_are_unblocked_and_not_ignored() {
        let blocked: SigSet = [Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect();
        let mut before = SigSet::empty();
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut before)).unwrap();
        // SIGPIPE is ignored here by the Rust runtime.
        let path = CString::new("PATH=/usr/bin:/bin").unwrap();
        let output = run("exec grep -E '^Sig(Blk|Ign)' /proc/self/status", StderrFor::Inherit, &[&path], b"");
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).unwrap();
        let masks: Vec<u64> = output
            .lines()
            .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(masks.len(), 2, "{output}");
        assert_eq!(masks[0], 0, "blocked");
        for signal in RESET {
            assert_eq!(masks[1] & 1 << (signal as i32 - 1), 0, "{signal} is ignored");
        }
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_named() {
        let of = |program: &str| Spawner::handler(&Handler { program: program.into(), args: Vec::new() }).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        for (program, errno, text) in [
            ("/nonexistent/program", Errno::ENOENT, "/nonexistent/program: cannot execute: No such file or directory"),
            ("/etc/passwd", Errno::EACCES, "/etc/passwd: cannot execute: Permission denied"),
            ("/etc", Errno::EACCES, "/etc: cannot execute: Permission denied"),
            ("sh", Errno::ENOENT, "sh: cannot execute: No such file or directory"),
        ] {
            assert_eq!(of(program).spawn(ours.as_fd(), StderrFor::Inherit, &[]), Err(errno), "{program}");
            assert_eq!(of(program).check().unwrap_err().to_string(), text);
        }
        assert!(of("/bin/sh").check().is_ok());
        let nul = Spawner::handler(&Handler { program: "/bin/sh".into(), args: vec!["a\0b".into()] });
        assert!(nul.is_err());
    }

    #[test]
    fn a_standard_descriptor_is_no_connection() {
        assert_eq!(shell("").spawn(stdin().as_fd(), StderrFor::Inherit, &[]), Err(Errno::EBADF));
    }

    #[test]
    fn the_logger_leads_its_own_group_and_reads_the_pipe() {
        let (read, write) = std::io::pipe().unwrap();
        let null = sys::dev_null().unwrap();
        // The one argument is the file that the group is written to.
        let directory = std::env::temp_dir().join(format!("spawn-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let program = directory.join("logger");
        fs::write(&program, "#!/bin/sh\nread line\necho \"$line $(ps -o pgid= -p $$) $$\" >\"$1\"\n").unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let result = directory.join("result");
        let logger = LoggerProgram { program: program.into(), name: result.clone().into() };
        let path = CString::new("PATH=/usr/bin:/bin").unwrap();
        let pid = Spawner::logger(&logger).unwrap().spawn_logger(read.as_fd(), null.as_fd(), &[&path]).unwrap();
        (&write).write_all(b"hello\n").unwrap();
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
        let text = fs::read_to_string(&result).unwrap();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["hello", &pid.to_string(), &pid.to_string()]);
        fs::remove_dir_all(directory).unwrap();
    }
}

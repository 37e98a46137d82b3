//! A way to write whole lines to a pipe, terminal, socket or file without ever waiting.
//!
//! Whether a write waits is a flag of the open file description, which standard error shares with
//! the caller and with every handler: setting it there would make their writes fail. So the daemon
//! writes by a description of its own wherever the kernel lets it have one.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, open, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{pipe2, read, write};

/// One place that lines go to.
#[derive(Debug)]
pub struct Descriptor {
    fd: OwnedFd,
    way: Way,
    /// The last write ended within a line, so the next one begins with a newline.
    torn: bool,
}

#[derive(Debug)]
enum Way {
    /// The description is our own and nonblocking, or one of a regular file, where writes do not
    /// wait for anybody.
    Write,
    /// A socket takes "do not wait" with each call.
    Send,
    /// A pipe that cannot be reopened, being another user's. A line is put into a pipe of our own
    /// and moved from there, since moving can be told not to wait.
    Move { from: OwnedFd, into: OwnedFd },
    /// Anything else that cannot be reopened, a terminal say: written to if it says that it is ready.
    Ask,
}

impl Descriptor {
    /// Takes a nonblocking description of our own, or one of a regular file.
    pub fn own(fd: OwnedFd) -> Self {
        Descriptor { fd, way: Way::Write, torn: false }
    }

    /// Makes a way beside a descriptor that others write to as well.
    pub fn beside(shared: BorrowedFd<'_>) -> nix::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(shared)?.st_mode) & SFlag::S_IFMT;
        // The same description for a regular file: it may have been opened without O_APPEND, and a
        // second description would not move the place where the others write next.
        if kind == SFlag::S_IFREG {
            return Ok(Descriptor { fd: duplicate(shared)?, way: Way::Write, torn: false });
        }
        if kind == SFlag::S_IFSOCK {
            return Ok(Descriptor { fd: duplicate(shared)?, way: Way::Send, torn: false });
        }
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        match open(&*format!("/proc/self/fd/{}", shared.as_raw_fd()), flags, Mode::empty()) {
            Ok(fd) => Ok(Descriptor::own(fd)),
            Err(_) => Self::without_reopening(shared, kind == SFlag::S_IFIFO),
        }
    }

    /// What is left where `shared` cannot be reopened: another user's, or no /proc.
    fn without_reopening(shared: BorrowedFd<'_>, pipe: bool) -> nix::Result<Self> {
        let way = if pipe {
            let (from, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
            Way::Move { from, into }
        } else {
            Way::Ask
        };
        Ok(Descriptor { fd: duplicate(shared)?, way, torn: false })
    }

    /// Writes a line, newline included, by one call. An error if any of it is missing.
    pub fn write(&mut self, line: &[u8]) -> nix::Result<()> {
        let with_newline;
        let bytes = if self.torn {
            with_newline = [b"\n", line].concat();
            &with_newline
        } else {
            line
        };
        let written = loop {
            match self.attempt(bytes) {
                Err(Errno::EINTR) => (),
                other => break other?,
            }
        };
        if let Some(last) = bytes[..written].last() {
            self.torn = *last != b'\n';
        }
        if written == bytes.len() { Ok(()) } else { Err(Errno::EAGAIN) }
    }

    fn attempt(&self, bytes: &[u8]) -> nix::Result<usize> {
        match &self.way {
            Way::Write => write(&self.fd, bytes),
            Way::Send => send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            Way::Move { from, into } => {
                let moved = write(into, bytes)
                    .and_then(|length| splice(from, None, &self.fd, None, length, SpliceFFlags::SPLICE_F_NONBLOCK));
                // What was not moved must not come out before the next line.
                let mut rest = [0; 4096];
                while matches!(read(from, &mut rest), Ok(1..)) {}
                moved
            }
            Way::Ask => {
                let mut ask = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                poll(&mut ask, PollTimeout::ZERO)?;
                match ask[0].revents() {
                    Some(events) if events.contains(PollFlags::POLLOUT) => write(&self.fd, bytes),
                    _ => Err(Errno::EAGAIN),
                }
            }
        }
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write as _};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, fcntl};

    fn blocking_pipe() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC).unwrap()
    }

    fn is_nonblocking(fd: &OwnedFd) -> bool {
        OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
    }

    /// Writes numbered lines until one does not fit; returns how many did.
    fn fill(descriptor: &mut Descriptor) -> usize {
        for n in 0..1_000_000 {
            if let Err(error) = descriptor.write(format!("line {n:06}\n").as_bytes()) {
                assert_eq!(error, Errno::EAGAIN);
                return n;
            }
        }
        panic!("takes a million lines that nobody reads");
    }

    fn numbered(lines: usize) -> String {
        (0..lines).map(|n| format!("line {n:06}\n")).collect()
    }

    #[test]
    fn a_full_pipe_costs_the_line_and_leaves_the_others_blocking() {
        for reopen in [true, false] {
            let (reader, writer) = blocking_pipe();
            let mut descriptor = if reopen {
                Descriptor::beside(writer.as_fd()).unwrap()
            } else {
                Descriptor::without_reopening(writer.as_fd(), true).unwrap()
            };
            assert_eq!(matches!(descriptor.way, Way::Write), reopen);
            let lines = fill(&mut descriptor);
            assert!(lines > 10);
            assert!(!is_nonblocking(&writer), "the handlers' flag");

            // What went in are whole lines, and what did not go in leaves no trace.
            let mut text = vec![0; 1 << 20];
            let length = read(&reader, &mut text).unwrap();
            assert_eq!(String::from_utf8_lossy(&text[..length]), numbered(lines));
            descriptor.write(b"after\n").unwrap();
            let length = read(&reader, &mut text).unwrap();
            assert_eq!(&text[..length], b"after\n");
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_any_more_costs_the_line() {
        for reopen in [true, false] {
            let (reader, writer) = blocking_pipe();
            let mut descriptor = if reopen {
                Descriptor::beside(writer.as_fd()).unwrap()
            } else {
                Descriptor::without_reopening(writer.as_fd(), true).unwrap()
            };
            drop(reader);
            assert_eq!(descriptor.write(b"x\n"), Err(Errno::EPIPE));
        }
    }

    #[test]
    fn a_socket_that_nobody_reads_costs_the_line_and_tears_none() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let mut descriptor = Descriptor::beside(writer.as_fd()).unwrap();
        assert!(matches!(descriptor.way, Way::Send));
        let lines = fill(&mut descriptor);
        let mut text = vec![0; numbered(lines).len()];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(String::from_utf8_lossy(&text), numbered(lines));
        drop(reader);
        assert!(matches!(descriptor.write(b"x\n"), Err(Errno::EPIPE | Errno::ECONNRESET)));
    }

    #[test]
    fn a_full_disk_costs_the_line() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut descriptor = Descriptor::beside(full.as_fd()).unwrap();
        assert_eq!(descriptor.write(b"x\n"), Err(Errno::ENOSPC));
    }

    #[test]
    fn a_line_after_a_torn_one_begins_anew() {
        let (reader, writer) = blocking_pipe();
        let mut descriptor = Descriptor::beside(writer.as_fd()).unwrap();
        descriptor.write(b"half a li").unwrap();
        descriptor.write(b"whole\n").unwrap();
        descriptor.write(b"next\n").unwrap();
        let mut text = [0; 100];
        let length = read(&reader, &mut text).unwrap();
        assert_eq!(&text[..length], b"half a li\nwhole\nnext\n");
    }

    #[test]
    fn a_file_that_is_not_appended_to_keeps_what_others_write() {
        let dir = crate::log::tests::Dir::new();
        let mut theirs = File::create(dir.path("err")).unwrap();
        let mut descriptor = Descriptor::beside(theirs.as_fd()).unwrap();
        for (ours, others) in [("one\n", "two\n"), ("three\n", "four\n")] {
            descriptor.write(ours.as_bytes()).unwrap();
            theirs.write_all(others.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(dir.path("err")).unwrap(), "one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn what_is_not_ready_is_not_written_to() {
        let (_reader, writer) = blocking_pipe();
        let mut descriptor = Descriptor::without_reopening(writer.as_fd(), false).unwrap();
        assert!(matches!(descriptor.way, Way::Ask));
        assert!(fill(&mut descriptor) > 10);
    }
}

//! The signals that the daemon acts on, as an event source of the loop.
//!
//! SIGHUP, SIGINT, SIGTERM, SIGCHLD and SIGUSR1 are blocked and read from a signalfd, so that there
//! is no handler and no moment at which one could interrupt anything. Made in the process that stays,
//! before the lock is taken: from then on `-stop` and `-restart` find this process, and a signal
//! that comes before the loop runs waits for it. What follows from a signal is the reactor's.

#![forbid(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{self, Pid};

use crate::error::StartError;
use crate::sys;

const CAUGHT: [Signal; 5] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD, Signal::SIGUSR1];

/// One more record than there can be pending signals: each is pending once for the process and
/// once for its only thread. So a read that fits leaves nothing behind.
const RECORDS: usize = 2 * CAUGHT.len() + 1;

/// Which signals came since the last [`Signals::drain`]. However often one came, it is told once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// SIGHUP: read the files anew.
    pub hangup: bool,
    /// SIGTERM or SIGINT: end.
    pub terminate: bool,
    /// SIGCHLD: a child has ended, this one if it is a child and not a process that sent the signal, and any number
    /// of others.
    pub child: Option<Pid>,
    /// SIGUSR1: log how things stand.
    pub report: bool,
}

/// The blocked signals' descriptor; register it for reading.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks the signals for the rest of this process' life and gives them back their default
    /// actions, since an ignored one need not be kept while it is blocked. Not so SIGUSR1: Linux does
    /// keep it, and handlers are to find it as it was when the daemon started.
    pub fn new() -> Result<Self, StartError> {
        Self::open().map_err(|errno| StartError::system("cannot receive signals", errno))
    }

    fn open() -> Result<Self, Errno> {
        let set: SigSet = CAUGHT.into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        for signal in CAUGHT.into_iter().filter(|&signal| signal != Signal::SIGUSR1) {
            sys::default_action(signal)?;
        }
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { descriptor })
    }

    /// All signals that are pending now; after it the next one makes a new event.
    pub fn drain(&self) -> Arrived {
        const SIZE: usize = size_of::<siginfo>();
        let mut arrived = Arrived::default();
        let mut buffer = [0; RECORDS * SIZE];
        loop {
            let length = match unistd::read(&self.descriptor, &mut buffer) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                // EAGAIN: there is none. Nothing else can happen to a signalfd.
                Err(_) => return arrived,
            };
            for record in buffer[..length].chunks_exact(SIZE) {
                // The record begins with the number: signalfd(2), ssi_signo.
                let number = i32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
                match Signal::try_from(number) {
                    Ok(Signal::SIGHUP) => arrived.hangup = true,
                    Ok(Signal::SIGINT | Signal::SIGTERM) => arrived.terminate = true,
                    Ok(Signal::SIGCHLD) => {
                        // ssi_pid is the fourth field of four bytes.
                        let pid = i32::from_ne_bytes([record[12], record[13], record[14], record[15]]);
                        arrived.child = Some(Pid::from_raw(pid));
                    }
                    Ok(Signal::SIGUSR1) => arrived.report = true,
                    _ => {}
                }
            }
            if length < buffer.len() {
                return arrived;
            }
        }
    }
}

impl Source for Signals {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.descriptor.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.descriptor.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.descriptor.as_raw_fd()).deregister(registry)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::raise;

    use super::*;

    /// raise() is for the calling thread, which has the signals blocked: other tests are safe.
    #[test]
    fn all_pending_signals_are_told_once() {
        sys::ignore(Signal::SIGHUP).unwrap();
        let mut signals = Signals::new().unwrap();
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        poll.registry().register(&mut signals, Token(7), Interest::READABLE).unwrap();
        assert_eq!(signals.drain(), Arrived::default());

        raise(Signal::SIGHUP).unwrap();
        raise(Signal::SIGHUP).unwrap();
        raise(Signal::SIGCHLD).unwrap();
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert_eq!(events.iter().map(|e| e.token()).collect::<Vec<_>>(), [Token(7)]);
        assert_eq!(signals.drain(), Arrived { hangup: true, child: Some(Pid::this()), ..Arrived::default() });
        assert_eq!(signals.drain(), Arrived::default());

        raise(Signal::SIGUSR1).unwrap();
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert_eq!(signals.drain(), Arrived { report: true, ..Arrived::default() });

        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            raise(signal).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert!(!events.is_empty(), "each signal after a drain makes an event");
            assert_eq!(signals.drain(), Arrived { terminate: true, ..Arrived::default() });
        }
    }
}

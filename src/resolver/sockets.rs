//! The sockets of c-ares in the reactor's poll set.
//!
//! c-ares tells of each socket that it opens, wants otherwise, or is about to close, and all of it
//! is done in the poll set at once: the descriptor is closed right after the call, and the next
//! socket has the same number. A socket's key makes its token; an event that was under way when its
//! socket went finds nothing. Never calls c-ares: its callback runs in here.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::table::{Key, Table};

struct Watched {
    fd: RawFd,
    interest: Interest,
}

#[derive(Default)]
struct Inner {
    /// Few: one for each 250 queries in flight, and those of TCP.
    open: Table<Watched>,
    /// Sockets that the poll set did not take: their queries end by time-out.
    refused: u64,
}

/// Shared by the channels and their callbacks. The lock is never contended, as there is one thread;
/// c-ares' signatures ask for one.
pub struct Sockets {
    registry: Registry,
    token_for: fn(Key) -> Token,
    inner: Mutex<Inner>,
}

impl Sockets {
    pub fn new(registry: Registry, token_for: fn(Key) -> Token) -> Self {
        Sockets { registry, token_for, inner: Mutex::default() }
    }

    /// c-ares wants to be told about `fd` when it is readable, writable, both or, with neither, not
    /// any more.
    pub fn want(&self, fd: RawFd, readable: bool, writable: bool) {
        let mut inner = self.inner();
        let known = inner.open.iter().find(|(_, watched)| watched.fd == fd).map(|(key, _)| key);
        let interest = match (readable, writable) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => {
                if let Some(key) = known {
                    inner.open.remove(key);
                    // It fails only if the poll set has never taken the socket, which is counted below.
                    let _ = self.registry.deregister(&mut SourceFd(&fd));
                }
                return;
            }
        };
        let result = match known {
            Some(key) => {
                if let Some(watched) = inner.open.get_mut(key) {
                    watched.interest = interest;
                }
                self.registry.reregister(&mut SourceFd(&fd), (self.token_for)(key), interest)
            }
            None => {
                let key = inner.open.insert(Watched { fd, interest });
                self.registry.register(&mut SourceFd(&fd), (self.token_for)(key), interest)
            }
        };
        inner.refused += u64::from(result.is_err());
    }

    /// The descriptor of a socket that is still there.
    pub fn fd(&self, key: Key) -> Option<RawFd> {
        self.inner().open.get(key).map(|watched| watched.fd)
    }

    /// Asks for an event again if the socket is still ready. The poll set tells of changes only, while
    /// c-ares may leave something unread and expects to hear of it.
    pub fn rearm(&self, key: Key) {
        if let Some(&Watched { fd, interest }) = self.inner().open.get(key) {
            // As above.
            let _ = self.registry.reregister(&mut SourceFd(&fd), (self.token_for)(key), interest);
        }
    }

    /// How often the poll set refused a socket.
    pub fn refused(&self) -> u64 {
        self.inner().refused
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread has panicked with the lock: there is one thread")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    fn token(key: Key) -> Token {
        Token((key.index as usize) << 16 | key.generation as usize)
    }

    /// The events of one poll that need not wait.
    fn events(poll: &mut mio::Poll) -> Vec<Key> {
        let mut events = mio::Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        let key = |token: Token| Key { index: (token.0 >> 16) as u32, generation: token.0 as u32 & 0xffff };
        events.iter().map(|event| key(event.token())).collect()
    }

    #[test]
    fn a_socket_is_watched_until_it_is_not_wanted() {
        let mut poll = mio::Poll::new().unwrap();
        let sockets = Sockets::new(poll.registry().try_clone().unwrap(), token);
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        ours.send_to(b"1", ours.local_addr().unwrap()).unwrap();
        let fd = ours.as_raw_fd();
        sockets.want(fd, true, false);
        let [key] = events(&mut poll)[..] else { panic!("one event") };
        assert_eq!(sockets.fd(key), Some(fd));
        assert!(events(&mut poll).is_empty(), "edge-triggered");
        sockets.rearm(key);
        assert_eq!(events(&mut poll), [key], "what is left unread is told again");
        sockets.want(fd, true, true);
        assert_eq!(events(&mut poll), [key]);
        sockets.want(fd, false, false);
        assert_eq!((sockets.fd(key), sockets.refused()), (None, 0));
        sockets.rearm(key);
        assert!(events(&mut poll).is_empty());
        sockets.want(fd, true, false);
        let [next] = events(&mut poll)[..] else { panic!("one event") };
        assert_ne!(next, key, "an old token does not fit");
    }

    #[test]
    fn a_refused_socket_is_counted() {
        let poll = mio::Poll::new().unwrap();
        let sockets = Sockets::new(poll.registry().try_clone().unwrap(), token);
        // A regular file cannot be polled.
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        sockets.want(file.as_raw_fd(), true, false);
        assert_eq!(sockets.refused(), 1);
    }
}

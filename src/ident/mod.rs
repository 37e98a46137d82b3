//! Asks the client's host whose connection this is (ident, RFC 1413).
//!
//! One [`Ident`] is one question: a nonblocking connection from the address the client reached us
//! at to port 113 of the client's. The reactor registers it (it is an event source), calls
//! [`Ident::step`] at each of its events, and drops it when the time is up; dropping it in any state closes the
//! connection. Nothing here waits, retries or knows a clock, and whatever goes wrong means that the
//! user is not known: ident never fails a connection.

#![forbid(unsafe_code)]

pub mod reply;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

use crate::addr;
use reply::{Ports, Reply};

/// Where ident servers listen.
const PORT: u16 = 113;

/// One question under way. Small, since thousands may wait at once.
#[derive(Debug)]
pub struct Ident {
    socket: TcpStream,
    ports: Ports,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The connection or the question is not through yet.
    Asking,
    /// The question is out. What has come of an answer in pieces; no memory before the first piece.
    Reading(Vec<u8>),
    /// The server has said all we want to hear: close in the orderly way.
    Answered,
}

/// Where a question stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Wait for the next event.
    Pending,
    /// The user id, or none if there is no telling. Drop the [`Ident`].
    Done(Option<Vec<u8>>),
}

impl Ident {
    /// What to register it for.
    pub const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

    /// Begins to ask about the connection from `peer` to `local`. An error (refused at once, no
    /// descriptors, no ports, no route) is an answer as well: the user is not known.
    pub fn start(local: SocketAddr, peer: SocketAddr) -> io::Result<Ident> {
        Ident::start_at(local, peer, PORT)
    }

    fn start_at(local: SocketAddr, peer: SocketAddr, port: u16) -> io::Result<Ident> {
        // Folded, so that both ends are of one family whatever socket the client arrived on.
        let (mut from, mut to) = (addr::fold_socket(local), addr::fold_socket(peer));
        let ports = Ports { remote: to.port(), local: from.port() };
        from.set_port(0);
        to.set_port(port);
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(family, SockType::Stream, flags, None)?;
        // Without it bind takes a port that no other connection can have; with it connect picks one
        // that is free towards this host. Where it is missing the ports run out earlier, no more.
        let _ = socket::setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
        match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Ident { socket: socket.into(), ports, state: State::Asking })
    }

    /// Goes as far as it can without waiting. Events are hints: it tries what comes next, so a
    /// needless call does no harm and no edge is lost.
    pub fn step(&mut self) -> Progress {
        if let State::Asking = self.state {
            let question = format!("{},{}\r\n", self.ports.remote, self.ports.local);
            // Writing tells all about the connection: it would block until there is one, and it
            // fails with the reason if there will be none.
            match self.socket.write(question.as_bytes()) {
                // A fresh connection has room for a line; one that has not is not worth a buffer.
                Ok(written) if written == question.len() => self.state = State::Reading(Vec::new()),
                Ok(_) => return Progress::Done(None),
                Err(error) if is_hint(&error) => return Progress::Pending,
                Err(_) => return Progress::Done(None),
            }
        }
        self.read()
    }

    fn read(&mut self) -> Progress {
        let State::Reading(ref mut before) = self.state else { return Progress::Done(None) };
        let mut piece = [0; reply::MAX_READ];
        // Bounded: `parse` makes up its mind after `MAX_READ` bytes.
        loop {
            let reply = match self.socket.read(&mut piece) {
                Ok(0) => return Progress::Done(None),
                Ok(length) if before.is_empty() => match reply::parse(&piece[..length], self.ports) {
                    Reply::Incomplete => {
                        before.extend_from_slice(&piece[..length]);
                        Reply::Incomplete
                    }
                    reply => reply,
                },
                Ok(length) => {
                    before.extend_from_slice(&piece[..length]);
                    reply::parse(before, self.ports)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_hint(&error) => return Progress::Pending,
                Err(_) => return Progress::Done(None),
            };
            match reply {
                Reply::Incomplete => {}
                Reply::User(user) => {
                    self.state = State::Answered;
                    return Progress::Done(Some(user));
                }
                Reply::Nobody => return Progress::Done(None),
            }
        }
    }
}

impl AsRawFd for Ident {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Source for Ident {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).deregister(registry)
    }
}

/// A server that answered sees an ordinary end of the connection. One that did not, or talks
/// nonsense, gets a reset: it need not go on, and neither kernel keeps anything.
impl Drop for Ident {
    fn drop(&mut self) {
        if !matches!(self.state, State::Answered) {
            let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
            // It only fails on a descriptor that is no socket.
            let _ = socket::setsockopt(&self.socket, sockopt::Linger, &at_once);
        }
    }
}

/// Nothing to do now; an event will tell.
fn is_hint(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::{self, IpAddr, Shutdown, TcpListener};
    use std::thread;
    use std::time::{Duration, Instant};

    use mio::{Events, Poll};

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(net::Ipv4Addr::new(127, 113, 0, 1));
    const LOCAL: IpAddr = IpAddr::V4(net::Ipv4Addr::new(127, 113, 0, 2));

    /// Runs `ident` in a poll set of its own, as the reactor does; none: still pending at the end.
    fn run(mut ident: Ident, at_most: Duration) -> Option<Progress> {
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut ident, Token(0), Ident::INTEREST).unwrap();
        let end = Instant::now() + at_most;
        let mut events = Events::with_capacity(4);
        while Instant::now() < end {
            poll.poll(&mut events, Some(end - Instant::now())).unwrap();
            for _ in &events {
                if let Progress::Done(user) = ident.step() {
                    return Some(Progress::Done(user));
                }
            }
        }
        None
    }

    /// What a server does once it has the question.
    type Script = fn(net::TcpStream);

    /// Asks a server that reads the question and then does as `script` says. Gives what came out
    /// and the line the server got, with the address it came from.
    fn ask(address: IpAddr, local: IpAddr, script: Script) -> (Option<Progress>, String, IpAddr) {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (stream, peer) = listener.accept().unwrap();
            let mut line = String::new();
            io::BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            script(stream);
            (line, peer.ip())
        });
        let ident = Ident::start_at(SocketAddr::new(local, 25), SocketAddr::new(address, 40000), port).unwrap();
        let outcome = run(ident, Duration::from_secs(20));
        let (line, from) = server.join().unwrap();
        (outcome, line, from)
    }

    fn write(mut stream: &net::TcpStream, text: &[u8]) {
        stream.write_all(text).unwrap();
    }

    fn known(user: &[u8]) -> Option<Progress> {
        Some(Progress::Done(Some(user.to_vec())))
    }

    const UNKNOWN: Option<Progress> = Some(Progress::Done(None));

    #[test]
    fn the_question_comes_from_the_local_address_and_the_answer_is_read() {
        let (outcome, line, from) = ask(ADDRESS, LOCAL, |stream| write(&stream, b"40000,25:USERID:UNIX:alice\r\n"));
        assert_eq!((outcome, line.as_str(), from), (known(b"alice"), "40000,25\r\n", LOCAL));
    }

    #[test]
    fn ipv6_and_mapped_addresses_work() {
        let loopback: IpAddr = "::1".parse().unwrap();
        let (outcome, _, from) = ask(loopback, loopback, |stream| write(&stream, b"40000,25:USERID:UNIX:six\r\n"));
        assert_eq!((outcome, from), (known(b"six"), loopback));

        let mapped = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
            ip => ip,
        };
        let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (local, peer) = (SocketAddr::new(mapped(LOCAL), 25), SocketAddr::new(mapped(ADDRESS), 40000));
        let _ident = Ident::start_at(local, peer, port).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), LOCAL);
    }

    #[test]
    fn an_answer_may_come_byte_by_byte_and_the_connection_stay_open() {
        let (outcome, ..) = ask(ADDRESS, LOCAL, |stream| {
            stream.set_nodelay(true).unwrap();
            for byte in b"40000 , 25 : USERID : UNIX, UTF-8 : alice\n" {
                write(&stream, &[*byte]);
                thread::yield_now();
            }
            // The client closes first, and in the orderly way: an end, no reset.
            assert_eq!((&stream).read(&mut [0; 16]).unwrap(), 0);
        });
        assert_eq!(outcome, known(b"alice"));
    }

    #[test]
    fn what_is_no_answer_leaves_the_user_unknown() {
        let scripts: [(&str, Script); 6] = [
            ("closed", drop),
            ("half-closed", |stream| stream.shutdown(Shutdown::Write).unwrap()),
            ("an error", |stream| write(&stream, b"40000,25:ERROR:NO-USER\r\n")),
            ("no line end before the close", |stream| write(&stream, b"40000,25:USERID:UNIX:alice")),
            ("another pair", |stream| write(&stream, b"40000,26:USERID:UNIX:alice\r\n")),
            ("reset", |stream| {
                let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
                socket::setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
            }),
        ];
        for (name, script) in scripts {
            assert_eq!(ask(ADDRESS, LOCAL, script).0, UNKNOWN, "{name}");
        }
    }

    /// A server that never stops talking is left after the longest line there may be, with a reset.
    #[test]
    fn an_endless_line_is_cut_off() {
        let (outcome, ..) = ask(ADDRESS, LOCAL, |mut stream| {
            let error = loop {
                if let Err(error) = stream.write_all(&[b'x'; 4096]) {
                    break error.kind();
                }
            };
            assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        });
        assert_eq!(outcome, UNKNOWN);
    }

    #[test]
    fn a_refused_connection_leaves_the_user_unknown() {
        // Bound but not listening, so that nobody else gets the port meanwhile.
        let closed = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::bind(closed.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ADDRESS, 0))).unwrap();
        let bound: SockaddrStorage = socket::getsockname(closed.as_raw_fd()).unwrap();
        let port = bound.as_sockaddr_in().unwrap().port();
        let started = Ident::start_at(SocketAddr::new(LOCAL, 25), SocketAddr::new(ADDRESS, 40000), port);
        let outcome = started.map_or(UNKNOWN, |ident| run(ident, Duration::from_secs(20)));
        assert_eq!(outcome, UNKNOWN);
    }

    /// The reactor's deadline ends a silent server: the question stays pending, holds next to no
    /// memory, and dropping it resets the connection.
    #[test]
    fn a_silent_server_stays_pending_until_dropped() {
        let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ident = Ident::start_at(SocketAddr::new(LOCAL, 25), SocketAddr::new(ADDRESS, 40000), port).unwrap();
        assert!(size_of_val(&ident) <= 48, "{}", size_of_val(&ident));
        assert_eq!(run(ident, Duration::from_millis(50)), None);
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = Vec::new();
        let error = stream.read_to_end(&mut line).map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::ConnectionReset));
    }

    /// A connection that is not through yet is a question pending, not an error.
    #[test]
    fn stepping_before_the_connection_stands_is_harmless() {
        // Nobody accepts and the queue is full: the third connection cannot complete.
        let full = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::bind(full.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ADDRESS, 0))).unwrap();
        socket::listen(&full, socket::Backlog::new(0).unwrap()).unwrap();
        let bound: SockaddrStorage = socket::getsockname(full.as_raw_fd()).unwrap();
        let to = SocketAddr::new(ADDRESS, bound.as_sockaddr_in().unwrap().port());
        let _first = net::TcpStream::connect(to).unwrap();
        let mut waiting: Vec<Ident> = (0..4)
            .map(|_| Ident::start_at(SocketAddr::new(LOCAL, 25), SocketAddr::new(ADDRESS, 40000), to.port()).unwrap())
            .collect();
        let last = waiting.last_mut().unwrap();
        for _ in 0..3 {
            assert_eq!(last.step(), Progress::Pending);
        }
        assert!(matches!(last.state, State::Asking));
    }

    #[test]
    fn an_address_that_is_not_ours_is_an_error_at_once() {
        let elsewhere = SocketAddr::new("192.0.2.1".parse().unwrap(), 25);
        assert!(Ident::start(elsewhere, SocketAddr::new(ADDRESS, 40000)).is_err());
    }
}

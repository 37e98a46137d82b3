//! Clients: connections from a chosen address, with a deadline on everything.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::{DEADLINE, Report};

/// How a connection ended, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other side closed in good order.
    Eof,
    /// A reset: what was on its way may be lost.
    Reset,
    /// Neither came in time.
    Open,
}

/// Everything a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub bytes: Vec<u8>,
    pub end: End,
}

impl Received {
    /// The handler's report, if a handler ran.
    pub fn report(&self) -> Option<Report> {
        Report::parse(&self.bytes)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// Connects from any address.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Client {
        Client::try_connect(None, to).unwrap_or_else(|error| panic!("connect to {to}: {error}"))
    }

    /// Connects from `from`.
    #[track_caller]
    pub fn connect_from(from: IpAddr, to: SocketAddr) -> Client {
        Client::try_connect(Some(SocketAddr::new(from, 0)), to)
            .unwrap_or_else(|error| panic!("connect from {from} to {to}: {error}"))
    }

    pub fn try_connect(from: Option<SocketAddr>, to: SocketAddr) -> io::Result<Client> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let seconds = DEADLINE.as_secs() as i64;
        // Linux bounds connect() by the send time-out.
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(seconds, 0))?;
        match from {
            Some(SocketAddr::V4(from)) => bind(fd.as_raw_fd(), &SockaddrIn::from(from))?,
            Some(SocketAddr::V6(from)) => bind(fd.as_raw_fd(), &SockaddrIn6::from(from))?,
            None => (),
        }
        match to {
            SocketAddr::V4(to) => connect(fd.as_raw_fd(), &SockaddrIn::from(to))?,
            SocketAddr::V6(to) => connect(fd.as_raw_fd(), &SockaddrIn6::from(to))?,
        }
        Ok(Client { stream: TcpStream::from(fd), received: Vec::new() })
    }

    /// This end's address.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// The other end's address.
    pub fn peer(&self) -> SocketAddr {
        self.stream.peer_addr().expect("a connected socket has a peer")
    }

    /// Sends; a connection that is closed already is no error here, the end tells.
    pub fn send(&mut self, bytes: &[u8]) -> &mut Client {
        let _ = self.stream.write_all(bytes);
        self
    }

    /// Says that no more will be sent.
    pub fn half_close(&mut self) -> &mut Client {
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &linger).expect("set SO_LINGER");
    }

    /// Reads until `marker` has come; what was read stays for [`Client::finish`]. False at the end.
    pub fn read_until(&mut self, marker: &str) -> bool {
        let end = Instant::now() + DEADLINE;
        loop {
            if self.received.windows(marker.len()).any(|w| w == marker.as_bytes()) {
                return true;
            }
            if self.read_some(end).is_some() {
                return false;
            }
        }
    }

    /// Reads the handler's report, for a handler that goes on after it.
    #[track_caller]
    pub fn report(&mut self) -> Report {
        assert!(self.read_until("\nend\n"), "no report, but {:?}", String::from_utf8_lossy(&self.received));
        Report::parse(&self.received).expect("a report that can be read")
    }

    /// Reads to the end.
    pub fn finish(mut self) -> Received {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(end) = self.read_some(deadline) {
                return Received { bytes: self.received, end };
            }
        }
    }

    /// True if nothing has come and the connection is open, after waiting for `time`.
    pub fn is_silent_for(&mut self, time: std::time::Duration) -> bool {
        let (before, deadline) = (self.received.len(), Instant::now() + time);
        loop {
            match self.read_some(deadline) {
                // Interrupted by a signal for the test process.
                None if self.received.len() == before => {}
                end => return end == Some(End::Open),
            }
        }
    }

    fn read_some(&mut self, deadline: Instant) -> Option<End> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(End::Open);
        }
        self.stream.set_read_timeout(Some(left)).expect("set a read time-out");
        let mut buffer = [0; 8192];
        match self.stream.read(&mut buffer) {
            Ok(0) => Some(End::Eof),
            Ok(n) => {
                self.received.extend_from_slice(&buffer[..n]);
                None
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => None,
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Some(End::Open),
                io::ErrorKind::ConnectionReset => Some(End::Reset),
                _ => panic!("read: {error}"),
            },
        }
    }
}

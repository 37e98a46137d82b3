//! LIST to listening sockets, and accepting from them.
//!
//! Bound or taken over once at start, all or none. mio is edge-triggered, so a listener that may not accept is
//! deregistered and registered again later: merely not accepting would lose the edge. The reactor
//! owns the [`Listeners`] and says when; nothing here decides.

#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockopt, setsockopt, socket, sockopt,
};

use crate::addr;
use crate::config::ListenSpec;
use crate::error::StartError;
use crate::{handover, sys};

/// How long a port may be taken by nobody who stays. A daemon that was killed while it started a program
/// leaves a child that holds its sockets until the exec, some milliseconds on a busy machine.
const LAST_HOLDERS: Duration = Duration::from_millis(200);

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// The local end of every connection, if the socket is bound to one address. Saves asking.
    local: Option<SocketAddr>,
    /// It was listening when it was taken over.
    adopted: bool,
}

/// What one call to accept brought.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, blocking and close-on-exec, and the peer, folded.
    Connection(TcpStream, SocketAddr),
    /// Nobody is waiting.
    Nobody,
    /// That client is gone already, or its network is; the next one may do better.
    Lost,
    /// Nothing can be accepted right now: descriptors or memory have run out.
    Shortage(Errno),
}

impl Accepted {
    /// What accept's error means.
    fn instead(errno: Errno) -> Self {
        match errno {
            Errno::EAGAIN => Accepted::Nobody,
            // accept(2): errors that are pending on the new connection count as "try again".
            Errno::EINTR
            | Errno::ECONNABORTED
            | Errno::ENETDOWN
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH => Accepted::Lost,
            // Descriptors, memory, or what a security module or a filter of system calls forbids: the
            // client stays where it is, so that trying again at once would be all that we do.
            errno => Accepted::Shortage(errno),
        }
    }
}

impl Listener {
    pub fn accept(&self) -> Accepted {
        match self.socket.accept() {
            Ok((stream, peer)) => {
                // Setting it on the listening socket would not reach those who wait there. It fails
                // only for connections that are gone.
                if self.adopted {
                    let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
                }
                Accepted::Connection(stream, addr::fold_socket(peer))
            }
            Err(error) => Accepted::instead(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        }
    }

    /// The local end of `connection`, folded.
    pub fn local_end(&self, connection: &TcpStream) -> io::Result<SocketAddr> {
        match self.local {
            Some(local) => Ok(local),
            None => connection.local_addr().map(addr::fold_socket),
        }
    }
}

/// All listening sockets, registered with the event loop together or not at all.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<Listener>,
    /// Where entries of port 0 have come to listen.
    chosen: Vec<SocketAddr>,
    registered: bool,
}

impl Listeners {
    /// Binds every entry of LIST.
    ///
    /// # Errors
    /// [`StartError::Listen`] names the first entry that could not be bound; no socket is kept.
    pub fn bind(specs: &[ListenSpec], backlog: Option<i32>) -> Result<Self, StartError> {
        let mut all = Vec::new();
        let mut chosen = Vec::new();
        for spec in specs {
            let sockets = match spec.address {
                Some(address) => {
                    vec![bind_one(SocketAddr::new(address, spec.port), backlog).map_err(|e| listen_error(spec, e))?]
                }
                None => bind_wildcard(spec.port, backlog).map_err(|e| listen_error(spec, e))?,
            };
            if spec.port == 0 {
                chosen.extend(sockets.first().and_then(|listener| listener.socket.local_addr().ok()));
            }
            all.extend(sockets);
        }
        Ok(Listeners { all, chosen, registered: false })
    }

    /// Takes over sockets that listen already, each with the entry of LIST that it stands for.
    ///
    /// # Errors
    /// [`StartError::Listen`] names the first entry that is no listening TCP socket.
    pub fn adopt(&mut self, passed: Vec<(String, OwnedFd)>) -> Result<(), StartError> {
        for (entry, descriptor) in passed {
            let listener = adopt_one(descriptor).map_err(|error| StartError::Listen { entry, error })?;
            self.all.push(listener);
        }
        Ok(())
    }

    /// Those that the program before this one had.
    ///
    /// # Errors
    /// As for [`Listeners::adopt`].
    pub fn take_on(handed: Vec<handover::Listener<OwnedFd>>) -> Result<Self, StartError> {
        let mut all = Vec::new();
        for handover::Listener { socket, shared } in handed {
            let listener = adopt_one(socket);
            let listener =
                listener.map_err(|error| StartError::Listen { entry: "what was handed over".into(), error })?;
            let local = if shared { None } else { listener.socket.local_addr().ok().and_then(fixed_end) };
            all.push(Listener { local, adopted: shared, ..listener });
        }
        Ok(Listeners { all, chosen: Vec::new(), registered: false })
    }

    /// What [`Listeners::take_on`] needs.
    pub fn state(&self) -> Vec<handover::Listener<RawFd>> {
        let state =
            |listener: &Listener| handover::Listener { socket: listener.socket.as_raw_fd(), shared: listener.adopted };
        self.all.iter().map(state).collect()
    }

    /// Where the entries with port 0 listen.
    pub fn chosen(&self) -> &[SocketAddr] {
        &self.chosen
    }

    pub fn get(&self, index: u32) -> Option<&Listener> {
        self.all.get(index as usize)
    }

    pub fn len(&self) -> u32 {
        self.all.len() as u32
    }

    /// Where they listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.all.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Lets nobody new come to the sockets that are ours alone, and gives up those that somebody else
    /// holds too, who then has the clients waiting there. True if some may still arrive: the third
    /// packet of their connection is on its way.
    pub fn stop_new(&mut self, registry: &Registry) -> bool {
        self.pause(registry);
        self.all.retain(|listener| !listener.adopted);
        // Without the filter new clients come in until the socket is closed.
        self.all.iter().filter(|listener| sys::drop_new_connections(listener.socket.as_fd()).is_ok()).count() > 0
    }

    /// Closes all sockets: clients are refused, those in the backlog reset.
    pub fn close(&mut self, registry: &Registry) {
        self.pause(registry);
        self.all.clear();
    }

    pub fn is_accepting(&self) -> bool {
        self.registered
    }

    /// Registers with the event loop, all or none; clients that wait already raise an event.
    pub fn resume(&mut self, registry: &Registry, token: impl Fn(u32) -> Token) -> io::Result<()> {
        if self.registered {
            return Ok(());
        }
        self.registered = true;
        let result = self.all.iter().enumerate().try_for_each(|(index, listener)| {
            let fd = listener.socket.as_raw_fd();
            registry.register(&mut SourceFd(&fd), token(index as u32), Interest::READABLE)
        });
        if result.is_err() {
            // Those that were taken would be refused as known the next time, and so for ever.
            self.pause(registry);
        }
        result
    }

    /// Deregisters: clients wait in the backlog and wake nobody.
    pub fn pause(&mut self, registry: &Registry) {
        if self.registered {
            for listener in &self.all {
                // Fails only for a socket that is not registered.
                let _ = registry.deregister(&mut SourceFd(&listener.socket.as_raw_fd()));
            }
            self.registered = false;
        }
    }
}

fn listen_error(spec: &ListenSpec, errno: Errno) -> StartError {
    StartError::Listen { entry: spec.text.clone(), error: errno.into() }
}

/// An IPv6 wildcard socket and, where it does not take IPv4 too, an IPv4 one.
fn bind_wildcard(port: u16, backlog: Option<i32>) -> Result<Vec<Listener>, Errno> {
    let v4 = |port| bind_one(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), backlog);
    match bind_one(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), backlog) {
        Ok(v6) if getsockopt(&v6.socket, sockopt::Ipv6V6Only) == Ok(false) => Ok(vec![v6]),
        // A second socket that fails is ignored: the first one serves.
        Ok(v6) => {
            // Port 0 is the same one for both.
            let port = v6.socket.local_addr().map_or(port, |address| address.port());
            Ok([Some(v6), v4(port).ok()].into_iter().flatten().collect())
        }
        // No IPv6 on this host. A port that is taken is an error all the same, and IPv4 says so too.
        Err(Errno::EADDRINUSE) => Err(Errno::EADDRINUSE),
        Err(_) => Ok(vec![v4(port)?]),
    }
}

fn bind_one(address: SocketAddr, backlog: Option<i32>) -> Result<Listener, Errno> {
    let deadline = Instant::now() + LAST_HOLDERS;
    loop {
        match bind_at_once(address, backlog) {
            Err(Errno::EADDRINUSE) if Instant::now() < deadline => thread::sleep(LAST_HOLDERS / 20),
            result => return result,
        }
    }
}

fn bind_at_once(address: SocketAddr, backlog: Option<i32>) -> Result<Listener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    // Accepted sockets inherit it, which saves a call for each.
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    // An address that the host will only have later may be bound now; where that is not known, it may not.
    let _ = setsockopt(&fd, sockopt::IpFreebind, &true);
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Whether it worked is asked for later.
        let _ = setsockopt(&fd, sockopt::Ipv6V6Only, &false);
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    // The kernel cuts it to net.core.somaxconn.
    sys::listen(fd.as_fd(), backlog.unwrap_or(-1))?;
    let socket = TcpListener::from(fd);
    let local = socket.local_addr().ok().and_then(fixed_end);
    Ok(Listener { socket, local, adopted: false })
}

/// The local end of all connections of a listening socket with this address, if they have the same.
fn fixed_end(address: SocketAddr) -> Option<SocketAddr> {
    Some(addr::fold_socket(address)).filter(|address| !address.ip().is_unspecified())
}

fn adopt_one(descriptor: OwnedFd) -> io::Result<Listener> {
    let is_listening = getsockopt(&descriptor, sockopt::AcceptConn)?;
    if !is_listening || getsockopt(&descriptor, sockopt::SockType)? != SockType::Stream {
        return Err(io::Error::other("not a listening socket"));
    }
    let socket = TcpListener::from(descriptor);
    socket.local_addr().map_err(|_| io::Error::other("not a TCP socket"))?;
    socket.set_nonblocking(true)?;
    // Whoever has opened it may have it take connections to other addresses: IP_TRANSPARENT, or a BPF program.
    Ok(Listener { socket, local: None, adopted: true })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn spec(address: Option<&str>, port: u16) -> ListenSpec {
        ListenSpec { address: address.map(|a| a.parse().unwrap()), port, text: format!("{address:?}.{port}") }
    }

    fn port(listeners: &Listeners, index: u32) -> u16 {
        listeners.get(index).unwrap().socket.local_addr().unwrap().port()
    }

    #[test]
    fn all_entries_are_bound_or_none() {
        let listeners = Listeners::bind(&[spec(Some("127.0.0.1"), 0), spec(Some("::1"), 0)], Some(5)).unwrap();
        assert_eq!(listeners.len(), 2);
        let taken = port(&listeners, 0);
        let error = Listeners::bind(&[spec(Some("127.0.0.1"), 0), spec(Some("127.0.0.1"), taken)], None).unwrap_err();
        assert!(error.to_string().contains(&format!("{taken}: Address already in use")), "{error}");
    }

    #[test]
    fn port_0_is_told() {
        let specs = [spec(Some("127.0.0.1"), 0), spec(None, 0)];
        let listeners = Listeners::bind(&specs, None).unwrap();
        let expected = [SocketAddr::new("127.0.0.1".parse().unwrap(), port(&listeners, 0))];
        assert_eq!(listeners.chosen()[..1], expected);
        assert!(listeners.chosen()[1].ip().is_unspecified());
        assert_eq!(listeners.chosen()[1].port(), port(&listeners, 1));
    }

    #[test]
    fn sockets_that_listen_are_taken_over_and_others_are_not() {
        use std::os::unix::net::{UnixDatagram, UnixListener};
        let adopt = |descriptor: OwnedFd| {
            let mut listeners = Listeners::bind(&[], None).unwrap();
            listeners.adopt(vec![("fd:7".into(), descriptor)]).map(|()| listeners)
        };
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = theirs.local_addr().unwrap();
        let listeners = adopt(theirs.into()).unwrap();
        let listener = listeners.get(0).unwrap();
        assert!(matches!(listener.accept(), Accepted::Nobody));
        let client = TcpStream::connect(address).unwrap();
        let Accepted::Connection(stream, peer) = listener.accept() else { panic!() };
        assert_eq!((peer, listener.local_end(&stream).unwrap()), (client.local_addr().unwrap(), address));
        assert_eq!(getsockopt(&stream, sockopt::KeepAlive), Ok(true));

        let path = std::env::temp_dir().join(format!("tcpd-listener-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for (descriptor, why) in [
            (OwnedFd::from(unix), "not a TCP socket"),
            (OwnedFd::from(client), "not a listening socket"),
            (OwnedFd::from(UnixDatagram::unbound().unwrap()), "not a listening socket"),
            (OwnedFd::from(std::fs::File::open("/dev/null").unwrap()), "Socket operation on non-socket"),
        ] {
            let error = adopt(descriptor).unwrap_err().to_string();
            assert!(error.starts_with("cannot listen on fd:7: ") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_listener_that_is_refused_leaves_none_registered() {
        let mut listeners = Listeners::bind(&[spec(Some("127.0.0.1"), 0), spec(Some("127.0.0.1"), 0)], None).unwrap();
        let clients: Vec<_> = (0..2).map(|i| TcpStream::connect(("127.0.0.1", port(&listeners, i))).unwrap()).collect();
        let mut poll = mio::Poll::new().unwrap();
        // The kernel takes no descriptor twice.
        let second = listeners.get(1).unwrap().socket.as_raw_fd();
        poll.registry().register(&mut SourceFd(&second), Token(9), Interest::READABLE).unwrap();
        let token = |index| Token(index as usize);
        assert!(listeners.resume(poll.registry(), token).is_err());
        assert!(!listeners.is_accepting());
        listeners.resume(poll.registry(), token).unwrap();
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, Some(std::time::Duration::ZERO)).unwrap();
        let mut ready: Vec<_> = events.iter().map(|event| event.token().0).collect();
        ready.sort_unstable();
        assert_eq!(ready, [0, 1]);
        drop(clients);
    }

    #[test]
    fn what_ends_one_connection_is_tried_again_at_once_and_all_else_is_not() {
        for (errno, expected) in [
            (Errno::EAGAIN, "Nobody"),
            (Errno::ECONNABORTED, "Lost"),
            (Errno::EHOSTUNREACH, "Lost"),
            (Errno::EMFILE, "Shortage(EMFILE)"),
            (Errno::ENOMEM, "Shortage(ENOMEM)"),
            (Errno::EACCES, "Shortage(EACCES)"),
            (Errno::EPERM, "Shortage(EPERM)"),
        ] {
            assert_eq!(format!("{:?}", Accepted::instead(errno)), expected);
        }
    }

    #[test]
    fn the_wildcard_takes_both_families_and_folds_the_mapped_one() {
        let listeners = Listeners::bind(&[spec(None, 0)], None).unwrap();
        let port = port(&listeners, 0);
        let listener = listeners.get(0).unwrap();
        for local in ["127.0.0.9", "::1"] {
            let local: IpAddr = local.parse().unwrap();
            let client = TcpStream::connect((local, port)).unwrap();
            let Accepted::Connection(stream, peer) = listener.accept() else { panic!("{local}") };
            assert_eq!(peer, client.local_addr().unwrap());
            assert_eq!(listener.local_end(&stream).unwrap(), SocketAddr::new(local, port));
            assert_eq!(getsockopt(&stream, sockopt::KeepAlive), Ok(true));
        }
        assert!(matches!(listener.accept(), Accepted::Nobody));
    }
}

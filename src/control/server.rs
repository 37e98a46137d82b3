//! The daemon's side of the control socket.
//!
//! Bound with the privileges of the start, like the pid file, and then given to the daemon's user,
//! since the folder of the pid file is often root's. The reactor owns the [`Server`], watches its
//! descriptors and keeps the deadlines; whoever is slow or silent is dropped. Nothing here waits.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{Gid, Uid, fchownat, geteuid};

use super::{REQUEST_MAX, Request};
use crate::error::StartError;

/// Connections at a time. Each holds a reply of some 100 KB at most.
pub const SESSIONS_MOST: usize = 4;

/// How long one connection may take, from accept to the last byte read by the other side.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The listening socket. Dropping it takes it out of the file system, too.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket in the file system, to know it again.
    identity: (u64, u64),
}

/// What one call to accept brought.
#[derive(Debug)]
pub enum Accepted {
    Session(Session),
    /// Somebody who may not ask; closed already.
    Stranger(Uid),
    Nobody,
    /// Descriptors or memory have run out: the one who waits raises no new event.
    Shortage,
}

impl Server {
    /// Makes the socket at `path`, mode 0600, for `owner`. One that nobody listens at any more is
    /// replaced; anything else that has the name is left alone, and no symbolic link is followed.
    pub fn bind(path: &Path, owner: Option<(Uid, Gid)>) -> Result<Self, StartError> {
        let failed = |doing| move |errno: Errno| StartError::file(path, doing, errno);
        let cannot = "cannot make the control socket";
        let address = UnixAddr::new(path).map_err(failed(cannot))?;
        remove_stale(path, &address)?;
        let fd = new_socket().map_err(failed(cannot))?;
        // There is one thread, so the mask is nobody else's meanwhile.
        let before = umask(Mode::from_bits_retain(0o177));
        let bound = bind(fd.as_raw_fd(), &address);
        umask(before);
        bound.map_err(failed(cannot))?;
        let made = hand_over(path, owner).and_then(|identity| {
            listen(&fd, Backlog::new(SESSIONS_MOST as i32).unwrap_or(Backlog::MAXCONN))?;
            Ok(identity)
        });
        match made {
            Ok(identity) => Ok(Server { listener: fd.into(), path: path.to_owned(), identity }),
            Err(errno) => {
                let _ = fs::remove_file(path);
                Err(failed(cannot)(errno))
            }
        }
    }

    /// The socket that the program before this one had, with its device and inode.
    pub fn take_on(socket: OwnedFd, path: &Path, identity: (u64, u64)) -> Self {
        Server { listener: socket.into(), path: path.to_owned(), identity }
    }

    /// What [`Server::take_on`] needs.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    pub fn accept(&self) -> Accepted {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Accepted::Nobody,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => self.accept(),
                    _ => Accepted::Shortage,
                };
            }
        };
        let Ok(peer) = getsockopt(&stream, sockopt::PeerCredentials) else { return self.accept() };
        let peer = Uid::from_raw(peer.uid());
        if !peer.is_root() && peer != geteuid() {
            return Accepted::Stranger(peer);
        }
        match stream.set_nonblocking(true) {
            Ok(()) => Accepted::Session(Session::new(stream)),
            Err(_) => self.accept(),
        }
    }
}

impl Drop for Server {
    /// Only if it still is the one that was made. Where the folder is not the user's to change it
    /// stays, and the next start replaces it.
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), StartError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(StartError::File { path: path.to_owned(), doing: "is no socket and stays", error: None });
    }
    let alive = new_socket().and_then(|fd| connect(fd.as_raw_fd(), address));
    match alive {
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).map_err(|error| StartError::file(path, "cannot remove the old control socket", error))
        }
        // Gone meanwhile.
        Err(Errno::ENOENT) => Ok(()),
        // EAGAIN: somebody listens who has many waiting.
        Ok(()) | Err(Errno::EAGAIN) => Err(StartError::file(path, "cannot make the control socket", Errno::EADDRINUSE)),
        Err(errno) => Err(StartError::file(path, "cannot make the control socket", errno)),
    }
}

/// Gives the new socket to `owner`; device and inode of it. In a folder that others can write to,
/// what has the name now might not be what was bound: only a socket of ours that has no other name
/// is given away.
fn hand_over(path: &Path, owner: Option<(Uid, Gid)>) -> Result<(u64, u64), Errno> {
    let node = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let found = fstat(&node)?;
    let is_socket = found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFSOCK;
    if !is_socket || found.st_uid != geteuid().as_raw() || found.st_nlink != 1 {
        return Err(Errno::EPERM);
    }
    if let Some((user, group)) = owner.filter(|(user, _)| *user != geteuid()) {
        fchownat(&node, "", Some(user), Some(group), AtFlags::AT_EMPTY_PATH)?;
    }
    // The types differ between machines.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    Ok((found.st_dev as u64, found.st_ino as u64))
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    request: Vec<u8>,
    /// The reply, once there is one; bytes before `sent` are gone.
    reply: Vec<u8>,
    sent: usize,
    is_answered: bool,
    /// The request has come, and its answer takes time.
    is_held: bool,
}

/// What became of one step of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more for now.
    Wait,
    /// The request has come and waits for [`Session::answer`] or [`Session::refuse`].
    Asked(Request),
    /// Over: done, or gone, or nonsense. Close.
    Ended,
}

impl Session {
    fn new(stream: UnixStream) -> Self {
        Session { stream, request: Vec::new(), reply: Vec::new(), sent: 0, is_answered: false, is_held: false }
    }

    /// One whose request the program before this one has read.
    pub fn take_on(stream: OwnedFd) -> Self {
        Session::new(stream.into())
    }

    /// The answer comes later; until then nothing more is read.
    pub fn hold(&mut self) -> Step {
        self.is_held = true;
        Step::Wait
    }

    /// Reads or writes as far as that goes.
    pub fn step(&mut self) -> Step {
        if self.is_held && !self.is_answered {
            return Step::Wait;
        }
        if self.is_answered { self.send() } else { self.receive() }
    }

    fn receive(&mut self) -> Step {
        let mut buffer = [0; REQUEST_MAX];
        while self.request.len() < REQUEST_MAX {
            match self.stream.read(&mut buffer[self.request.len()..]) {
                Ok(0) => return Step::Ended,
                Ok(length) => {
                    let from = self.request.len();
                    self.request.extend_from_slice(&buffer[from..from + length]);
                    if let Some(end) = self.request.iter().position(|&byte| byte == b'\n') {
                        let line = &self.request[..end];
                        return match Request::parse(line) {
                            Some(request) => Step::Asked(request),
                            None => self.refuse("unknown request"),
                        };
                    }
                }
                Err(error) => return pause(&error),
            }
        }
        self.refuse("unknown request")
    }

    /// Sends `body` as the answer.
    pub fn answer(&mut self, body: &[u8]) -> Step {
        self.reply = format!("ok {}\n", body.len()).into_bytes();
        self.reply.extend_from_slice(body);
        self.is_answered = true;
        self.send()
    }

    /// Sends `text`, one line, as the reason why not.
    pub fn refuse(&mut self, text: &str) -> Step {
        self.reply = format!("error {text}\n").into_bytes();
        self.is_answered = true;
        self.send()
    }

    fn send(&mut self) -> Step {
        while self.sent < self.reply.len() {
            match self.stream.write(&self.reply[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) => return pause(&error),
            }
        }
        Step::Ended
    }
}

impl AsRawFd for Session {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

fn pause(error: &io::Error) -> Step {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Step::Wait,
        _ => Step::Ended,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::status::Form;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("couriertcpd-control-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Directory(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn session(server: &Server) -> Session {
        match server.accept() {
            Accepted::Session(session) => session,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_socket_is_private_and_goes_at_the_end() {
        let dir = Directory::new("private");
        let path = dir.path("ctl");
        let server = Server::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(server);
        assert!(!path.exists());
        let server = Server::bind(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(server);
        assert!(path.exists());
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = Directory::new("stale");
        let path = dir.path("ctl");
        let alive = Server::bind(&path, None).unwrap();
        let text = Server::bind(&path, None).unwrap_err().to_string();
        assert_eq!(text, format!("{}: cannot make the control socket: Address already in use", path.display()));
        // As if it had crashed: the socket stays, nobody listens.
        let kept = dir.path("kept");
        fs::hard_link(&path, &kept).unwrap();
        drop(alive);
        fs::rename(&kept, &path).unwrap();
        let server = Server::bind(&path, None).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"status json\n").unwrap();
        assert_eq!(session(&server).step(), Step::Asked(Request::Status(Form::Json)));

        let file = dir.path("file");
        fs::write(&file, "mine").unwrap();
        let link = dir.path("link");
        symlink(&file, &link).unwrap();
        let dangling = dir.path("dangling");
        symlink(dir.path("nowhere"), &dangling).unwrap();
        for name in [&file, &link, &dangling] {
            let text = Server::bind(name, None).unwrap_err().to_string();
            assert_eq!(text, format!("{}: is no socket and stays", name.display()));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        assert!(!dir.path("nowhere").exists());
        let long = dir.path(&"x".repeat(200));
        assert!(Server::bind(&long, None).is_err());
    }

    #[test]
    fn a_request_comes_in_pieces_and_nonsense_is_refused() {
        let dir = Directory::new("pieces");
        let path = dir.path("ctl");
        let server = Server::bind(&path, None).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        let mut ours = session(&server);
        for piece in ["sta", "tus t", "ext"] {
            client.write_all(piece.as_bytes()).unwrap();
            assert_eq!(ours.step(), Step::Wait);
        }
        client.write_all(b"\n").unwrap();
        assert_eq!(ours.step(), Step::Asked(Request::Status(Form::Text)));
        assert_eq!(ours.answer(b"fine\n"), Step::Ended);
        drop(ours);
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "ok 5\nfine\n");

        for nonsense in [&b"make me a sandwich\n"[..], &[b'x'; 1000]] {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(nonsense).unwrap();
            let mut ours = session(&server);
            assert_eq!(ours.step(), Step::Ended);
            assert!(ours.request.len() <= REQUEST_MAX);
            // What was not read makes the end a reset, after the reply.
            let mut reply = [0; 100];
            let length = client.read(&mut reply).unwrap();
            assert_eq!(&reply[..length], b"error unknown request\n");
        }
        drop(UnixStream::connect(&path).unwrap());
        assert_eq!(session(&server).step(), Step::Ended);
        assert!(matches!(server.accept(), Accepted::Nobody));
    }

    #[test]
    fn a_reply_waits_for_its_reader() {
        let dir = Directory::new("slow");
        let path = dir.path("ctl");
        let server = Server::bind(&path, None).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        let mut ours = session(&server);
        let body = vec![b'x'; 4 << 20];
        assert_eq!(ours.answer(&body), Step::Wait);
        assert_eq!(ours.step(), Step::Wait);
        let mut reply = vec![0; 8 << 20];
        let mut length = 0;
        loop {
            length += client.read(&mut reply[length..]).unwrap();
            if ours.step() == Step::Ended {
                break;
            }
        }
        drop(ours);
        while let Ok(more @ 1..) = client.read(&mut reply[length..]) {
            length += more;
        }
        assert_eq!(&reply[..length], [format!("ok {}\n", body.len()).as_bytes(), &body].concat());
    }
}

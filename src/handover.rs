//! What a daemon hands to the program that takes its place in the same process (`-upgrade`).
//!
//! Exec keeps descriptors, children, locks and the process id; a [`State`] says which descriptor is
//! what and who the children are. It is text in a memory file, whose number and purpose the
//! environment names. The next program may be another version: the format has a number, and the new
//! program is made to read it in a trial before anything is given up. Pure but for reading and
//! making that file.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Pid, getpid, getppid};

/// Names the purpose and the descriptor: `rehearse:5` or `take:5`. No handler gets to see it.
pub const VARIABLE: &str = "COURIERTCPD_HANDOVER";

/// The first line; the number changes when an old program could no longer read what a new one writes
/// or the other way round.
const HEADING: &str = "couriertcpd handover 1";

/// What a program says in a trial that it could take over.
pub const READY: &str = "ready for couriertcpd handover 1\n";

/// What this program was started for by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To say whether it could take over.
    Rehearse,
    /// To take over.
    Take,
}

impl Role {
    const ALL: [(Role, &'static str); 2] = [(Role::Rehearse, "rehearse"), (Role::Take, "take")];

    /// The value of [`VARIABLE`].
    pub fn variable(self, descriptor: RawFd) -> CString {
        let name = Self::ALL.iter().find(|(role, _)| *role == self).map_or("", |(_, name)| name);
        CString::new(format!("{VARIABLE}={name}:{descriptor}")).expect("made of letters and digits")
    }

    /// None: it was started as usual.
    pub fn from_environment() -> Option<(Role, RawFd)> {
        let value = env::var(VARIABLE).ok()?;
        let (name, descriptor) = value.split_once(':')?;
        let (role, _) = Self::ALL.into_iter().find(|(_, known)| *known == name)?;
        Some((role, descriptor.parse().ok()?))
    }

    fn is_from(self, pid: Pid) -> bool {
        pid == match self {
            Role::Rehearse => getppid(),
            Role::Take => getpid(),
        }
    }
}

/// What goes on. `F` is a descriptor: a number on the way, owned on arrival.
#[derive(Debug, PartialEq, Eq)]
pub struct State<F> {
    pub lock: Option<F>,
    pub pid_file: Option<F>,
    /// The control socket, with its device and inode in the file system.
    pub control: Option<(F, u64, u64)>,
    /// The control connection of whoever asked for the upgrade.
    pub reply: Option<F>,
    pub listeners: Vec<Listener<F>>,
    pub logger: Option<Logger<F>>,
    pub handlers: Vec<Handler>,
    /// Connections that are not decided, in order of arrival.
    pub connections: Vec<Connection<F>>,
    /// Refused clients that still read their reply.
    pub lingering: Vec<F>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Listener<F> {
    pub socket: F,
    /// Somebody else holds it too.
    pub shared: bool,
}

/// The pipe of `-stderrlogger`, and its process with its age if one runs.
#[derive(Debug, PartialEq, Eq)]
pub struct Logger<F> {
    pub reader: F,
    pub writer: F,
    pub process: Option<(i32, Duration)>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Handler {
    pub pid: i32,
    pub peer: SocketAddr,
    pub age: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Connection<F> {
    pub stream: F,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub age: Duration,
    /// The variables that its PROXY header set, if that has been read.
    pub proxied: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl<F> Default for State<F> {
    fn default() -> Self {
        State {
            lock: None,
            pid_file: None,
            control: None,
            reply: None,
            listeners: Vec::new(),
            logger: None,
            handlers: Vec::new(),
            connections: Vec::new(),
            lingering: Vec::new(),
        }
    }
}

impl<F> State<F> {
    /// The same with each descriptor turned into something else.
    pub fn try_map<G, E>(self, mut f: impl FnMut(F) -> Result<G, E>) -> Result<State<G>, E> {
        Ok(State {
            lock: self.lock.map(&mut f).transpose()?,
            pid_file: self.pid_file.map(&mut f).transpose()?,
            control: match self.control {
                Some((socket, device, inode)) => Some((f(socket)?, device, inode)),
                None => None,
            },
            reply: self.reply.map(&mut f).transpose()?,
            listeners: self
                .listeners
                .into_iter()
                .map(|listener| Ok(Listener { socket: f(listener.socket)?, shared: listener.shared }))
                .collect::<Result<_, E>>()?,
            logger: match self.logger {
                Some(Logger { reader, writer, process }) => {
                    Some(Logger { reader: f(reader)?, writer: f(writer)?, process })
                }
                None => None,
            },
            handlers: self.handlers,
            connections: self
                .connections
                .into_iter()
                .map(|Connection { stream, peer, local, age, proxied }| {
                    Ok(Connection { stream: f(stream)?, peer, local, age, proxied })
                })
                .collect::<Result<_, E>>()?,
            lingering: self.lingering.into_iter().map(f).collect::<Result<_, E>>()?,
        })
    }
}

impl State<RawFd> {
    /// All descriptors that go on.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let single = [self.lock, self.pid_file, self.control.map(|(socket, ..)| socket), self.reply];
        let logger = self.logger.iter().flat_map(|logger| [logger.reader, logger.writer]);
        let listeners = self.listeners.iter().map(|listener| listener.socket);
        let connections = self.connections.iter().map(|connection| connection.stream);
        single
            .into_iter()
            .flatten()
            .chain(logger)
            .chain(listeners)
            .chain(connections)
            .chain(self.lingering.clone())
            .collect()
    }

    /// The memory file that the next program reads.
    pub fn store(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"couriertcpd", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(self.encode(getpid()).as_bytes())?;
        Ok(file.into())
    }

    /// Reads the file that a program of this process, or of its parent in a trial, has made.
    ///
    /// # Errors
    /// It is something else: the variable is a leftover, or the other program another version.
    pub fn load(file: OwnedFd, role: Role) -> io::Result<Self> {
        let file = File::from(file);
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(Self::LONGEST)];
        file.read_exact_at(&mut bytes, 0)?;
        String::from_utf8(bytes)
            .ok()
            .and_then(|text| Self::decode(&text, role))
            .ok_or_else(|| io::Error::other("not made for this process, or by a version that differs too much"))
    }

    /// More than the largest number of slots can bring about.
    const LONGEST: usize = 1 << 30;

    // Writing to a String cannot fail, so the results carry nothing.
    fn encode(&self, pid: Pid) -> String {
        let mut out = format!("{HEADING}\npid {pid}\n");
        let mut one = |name: &str, descriptor: Option<RawFd>| {
            if let Some(descriptor) = descriptor {
                let _ = writeln!(out, "{name} {descriptor}");
            }
        };
        one("lock", self.lock);
        one("pid-file", self.pid_file);
        one("reply", self.reply);
        self.lingering.iter().for_each(|stream| one("lingering", Some(*stream)));
        if let Some((socket, device, inode)) = self.control {
            let _ = writeln!(out, "control {socket} {device} {inode}");
        }
        for Listener { socket, shared } in &self.listeners {
            let _ = writeln!(out, "listener {socket} {}", u8::from(*shared));
        }
        if let Some(Logger { reader, writer, process }) = &self.logger {
            let (pid, age) = process.map_or((0, 0), |(pid, age)| (pid, age.as_millis()));
            let _ = writeln!(out, "logger {reader} {writer} {pid} {age}");
        }
        for Handler { pid, peer, age } in &self.handlers {
            let _ = writeln!(out, "handler {pid} {peer} {}", age.as_millis());
        }
        for Connection { stream, peer, local, age, proxied } in &self.connections {
            let kind = if proxied.is_some() { "proxied" } else { "connection" };
            let _ = write!(out, "{kind} {stream} {peer} {local} {}", age.as_millis());
            for (name, value) in proxied.iter().flatten() {
                let _ = write!(out, " {}={}", hex(name), hex(value));
            }
            out.push('\n');
        }
        out.push_str("end\n");
        out
    }

    fn decode(text: &str, role: Role) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != HEADING {
            return None;
        }
        let pid = lines.next()?.strip_prefix("pid ")?.parse().ok()?;
        if !role.is_from(Pid::from_raw(pid)) {
            return None;
        }
        let mut state = State::default();
        for line in lines.by_ref() {
            let mut words = line.split(' ');
            let kind = words.next()?;
            if kind == "end" {
                return lines.next().is_none().then_some(state);
            }
            let mut next = || words.next();
            let descriptor = next()?.parse().ok()?;
            match kind {
                "lock" => state.lock = Some(descriptor),
                "pid-file" => state.pid_file = Some(descriptor),
                "reply" => state.reply = Some(descriptor),
                "lingering" => state.lingering.push(descriptor),
                "control" => state.control = Some((descriptor, next()?.parse().ok()?, next()?.parse().ok()?)),
                "listener" => state.listeners.push(Listener { socket: descriptor, shared: next()? == "1" }),
                "logger" => {
                    let writer = next()?.parse().ok()?;
                    let process = (next()?.parse().ok()?, milliseconds(next()?)?);
                    let process = Some(process).filter(|(pid, _)| *pid > 0);
                    state.logger = Some(Logger { reader: descriptor, writer, process });
                }
                "handler" => {
                    let (peer, age) = (next()?.parse().ok()?, milliseconds(next()?)?);
                    state.handlers.push(Handler { pid: descriptor, peer, age });
                }
                "connection" | "proxied" => {
                    let (peer, local) = (next()?.parse().ok()?, next()?.parse().ok()?);
                    let age = milliseconds(next()?)?;
                    let variables = words.map(|word| {
                        let (name, value) = word.split_once('=')?;
                        Some((unhex(name)?, unhex(value)?))
                    });
                    let proxied = match kind {
                        "proxied" => Some(variables.collect::<Option<_>>()?),
                        _ => None,
                    };
                    state.connections.push(Connection { stream: descriptor, peer, local, age, proxied });
                }
                _ => return None,
            }
        }
        // Cut off.
        None
    }
}

fn milliseconds(word: &str) -> Option<Duration> {
    word.parse().ok().map(Duration::from_millis)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// A descriptor's number, for a [`State`] on its way.
pub fn number(descriptor: &impl AsRawFd) -> RawFd {
    descriptor.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State<RawFd> {
        let ms = Duration::from_millis;
        let connection = |stream, proxied| Connection {
            stream,
            peer: "192.0.2.1:4000".parse().unwrap(),
            local: "[2001:db8::1]:25".parse().unwrap(),
            age: ms(1500),
            proxied,
        };
        State {
            lock: Some(3),
            pid_file: Some(4),
            control: Some((5, 66_306, u64::MAX)),
            reply: Some(6),
            listeners: vec![Listener { socket: 7, shared: false }, Listener { socket: 8, shared: true }],
            logger: Some(Logger { reader: 9, writer: 10, process: Some((77, ms(5))) }),
            handlers: vec![Handler { pid: 99, peer: "[::1]:9".parse().unwrap(), age: ms(0) }],
            connections: vec![
                connection(11, None),
                connection(12, Some(vec![])),
                connection(13, Some(vec![(b"PROXY_SNI".to_vec(), b"a b=\n\xff".to_vec()), (b"E".to_vec(), vec![])])),
            ],
            lingering: vec![14, 15],
        }
    }

    #[test]
    fn a_state_comes_out_as_it_went_in() {
        assert_eq!(sample().descriptors().len(), 13);
        let file = sample().store().unwrap();
        assert_eq!(State::load(file, Role::Take).unwrap(), sample());
        let logger = Some(Logger { reader: 1, writer: 2, process: None });
        let empty = State { logger, ..State::default() };
        assert_eq!(State::load(empty.store().unwrap(), Role::Take).unwrap(), empty);
        let mapped = sample().try_map(|n| Ok::<_, ()>(n + 1)).unwrap();
        assert_eq!(mapped.descriptors(), sample().descriptors().iter().map(|n| n + 1).collect::<Vec<_>>());
        assert_eq!(sample().try_map(|n| if n == 15 { Err(n) } else { Ok(n) }), Err(15));
    }

    #[test]
    fn what_was_cut_off_or_is_for_others_is_refused() {
        let text = sample().encode(getpid());
        assert_eq!(State::decode(&text, Role::Take), Some(sample()));
        assert_eq!(State::decode(&text, Role::Rehearse), None, "the parent's");
        assert_eq!(State::decode(&sample().encode(getppid()), Role::Take), None);
        for end in (0..text.len() - 1).filter(|&end| text.is_char_boundary(end)) {
            assert_eq!(State::decode(&text[..end], Role::Take), None, "{}", &text[..end]);
        }
        for (from, to) in [("handover 1", "handover 2"), ("lock 3", "lock x"), ("listener", "listenen"), ("1500", "-1")]
        {
            assert_eq!(State::decode(&text.replace(from, to), Role::Take), None, "{to}");
        }
    }

    #[test]
    fn the_variable_is_read_back() {
        for (role, name) in Role::ALL {
            assert_eq!(role.variable(7).to_str().unwrap(), format!("COURIERTCPD_HANDOVER={name}:7"));
        }
    }
}

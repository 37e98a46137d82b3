//! Carrying a verdict out: start the handler, or refuse so that the refusal arrives.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use crate::addr;
use crate::children::{Handler, Places};
use crate::config::{HandlerStderr, IPV4_BLOCK_PREFIX, Level};
use crate::error::errno_text;
use crate::lingering::{self, Rest};
use crate::log::{self, Connection, Decision};
use crate::pending::{Pending, Stage};
use crate::policy::Reason;
use crate::policy::env::CONNECTION_VARIABLES;
use crate::policy::limits::{Slot, counted_block};
use crate::policy::session::Ends;
use crate::reactor::Reactor;
use crate::reactor::timer::Due;
use crate::reactor::token::Source;
use crate::spawn::{StderrFor, Strings};
use crate::status::counters::Event;
use crate::table::Key;

/// A connection that has no entry in the table, or none any more.
pub(super) struct Client {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// None until it is asked for.
    pub local: Option<SocketAddr>,
    /// When it was accepted.
    pub since: Instant,
}

/// Refused clients that may read their reply at the same time: a quarter of the descriptors, so
/// that a flood of refused ones leaves the others alone.
pub(super) fn lingering_most() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((256, 256));
    (soft / 4).clamp(8, 4096) as usize
}

impl Reactor {
    /// Takes a slot, if one is free, and says so when they become scarce.
    pub(super) fn take_slot(&self) -> Option<Slot> {
        let slot = self.occupancy.slot()?;
        let used = self.occupancy.slots_in_use();
        let limits = &self.config.limits;
        if used == limits.max_procs {
            log::all_slots_in_use(used);
        } else if used >= limits.warn_at {
            log::many_slots_in_use(used);
        }
        Some(slot)
    }

    /// Starts the handler; false if that failed. The daemon's own descriptor of the connection is closed either way.
    pub(super) fn serve(&mut self, pending: Pending, now: Instant) -> bool {
        let Pending {
            stream, ends, share, slot: Some(slot), since, stage: Stage::WaitsForSlot { env, decided }, ..
        } = pending
        else {
            return false;
        };
        let envp = Strings::new(env.envp(&self.base), self.base.len() + CONNECTION_VARIABLES.len());
        let started = self.spawner.spawn(stream.as_fd(), self.handler_stderr(), &envp);
        let (decision, by, detail, pid) = match started {
            Ok(pid) => (Decision::Served, None, None, Some(pid.as_raw())),
            Err(errno) => (Decision::Failed, Some("spawn"), Some(errno_text(&errno.into())), None),
        };
        log::connection(&Connection {
            remote: ends.peer,
            local: ends.local,
            host: env.get(b"TCPREMOTEHOST"),
            decision,
            by,
            detail: detail.as_deref().map(str::as_bytes),
            lookups: decided.saturating_duration_since(since),
            pid,
        });
        match started {
            Ok(pid) => {
                self.counters.count(Event::Served, now);
                let places = Places { share, slot };
                self.children.started(pid, Handler { peer: ends.peer, since: now, places })
            }
            Err(errno) => {
                self.counters.count(Event::NotStarted, now);
                log::handler_not_started(&self.config.handler.program, &errno.into());
                // A full process table or no memory: the others would fare no better now, and may in a moment.
                if matches!(errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) {
                    self.starts_rest = true;
                    self.rest(now, errno);
                }
            }
        }
        started.is_ok()
    }

    fn handler_stderr(&self) -> StderrFor<'_> {
        match (&self.config.stderr, self.stderr.descriptor()) {
            (HandlerStderr::Socket, _) => StderrFor::Connection,
            (_, Some(descriptor)) => StderrFor::Descriptor(descriptor),
            (_, None) => StderrFor::Inherit,
        }
    }

    /// Closes a connection that is not served, after its reply if it gets one.
    pub(super) fn refuse(&mut self, client: Client, host: Option<&str>, reason: Reason, now: Instant) {
        self.counters.count(Event::refused(&reason), now);
        let peer = client.peer.ip();
        let limits = &self.config.limits;
        match &reason {
            Reason::PerAddress => log::per_address_limit(peer),
            Reason::PerBlock => {
                let prefix = if peer.is_ipv4() { IPV4_BLOCK_PREFIX } else { limits.prefix6.block };
                log::per_block_limit(counted_block(peer, limits.prefix6), prefix);
            }
            Reason::Dropped(_) => log::dropped(peer),
            Reason::Denied | Reason::AccessUnknown => {}
        }
        if log::enabled(Level::Info) {
            let (by, detail) = match &reason {
                Reason::Denied => ("access", None),
                Reason::AccessUnknown => ("access", Some(&b"unreadable"[..])),
                Reason::PerAddress => ("maxperip", None),
                Reason::PerBlock => ("maxperc", None),
                Reason::Dropped(variable) => ("drop", Some(variable.as_slice())),
            };
            let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
            let local = client.local.or_else(|| client.stream.local_addr().map(addr::fold_socket).ok());
            log::connection(&Connection {
                remote: client.peer,
                local: local.unwrap_or(unspecified),
                host: host.map(str::as_bytes),
                decision: Decision::Refused,
                by: Some(by),
                detail,
                lookups: now.saturating_duration_since(client.since),
                pid: None,
            });
        }
        if let Some(reply) = self.reply.as_deref().filter(|_| reason.has_reply()) {
            lingering::reply(&client.stream, reply);
            self.linger(client.stream, now);
        }
    }

    /// Keeps a refused connection until its client has read the reply, or its second is over.
    pub(super) fn linger(&mut self, stream: TcpStream, now: Instant) {
        if lingering::read_off(&stream) == Rest::Ended {
            return;
        }
        while self.lingering.len() >= self.lingering_most {
            let Some(oldest) = self.lingering_order.pop_front() else { break };
            self.end_lingering(oldest);
        }
        let until = now + lingering::PATIENCE;
        let key = self.lingering.next_key();
        let token = Source::Lingering(key).token();
        // Registered late, so the edge of what came meanwhile is raised again by registering.
        if self.poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), token, Interest::READABLE).is_ok() {
            self.lingering.insert((stream, until));
            self.lingering_order.push_back(key);
            self.timers.set(until, Due::Linger(key));
        }
    }

    pub(super) fn step_lingering(&mut self, key: Key) {
        let Some((stream, _)) = self.lingering.get(key) else { return };
        match lingering::read_off(stream) {
            Rest::Ended => self.end_lingering(key),
            Rest::Open => {}
            Rest::More => {
                // Registering again raises the edge again: others get their turn in between.
                let fd = stream.as_raw_fd();
                let token = Source::Lingering(key).token();
                if self.poll.registry().reregister(&mut SourceFd(&fd), token, Interest::READABLE).is_err() {
                    self.end_lingering(key);
                }
            }
        }
    }

    pub(super) fn end_lingering(&mut self, key: Key) {
        if let Some((_, until)) = self.lingering.remove(key) {
            self.timers.cancel(until, Due::Linger(key));
        }
        while self.lingering_order.front().is_some_and(|&key| self.lingering.get(key).is_none()) {
            self.lingering_order.pop_front();
        }
    }

    pub(super) fn report_gone(&self, pending: &Pending, now: Instant) {
        let Ends { peer, local } = pending.ends;
        let mismatch = self.config.lookups.mismatch;
        let (host, until) = match &pending.stage {
            Stage::WaitsForSlot { env, decided } => (env.get(b"TCPREMOTEHOST"), *decided),
            _ => {
                let name = pending.lookups().and_then(|lookups| lookups.session.remote_name());
                (name.and_then(|name| name.variable(mismatch)).map(str::as_bytes), now)
            }
        };
        log::connection(&Connection {
            remote: peer,
            local,
            host,
            decision: Decision::Gone,
            by: None,
            detail: None,
            lookups: until.saturating_duration_since(pending.since),
            pid: None,
        });
    }
}

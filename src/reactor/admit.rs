//! From accept to the lookups: the access file, the limits, and what a connection owes.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::listener::Accepted;
use crate::log;
use crate::pending::{Lookups, Pending, Stage};
use crate::policy::access::Access;
use crate::policy::env::Delta;
use crate::policy::limits::{Exceeded, Slot};
use crate::policy::session::{Ends, Session, Wanted};
use crate::policy::{Reason, max_per_ip};
use crate::proxy::header::Header;
use crate::proxy::{self, Waiting};
use crate::reactor::conclude::Client;
use crate::reactor::{ACCEPTS, Reactor};
use crate::status::counters::Event;

impl Reactor {
    /// Accepts from every listener that has clients waiting, each in its turn.
    pub(super) fn accept_waiting(&mut self, now: Instant) {
        for _ in 0..self.backlogged.len() {
            let Some(index) = self.backlogged.pop_front() else { return };
            if self.accept_some(index, now) {
                self.backlogged.push_back(index);
            }
        }
    }

    /// True if there may be more, if the door is open at the end of the turn. False as well when accepting rests:
    /// opening the door again raises a new event.
    fn accept_some(&mut self, index: u32, now: Instant) -> bool {
        for _ in 0..ACCEPTS {
            if !self.may_accept() {
                return true;
            }
            let Some(listener) = self.listeners.get(index) else { return false };
            match listener.accept() {
                Accepted::Connection(stream, peer) => {
                    self.counters.count(Event::Accepted, now);
                    let few_are_left = self.reserve.has(&stream);
                    self.admit(index, stream, peer, now);
                    if few_are_left && !self.reserve.is_whole() {
                        self.rest(now, Errno::EMFILE);
                        return false;
                    }
                }
                Accepted::Nobody => return false,
                Accepted::Lost => {}
                Accepted::Shortage(errno) => {
                    self.rest(now, errno);
                    return false;
                }
            }
        }
        true
    }

    fn admit(&mut self, listener: u32, stream: TcpStream, peer: SocketAddr, now: Instant) {
        let mut client = Client { stream, peer, local: None, since: now };
        if self.config.proxy.is_some() {
            if !self.find_local_end(Some(listener), &mut client) {
                return;
            }
            if let Some(limit) = self.header_limit(&client) {
                let Client { stream, peer, local: Some(local), since } = client else { return };
                let slot = self.slot_from_accept();
                return self.await_header(Waiting { stream, real: Ends { peer, local }, slot, since }, limit, now);
            }
        }
        self.admit_client(Some(listener), client, None, now);
    }

    /// None: the connection does not begin with a PROXY header.
    fn header_limit(&self, client: &Client) -> Option<Duration> {
        proxy::time_limit(self.config.proxy.as_ref()?, client.local?)
    }

    /// A connection whose PROXY header has come: what it says is what counts from here on.
    pub(super) fn admit_proxied(&mut self, waiting: Waiting, header: Header, now: Instant) {
        let Waiting { stream, real, slot, .. } = waiting;
        let Ends { peer, local } = header.ends.unwrap_or(real);
        let client = Client { stream, peer, local: Some(local), since: now };
        let mut variables = Delta::default();
        proxy::describe(&real, &header, self.config.ipv4, &mut variables);
        self.admit_client(None, client, Some(Proxied { variables, slot }), now);
    }

    /// A connection that the program before this one had accepted and not decided.
    pub(super) fn admit_again(&mut self, arrival: Arrival, now: Instant) {
        let Arrival { stream, ends: Ends { peer, local }, since, proxied } = arrival;
        let client = Client { stream, peer, local: Some(local), since };
        match (proxied, self.header_limit(&client)) {
            (None, Some(limit)) => {
                let slot = self.slot_from_accept();
                let waiting = Waiting { stream: client.stream, real: Ends { peer, local }, slot, since };
                self.await_header(waiting, limit, now);
            }
            (None, None) => self.admit_client(None, client, None, now),
            (Some(variables), _) => {
                let slot = self.slot_from_accept();
                self.admit_client(None, client, Some(Proxied { variables, slot }), now);
            }
        }
    }

    /// `listener` is needed if the local end is not known.
    fn admit_client(&mut self, listener: Option<u32>, mut client: Client, proxied: Option<Proxied>, now: Instant) {
        // Asking for the local end costs a system call, which most refusals do without.
        if self.config.access.local && self.access.is_some() && !self.find_local_end(listener, &mut client) {
            return;
        }
        let mut env = Delta::default();
        if let Err(reason) = self.ask_access_file(&client, &mut env) {
            return self.refuse(client, None, reason, now);
        }
        let peer = client.peer;
        let most = max_per_ip(self.config.limits.max_per_ip, &env, &self.base);
        let share = match self.occupancy.share(peer.ip(), most) {
            Ok(share) => share,
            Err(exceeded) => return self.refuse(client, None, Reason::from(exceeded), now),
        };
        if !self.find_local_end(listener, &mut client) {
            return;
        }
        let Client { stream, local: Some(local), since, .. } = client else { return };
        for (name, value) in proxied.iter().flat_map(|proxied| proxied.variables.iter()) {
            env.set(name, value);
        }
        let is_proxied = proxied.is_some();
        let ends = Ends { peer, local };
        let mut wanted = Wanted::default();
        let mut session = Session::start(&self.config, &self.base, &ends, env, &mut wanted);
        let slot = match proxied {
            Some(proxied) => {
                session.forgo_ident(&mut wanted);
                proxied.slot
            }
            None => self.slot_from_accept(),
        };
        let deadline = since + self.config.lookups.timeout;
        let lookups = Lookups { session, deadline, ident: None };
        self.arrivals += 1;
        let pending = Pending {
            stream,
            ends,
            share,
            slot,
            since,
            arrival: self.arrivals,
            registered: false,
            proxied: is_proxied,
            stage: Stage::Lookups(Box::new(lookups)),
        };
        self.begin_lookups(pending, wanted, now);
    }

    /// The slot of a connection that has just been accepted; none with `-maxpending`.
    fn slot_from_accept(&self) -> Option<Slot> {
        if self.config.limits.max_pending == 0 { self.take_slot() } else { None }
    }

    /// False: the client is gone already, and with it the knowledge of where it came to; or the
    /// system has no memory to tell.
    fn find_local_end(&self, listener: Option<u32>, client: &mut Client) -> bool {
        if client.local.is_none() {
            let listener = listener.and_then(|index| self.listeners.get(index));
            match listener.map(|listener| listener.local_end(&client.stream)) {
                Some(Ok(local)) => client.local = Some(local),
                Some(Err(error)) if error.kind() != io::ErrorKind::NotConnected => log::local_end_unknown(&error),
                _ => {}
            }
        }
        client.local.is_some()
    }

    /// Adds the access record's variables to `env`, or says why the connection is refused.
    fn ask_access_file(&mut self, client: &Client, env: &mut Delta) -> Result<(), Reason> {
        let Some(db) = &mut self.access else { return Ok(()) };
        let local = client.local.filter(|_| self.config.access.local);
        match db.decide(client.peer.ip(), local, env) {
            Ok(Access::Admitted) => Ok(()),
            Ok(Access::Refused(_)) => Err(Reason::Denied),
            Err(error) => {
                log::access_unreadable(db.path(), &error);
                Err(Reason::AccessUnknown)
            }
        }
    }
}

/// A connection that was accepted before this program took over.
pub(super) struct Arrival {
    pub stream: TcpStream,
    pub ends: Ends,
    pub since: Instant,
    /// What its PROXY header has set, if that has been read.
    pub proxied: Option<Delta>,
}

/// What a connection brings along that began with a PROXY header.
struct Proxied {
    /// What the header has to say.
    variables: Delta,
    /// Taken at accept; none with `-maxpending`.
    slot: Option<Slot>,
}

impl From<Exceeded> for Reason {
    fn from(exceeded: Exceeded) -> Self {
        match exceeded {
            Exceeded::PerAddress => Reason::PerAddress,
            Exceeded::PerBlock => Reason::PerBlock,
        }
    }
}

//! The connection table as it should be: lists and counts, without a socket, a clock or a table.
//!
//! Every step of the test tells it what was done; [`Model::settle`] then says what must have
//! followed. It is written from the contract (sections 5, 6, 10 and 11), not from the program.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How the daemon was started.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub slots: usize,
    pub per_address: usize,
    pub per_block: usize,
    pub pending: usize,
    /// Connections begin with a PROXY header.
    pub proxy: bool,
    pub names: bool,
}

pub const LOOKUP_TIME: Duration = Duration::from_secs(30);
pub const HEADER_TIME: Duration = Duration::from_secs(15);
pub const LINGER_TIME: Duration = Duration::from_secs(1);
pub const SHORTAGE_TIME: Duration = Duration::from_millis(500);

/// A DNS question: name and type.
pub type Asked = (String, u16);
pub const A: u16 = 1;
pub const PTR: u16 = 12;

/// Time since the test began.
pub type Time = Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In the kernel's queue.
    Backlog,
    Header {
        until: Time,
    },
    Lookups {
        open: BTreeSet<Asked>,
        until: Time,
    },
    Ready,
    Served,
    Lingering {
        until: Time,
    },
    Gone,
}

/// One connection, from connect to the end of its handler.
#[derive(Clone, Debug)]
pub struct Connection {
    pub id: u64,
    /// As the kernel knows it, and as a PROXY header says.
    pub peer: Ipv4Addr,
    pub state: State,
    /// The client has reset it.
    pub reset: bool,
    /// The client will send nothing more.
    pub ended: bool,
    /// When it got past accept, of those that did.
    arrival: u64,
}

/// What the access file says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Deny,
    AtMost(usize),
    /// The list is not asked.
    Vouched,
}

pub struct Model {
    pub limits: Limits,
    pub connections: Vec<Connection>,
    pub rules: HashMap<Ipv4Addr, Rule>,
    pub now: Time,
    pub shortage_until: Option<Time>,
    /// The handler cannot be started at the moment.
    pub no_handler: bool,
    arrivals: u64,
    local: Ipv4Addr,
}

/// What the reactor's census must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    pub slots: usize,
    pub by_address: HashMap<IpAddr, u32>,
    pub by_block: HashMap<IpAddr, u32>,
    pub lingering: usize,
    pub deadlines: usize,
    pub accepting: bool,
}

fn block(ip: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = ip.octets();
    [a, b, c, 0].into()
}

pub fn reverse_name(ip: Ipv4Addr) -> Asked {
    let [a, b, c, d] = ip.octets();
    (format!("{d}.{c}.{b}.{a}.in-addr.arpa"), PTR)
}

pub fn list_name(ip: Ipv4Addr) -> Asked {
    let [a, b, c, d] = ip.octets();
    (format!("{d}.{c}.{b}.{a}.bl.example"), A)
}

/// The host that the reverse zone names for `ip`.
pub fn host_of(ip: Ipv4Addr) -> String {
    format!("h-{}.example", ip.to_string().replace('.', "-"))
}

impl Model {
    pub fn new(limits: Limits, local: Ipv4Addr) -> Self {
        Model {
            limits,
            connections: Vec::new(),
            rules: HashMap::new(),
            now: Duration::ZERO,
            shortage_until: None,
            no_handler: false,
            arrivals: 0,
            local,
        }
    }

    pub fn connect(&mut self, id: u64, peer: Ipv4Addr) {
        self.connections.push(Connection { id, peer, state: State::Backlog, reset: false, ended: false, arrival: 0 });
    }

    pub fn get(&mut self, id: u64) -> &mut Connection {
        self.connections.iter_mut().find(|c| c.id == id).expect("a connection that is known")
    }

    fn at(&self, wanted: impl Fn(&State) -> bool) -> usize {
        self.connections.iter().filter(|c| wanted(&c.state)).count()
    }

    /// Those that count for `-maxperip` and `-maxperc`.
    fn counted(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|c| matches!(c.state, State::Lookups { .. } | State::Ready | State::Served))
    }

    fn slots_in_use(&self) -> usize {
        let from_accept = self.limits.pending == 0;
        self.at(|state| match state {
            State::Served => true,
            State::Header { .. } | State::Lookups { .. } => from_accept,
            _ => false,
        })
    }

    fn may_accept(&self) -> bool {
        let pending = self.at(|s| matches!(s, State::Header { .. } | State::Lookups { .. } | State::Ready));
        self.shortage_until.is_none()
            && match self.limits.pending {
                0 => self.slots_in_use() < self.limits.slots,
                most => pending < most,
            }
    }

    /// The access file, then the limits, then the lookups that are owed.
    fn admit(&mut self, at: usize) {
        let peer = self.connections[at].peer;
        let rule = self.rules.get(&peer).copied();
        if rule == Some(Rule::Deny) {
            return self.refuse_with_reply(at);
        }
        let most = match rule {
            Some(Rule::AtMost(most)) => most,
            _ => self.limits.per_address,
        };
        let from_address = self.counted().filter(|c| c.peer == peer).count();
        let from_block = self.counted().filter(|c| block(c.peer) == block(peer)).count();
        if from_address >= most || from_block >= self.limits.per_block {
            self.connections[at].state = State::Gone;
            return;
        }
        let mut open = BTreeSet::new();
        if rule != Some(Rule::Vouched) {
            open.insert(list_name(peer));
        }
        if self.limits.names {
            open.extend([reverse_name(peer), reverse_name(self.local)]);
        }
        self.arrivals += 1;
        let connection = &mut self.connections[at];
        connection.arrival = self.arrivals;
        connection.state = match open.is_empty() {
            true => State::Ready,
            false => State::Lookups { open, until: self.now + LOOKUP_TIME },
        };
    }

    fn refuse_with_reply(&mut self, at: usize) {
        let until = self.now + LINGER_TIME;
        let connection = &mut self.connections[at];
        let hears = !connection.ended && !connection.reset;
        connection.state = if hears { State::Lingering { until } } else { State::Gone };
    }

    /// The header of a connection has come: is good, or not.
    pub fn header(&mut self, id: u64, good: bool) {
        let at = self.connections.iter().position(|c| c.id == id).expect("a connection that is known");
        if good {
            self.admit(at);
        } else {
            self.connections[at].state = State::Gone;
        }
    }

    /// One answer, for all who wait for it.
    pub fn answer(&mut self, question: &Asked, records: bool) {
        for at in 0..self.connections.len() {
            let State::Lookups { open, .. } = &mut self.connections[at].state else { continue };
            if !open.remove(question) {
                continue;
            }
            if question.1 == PTR && records {
                let parts: Vec<u8> = question.0.split('.').take(4).filter_map(|part| part.parse().ok()).collect();
                let ip = Ipv4Addr::new(parts[3], parts[2], parts[1], parts[0]);
                open.insert((host_of(ip), A));
            }
            if question.0.ends_with(".bl.example") && records {
                self.refuse_with_reply(at);
            } else if open.is_empty() {
                self.connections[at].state = State::Ready;
            }
        }
    }

    /// The next moment at which something is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let of = |c: &Connection| match c.state {
            State::Header { until } | State::Lookups { until, .. } | State::Lingering { until } => Some(until),
            _ => None,
        };
        self.connections.iter().filter_map(of).chain(self.shortage_until).min()
    }

    pub fn expire(&mut self) {
        let now = self.now;
        for connection in &mut self.connections {
            match connection.state {
                State::Header { until } | State::Lingering { until } if until <= now => connection.state = State::Gone,
                State::Lookups { until, .. } if until <= now => connection.state = State::Ready,
                _ => {}
            }
        }
        self.shortage_until = self.shortage_until.filter(|until| *until > now);
    }

    /// All that follows by itself.
    pub fn settle(&mut self) {
        loop {
            let mut changed = false;
            for connection in &mut self.connections {
                let held = !matches!(connection.state, State::Served | State::Gone | State::Backlog);
                let closed = connection.ended && matches!(connection.state, State::Lingering { .. });
                let header = connection.ended && matches!(connection.state, State::Header { .. });
                if held && connection.reset || closed || header {
                    connection.state = State::Gone;
                    changed = true;
                }
            }
            // One turn of the loop starts all handlers it can, then accepts all it may; only the next
            // one learns of clients that are gone.
            while self.serve_next() || self.accept_next() {
                changed = true;
            }
            if !changed {
                break;
            }
        }
        self.connections.retain(|c| c.state != State::Gone);
    }

    fn serve_next(&mut self) -> bool {
        let ready = self.connections.iter_mut().filter(|c| c.state == State::Ready);
        let Some(at) = ready.min_by_key(|c| c.arrival).map(|c| c.id) else { return false };
        if self.limits.pending > 0 && self.slots_in_use() >= self.limits.slots {
            return false;
        }
        let state = if self.no_handler { State::Gone } else { State::Served };
        self.get(at).state = state;
        true
    }

    fn accept_next(&mut self) -> bool {
        if !self.may_accept() {
            return false;
        }
        let Some(at) = self.connections.iter().position(|c| c.state == State::Backlog) else { return false };
        let connection = &mut self.connections[at];
        match self.limits.proxy {
            // A header is looked for at once.
            true if connection.reset || connection.ended => connection.state = State::Gone,
            true => connection.state = State::Header { until: self.now + HEADER_TIME },
            false => self.admit(at),
        }
        true
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            slots: self.slots_in_use(),
            lingering: self.at(|s| matches!(s, State::Lingering { .. })),
            accepting: self.may_accept(),
            ..Counts::default()
        };
        let timed = self.at(|s| matches!(s, State::Header { .. } | State::Lookups { .. } | State::Lingering { .. }));
        counts.deadlines = timed + usize::from(self.shortage_until.is_some());
        for connection in self.counted() {
            *counts.by_address.entry(connection.peer.into()).or_default() += 1;
            *counts.by_block.entry(block(connection.peer).into()).or_default() += 1;
        }
        counts
    }

    /// Descriptors that the daemon holds of connections.
    pub fn descriptors(&self) -> usize {
        self.at(|state| !matches!(state, State::Backlog | State::Served | State::Gone))
    }
}

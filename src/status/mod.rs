//! How a running daemon does, for its operator: what is shown, and in which form.
//!
//! The reactor fills a [`Snapshot`], which is plain data, when it is asked; `text`, `json` and
//! `prometheus` write it for people, programs and the monitoring system of that name. `counters`
//! holds the numbers that are kept meanwhile. Names in the last two forms are interface: they stay,
//! and new ones are only added. Pure: no I/O, no clock.

#![forbid(unsafe_code)]

pub mod counters;
mod json;
mod prometheus;
#[cfg(test)]
mod tests;
mod text;

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{Limits, ListKind};
use crate::resolver::{self, nss};
use counters::{ListCounts, Tally, Times};

/// A form of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
    Prometheus,
}

impl Form {
    pub const ALL: [(&'static str, Form); 3] =
        [("text", Form::Text), ("json", Form::Json), ("prometheus", Form::Prometheus)];

    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| known.as_bytes() == name).map(|(_, form)| form)
    }

    pub fn name(self) -> &'static str {
        match self {
            Form::Text => "text",
            Form::Json => "json",
            Form::Prometheus => "prometheus",
        }
    }
}

/// Whether new connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Accepting,
    /// No slot, or with `-maxpending` no place for a pending connection, is free.
    Full,
    /// Descriptors, memory or processes have run out.
    Resting,
    /// After `-drain`.
    Draining,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Accepting => "accepting",
            State::Full => "full",
            State::Resting => "resting",
            State::Draining => "draining",
        }
    }
}

/// Handlers that are listed one by one, the oldest of them: as much as an answer has room for.
pub const HANDLERS_SHOWN: usize = 1000;

/// Everything that is shown.
#[derive(Debug)]
pub struct Snapshot {
    pub version: &'static str,
    pub pid: u32,
    /// When the daemon began to serve, in seconds since 1970.
    pub started: u64,
    pub uptime: Duration,
    pub program: String,
    pub state: State,
    pub listeners: Vec<SocketAddr>,
    pub limits: Limits,
    pub slots_used: u32,
    /// Accepted and not handed over, those that wait for a slot included.
    pub pending: usize,
    pub waiting_for_slot: usize,
    /// Refused clients that still read their reply.
    pub lingering: usize,
    pub minute: Tally,
    pub total: Tally,
    pub lists: Vec<List>,
    pub resolver: Option<Resolver>,
    /// With `-resolver=nss`.
    pub helpers: Option<nss::Counts>,
    pub waits: Waits,
    /// Handlers that run.
    pub handlers: usize,
    /// The oldest [`HANDLERS_SHOWN`] of them, oldest first.
    pub oldest: Vec<Handler>,
    /// Messages that were held back.
    pub suppressed: u64,
    /// Messages that could not be written.
    pub lost: u64,
}

/// One `-allow` or `-block`.
#[derive(Debug)]
pub struct List {
    pub kind: ListKind,
    pub zone: String,
    pub display: String,
    pub variable: String,
    pub counts: ListCounts,
    /// How long answers from its zone took.
    pub times: Times,
}

impl List {
    fn kind(&self) -> &'static str {
        match self.kind {
            ListKind::Allow => "allow",
            ListKind::Block => "block",
        }
    }
}

#[derive(Debug)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub counts: resolver::Counts,
    /// `-dnscache`.
    pub cache_most: usize,
}

/// How many pending connections wait for what. One may wait for several things.
#[derive(Debug, Default)]
pub struct Waits {
    /// A PROXY header.
    pub header: usize,
    pub remote_name: usize,
    pub local_name: usize,
    pub ident: usize,
    /// One for each list.
    pub lists: Vec<usize>,
}

#[derive(Debug)]
pub struct Handler {
    pub peer: SocketAddr,
    pub pid: i32,
    pub age: Duration,
}

impl Snapshot {
    /// The whole status, its last newline included.
    pub fn write(&self, form: Form) -> String {
        match form {
            Form::Text => text::write(self),
            Form::Json => json::write(self),
            Form::Prometheus => prometheus::write(self),
        }
    }

    /// One line of `key=value` fields, for the log.
    pub fn short(&self) -> String {
        let Snapshot { minute, total, limits, .. } = self;
        use counters::Event;
        format!(
            "status uptime={} slots={}/{} pending={}/{} minute_accepted={} minute_served={} minute_refused={} \
             minute_failed={} accepted={} served={} refused={} failed={} gone={} suppressed={}",
            self.uptime.as_secs(),
            self.slots_used,
            limits.max_procs,
            self.pending,
            limits.max_pending,
            minute.of(Event::Accepted),
            minute.of(Event::Served),
            minute.refused(),
            minute.failed(),
            total.of(Event::Accepted),
            total.of(Event::Served),
            total.refused(),
            total.failed(),
            total.of(Event::Gone),
            self.suppressed,
        )
    }
}

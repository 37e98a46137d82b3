//! Connections that are accepted and not yet handed over.
//!
//! One entry holds the socket, its share in the counts, its session and what of its lookups has a
//! life of its own (the ident socket, the deadline). It goes through two stages: its lookups are
//! under way, and then, with `-maxpending` only, it may wait for a slot. The reactor drives it; an
//! entry that ends is consumed, so nothing can touch it again.

#![forbid(unsafe_code)]

use std::net::TcpStream;
use std::time::Instant;

use crate::ident::Ident;
use crate::policy::env::Delta;
use crate::policy::limits::{Share, Slot};
use crate::policy::session::{Ends, Session};

/// One pending connection. Thousands may wait, so it is kept small.
#[derive(Debug)]
pub struct Pending {
    /// Blocking, as the handler will want it; the daemon neither reads nor writes it.
    pub stream: TcpStream,
    pub ends: Ends,
    pub share: Share,
    /// None with `-maxpending` until one is needed.
    pub slot: Option<Slot>,
    /// When it was accepted.
    pub since: Instant,
    /// Its place among all connections, in order of arrival.
    pub arrival: u64,
    /// True if the poll set watches for its end.
    pub registered: bool,
    /// It began with a PROXY header, which has been read.
    pub proxied: bool,
    pub stage: Stage,
}

#[derive(Debug)]
pub enum Stage {
    Lookups(Box<Lookups>),
    /// The verdict fell at `decided`: serve, with this environment, once there is a slot.
    WaitsForSlot {
        env: Delta,
        decided: Instant,
    },
}

/// The lookups under way for one connection.
#[derive(Debug)]
pub struct Lookups {
    pub session: Session,
    /// When all of them have taken their time.
    pub deadline: Instant,
    /// Boxed: where ident is not wanted, it takes no room.
    pub ident: Option<Box<IdentUnderWay>>,
}

#[derive(Debug)]
pub struct IdentUnderWay {
    pub client: Ident,
    pub deadline: Instant,
}

impl Pending {
    /// The lookups, while they are under way.
    pub fn lookups_mut(&mut self) -> Option<&mut Lookups> {
        match &mut self.stage {
            Stage::Lookups(lookups) => Some(lookups),
            Stage::WaitsForSlot { .. } => None,
        }
    }

    pub fn lookups(&self) -> Option<&Lookups> {
        match &self.stage {
            Stage::Lookups(lookups) => Some(lookups),
            Stage::WaitsForSlot { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand may wait; with four lists each takes 1.3 KiB, its questions included.
    #[test]
    fn a_pending_connection_stays_small() {
        assert!(size_of::<Pending>() <= 176, "{}", size_of::<Pending>());
        assert!(size_of::<Lookups>() <= 184, "{}", size_of::<Lookups>());
    }
}

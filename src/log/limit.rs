//! How often a kind of message is said: once a minute, for the kind or for each key of it.
//!
//! What strangers can cause must not fill the disk, and what strangers can name (their addresses)
//! must not fill the memory: beyond [`KEYS_MAX`] keys within a minute, all others of a kind share
//! one entry.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The pause between two messages of a kind.
const PAUSE: Duration = Duration::from_secs(60);

/// Keys of all kinds that are told apart: at most so many lines a minute, and one for all others of each kind. Floods
/// from everywhere that meet every limit at once then write less than a line a second. Lists do not count: they are as
/// many as the command line has, and strangers cannot name them.
const KEYS_MAX: usize = 36;

/// The messages that are held back when they come too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No free slot.
    AllSlots,
    /// `-warn` reached.
    ManySlots,
    /// `-maxperip` reached; by address.
    PerAddress,
    /// `-maxperc` reached; by block.
    PerBlock,
    /// `-drop`.
    Dropped,
    /// New connections cannot be taken for want of descriptors or memory.
    Accept,
    /// PROGRAM could not be started.
    Handler,
    /// The logger ended or could not be started.
    Logger,
    /// A record of the access file, or the file, that cannot be used.
    Access,
    /// The access file was opened anew after a read error.
    AccessAnew,
    /// A PROXY header that is wrong or late; by the proxy's address.
    Proxy,
    /// `-proxyfrom`; by address.
    ProxyFrom,
    /// A DNS list that does not answer; by list.
    ListFailed,
    /// A DNS list that has a client and does not answer for the text; by list.
    ListText,
    /// A DNS list whose answer is no listing; by list.
    ListOdd,
    /// DNS lists could not be asked for want of descriptors or memory.
    ListsNotAsked,
    /// The resolver as such: no server, no socket.
    Resolver,
    /// resolv.conf cannot be read, or names nobody.
    Servers,
    /// ident could not be asked for want of descriptors, memory or ports.
    Ident,
    /// `-lookuptimeout` has cut lookups off.
    LookupsLate,
    /// A helper process of `-resolver=nss`.
    Helper,
    /// The control socket.
    Control,
    /// The event loop itself.
    Loop,
}

impl Kind {
    /// True for the texts that other programs know by heart, which take no remark behind them.
    pub(super) fn wording_is_fixed(self) -> bool {
        matches!(self, Kind::AllSlots | Kind::ManySlots | Kind::PerAddress | Kind::PerBlock | Kind::Dropped)
    }
}

/// What a message of a kind is about, where they are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    Address(IpAddr),
    Number(u16),
}

impl From<IpAddr> for Key {
    fn from(ip: IpAddr) -> Self {
        Key::Address(ip)
    }
}

impl From<u16> for Key {
    fn from(number: u16) -> Self {
        Key::Number(number)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Say it; `held` messages like it were held back since the last one.
    Say {
        held: u64,
    },
    Hold,
}

struct Entry {
    said: Instant,
    /// Messages held back since `said`.
    held: u64,
}

impl Entry {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.said) < PAUSE
    }

    fn ask(entry: &mut Option<Entry>, now: Instant) -> Verdict {
        match entry {
            Some(entry) if entry.is_fresh(now) => {
                entry.held += 1;
                Verdict::Hold
            }
            _ => {
                let held = entry.replace(Entry { said: now, held: 0 }).map_or(0, |entry| entry.held);
                Verdict::Say { held }
            }
        }
    }
}

/// The entries of all kinds.
#[derive(Default)]
pub(super) struct Limiter {
    /// For messages without a key, and for all keys of a kind that found no room.
    common: HashMap<Kind, Option<Entry>>,
    keyed: HashMap<(Kind, Key), Option<Entry>>,
    /// Set while `keyed` is full of fresh entries: when the first of them stops being so. Until then nobody need look
    /// for one to drop.
    full_until: Option<Instant>,
    suppressed: u64,
}

impl Limiter {
    pub(super) fn ask(&mut self, kind: Kind, key: Option<Key>, now: Instant) -> Verdict {
        let entry = match key.map(|key| (kind, key)) {
            Some(key @ (_, Key::Number(_))) => self.keyed.entry(key).or_default(),
            Some(key) if self.keyed.contains_key(&key) || self.has_room(now) => self.keyed.entry(key).or_default(),
            _ => self.common.entry(kind).or_default(),
        };
        let verdict = Entry::ask(entry, now);
        if verdict == Verdict::Hold {
            self.suppressed += 1;
        }
        verdict
    }

    /// True if one more key fits in, if need be after dropping those said longest ago.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.addresses() < KEYS_MAX {
            return true;
        }
        if self.full_until.is_some_and(|until| now < until) {
            return false;
        }
        let is_fresh = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.is_fresh(now));
        self.keyed.retain(|(_, key), entry| matches!(key, Key::Number(_)) || is_fresh(entry));
        self.full_until = if self.addresses() < KEYS_MAX {
            None
        } else {
            let addresses = self.keyed.iter().filter(|((_, key), _)| matches!(key, Key::Address(_)));
            addresses.filter_map(|(_, entry)| Some(entry.as_ref()?.said + PAUSE)).min()
        };
        self.full_until.is_none()
    }

    fn addresses(&self) -> usize {
        self.keyed.keys().filter(|(_, key)| matches!(key, Key::Address(_))).count()
    }

    /// Messages held back since the start.
    pub(super) fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> Option<Key> {
        Some(Key::Address(Ipv4Addr::from(n).into()))
    }

    #[test]
    fn a_kind_is_said_once_a_minute_and_kinds_do_not_hinder_each_other() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(limiter.ask(Kind::AllSlots, None, at(0)), Verdict::Say { held: 0 });
        assert_eq!(limiter.ask(Kind::AllSlots, None, at(1)), Verdict::Hold);
        assert_eq!(limiter.ask(Kind::ManySlots, None, at(1)), Verdict::Say { held: 0 });
        assert_eq!(limiter.ask(Kind::AllSlots, None, at(59_999)), Verdict::Hold);
        assert_eq!(limiter.ask(Kind::AllSlots, None, at(60_000)), Verdict::Say { held: 2 });
        assert_eq!(limiter.ask(Kind::AllSlots, None, at(60_001)), Verdict::Hold);
        assert_eq!(limiter.ask(Kind::AllSlots, None, at(200_000)), Verdict::Say { held: 1 });
        assert_eq!(limiter.ask(Kind::AllSlots, None, at(400_000)), Verdict::Say { held: 0 });
        assert_eq!(limiter.suppressed(), 3);
    }

    #[test]
    fn keys_are_told_apart() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..3 {
            limiter.ask(Kind::PerAddress, address(1), now);
        }
        assert_eq!(limiter.ask(Kind::PerAddress, address(2), now), Verdict::Say { held: 0 });
        assert_eq!(limiter.ask(Kind::ListOdd, Some(Key::from(1u16)), now), Verdict::Say { held: 0 });
        assert_eq!(limiter.ask(Kind::PerAddress, address(1), now + PAUSE), Verdict::Say { held: 2 });
    }

    #[test]
    fn a_flood_of_addresses_costs_a_fixed_number_of_lines_and_entries() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let mut said = 0;
        for n in 0..100_000 {
            let now = start + Duration::from_micros(n.into());
            said += usize::from(limiter.ask(Kind::PerAddress, address(n), now) != Verdict::Hold);
        }
        assert_eq!(said, KEYS_MAX + 1);
        assert_eq!(limiter.keyed.len(), KEYS_MAX);
        // Those in the table are still known.
        assert_eq!(limiter.ask(Kind::PerAddress, address(0), start + PAUSE / 2), Verdict::Hold);
        // A minute later there is room again, though not before.
        assert_eq!(limiter.ask(Kind::PerAddress, address(200_000), start + PAUSE / 2), Verdict::Hold);
        assert_eq!(limiter.ask(Kind::PerAddress, address(200_001), start + PAUSE), Verdict::Say { held: 0 });
        assert!(limiter.keyed.len() <= KEYS_MAX);
    }

    #[test]
    fn floods_that_meet_every_limit_at_once_cost_less_than_a_line_a_second() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let by_address = [Kind::PerAddress, Kind::PerBlock, Kind::Proxy, Kind::ProxyFrom];
        let others = [Kind::AllSlots, Kind::ManySlots, Kind::Dropped, Kind::Accept, Kind::LookupsLate, Kind::Handler];
        let mut said = Vec::new();
        for n in 0..200_000 {
            let now = start + Duration::from_millis(n.into());
            let keyed = by_address.map(|kind| (kind, address(n)));
            for (kind, key) in keyed.into_iter().chain(others.map(|kind| (kind, None))) {
                if limiter.ask(kind, key, now) != Verdict::Hold {
                    said.push(now);
                }
            }
        }
        let most = said.iter().map(|&from| said.iter().filter(|&&at| at >= from && at < from + PAUSE).count()).max();
        assert!(most < Some(60), "{most:?} in a minute");
        assert!(limiter.keyed.len() <= KEYS_MAX);
    }

    #[test]
    fn a_clock_that_stands_still_or_runs_back_does_no_harm() {
        let (mut limiter, now) = (Limiter::default(), Instant::now() + PAUSE);
        assert_eq!(limiter.ask(Kind::Accept, None, now), Verdict::Say { held: 0 });
        assert_eq!(limiter.ask(Kind::Accept, None, now - PAUSE), Verdict::Hold);
        assert_eq!(limiter.ask(Kind::Accept, None, now), Verdict::Hold);
    }
}

//! Who may still come in: slots, and counts per address and per block.
//!
//! A place is held by a value, [`Slot`] or [`Share`], and given back by dropping it; there is no
//! other way, so the counts cannot drift. Every operation is O(1), with ten thousand slots as with
//! forty. The owner is the reactor; guards travel with the connection and then with its handler.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::rc::Rc;

use crate::addr;
use crate::config::{IPV4_BLOCK_PREFIX, Limits, Prefix6};

/// The counts of a running daemon.
#[derive(Debug, Clone)]
pub struct Occupancy(Rc<Counts>);

#[derive(Debug)]
struct Counts {
    limits: Limits,
    slots_in_use: Cell<u32>,
    /// Connections by counted address; no entry is 0.
    by_address: RefCell<HashMap<IpAddr, u32>>,
    /// Connections by block; stays empty without `-maxperc`.
    by_block: RefCell<HashMap<IpAddr, u32>>,
}

/// The limit that a connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    PerAddress,
    PerBlock,
}

impl Occupancy {
    pub fn new(limits: Limits) -> Self {
        Occupancy(Rc::new(Counts {
            limits,
            slots_in_use: Cell::new(0),
            by_address: RefCell::default(),
            by_block: RefCell::default(),
        }))
    }

    pub fn slots_in_use(&self) -> u32 {
        self.0.slots_in_use.get()
    }

    pub fn has_free_slot(&self) -> bool {
        self.slots_in_use() < self.0.limits.max_procs
    }

    /// Takes a connection slot, if one is free.
    pub fn slot(&self) -> Option<Slot> {
        self.has_free_slot().then(|| {
            self.0.slots_in_use.set(self.slots_in_use() + 1);
            Slot(self.0.clone())
        })
    }

    /// Counts a connection from `peer`, unless its address or its block is at its limit.
    /// `max_per_ip` is `-maxperip` or what MAXCPERIP replaces it by.
    pub fn share(&self, peer: IpAddr, max_per_ip: u32) -> Result<Share, Exceeded> {
        let address = counted_address(peer, self.0.limits.prefix6);
        let block = self.0.limits.max_per_block.map(|max| (counted_block(peer, self.0.limits.prefix6), max));
        let mut by_address = self.0.by_address.borrow_mut();
        let entry = by_address.entry(address);
        let connected = match &entry {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(_) => 0,
        };
        if connected >= max_per_ip {
            return Err(Exceeded::PerAddress);
        }
        if let Some((block, max)) = block {
            if count(&self.0.by_block, block) >= max {
                return Err(Exceeded::PerBlock);
            }
            increment(&self.0.by_block, block);
        }
        *entry.or_insert(0) += 1;
        Ok(Share { counts: self.0.clone(), peer })
    }

    /// Counts a connection that has got in before.
    pub fn share_beyond_limits(&self, peer: IpAddr) -> Share {
        if self.0.limits.max_per_block.is_some() {
            increment(&self.0.by_block, counted_block(peer, self.0.limits.prefix6));
        }
        increment(&self.0.by_address, counted_address(peer, self.0.limits.prefix6));
        Share { counts: self.0.clone(), peer }
    }

    /// Connections by counted address, and by block (none without `-maxperc`).
    pub fn counts(&self) -> (HashMap<IpAddr, u32>, HashMap<IpAddr, u32>) {
        (self.0.by_address.borrow().clone(), self.0.by_block.borrow().clone())
    }

    /// Gives back what a burst of addresses took.
    pub fn shrink(&self) {
        for map in [&self.0.by_address, &self.0.by_block] {
            map.borrow_mut().shrink_to(64);
        }
    }
}

/// The address that `-maxperip` counts `peer` by.
pub fn counted_address(peer: IpAddr, prefix6: Prefix6) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(_) => addr::network(peer, prefix6.address),
    }
}

/// The block that `-maxperc` counts `peer` by.
pub fn counted_block(peer: IpAddr, prefix6: Prefix6) -> IpAddr {
    addr::network(peer, if peer.is_ipv4() { IPV4_BLOCK_PREFIX } else { prefix6.block })
}

fn count(map: &RefCell<HashMap<IpAddr, u32>>, key: IpAddr) -> u32 {
    map.borrow().get(&key).copied().unwrap_or(0)
}

fn increment(map: &RefCell<HashMap<IpAddr, u32>>, key: IpAddr) {
    *map.borrow_mut().entry(key).or_insert(0) += 1;
}

fn decrement(map: &RefCell<HashMap<IpAddr, u32>>, key: IpAddr) {
    if let Entry::Occupied(mut entry) = map.borrow_mut().entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// One connection slot; dropping it frees it.
#[derive(Debug)]
pub struct Slot(Rc<Counts>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.slots_in_use.set(self.0.slots_in_use.get() - 1);
    }
}

/// One connection counted for its address and block; dropping it takes it off.
#[derive(Debug)]
pub struct Share {
    counts: Rc<Counts>,
    peer: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let prefix6 = self.counts.limits.prefix6;
        decrement(&self.counts.by_address, counted_address(self.peer, prefix6));
        if self.counts.limits.max_per_block.is_some() {
            decrement(&self.counts.by_block, counted_block(self.peer, prefix6));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupancy(max_per_block: Option<u32>, prefix6: Prefix6) -> Occupancy {
        Occupancy::new(Limits { max_procs: 2, max_per_ip: 2, max_per_block, warn_at: 0, max_pending: 0, prefix6 })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn slots_are_given_back_by_dropping_them() {
        let occupancy = occupancy(None, Prefix6::default());
        let first = occupancy.slot().unwrap();
        let _second = occupancy.slot().unwrap();
        assert!(occupancy.slot().is_none());
        drop(first);
        assert_eq!(occupancy.slots_in_use(), 1);
        assert!(occupancy.slot().is_some());
    }

    #[test]
    fn addresses_and_blocks_are_counted_apart() {
        let table = [
            // (already connected, newcomer, prefix6, what it meets)
            (vec!["192.0.2.1", "192.0.2.1"], "192.0.2.1", (128, 120), Some(Exceeded::PerAddress)),
            (vec!["192.0.2.1", "192.0.2.1"], "192.0.2.2", (128, 120), None),
            (vec!["192.0.2.1", "192.0.2.2", "192.0.2.3"], "192.0.2.4", (128, 120), Some(Exceeded::PerBlock)),
            (vec!["192.0.2.1", "192.0.2.2", "192.0.2.3"], "192.0.3.4", (128, 120), None),
            (vec!["2001:db8::1", "2001:db8::1"], "2001:db8::1", (128, 120), Some(Exceeded::PerAddress)),
            (vec!["2001:db8::1", "2001:db8::2", "2001:db8::3"], "2001:db8::ff", (128, 120), Some(Exceeded::PerBlock)),
            (vec!["2001:db8::1", "2001:db8::2", "2001:db8::3"], "2001:db8::100", (128, 120), None),
            (vec!["2001:db8::1", "2001:db8::2"], "2001:db8::3", (64, 48), Some(Exceeded::PerAddress)),
            (
                vec!["2001:db8::1", "2001:db8:0:1::2", "2001:db8:0:2::2"],
                "2001:db8:0:9::",
                (64, 48),
                Some(Exceeded::PerBlock),
            ),
        ];
        for (connected, newcomer, (address, block), expected) in table {
            let occupancy = occupancy(Some(3), Prefix6 { address, block });
            let shares: Vec<_> = connected.iter().map(|peer| occupancy.share(ip(peer), 2).unwrap()).collect();
            assert_eq!(occupancy.share(ip(newcomer), 2).err(), expected, "{connected:?} {newcomer}");
            drop(shares);
            assert!(occupancy.0.by_address.borrow().is_empty() && occupancy.0.by_block.borrow().is_empty());
        }
    }

    #[test]
    fn a_refused_share_counts_nowhere() {
        let occupancy = occupancy(Some(1), Prefix6::default());
        let held = occupancy.share(ip("192.0.2.1"), 2).unwrap();
        assert_eq!(occupancy.share(ip("192.0.2.2"), 2).err(), Some(Exceeded::PerBlock));
        assert_eq!(occupancy.share(ip("192.0.2.1"), 1).err(), Some(Exceeded::PerAddress));
        drop(held);
        assert!(occupancy.0.by_address.borrow().is_empty() && occupancy.0.by_block.borrow().is_empty());
    }
}

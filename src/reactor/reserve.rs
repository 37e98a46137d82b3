//! Descriptors that clients may not have, because lookups need them.
//!
//! A name server that cannot be asked for want of a descriptor is a list that nobody is on: whoever
//! opens enough connections would let everybody in. So accepting rests, and ident is left out,
//! before the last descriptors are taken. The kernel gives the lowest number that is free, so a high
//! number tells that few are left, without asking. The reactor asks here at each accept.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::resource::{Resource, getrlimit};

/// Enough for the sockets of the DNS client at its busiest: one for each 250 queries, those for
/// truncated answers, and those for servers that send nonsense.
const MOST: RawFd = 128;

#[derive(Debug)]
pub(super) struct Reserve {
    /// The first number of the reserve.
    first: RawFd,
}

impl Reserve {
    /// To be called when all is open that the loop keeps open.
    pub fn new() -> Self {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((256, 256));
        Self::of(RawFd::try_from(soft).unwrap_or(RawFd::MAX), lowest_free().unwrap_or(0))
    }

    /// A quarter of what is free at the start: clients must have some, too.
    fn of(limit: RawFd, taken: RawFd) -> Self {
        Reserve { first: limit - (limit.saturating_sub(taken) / 4).clamp(0, MOST) }
    }

    /// True if this descriptor is one of the reserve.
    pub fn has(&self, descriptor: &impl AsRawFd) -> bool {
        descriptor.as_raw_fd() >= self.first
    }

    /// True if a quarter of what clients may have is left beyond this descriptor.
    pub fn leaves_plenty(&self, descriptor: &impl AsRawFd) -> bool {
        descriptor.as_raw_fd() < self.first - self.first / 4
    }

    /// True if the next client does not touch it. Costs two system calls.
    pub fn is_whole(&self) -> bool {
        lowest_free().is_some_and(|number| number < self.first)
    }
}

/// The number that the next descriptor gets; none if there are no more.
fn lowest_free() -> Option<RawFd> {
    io::stdin().as_fd().try_clone_to_owned().ok().map(|descriptor| descriptor.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_what_is_free_is_kept_and_clients_always_have_some() {
        for (limit, taken, first) in
            [(1024, 12, 896), (20_000, 12, 19_872), (30, 10, 25), (10, 9, 10), (8, 8, 8), (8, 9, 8), (8, 0, 6)]
        {
            assert_eq!(Reserve::of(limit, taken).first, first, "{limit} {taken}");
        }
    }

    #[test]
    fn a_descriptor_tells_by_its_number() {
        let descriptor = crate::sys::dev_null().unwrap();
        let reserve = |first| Reserve { first };
        assert!(reserve(descriptor.as_raw_fd()).has(&descriptor));
        assert!(!reserve(descriptor.as_raw_fd() + 1).has(&descriptor));
        assert!(reserve(RawFd::MAX).is_whole());
        assert!(!reserve(0).is_whole());
    }
}

//! Descriptors that clients may not have, because lookups need them.
//!
//! A name server that cannot be asked for want of a descriptor is a list that nobody is on: whoever
//! opens enough connections would let everybody in. So accepting rests, and ident is left out,
//! before the last descriptors are taken. The kernel gives the lowest number that is free, so a high
//! number tells that few are left, without asking. The reactor asks here at each accept.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::resource::{Resource, getrlimit};

use crate::config::{Config, NameSource};

/// Enough for the sockets of the DNS client at its busiest: one for each 250 queries of a channel, those
/// for truncated answers, and those for servers that send nonsense.
const MOST: RawFd = 128;

/// What the daemon has open beside listeners, helpers and connections, and a few more.
const OWN: u64 = 24;

/// An option that allows more connections than there are descriptors for.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany {
    option: &'static str,
    value: u32,
    /// Descriptors that it takes, with all that the daemon has open besides.
    takes: u64,
    limit: u64,
}

impl TooMany {
    /// None if the limit of this process is high enough. The soft limit is the one that counts: it is what
    /// whoever started the daemon wants the programs to have, too, so it is not raised.
    pub fn find(config: &Config) -> Option<Self> {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        Self::under(soft, config)
    }

    fn under(limit: u64, config: &Config) -> Option<Self> {
        let limits = &config.limits;
        let lookups = config.lookups.names != NameSource::Off || config.lookups.ident || !config.lists.is_empty();
        // Who owes no lookup and no header is served as soon as there is a slot.
        if limits.max_pending == 0 && !lookups && config.proxy.is_none() {
            return None;
        }
        // The daemon closes its descriptor of a connection when the handler has it, so that only those
        // before their verdict count.
        let (option, value) = match limits.max_pending {
            0 => ("maxprocs", limits.max_procs),
            pending => ("maxpending", pending),
        };
        let each = if config.lookups.ident { 2 } else { 1 };
        let helpers = if let NameSource::Nss(helpers) = config.lookups.names { helpers as u64 } else { 0 };
        let takes = u64::from(value) * each + config.listen.len() as u64 * 2 + helpers + MOST as u64 + OWN;
        (takes > limit).then_some(TooMany { option, value, takes, limit })
    }
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooMany { option, value, takes, limit } = self;
        write!(
            f,
            "-{option}={value} can take {takes} descriptors, and the limit is {limit} (ulimit -n); beyond it connections wait"
        )
    }
}

#[derive(Debug)]
pub(super) struct Reserve {
    /// The first number of the reserve.
    first: RawFd,
}

impl Reserve {
    /// To be called when all is open that the loop keeps open. `connections` are open beside that, taken over from
    /// the program before: with them the reserve would become smaller with each upgrade.
    pub fn new(connections: usize) -> Self {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((256, 256));
        let taken = lowest_free().unwrap_or(0).saturating_sub(RawFd::try_from(connections).unwrap_or(RawFd::MAX));
        Self::of(RawFd::try_from(soft).unwrap_or(RawFd::MAX), taken.max(0))
    }

    /// A quarter of what is free at the start: clients must have some, too.
    fn of(limit: RawFd, taken: RawFd) -> Self {
        Reserve { first: limit - (limit.saturating_sub(taken) / 4).clamp(0, MOST) }
    }

    /// True if this descriptor is one of the reserve.
    pub fn has(&self, descriptor: &impl AsRawFd) -> bool {
        descriptor.as_raw_fd() >= self.first
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
    fn more_connections_than_descriptors_are_noticed() {
        let mut config = crate::policy::testing::config();
        config.limits.max_procs = 700;
        assert_eq!(TooMany::under(16, &config), None, "nobody is pending");
        config.lookups.names = NameSource::Dns;
        for (ident, pending, limit, option) in [
            (false, 0, 854, None),
            (false, 0, 853, Some(("maxprocs", 854))),
            (true, 0, 1553, Some(("maxprocs", 1554))),
            (true, 400, 1024, None),
            (false, 1000, 1024, Some(("maxpending", 1154))),
            (false, 100, 254, None),
        ] {
            (config.lookups.ident, config.limits.max_pending) = (ident, pending);
            let found = TooMany::under(limit, &config).map(|found| (found.option, found.takes));
            assert_eq!(found, option, "{ident} {pending} {limit}");
        }
        config.lookups.names = NameSource::Nss(4);
        let text = TooMany::under(254, &config).unwrap().to_string();
        assert!(
            text.starts_with("-maxpending=100 can take 258 descriptors, and the limit is 254 (ulimit -n);"),
            "{text}"
        );
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

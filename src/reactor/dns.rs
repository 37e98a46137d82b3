//! The two sources of answers behind one door: the DNS client and the helpers of the name service switch.
//!
//! Neither exists if no option needs it. Connections are known here by their keys alone.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Registry, Token};
use nix::unistd::Pid;

use crate::config::{Config, Level, NameSource};
use crate::error::StartError;
use crate::log::{self, Kind};
use crate::memory;
use crate::policy::question::{Answer, HostName, Question};
use crate::policy::session::{Session, Wanted};
use crate::reactor::token::Source;
use crate::resolver::nss::{self, NssResolver};
use crate::resolver::{self, Failure, Resolver, Settings};
use crate::status;
use crate::sys;
use crate::table::Key;

/// Something that connections waited for.
#[derive(Debug)]
pub(super) enum Finished {
    /// With the time that the answer took.
    Answer(Question, Answer, Vec<Key>, Duration),
    Name(IpAddr, HostName, Vec<Key>),
}

pub(super) struct Lookup {
    dns: Option<Resolver>,
    nss: Option<NssResolver>,
}

fn socket_token(key: Key) -> Token {
    Source::Resolver(key).token()
}

fn helper_token(index: usize) -> Token {
    Source::Helper(index as u32).token()
}

impl Lookup {
    /// `nss`: the helpers, forked before the daemon listens.
    pub fn new(
        config: &Config,
        mut nss: Option<NssResolver>,
        registry: &Registry,
        now: Instant,
    ) -> Result<Self, StartError> {
        let dns = Self::dns(config, registry, now)?;
        if let Some(Err(error)) = dns.as_ref().map(Resolver::check_servers) {
            log::servers_not_read(&error);
        }
        if let Some(nss) = &mut nss {
            registry
                .try_clone()
                .and_then(|registry| nss.attach(registry, helper_token))
                .map_err(|error| StartError::system("cannot watch the resolver helpers", error))?;
        }
        Ok(Lookup { dns, nss })
    }

    fn dns(config: &Config, registry: &Registry, now: Instant) -> Result<Option<Resolver>, StartError> {
        let asks_dns = config.lookups.names == NameSource::Dns || !config.lists.is_empty();
        let settings = || Settings::new(&config.lookups, &config.zones);
        asks_dns.then(|| Resolver::new(settings(), registry, socket_token, now)).transpose()
    }

    /// Whether DNS could be asked by a program that takes over: by the same name servers or others, but not by none.
    pub fn rehearse(config: &Config, registry: &Registry) -> Result<(), StartError> {
        let dns = Self::dns(config, registry, Instant::now())?;
        let read = dns.as_ref().map_or(Ok(()), Resolver::check_servers);
        read.map_err(|error| StartError::system("cannot ask the name servers", error))
    }

    fn ask(&mut self, question: &Question, key: Key, now: Instant) -> Option<Answer> {
        match &mut self.dns {
            Some(dns) => dns.ask(question, key, now),
            None => Some(Answer::Failed),
        }
    }

    pub fn forget(&mut self, question: &Question, key: Key) {
        if let Some(dns) = &mut self.dns {
            dns.forget(question, key);
        }
    }

    fn ask_name(&mut self, ip: IpAddr, key: Key, now: Instant) -> Option<HostName> {
        match &mut self.nss {
            Some(nss) => nss.ask(ip, key.to_bits(), now),
            None => Some(HostName::SoftError),
        }
    }

    pub fn forget_name(&mut self, ip: IpAddr, key: Key) {
        if let Some(nss) = &mut self.nss {
            nss.forget(ip, key.to_bits());
        }
    }

    /// Asks what a session wants, gives it what is known at once, and gives up what it wants no more. `asked` is told of
    /// each DNS question or, for the name service switch, address.
    pub fn pursue(
        &mut self,
        session: &mut Session,
        config: &Config,
        mut wanted: Wanted,
        key: Key,
        now: Instant,
        mut asked: impl FnMut(Result<&Question, IpAddr>),
    ) {
        while !wanted.questions.is_empty() {
            for question in std::mem::take(&mut wanted.questions) {
                if let Some(at) = wanted.moot.iter().position(|moot| *moot == question) {
                    // The answer to one before it was known, and was enough.
                    wanted.moot.swap_remove(at);
                    continue;
                }
                asked(Ok(&question));
                if let Some(answer) = self.ask(&question, key, now) {
                    session.answer(config, &question, &answer, &mut wanted);
                }
            }
        }
        for question in wanted.moot {
            self.forget(&question, key);
        }
        for ip in wanted.names {
            asked(Err(ip));
            if let Some(name) = self.ask_name(ip, key, now) {
                session.name(ip, &name);
            }
        }
    }

    /// A socket of the DNS client has an event.
    pub fn dns_ready(&mut self, key: Key, event: &Event) {
        if let Some(dns) = &mut self.dns {
            dns.ready(key, event.is_readable(), event.is_writable());
        }
    }

    pub fn helper_ready(&mut self, index: u32, now: Instant) {
        if let Some(nss) = &mut self.nss {
            nss.ready(index as usize, now);
        }
    }

    /// True if the process was a helper; it is replaced.
    pub fn helper_exited(&mut self, pid: Pid, now: Instant) -> bool {
        self.nss.as_mut().is_some_and(|nss| nss.exited(pid, now))
    }

    /// In the place of [`Lookup::turn`] when not all events were seen: reads what has come, and nothing times out.
    pub fn read(&mut self, now: Instant) {
        if let Some(dns) = &mut self.dns {
            dns.read(now);
        }
    }

    /// Once in each turn of the loop, after its events.
    pub fn turn(&mut self, now: Instant) {
        if let Some(dns) = &mut self.dns {
            dns.turn(now);
        }
        if let Some(nss) = &mut self.nss {
            nss.expire(now);
        }
    }

    /// What has been found; to be called until there is nothing more.
    pub fn next_finished(&mut self, now: Instant) -> Option<Finished> {
        if let Some(found) = self.dns.as_mut().and_then(|dns| dns.next_finished(now)) {
            report_failure(&found);
            let keys = found.waiters.as_slice().to_vec();
            return Some(Finished::Answer(found.question, found.answer, keys, found.took));
        }
        if let Some(failure) = self.dns.as_mut().and_then(Resolver::take_shortage) {
            make_room(failure);
            log::lists_not_asked(&failure);
        }
        let found = self.nss.as_mut()?.next_resolved()?;
        let keys = found.waiters.into_iter().map(Key::from_bits).collect();
        Some(Finished::Name(found.ip, found.name, keys))
    }

    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        let dns = self.dns.as_ref().and_then(|dns| dns.timeout(now));
        let nss = self.nss.as_ref().and_then(NssResolver::deadline).map(|at| at.saturating_duration_since(now));
        [dns, nss].into_iter().flatten().min()
    }

    /// Figures for the status; `cache_most` is `-dnscache`.
    pub fn status(&self, cache_most: usize) -> (Option<status::Resolver>, Option<nss::Counts>) {
        let dns = self.dns.as_ref();
        let dns = dns.map(|dns| status::Resolver { servers: dns.servers(), counts: dns.counts(), cache_most });
        (dns, self.nss.as_ref().map(NssResolver::counts))
    }

    /// Gives what was freed, here or elsewhere, back to the system.
    pub fn give_memory_back(&mut self) {
        match &mut self.dns {
            Some(dns) => dns.give_memory_back(),
            None => sys::compact_heap(),
        }
    }

    /// SIGHUP: resolv.conf is read anew and the caches are emptied.
    pub fn reload(&mut self, now: Instant) {
        if let Some(Err(error)) = self.dns.as_mut().map(|dns| dns.reload(now)) {
            log::err(format_args!("cannot set the DNS client up anew: {error}; the name servers stay as they were"));
        }
        if let Some(nss) = &mut self.nss {
            nss.forget_answers();
        }
    }
}

/// Trouble with the name servers themselves is said, once a minute. That one zone fails is not: it
/// is what SERVFAIL is for, and the Internet is full of it.
fn report_failure(found: &resolver::Finished) {
    let Some(failure) = found.failure else { return };
    make_room(failure);
    if matches!(failure, Failure::TimedOut | Failure::Unreachable) || failure.is_ours() {
        log::limited(Kind::Resolver, Level::Warning, format_args!("DNS lookup failed: {failure}"));
    }
}

/// What is in hand is better used for lookups than kept: a list that cannot be asked refuses nobody.
fn make_room(failure: Failure) {
    if failure == Failure::NoMemory {
        memory::give_way();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::env::{Base, Delta};
    use crate::policy::question::Family;
    use crate::policy::session::Ends;
    use crate::policy::testing::{addresses, config, names};

    /// Nobody waits for what cannot matter any more, whether it was asked already or was about to be.
    #[test]
    fn names_behind_the_one_that_fits_are_given_up() {
        let mut config = config();
        config.lookups.names = NameSource::Dns;
        // Nobody answers there.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        config.lookups.nameservers = vec![silent.local_addr().unwrap()];
        let poll = mio::Poll::new().unwrap();
        let now = Instant::now();
        let mut lookup = Lookup::new(&config, None, poll.registry(), now).unwrap();
        let ends = Ends { peer: ([192, 0, 2, 7], 4000).into(), local: ([192, 0, 2, 25], 25).into() };
        let key = Key { index: 1, generation: 1 };
        let mut wanted = Wanted::default();
        let mut session = Session::start(&config, &Base::new::<&str, &str>([]), &ends, Delta::default(), &mut wanted);
        lookup.pursue(&mut session, &config, wanted, key, now, |_| {});
        let waits = |lookup: &Lookup, name: &str| {
            let question = Question::Addresses(name.into(), Family::V4);
            lookup.dns.as_ref().unwrap().standing(&question, now).is_some()
        };
        let mut answer = |lookup: &mut Lookup, question, answer| {
            let mut wanted = Wanted::default();
            session.answer(&config, &question, &answer, &mut wanted);
            lookup.pursue(&mut session, &config, wanted, key, now, |_| {});
        };
        answer(&mut lookup, Question::Names(ends.peer.ip()), names(&["a.example", "b.example", "c.example"]));
        assert!(["a.example", "b.example", "c.example"].iter().all(|name| waits(&lookup, name)));
        answer(&mut lookup, Question::Addresses("b.example".into(), Family::V4), Answer::Absent);
        assert!(waits(&lookup, "a.example") && waits(&lookup, "c.example"));
        answer(&mut lookup, Question::Addresses("a.example".into(), Family::V4), addresses(&["192.0.2.7"]));
        assert!(!waits(&lookup, "c.example"), "it cannot matter any more");
    }
}

//! The DNS client: asks what is owed to connections, each thing once, and keeps what it learns.
//!
//! The reactor owns one [`Resolver`]. It passes on the poll set's events ([`Resolver::ready`]), calls
//! [`Resolver::turn`] once in each turn of its loop, hands out what has ended
//! ([`Resolver::next_finished`], until there is nothing more), and waits no longer than
//! [`Resolver::timeout`]. Connections ask and forget by [`Question`]; whoever asks for what is
//! already under way shares the query.
//!
//! A burst makes nothing grow without bound: so many queries are in flight, the rest waits in a
//! queue, in order (see `waiting`), and what the burst took is given back after it. No thread is ever
//! started, nothing here blocks, and no callback of c-ares does more than leave its result.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c_ares::{DnsRecordType, FdEventFlags, FdEvents};
use mio::{Registry, Token};

use crate::config::{Lookups, Zone};
use crate::error::StartError;
use crate::log;
use crate::policy::question::{Answer, Family, ListingKind, Question, Records};
use crate::sys;
use crate::table::Key;

use super::cache::Cache;
use super::channel::{Basket, Reply};
use super::channels::Channels;
use super::name;
use super::packed::Packed;
use super::queues::Allowed;
use super::reply::{FAILURE_TTL, Failure, Outcome};
use super::sockets::Sockets;
use super::table::Place;
use super::waiting::{Added, Expected, Waiters, Waiting, is_before, next_number};

/// Queries in flight that somebody waits for. One takes some 1,100 bytes, nearly all of them in
/// c-ares, so this many take 2.2 MB; a question in the queue takes 64. With answers 50 ms late it
/// still allows 40,000 a second, more than one processor can ask.
pub(super) const MAX_WANTED: usize = 2000;
/// Queries in flight, those included that nobody waits for any more. They cannot be given up one by one, and
/// while a server is silent they take a while to end: they must not keep others from being asked, nor
/// pile up. c-ares itself hangs at 65,536.
const MAX_IN_FLIGHT: usize = 2 * MAX_WANTED;
/// Of both, what is kept for DNS access lists. Whoever has a zone of names that nobody answers for can
/// hold a query for a while; a list that is asked too late refuses nobody.
pub(super) const FOR_LISTS: usize = 500;
/// A list has fewer queries in flight than so many times the places that are left. One whose servers are silent leaves a
/// fifth of the places to others, two leave a ninth, and so on. Of what lists leave when they have more than is kept for
/// them, names have up to half.
pub(super) const LISTS_TO_LEFT: usize = 4;
/// Queries for names, beyond which the rest is kept for such as were not asked for yet.
const MAX_LATE: usize = 1000;
/// Queries started in one turn, so that a burst neither holds up the loop for long nor has more
/// replies come in than the sockets' buffers hold before they are read.
pub(super) const MAX_STARTED: usize = 256;
/// Answers larger than this, in bytes, are not kept: strangers' zones can make them large, and so
/// `-dnscache` bounds memory, not just a number. A hundred addresses or sixty names are less.
const MAX_KEPT: usize = 4096;
/// A peak of at least this many questions is worth giving its memory back.
const PEAK: usize = 256;
/// By then every query has ended, whatever number of servers is silent. In a crowd there can be earlier channels for
/// longer, and query numbers come again.
const LONGEST: Duration = Duration::from_secs(300);
/// After a peak, memory is given back no more often than this: it costs up to milliseconds.
const SETTLE_EVERY: Duration = Duration::from_secs(3);
/// How long lists are left alone after a query for one could not be made: long enough to cost nothing,
/// short enough that whoever waits notices little once there are descriptors again.
const REST: Duration = Duration::from_millis(100);

/// What the resolver is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `-nameserver`; empty: those of `resolv_conf`.
    pub nameservers: Vec<SocketAddr>,
    /// `/etc/resolv.conf`, except in tests.
    pub resolv_conf: String,
    /// `-dnscache`.
    pub cache_entries: usize,
    /// The zones that [`Question::Listing`] counts in.
    pub zones: Rc<[String]>,
}

impl Settings {
    pub fn new(lookups: &Lookups, zones: &[Zone]) -> Self {
        Settings {
            nameservers: lookups.nameservers.clone(),
            resolv_conf: "/etc/resolv.conf".to_owned(),
            cache_entries: lookups.cache_entries,
            zones: zones.iter().map(|zone| zone.name.clone()).collect(),
        }
    }
}

/// A question that has ended, and who waited for it. Of those, some may be gone meanwhile.
#[derive(Debug)]
pub struct Finished {
    pub question: Question,
    pub answer: Answer,
    pub waiters: Waiters,
    /// Why, if the answer is [`Answer::Failed`].
    pub failure: Option<Failure>,
    /// How long it took since it was first asked for.
    pub took: Duration,
}

/// Figures for a status line. The first five count from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queries given to c-ares.
    pub sent: u64,
    /// Questions that shared a query under way.
    pub shared: u64,
    /// Questions answered from the cache.
    pub hits: u64,
    /// Answers that were failures.
    pub failures: u64,
    /// Sockets that the poll set refused.
    pub unwatched: u64,
    /// Queries that have not ended.
    pub in_flight: usize,
    /// Questions that wait for their turn.
    pub queued: usize,
    /// Answers kept.
    pub cached: usize,
}

/// How a question that somebody waits for stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// True once a name server has been asked.
    pub sent: bool,
    /// How long it is asked for.
    pub age: Duration,
}

pub struct Resolver {
    zones: Rc<[String]>,
    sockets: Arc<Sockets>,
    basket: Basket,
    channels: Channels,
    /// Set while no query for a list is started, because the last one could not be made.
    lists_rest: Option<Instant>,
    /// Why, until it is said.
    shortage: Option<Failure>,
    /// While there are earlier channels after a reload: the first query that went to the new servers, and when.
    fresh: Option<(u32, Instant)>,
    waiting: Waiting,
    cache: Cache<Answer>,
    finished: VecDeque<Finished>,
    /// Sockets that had events since the last turn.
    ready: Vec<(Key, FdEvents)>,
    /// Time is counted from here.
    start: Instant,
    /// The number of the next query.
    next: u32,
    /// Queries started whose reply was not yet taken out of the basket.
    in_flight: usize,
    /// Queries that may still be started in this turn.
    allowance: usize,
    /// Most questions at a time since memory was last given back.
    peak: usize,
    settled: Instant,
    /// Memory was freed that the C library has still to give back.
    trim: bool,
    counts: Counts,
}

impl Resolver {
    /// `token_for` makes the poll token of a socket; the reactor turns it back into the key for
    /// [`Resolver::ready`].
    pub fn new(
        settings: Settings,
        registry: &Registry,
        token_for: fn(Key) -> Token,
        now: Instant,
    ) -> Result<Resolver, StartError> {
        let failed = |error| StartError::system("cannot set up the DNS client", error);
        let Settings { nameservers, resolv_conf, cache_entries, zones } = settings;
        let sockets = Arc::new(Sockets::new(registry.try_clone().map_err(failed)?, token_for));
        let basket = Basket::default();
        let channels =
            Channels::open(nameservers, resolv_conf, sockets.clone(), basket.clone(), now).map_err(failed)?;
        Ok(Resolver {
            zones,
            sockets,
            basket,
            channels,
            lists_rest: None,
            shortage: None,
            fresh: None,
            waiting: Waiting::default(),
            cache: Cache::new(cache_entries),
            finished: VecDeque::new(),
            ready: Vec::new(),
            start: now,
            next: 0,
            in_flight: 0,
            allowance: MAX_STARTED,
            peak: 0,
            settled: now,
            trim: false,
            counts: Counts::default(),
        })
    }

    /// An error if resolv.conf is there and cannot be read, or names servers that cannot be asked, so that this host is
    /// asked instead.
    pub fn check_servers(&self) -> io::Result<()> {
        self.channels.check()
    }

    /// The answer, if it is known. If not, `waiter` is told when it comes, once for each time it asks.
    pub fn ask(&mut self, question: &Question, waiter: Key, now: Instant) -> Option<Answer> {
        let second = self.second(now);
        if let Some(answer) = self.cache.get(question, second) {
            self.counts.hits += 1;
            return Some(answer);
        }
        let added = self.waiting.add(question, waiter, self.millisecond(now), self.fresh.map(|(number, _)| number));
        self.counts.shared += u64::from(added != Added::Queued);
        if let Added::Overdue(place, number) = added {
            self.press(place, number, now);
        }
        self.peak = self.peak.max(self.waiting.len());
        None
    }

    /// `waiter` no longer wants the answer. A question that is still queued goes with its last waiter;
    /// a query that is under way is finished for the cache. An answer that has ended already may still
    /// be handed out to it.
    pub fn forget(&mut self, question: &Question, waiter: Key) {
        self.waiting.remove(question, waiter);
    }

    /// The poll set has an event for this socket. It is looked at in the next turn.
    pub fn ready(&mut self, socket: Key, readable: bool, writable: bool) {
        let Some(fd) = self.sockets.fd(socket) else { return };
        let mut flags = FdEventFlags::empty();
        flags.set(FdEventFlags::WRITE, writable);
        // Neither: an error, which reading finds.
        flags.set(FdEventFlags::READ, readable || !writable);
        self.ready.push((socket, FdEvents::new(fd, flags)));
    }

    /// What [`Resolver::turn`] does first, without time-outs: for a turn that has not seen all events there are. c-ares
    /// hears no answer to a try that it has taken for timed out.
    pub fn read(&mut self, now: Instant) {
        self.process(true);
        self.allowance = MAX_STARTED;
        self.collect(now);
    }

    fn process(&mut self, partial: bool) {
        let (sockets, events): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ready).into_iter().unzip();
        self.channels.process(&events, partial);
        for socket in sockets {
            self.sockets.rearm(socket);
        }
    }

    /// One turn of the loop: reads what has come, deals with time-outs, starts queries.
    pub fn turn(&mut self, now: Instant) {
        if self.waiting.len() > 0 {
            // First, since what fails at servers of before is asked again.
            self.follow_resolv_conf(now);
        }
        self.process(false);
        self.collect(now);
        let has_earlier = self.channels.has_earlier();
        self.fresh = self.fresh.filter(|(_, since)| has_earlier && now < *since + LONGEST);
        if self.lacks_room().is_some_and(|later| self.channels.make_room(later, now)) {
            self.collect(now);
        }
        self.settle(now);
        self.lists_rest = self.lists_rest.filter(|until| now < *until);
        self.allowance = MAX_STARTED;
        self.start_queued(now);
        self.collect(now);
    }

    /// The next question that has ended. To be called until there is none, after all that a turn may
    /// ask; what was asked since [`Resolver::turn`] is sent on the way.
    pub fn next_finished(&mut self, now: Instant) -> Option<Finished> {
        loop {
            if let Some(finished) = self.finished.pop_front() {
                return Some(finished);
            }
            if !self.start_queued(now) {
                return None;
            }
            // A query may end at once, for instance if no server can be reached.
            self.collect(now);
        }
    }

    /// The longest that the reactor may sleep before the next turn, if no event comes.
    pub fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.finished.is_empty() || !self.basket.is_empty() || self.may_start() {
            return Some(Duration::ZERO);
        }
        let settle = self.is_past_peak().then(|| (self.settled + SETTLE_EVERY).saturating_duration_since(now));
        let lists_wait = self.lists_rest.filter(|_| self.waiting.queues().lists() > 0);
        let rest = lists_wait.map(|until| until.saturating_duration_since(now));
        let room = self.lacks_room().and_then(|later| self.channels.room_at(later));
        let room = room.map(|at| at.saturating_duration_since(now));
        self.channels.timeout().into_iter().chain(settle).chain(rest).chain(room).min()
    }

    /// Reads resolv.conf anew and empties the cache. Queries under way are left to end by the servers
    /// that they were sent to; those that fail there are asked again of the new ones. If it fails, the
    /// servers stay as they were.
    pub fn reload(&mut self, now: Instant) -> io::Result<()> {
        self.cache.clear();
        self.read_servers(true, now)
    }

    fn read_servers(&mut self, trusted: bool, now: Instant) -> io::Result<()> {
        self.channels.reload(trusted, now)?;
        if self.channels.has_earlier() {
            self.fresh = Some((self.next, now));
        }
        Ok(())
    }

    /// Why lists could not be asked, once for each time that they rest for it. Whoever waits for them goes on waiting.
    pub fn take_shortage(&mut self) -> Option<Failure> {
        self.shortage.take()
    }

    /// The name servers asked, for messages.
    pub fn servers(&self) -> Vec<String> {
        self.channels.servers()
    }

    pub fn counts(&self) -> Counts {
        Counts {
            unwatched: self.sockets.refused(),
            in_flight: self.in_flight,
            queued: self.waiting.queued(),
            cached: self.cache.len(),
            ..self.counts
        }
    }

    /// How `question` stands; none if nobody waits for it.
    pub fn standing(&self, question: &Question, now: Instant) -> Option<Standing> {
        let (sent, since) = self.waiting.state(question)?;
        Some(Standing { sent, age: self.since(since, now) })
    }

    fn since(&self, millisecond: u32, now: Instant) -> Duration {
        Duration::from_millis(self.millisecond(now).wrapping_sub(millisecond).into())
    }

    /// Milliseconds since the start; wraps after seven weeks, so only differences count.
    fn millisecond(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_millis() as u32
    }

    /// Seconds since the start.
    fn second(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }

    /// Which queues may be sent from.
    fn allowed(&self) -> Allowed {
        let left = MAX_WANTED.saturating_sub(self.waiting.wanted()).min(MAX_IN_FLIGHT.saturating_sub(self.in_flight));
        let names = left > FOR_LISTS || self.channels.names_under_way() < left;
        let lists = if self.lists_rest.is_none() { LISTS_TO_LEFT * left } else { 0 };
        let late = names && self.waiting.queues().late() > 0 && self.channels.names_under_way() < MAX_LATE;
        Allowed { lists, names, late }
    }

    fn may_start(&self) -> bool {
        self.waiting.has_next(self.allowed())
    }

    /// Whether names wait until others end: false, such as were not asked for yet; true, only such as were.
    fn lacks_room(&self) -> Option<bool> {
        if self.waiting.queues().names() > 0 && !self.allowed().names {
            return (self.channels.names_under_way() > 0).then_some(false);
        }
        let is_late = self.waiting.queues().late() > 0 && !self.allowed().late && self.channels.names_under_way() > 0;
        (is_late || self.has_orphans()).then_some(true)
    }

    /// True if a crowd has gone and left its queries for names behind.
    fn has_orphans(&self) -> bool {
        self.in_flight >= PEAK && self.channels.names_under_way() >= self.waiting.wanted() + PEAK
    }

    /// Starts queries as far as the limits allow. True if any was started.
    fn start_queued(&mut self, now: Instant) -> bool {
        if self.waiting.queued() > 0 {
            self.follow_resolv_conf(now);
        }
        let before = self.next;
        while self.allowance > 0 {
            let number = self.next;
            let Some((place, question)) = self.waiting.send_next(number, self.allowed()) else { break };
            let (is_listing, kind) = (is_listing(question), record_type(question));
            self.next = next_number(number);
            self.allowance -= 1;
            self.in_flight += 1;
            match name::of(question, &self.zones) {
                Some(name) => {
                    self.counts.sent += 1;
                    self.channels.sent(is_listing, number, now);
                    self.channels.current(is_listing, now).send(&name, kind, place, number);
                }
                None => self.basket.put(Reply { place, number, outcome: Outcome::Failed(Failure::BadName) }),
            }
            if is_listing && self.basket.ends_with_ours() {
                // The others would fare no better.
                break;
            }
        }
        self.next != before
    }

    fn follow_resolv_conf(&mut self, now: Instant) {
        if self.channels.is_outdated(now) {
            match self.read_servers(false, now) {
                Ok(()) => self.cache.clear(),
                // The next second is another chance.
                Err(error) => log::servers_kept(&error),
            }
        }
    }

    /// Asks once more what was asked a while ago: the name server may be back.
    fn press(&mut self, place: Place, number: u32, now: Instant) {
        if self.in_flight >= MAX_WANTED {
            return;
        }
        let Some(question) = self.waiting.press(place) else { return };
        let (is_listing, kind) = (is_listing(question), record_type(question));
        // It was sent before, so it has a name.
        let Some(name) = name::of(question, &self.zones) else { return };
        self.in_flight += 1;
        self.counts.sent += 1;
        self.channels.current(is_listing, now).send(&name, kind, place, number);
    }

    /// Takes what has ended out of the basket: into the cache, and to those who wait.
    fn collect(&mut self, now: Instant) {
        let second = self.second(now);
        for Reply { place, number, mut outcome } in self.basket.take() {
            self.in_flight -= 1;
            self.channels.ended(number, matches!(outcome, Outcome::Found(..) | Outcome::Absent(_)), now);
            // What is no longer expected has been asked again meanwhile.
            let Some(Expected { wanted, alone, late }) = self.waiting.expects(place, number) else { continue };
            if matches!(outcome, Outcome::Failed(_)) && self.waiting.has_another(place) {
                continue;
            }
            let stale = self.fresh.is_some_and(|(fresh, _)| is_before(number, fresh));
            if stale && wanted && matches!(outcome, Outcome::Failed(_)) {
                self.waiting.requeue(place);
                continue;
            }
            if outcome == Outcome::Failed(Failure::GivenUp) {
                if !wanted {
                    // That is no answer, and says nothing to whoever comes next.
                    self.waiting.finish(place);
                    continue;
                }
                // Twice at least, though it may have queued for long.
                if !late || self.since(self.waiting.since(place), now) < self.channels.longest() {
                    self.waiting.postpone(place);
                    continue;
                }
                outcome = Outcome::Failed(Failure::TimedOut);
            }
            if outcome == Outcome::Failed(Failure::Malformed) && wanted && !alone {
                if self.send_alone(place) {
                    continue;
                }
                // Whose reply it was that was malformed is not known.
                outcome = Outcome::Failed(Failure::NoChannel);
            }
            let ours = matches!(outcome, Outcome::Failed(failure) if failure.is_ours());
            if ours && wanted && is_listing(self.waiting.question(place)) {
                // A list that was not asked is not one that the client is not on. Whoever waits for it goes
                // on at his own time limit, as if the name servers were silent.
                self.waiting.requeue(place);
                self.lists_rest = Some(now + REST);
                if let Outcome::Failed(failure) = outcome {
                    self.shortage = Some(failure);
                }
                continue;
            }
            let Some((question, waiters, since)) = self.waiting.finish(place) else { continue };
            let (answer, ttl, failure) = match outcome {
                Outcome::Found(found, ttl) => (Answer::Found(Rc::new(found.into_records())), ttl, None),
                Outcome::Absent(ttl) => (Answer::Absent, ttl, None),
                Outcome::Failed(failure) => (Answer::Failed, FAILURE_TTL, Some(failure)),
            };
            self.counts.failures += u64::from(failure.is_some());
            if !stale && !ours && size(&answer) <= MAX_KEPT {
                self.cache.put(question.clone(), answer.clone(), second, ttl);
            }
            if wanted {
                self.finished.push_back(Finished { question, answer, waiters, failure, took: self.since(since, now) });
            }
        }
    }

    /// Asks once more, on a channel of its own. At a malformed reply c-ares closes the socket, and
    /// counts that as a try of every query on it: whoever gets such replies sent for his own names
    /// would make other lookups fail, those of the lists that have him included. True if it was sent.
    fn send_alone(&mut self, place: Place) -> bool {
        let number = self.next;
        let Some(channel) = self.channels.alone() else { return false };
        let Some(question) = self.waiting.send_alone(place, number) else { return false };
        let Some(name) = name::of(question, &self.zones) else { return false };
        self.next = next_number(number);
        self.in_flight += 1;
        self.counts.sent += 1;
        channel.send(&name, record_type(question), place, number);
        true
    }

    fn is_past_peak(&self) -> bool {
        self.peak >= PEAK && (self.waiting.wanted() + self.waiting.queued()) * 8 <= self.peak
    }

    /// Gives back what a peak took, once it is over. c-ares keeps its memory as long as the channel
    /// lives, so those are replaced. Queries that nobody waits for any more need not end.
    fn settle(&mut self, now: Instant) {
        if self.is_past_peak() && now >= self.settled + SETTLE_EVERY {
            self.settled = now;
            // If it fails, there is no memory for new ones; the old ones are as good.
            let _ = self.channels.renew(now);
            if self.waiting.wanted() == 0 {
                self.channels.give_up_earlier();
                self.collect(now);
            }
            self.peak = self.waiting.len();
            self.waiting.shrink();
            self.finished.shrink_to_fit();
            self.trim = true;
        }
        if self.trim && !self.channels.has_earlier() {
            self.trim = false;
            self.give_memory_back();
        }
    }

    /// Gives what was freed back to the system. The answers that are kept must not stand in the way.
    pub fn give_memory_back(&mut self) {
        let kept = Packed::pack(&mut self.cache);
        sys::compact_heap();
        kept.unpack(&mut self.cache);
    }
}

fn is_listing(question: &Question) -> bool {
    matches!(question, Question::Listing { .. })
}

fn record_type(question: &Question) -> DnsRecordType {
    match question {
        Question::Names(_) => DnsRecordType::PTR,
        Question::Addresses(_, Family::V4) | Question::Listing { kind: ListingKind::A, .. } => DnsRecordType::A,
        Question::Addresses(_, Family::V6) => DnsRecordType::AAAA,
        Question::Listing { kind: ListingKind::Txt, .. } => DnsRecordType::TXT,
    }
}

/// What an answer takes, about.
fn size(answer: &Answer) -> usize {
    /// A pointer with its length, and the counts of what it leads to.
    const SHARED: usize = 32;
    let Answer::Found(records) = answer else { return 0 };
    match &**records {
        Records::Names(names) => names.iter().map(|name| SHARED + name.len()).sum(),
        Records::Addresses(addresses) => size_of_val(addresses.as_slice()),
        Records::Text(text) => text.len(),
    }
}

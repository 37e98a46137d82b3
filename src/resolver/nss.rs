//! Host names from the system's name service switch (`-resolver=nss`).
//!
//! Hands questions to a fixed number of helper processes, one at a time each, and keeps count of
//! who waits for what: equal questions are asked once, those that find every helper busy queue up
//! in their order. The reactor makes it before the daemon listens, attaches it to the poll set,
//! calls [`NssResolver::ready`], [`NssResolver::expire`] and [`NssResolver::exited`] as things
//! happen, and takes the results. A helper that ends, talks nonsense or hangs is replaced, in a way
//! that never becomes a loop of forks; what it was asked counts as failed. Nothing here waits, and
//! no callback leaves here.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid};

use super::cache::Cache;
use super::nss_helper::{self, Helper, Lookup, Request, Said};
use crate::log;
use crate::policy::question::{HostName, Question};

/// How long an answer is kept: the switch tells no time to live, and the hosts file may change.
const KEEP_ANSWER: u32 = 60;
/// How long a failure is kept, as for the DNS.
const KEEP_FAILURE: u32 = 10;

/// A helper that ends without an answer is followed by the next no sooner than this after its own
/// start, doubled each time such a thing happens again, up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// A helper that hangs ends by itself so much later than the daemon would have ended it.
const GRACE: Duration = Duration::from_secs(5);

/// Once every helper has ended this often in a row without an answer, it makes no sense to let
/// connections wait for them.
const HOPELESS: u32 = 3;

/// Packets taken from a helper at one event. One is right; a few may be messages of some library;
/// with more it has gone mad, and must not hold the loop.
const MAX_PACKETS: usize = 16;

/// The token of the helper in a slot.
pub type TokenOf = fn(usize) -> Token;

/// The helpers and what they are asked.
pub struct NssResolver {
    slots: Vec<Slot>,
    identity: Option<(Uid, Gid)>,
    lookup: Lookup,
    /// `-lookuptimeout`: what takes a helper longer is a helper that hangs.
    timeout: Duration,
    /// Who waits, for every question in the queue or at a helper; the list may be empty there.
    waiting: HashMap<IpAddr, Vec<u64>>,
    /// Questions that no helper has yet, the oldest first. Each is in `waiting`.
    queue: VecDeque<IpAddr>,
    finished: VecDeque<Resolved>,
    cache: Cache<HostName>,
    /// Where the cache's seconds begin.
    epoch: Instant,
    /// Number of the last request.
    number: u32,
    /// The poll set and the token of each slot, once there is one.
    poll: Option<(Registry, TokenOf)>,
    counts: Counts,
}

/// Figures for a status. The first two count from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions given to helpers.
    pub asked: u64,
    /// Questions answered from the cache.
    pub hits: u64,
    pub helpers: usize,
    pub busy: usize,
    /// Questions that wait for a helper.
    pub queued: usize,
    /// Answers kept.
    pub cached: usize,
}

/// The place of one helper.
struct Slot {
    state: State,
    /// When the last helper here was started.
    started: Instant,
    /// Helpers that ended here since the last answer.
    failures: u32,
}

enum State {
    Idle(Helper),
    /// Asked about `ip` by request `number`; killed if it has not answered by `until`.
    Busy {
        helper: Helper,
        ip: IpAddr,
        number: u32,
        until: Instant,
    },
    /// Ended or killed, and not reaped yet. Nobody takes its place before: a process that cannot
    /// be killed right now, for it hangs in the kernel, still counts as one.
    Ending(Pid),
    /// Waits until the next start.
    Down {
        until: Instant,
    },
}

/// Why a helper is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It has not answered in time.
    Hung,
    /// It closed its socket or talks nonsense; it may live on.
    Broken,
    /// It has ended and was reaped: its number may be another process by now.
    Reaped,
}

/// A question that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub ip: IpAddr,
    pub name: HostName,
    /// Those who asked and did not forget it.
    pub waiters: Vec<u64>,
}

impl NssResolver {
    /// Forks `helpers` helpers. They have the rights of `identity`, which must be what the daemon
    /// itself becomes by `-user`, or none; `keep` answers are kept (`-dnscache`). `patient`: a helper
    /// that cannot be had now is started later, and is no error.
    pub fn new(
        helpers: usize,
        patient: bool,
        identity: Option<(Uid, Gid)>,
        timeout: Duration,
        keep: usize,
        now: Instant,
    ) -> io::Result<Self> {
        Self::with_lookup(nss_helper::ask_switch, helpers, patient, identity, timeout, keep, now)
    }

    fn with_lookup(
        lookup: Lookup,
        helpers: usize,
        patient: bool,
        identity: Option<(Uid, Gid)>,
        timeout: Duration,
        keep: usize,
        now: Instant,
    ) -> io::Result<Self> {
        let slots = (0..helpers).map(|_| {
            let state = match nss_helper::start(identity, lookup, timeout + GRACE) {
                Ok(helper) => State::Idle(helper),
                // The first turn tries again, and says so if that fails as well.
                Err(_) if patient => State::Down { until: now },
                Err(error) => return Err(error),
            };
            Ok(Slot { state, started: now, failures: 0 })
        });
        Ok(NssResolver {
            slots: slots.collect::<io::Result<_>>()?,
            identity,
            lookup,
            timeout,
            waiting: HashMap::new(),
            queue: VecDeque::new(),
            finished: VecDeque::new(),
            cache: Cache::new(keep),
            epoch: now,
            number: 0,
            poll: None,
            counts: Counts::default(),
        })
    }

    /// Registers the helpers, those of today and those that replace them, with a poll set.
    pub fn attach(&mut self, registry: Registry, token: TokenOf) -> io::Result<()> {
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(helper) = slot.helper() {
                register(&registry, helper, token(index))?;
            }
        }
        self.poll = Some((registry, token));
        Ok(())
    }

    /// Asks for the name of `ip`. None: `waiter` is told by [`NssResolver::next_resolved`].
    pub fn ask(&mut self, ip: IpAddr, waiter: u64, now: Instant) -> Option<HostName> {
        let second = self.second(now);
        if let Some(name) = self.cache.get(&Question::Names(ip), second) {
            self.counts.hits += 1;
            return Some(name);
        }
        if let Some(waiters) = self.waiting.get_mut(&ip) {
            waiters.push(waiter);
            return None;
        }
        if self.is_hopeless() {
            return Some(HostName::SoftError);
        }
        self.waiting.insert(ip, vec![waiter]);
        self.queue.push_back(ip);
        self.dispatch(now);
        None
    }

    /// `waiter` does not want to know any more. A question that nobody waits for is not asked; one
    /// that is being asked goes on, for the cache.
    pub fn forget(&mut self, ip: IpAddr, waiter: u64) {
        let Some(waiters) = self.waiting.get_mut(&ip) else { return };
        waiters.retain(|&other| other != waiter);
        if waiters.is_empty() {
            // Connections give up in about the order in which they came, so the search ends early.
            if let Some(place) = self.queue.iter().position(|&queued| queued == ip) {
                self.queue.remove(place);
                self.waiting.remove(&ip);
            }
        }
    }

    /// Helper `index` may have something to say.
    pub fn ready(&mut self, index: usize, now: Instant) {
        if self.receive(index, now).is_err() {
            self.end(index, Fate::Broken, now);
        }
        self.dispatch(now);
    }

    /// The next moment at which [`NssResolver::expire`] has work.
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = self.slots.iter().filter_map(|slot| match slot.state {
            State::Busy { until, .. } | State::Down { until } => Some(until),
            State::Idle(_) | State::Ending(_) => None,
        });
        deadlines.min()
    }

    /// Ends helpers that hang, starts those whose time has come.
    pub fn expire(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            match self.slots[index].state {
                State::Busy { until, .. } if until <= now => {
                    // What it has said and nobody has read yet counts before the time limit does.
                    let received = self.receive(index, now);
                    if received.is_err() {
                        self.end(index, Fate::Broken, now);
                    } else if matches!(self.slots[index].state, State::Busy { until, .. } if until <= now) {
                        self.end(index, Fate::Hung, now);
                    }
                }
                State::Down { until } if until <= now => self.start(index, now),
                _ => {}
            }
        }
        self.dispatch(now);
    }

    /// Process `pid` has ended and was reaped. False: it is none of the helpers.
    pub fn exited(&mut self, pid: Pid, now: Instant) -> bool {
        let Some(index) = self.slots.iter().position(|slot| slot.pid() == Some(pid)) else { return false };
        if self.slots[index].helper().is_some() {
            // What it had said before it ended counts.
            let _ = self.receive(index, now);
            self.end(index, Fate::Reaped, now);
        }
        let slot = &mut self.slots[index];
        slot.state = State::Down { until: slot.started + pause(slot.failures) };
        self.expire(now);
        true
    }

    /// The next question that has ended.
    pub fn next_resolved(&mut self) -> Option<Resolved> {
        self.finished.pop_front()
    }

    pub fn counts(&self) -> Counts {
        Counts {
            helpers: self.slots.len(),
            busy: self.slots.iter().filter(|slot| matches!(slot.state, State::Busy { .. })).count(),
            queued: self.queue.len(),
            cached: self.cache.len(),
            ..self.counts
        }
    }

    /// SIGHUP: forgets what it knew. The C library notices by itself that its files have changed.
    pub fn forget_answers(&mut self) {
        self.cache.clear();
    }

    fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_secs().try_into().unwrap_or(u32::MAX)
    }

    /// Nobody is there to answer, and nobody is about to be.
    fn is_hopeless(&self) -> bool {
        self.slots.iter().all(|slot| slot.helper().is_none() && slot.failures >= HOPELESS)
    }

    /// Gives the oldest questions to idle helpers.
    fn dispatch(&mut self, now: Instant) {
        while let Some(&ip) = self.queue.front() {
            let Some(index) = self.slots.iter().position(|slot| matches!(slot.state, State::Idle(_))) else { return };
            self.number = self.number.wrapping_add(1);
            let slot = &mut self.slots[index];
            let request = Request { number: self.number, ip };
            match slot.helper().map(|helper| helper.ask(request)) {
                Some(Ok(())) => {
                    self.queue.pop_front();
                    self.counts.asked += 1;
                    slot.make_busy(request, now + self.timeout);
                }
                // The question was not asked, so it is the next helper's.
                _ => {
                    // It may have said why.
                    let _ = self.receive(index, now);
                    self.end(index, Fate::Broken, now);
                }
            }
        }
    }

    /// Takes what helper `index` has said. An error: it is of no more use.
    fn receive(&mut self, index: usize, now: Instant) -> Result<(), Errno> {
        for _ in 0..MAX_PACKETS {
            let slot = &mut self.slots[index];
            let Some(helper) = slot.helper() else { return Ok(()) };
            match helper.hear() {
                Ok(Said::Reply(reply)) => match slot.state {
                    State::Busy { ip, number, .. } if number == reply.number => {
                        slot.make_idle();
                        slot.failures = 0;
                        self.finish(ip, reply.name, now);
                    }
                    _ => {}
                },
                Ok(Said::Unfit(errno)) => log::helper_unfit(helper.pid, errno),
                Ok(Said::Nonsense) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EPROTO)
    }

    /// Lets go of helper `index`, if there is one. What it was asked has failed.
    fn end(&mut self, index: usize, fate: Fate, now: Instant) {
        let slot = &mut self.slots[index];
        let (helper, asked) = match std::mem::replace(&mut slot.state, State::Down { until: now }) {
            State::Idle(helper) => (helper, None),
            State::Busy { helper, ip, .. } => (helper, Some(ip)),
            other => {
                slot.state = other;
                return;
            }
        };
        slot.state = State::Ending(helper.pid);
        match (fate, asked) {
            // The fault of those that it asks: its successor is not to wait for that.
            (Fate::Hung, Some(ip)) => log::helper_hung(ip, self.timeout),
            _ => {
                slot.failures = slot.failures.saturating_add(1);
                log::helper_ended(helper.pid);
            }
        }
        if let Some((registry, _)) = &self.poll {
            // It fails only for what is not registered, which is what is wanted.
            let _ = registry.deregister(&mut SourceFd(&helper.socket.as_raw_fd()));
        }
        if fate != Fate::Reaped {
            // It fails only if it has ended already: its user is ours.
            let _ = kill(helper.pid, Signal::SIGKILL);
        }
        if let Some(ip) = asked {
            self.finish(ip, HostName::SoftError, now);
        }
        self.give_up_if_hopeless(now);
    }

    fn start(&mut self, index: usize, now: Instant) {
        let started = nss_helper::start(self.identity, self.lookup, self.timeout + GRACE);
        let slot = &mut self.slots[index];
        slot.started = now;
        match started {
            Ok(helper) => {
                let registered = match &self.poll {
                    Some((registry, token)) => register(registry, &helper, token(index)),
                    None => Ok(()),
                };
                slot.state = State::Idle(helper);
                if registered.is_err() {
                    self.end(index, Fate::Broken, now);
                }
            }
            Err(error) => {
                log::helper_not_started(&error);
                slot.failures = slot.failures.saturating_add(1);
                slot.state = State::Down { until: now + pause(slot.failures) };
                self.give_up_if_hopeless(now);
            }
        }
    }

    fn give_up_if_hopeless(&mut self, now: Instant) {
        if self.is_hopeless() {
            while let Some(ip) = self.queue.pop_front() {
                self.finish(ip, HostName::SoftError, now);
            }
        }
    }

    fn finish(&mut self, ip: IpAddr, name: HostName, now: Instant) {
        let keep = if name == HostName::SoftError { KEEP_FAILURE } else { KEEP_ANSWER };
        self.cache.put(Question::Names(ip), name.clone(), self.second(now), keep);
        let waiters = self.waiting.remove(&ip).unwrap_or_default();
        if !waiters.is_empty() {
            self.finished.push_back(Resolved { ip, name, waiters });
        }
    }
}

impl Slot {
    fn helper(&self) -> Option<&Helper> {
        match &self.state {
            State::Idle(helper) | State::Busy { helper, .. } => Some(helper),
            State::Ending(_) | State::Down { .. } => None,
        }
    }

    fn pid(&self) -> Option<Pid> {
        match &self.state {
            State::Idle(helper) | State::Busy { helper, .. } => Some(helper.pid),
            State::Ending(pid) => Some(*pid),
            State::Down { .. } => None,
        }
    }

    /// From idle to busy; any other state stays.
    fn make_busy(&mut self, request: Request, until: Instant) {
        self.replace(|state| match state {
            State::Idle(helper) => State::Busy { helper, ip: request.ip, number: request.number, until },
            other => other,
        });
    }

    /// From busy to idle; any other state stays.
    fn make_idle(&mut self) {
        self.replace(|state| match state {
            State::Busy { helper, .. } => State::Idle(helper),
            other => other,
        });
    }

    fn replace(&mut self, change: impl FnOnce(State) -> State) {
        let state = std::mem::replace(&mut self.state, State::Down { until: self.started });
        self.state = change(state);
    }
}

fn register(registry: &Registry, helper: &Helper, token: Token) -> io::Result<()> {
    registry.register(&mut SourceFd(&helper.socket.as_raw_fd()), token, Interest::READABLE)
}

/// The least time from one start to the next.
fn pause(failures: u32) -> Duration {
    SHORTEST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;

//! The event loop, and the only owner of everything that lives in it.
//!
//! One turn: wait; read the clock once; let each event and each deadline do its part; hand out the
//! answers that came; accept; send the questions of both; start a few handlers; see whether accepting
//! may go on. What others wait for is sent before what takes long. What a room wants
//! done it returns as a value; rooms do not know each other or the loop. Nothing in a turn blocks,
//! and nothing a client, a server or a child does ends the loop: only SIGTERM and SIGINT do.
//!
//! `admit` brings a connection from accept to its lookups (by way of `headers`, if it has a PROXY
//! header), `lookups` from there to the verdict, `conclude` carries the verdict out.

#![forbid(unsafe_code)]

mod admit;
mod conclude;
mod control;
mod dns;
mod drain;
pub mod explain;
mod headers;
mod lookups;
mod quiet;
mod reap;
pub mod reserve;
mod status;
pub mod timer;
pub mod token;
pub mod upgrade;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mio::event::Event as PollEvent;
use mio::{Events, Interest, Poll};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::accessdb::AccessDb;
use crate::children::Children;
use crate::config::Config;
use crate::control::server::Server;
use crate::error::StartError;
use crate::listener::Listeners;
use crate::log;
use crate::manager::{Counts, Manager};
use crate::memory;
use crate::pending::Pending;
use crate::policy::env::Base;
use crate::policy::limits::Occupancy;
use crate::proxy::Waiting;
use crate::resolver::nss::NssResolver;
use crate::signal::Signals;
use crate::spawn::Spawner;
use crate::startup::LoggerStarter;
use crate::status::counters::Counters;
use crate::stderr::Stderr;
use crate::sys;
use crate::table::{Key, Table};
use control::Control;
use dns::Lookup;
use drain::Drain;
use reserve::Reserve;
use timer::{Due, Timers};
use token::Source;
use upgrade::{Origin, Trial};

/// Events taken from the kernel in one turn.
const EVENTS: usize = 256;
/// Turns in a row that may leave time limits aside because there were as many events.
const UNSEEN_MOST: u32 = 50;

/// Connections taken from one listener in one turn, so that a flood does not keep lookups and
/// children waiting.
const ACCEPTS: usize = 64;

/// Handlers started in one turn beside those of clients that owe no lookup. A start takes as long as
/// ten questions, and the daemon sleeps meanwhile: those who have just come are to have theirs asked
/// in between, so that their answers are on the way while others start.
const STARTS: usize = 4;

/// How long accepting rests when descriptors, memory or processes have run out.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(500);

/// What the start-up has made ready for the loop.
pub struct Parts {
    pub config: Config,
    pub base: Base,
    pub listeners: Listeners,
    /// None: no access file.
    pub access: Option<AccessDb>,
    pub spawner: Spawner,
    pub stderr: Stderr,
    /// With `-stderrlogger`.
    pub logger_starter: Option<LoggerStarter>,
    /// With `-resolver=nss`: forked before the daemon listens.
    pub nss: Option<NssResolver>,
    pub signals: Signals,
    /// With `NOTIFY_SOCKET`.
    pub manager: Option<Manager>,
    pub control: Option<Server>,
    /// With `control`: what an upgrade needs.
    pub origin: Option<Origin>,
    /// Connections that are open already: [`Reactor::take_on`] is given them.
    pub handed: usize,
}

/// Why the loop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By a signal, or since a drain took too long: handlers may be left.
    Terminated,
    /// After `-drain`: none is.
    Drained,
}

/// What a reactor holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Slots in use.
    pub slots: u32,
    /// Connections by counted address and by block.
    pub by_address: HashMap<IpAddr, u32>,
    pub by_block: HashMap<IpAddr, u32>,
    /// Connections that wait for their PROXY header, by the proxy's address.
    pub headers: Vec<SocketAddr>,
    /// Those whose lookups are under way.
    pub lookups: Vec<SocketAddr>,
    /// Those that wait for a slot.
    pub ready: Vec<SocketAddr>,
    /// Refused ones that read their reply.
    pub lingering: usize,
    /// The handlers, and whom each serves.
    pub handlers: Vec<(Pid, SocketAddr)>,
    /// Deadlines set.
    pub deadlines: usize,
    /// True while the listeners are in the poll set.
    pub accepting: bool,
}

pub struct Reactor {
    config: Config,
    base: Base,
    poll: Poll,
    signals: Signals,
    timers: Timers,
    listeners: Listeners,
    /// Listeners that may have clients waiting, by their place in the list.
    backlogged: VecDeque<u32>,
    /// Accepting rests until `Due::Accept`, because something has run out.
    shortage: bool,
    /// No handler is started until then, for want of a process: those who wait to be served go on waiting.
    starts_rest: bool,
    reserve: Reserve,
    occupancy: Occupancy,
    access: Option<AccessDb>,
    lookup: Lookup,
    /// Connections whose PROXY header has not come, with the instant their time is over.
    headers: Table<(Waiting, Instant)>,
    pending: Table<Pending>,
    /// Pending connections whose verdict is to serve and that wait for a slot, in order of arrival.
    ready: BTreeSet<(u64, Key)>,
    /// Connections that got past the access file and the limits, ever.
    arrivals: u64,
    /// Refused clients that still read their reply, with the instant their time is over.
    lingering: Table<(TcpStream, Instant)>,
    /// The same, oldest first; keys of entries that have ended may still stand here.
    lingering_order: VecDeque<Key>,
    lingering_most: usize,
    /// `-denymsg` as it is sent.
    reply: Option<Vec<u8>>,
    spawner: Spawner,
    stderr: Stderr,
    logger_starter: Option<LoggerStarter>,
    children: Children,
    /// True if `Due::Reap` is set.
    reaping: bool,
    manager: Option<Manager>,
    counters: Counters,
    control: Option<Control>,
    drain: Option<Drain>,
    /// How the daemon was started; none if nobody can ask it to do that again.
    origin: Option<Origin>,
    trial: Option<Trial>,
    /// The most connections at a time since memory was last given back.
    peak: usize,
    /// True if `Due::Quiet` is set.
    settling: bool,
    /// The turns in a row that had as many events as fit in.
    unseen: u32,
    terminate: bool,
}

impl Reactor {
    /// What [`Reactor::new`] does that can fail for what is in the world by now: for a trial.
    pub fn rehearse(config: &Config) -> Result<(), StartError> {
        let poll = Poll::new().map_err(|error| StartError::system("cannot set up the event loop", error))?;
        Lookup::rehearse(config, poll.registry())
    }

    /// Sets the loop up. After it the daemon accepts as soon as [`run`](Self::run) is called.
    pub fn new(parts: Parts) -> Result<Self, StartError> {
        let failed = |error: io::Error| StartError::system("cannot set up the event loop", error);
        let Parts { config, base, listeners, access, spawner, stderr, logger_starter, nss, .. } = parts;
        let Parts { mut signals, manager, control, origin, handed, .. } = parts;
        let poll = Poll::new().map_err(failed)?;
        poll.registry().register(&mut signals, Source::Signals.token(), Interest::READABLE).map_err(failed)?;
        let now = Instant::now();
        let lookup = Lookup::new(&config, nss, poll.registry(), now)?;
        let control = control.map(|server| Control::new(server, poll.registry())).transpose().map_err(failed)?;
        let reply = config.deny_message.as_ref().map(|text| [text, &b"\r\n"[..]].concat());
        Ok(Reactor {
            occupancy: Occupancy::new(config.limits),
            counters: Counters::new(config.lists.len(), config.zones.len(), now),
            lingering_most: conclude::lingering_most(),
            config,
            base,
            poll,
            signals,
            timers: Timers::default(),
            listeners,
            backlogged: VecDeque::new(),
            shortage: false,
            starts_rest: false,
            reserve: Reserve::new(handed),
            access,
            lookup,
            headers: Table::default(),
            pending: Table::default(),
            ready: BTreeSet::new(),
            arrivals: 0,
            lingering: Table::default(),
            lingering_order: VecDeque::new(),
            reply,
            spawner,
            stderr,
            logger_starter,
            children: Children::default(),
            reaping: false,
            manager,
            control,
            peak: 0,
            settling: false,
            unseen: 0,
            drain: None,
            origin,
            trial: None,
            terminate: false,
        })
    }

    /// Serves until SIGTERM or SIGINT, or until all is done after `-drain`.
    pub fn run(&mut self) -> Ending {
        let mut events = Events::with_capacity(EVENTS);
        self.open_the_door(Instant::now());
        while !self.terminate && !self.is_drained() {
            let timeout = self.timeout();
            self.turn(&mut events, timeout, Instant::now);
        }
        if let Some(manager) = &mut self.manager {
            manager.stopping(Instant::now());
        }
        self.listeners.pause(self.poll.registry());
        if self.terminate { Ending::Terminated } else { Ending::Drained }
    }

    /// What comes before the first turn.
    pub fn open_the_door(&mut self, now: Instant) {
        // Without it the daemon does as well, but for running out of memory; so it is not waited for.
        let _ = memory::replenish();
        // Checking a large access file takes memory that nothing needs again.
        sys::trim_heap();
        self.open_or_close_the_door(now);
        self.tell_ready(now);
    }

    /// One turn, of which the wait may take `timeout`. The clock is read once, after it. Gives the
    /// number of events.
    pub fn turn(&mut self, events: &mut Events, timeout: Option<Duration>, clock: impl FnOnce() -> Instant) -> usize {
        if let Err(error) = self.poll.poll(events, timeout) {
            // EINTR: a signal that is not ours to act on, such as SIGCONT.
            if error.kind() != io::ErrorKind::Interrupted {
                log::limited(log::Kind::Loop, crate::config::Level::Alert, format_args!("epoll_wait: {error}"));
            }
            return 0;
        }
        let now = clock();
        let mut count = 0;
        for event in &*events {
            self.dispatch(event, now);
            count += 1;
        }
        // If this process was stopped for a while, answers have come in time and time limits are over. So answers are
        // taken first, and nothing times out while there may be more events than fitted in.
        self.unseen = if count < EVENTS { 0 } else { self.unseen + 1 };
        if self.unseen == 0 || self.unseen > UNSEEN_MOST {
            self.lookup.turn(now);
            self.take_answers(now);
            self.expire(now);
        } else {
            self.lookup.read(now);
            self.take_answers(now);
        }
        self.accept_waiting(now);
        self.take_answers(now);
        self.fill_slots(STARTS, now);
        self.step_drain(now);
        if !self.terminate {
            self.hand_over_if_due(now);
        }
        self.note_peak(now);
        if memory::is_short() && !self.shortage {
            self.rest(now, Errno::ENOMEM);
        }
        self.open_or_close_the_door(now);
        self.tell_counts(now);
        count
    }

    /// What is held at the moment: for tests, which compare it with what should be.
    pub fn census(&self) -> Census {
        let (by_address, by_block) = self.occupancy.counts();
        let (lookups, ready): (Vec<_>, Vec<_>) = self.pending.iter().partition(|(_, p)| p.lookups().is_some());
        let peers = |list: Vec<(Key, &Pending)>| list.into_iter().map(|(_, pending)| pending.ends.peer).collect();
        Census {
            slots: self.occupancy.slots_in_use(),
            by_address,
            by_block,
            headers: self.headers.iter().map(|(_, (waiting, _))| waiting.real.peer).collect(),
            lookups: peers(lookups),
            ready: peers(ready),
            lingering: self.lingering.len(),
            handlers: self.children.iter().map(|(pid, handler)| (pid, handler.peer)).collect(),
            deadlines: self.timers.len(),
            accepting: self.listeners.is_accepting(),
        }
    }

    /// Where the entries of LIST with port 0 listen.
    pub fn chosen_addresses(&self) -> &[SocketAddr] {
        self.listeners.chosen()
    }

    /// Tells the service manager that the daemon serves, and as which process if it was started as another.
    fn tell_ready(&mut self, now: Instant) {
        let main = self.config.pid_file.is_some().then(Pid::this);
        if let Some(manager) = &mut self.manager {
            manager.ready(main, now);
        }
        self.tell_counts(now);
    }

    fn tell_counts(&mut self, now: Instant) {
        if let Some(manager) = &mut self.manager {
            let counts = Counts {
                slots_in_use: self.occupancy.slots_in_use(),
                slots: self.config.limits.max_procs,
                pending: self.headers.len() + self.pending.len(),
            };
            manager.tick(counts, now);
        }
    }

    fn timeout(&mut self) -> Option<Duration> {
        if !self.backlogged.is_empty() || self.may_start() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        [
            self.timers.timeout(now),
            self.stderr.logger().and_then(|logger| logger.deadline()).map(until),
            self.manager.as_ref().and_then(Manager::deadline).map(until),
            self.lookup.timeout(now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn dispatch(&mut self, event: &PollEvent, now: Instant) {
        match Source::from_token(event.token()) {
            Some(Source::Listener(index)) if self.backlogged.contains(&index) => {}
            Some(Source::Listener(index)) => self.backlogged.push_back(index),
            Some(Source::Signals) => self.take_signals(now),
            Some(Source::Pending(key)) => {
                let closed_both_ways = event.is_read_closed() && event.is_write_closed();
                if event.is_error() || closed_both_ways {
                    self.client_gone(key, now);
                }
            }
            Some(Source::Header(key)) => self.step_header(key, event.is_read_closed(), now),
            Some(Source::Ident(key)) => self.step_ident(key, now),
            Some(Source::Lingering(key)) => self.step_lingering(key),
            Some(Source::Resolver(key)) => self.lookup.dns_ready(key, event),
            Some(Source::Helper(index)) => self.lookup.helper_ready(index, now),
            Some(Source::Upgrade) => self.hear_trial(),
            Some(Source::ControlDoor) => self.accept_control(now),
            Some(Source::Control(key)) => self.step_control(key, now),
            None => {}
        }
    }

    fn take_signals(&mut self, now: Instant) {
        let arrived = self.signals.drain();
        if arrived.hangup {
            self.reload(now);
        }
        if let Some(pid) = arrived.child {
            self.reap_signalled(pid, now);
        }
        if arrived.report {
            let status = self.snapshot(now);
            log::notice(format_args!("{}", status.short()));
        }
        self.terminate |= arrived.terminate;
    }

    /// SIGHUP: what is on disk is read anew; connections and limits stay.
    fn reload(&mut self, now: Instant) {
        if let Some(manager) = &mut self.manager {
            manager.reloading(now);
        }
        log::notice(format_args!("SIGHUP: reading the access file and resolv.conf anew"));
        self.reload_access_file();
        self.stderr.reopen();
        self.lookup.reload(now);
        self.tell_ready(now);
    }

    fn reload_access_file(&mut self) {
        match (&mut self.access, &self.config.access.file) {
            (Some(access), _) => {
                if let Err(error) = access.reload() {
                    log::err(format_args!("{error}; the old access rules stay in force"));
                }
            }
            // Started without by -accessmissing=allow: perhaps the file is there now.
            (None, Some(file)) => match AccessDb::open(file) {
                Ok(access) => self.access = Some(access),
                Err(error) => log::err(format_args!("{error}; still no access rules are in force")),
            },
            (None, None) => {}
        }
        sys::trim_heap();
    }

    fn expire(&mut self, now: Instant) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Lookups(key) => self.lookups_expired(key, now),
                Due::Ident(key) => self.end_ident(key, None, now),
                Due::Header(key) => self.header_late(key, now),
                Due::Linger(key) => self.end_lingering(key),
                Due::Accept => self.end_rest(now),
                // The turn itself sees to it.
                Due::Drain => {}
                Due::Upgrade => self.trial_late(now),
                Due::ControlDoor => self.accept_control(now),
                Due::Control(key) => self.end_control(key),
                Due::Quiet => self.settle(now),
                Due::Reap => {
                    self.reaping = false;
                    self.reap_all(now);
                }
            }
        }
        self.restart_logger(now);
    }

    /// Starts the logger again if it has ended and its pause is over.
    fn restart_logger(&mut self, now: Instant) {
        let Some(starter) = &self.logger_starter else { return };
        let base = &self.base;
        if let Some(logger) = self.stderr.logger() {
            logger.tick(now, |input| starter.start(input, base));
        }
    }

    /// Something has run out: accepting rests a moment, while what is under way goes on.
    fn rest(&mut self, now: Instant, error: Errno) {
        log::accept_failed(&error.into(), SHORTAGE_PAUSE);
        if !self.shortage {
            self.shortage = true;
            self.timers.set(now + SHORTAGE_PAUSE, Due::Accept);
        }
    }

    fn end_rest(&mut self, now: Instant) {
        // In any case: who waits to be served may be the one who holds what has run out.
        self.starts_rest = false;
        if self.reserve.is_whole() && memory::replenish() {
            self.shortage = false;
        } else {
            self.timers.set(now + SHORTAGE_PAUSE, Due::Accept);
        }
    }

    fn may_accept(&self) -> bool {
        !self.shortage
            && !memory::is_short()
            && match self.config.limits.max_pending {
                0 => self.occupancy.has_free_slot(),
                most => self.headers.len() + self.pending.len() < most as usize,
            }
    }

    /// Registers the listeners if a client may come in, and takes them out of the poll set if not.
    fn open_or_close_the_door(&mut self, now: Instant) {
        if self.may_accept() {
            let resumed = self.listeners.resume(self.poll.registry(), |index| Source::Listener(index).token());
            if let Err(error) = resumed {
                self.listeners.pause(self.poll.registry());
                let errno = error.raw_os_error().map_or(Errno::ENOMEM, Errno::from_raw);
                self.rest(now, errno);
            }
        } else {
            self.listeners.pause(self.poll.registry());
            // A listener that is registered again raises a new event if somebody waits.
            self.backlogged.clear();
        }
    }
}

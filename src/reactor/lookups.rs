//! From the lookups to the verdict: answers, deadlines, and clients that go away.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Instant;

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;

use crate::ident::{Ident, Progress};
use crate::log;
use crate::pending::{IdentUnderWay, Lookups, Pending, Stage};
use crate::policy::Verdict;
use crate::policy::question::{Answer, HostName, Question};
use crate::policy::session::Wanted;
use crate::reactor::Reactor;
use crate::reactor::conclude::Client;
use crate::reactor::dns::Finished;
use crate::reactor::timer::Due;
use crate::reactor::token::Source;
use crate::status::counters::Event;
use crate::table::Key;

impl Reactor {
    /// Enters a connection and starts the lookups that it owes. If the caches know all the answers, its
    /// verdict falls here and now and it is gone from the table again. If it owes none, it may not even enter.
    pub(super) fn begin_lookups(&mut self, pending: Pending, wanted: Wanted, now: Instant) {
        let Some(pending) = self.serve_at_once(pending, &wanted, now) else { return };
        let key = self.pending.insert(pending);
        let wants_ident = wanted.ident;
        self.pursue(key, wanted, now);
        if wants_ident {
            self.start_ident(key, now);
        }
        // It goes ahead of nobody, and is not kept waiting for those who come after it.
        if self.ready.first().is_some_and(|&(_, first)| first == key) {
            self.fill_slots(1, now);
        }
        self.watch(key);
    }

    /// Serves a connection that owes no lookup, if nobody waits before it and there is a slot. Gives others back.
    fn serve_at_once(&mut self, mut pending: Pending, wanted: &Wanted, now: Instant) -> Option<Pending> {
        if !wanted.is_empty() || !self.ready.is_empty() || self.starts_rest {
            return Some(pending);
        }
        let Stage::Lookups(lookups) = &pending.stage else { return Some(pending) };
        let verdict = lookups.session.verdict(&self.config, &self.base, &pending.ends);
        let Some(Verdict::Serve(env)) = verdict else { return Some(pending) };
        if pending.slot.is_none() {
            pending.slot = self.take_slot();
        }
        if pending.slot.is_none() {
            return Some(pending);
        }
        pending.stage = Stage::WaitsForSlot { env, decided: now };
        self.serve(pending, now);
        None
    }

    /// Registers a connection that has to wait for its end alone, and sets the time limit of its lookups.
    fn watch(&mut self, key: Key) {
        let Some(pending) = self.pending.get_mut(key) else { return };
        if let Stage::Lookups(lookups) = &pending.stage {
            self.timers.set(lookups.deadline, Due::Lookups(key));
        }
        // PRIORITY: what the client sends wakes nobody, errors and the end always do. If the kernel
        // has no memory for it, a client that goes away keeps its place until its lookups end, no more.
        let fd = pending.stream.as_raw_fd();
        let token = Source::Pending(key).token();
        pending.registered = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::PRIORITY).is_ok();
    }

    fn lookups(&mut self, key: Key) -> Option<&mut Lookups> {
        self.pending.get_mut(key)?.lookups_mut()
    }

    /// Asks what a session wants, takes what is known at once, and sees whether that is enough.
    fn pursue(&mut self, key: Key, wanted: Wanted, now: Instant) {
        let Some(lookups) = self.pending.get_mut(key).and_then(Pending::lookups_mut) else { return };
        self.lookup.pursue(&mut lookups.session, &self.config, wanted, key, now, |_| {});
        self.try_verdict(key, now);
    }

    /// Hands out what has been found, and sends what has been asked.
    pub(super) fn take_answers(&mut self, now: Instant) {
        while let Some(finished) = self.lookup.next_finished(now) {
            match finished {
                Finished::Answer(question, answer, waiters, took) => {
                    if let Question::Listing { zone, .. } = question {
                        self.counters.zones[usize::from(zone)].add(took);
                    }
                    for key in waiters {
                        self.take_answer(key, &question, &answer, now);
                    }
                }
                Finished::Name(ip, name, waiters) => {
                    for key in waiters {
                        self.take_name(key, ip, &name, now);
                    }
                }
            }
        }
    }

    fn take_answer(&mut self, key: Key, question: &Question, answer: &Answer, now: Instant) {
        let mut wanted = Wanted::default();
        let Some(lookups) = self.pending.get_mut(key).and_then(Pending::lookups_mut) else { return };
        lookups.session.answer(&self.config, question, answer, &mut wanted);
        self.pursue(key, wanted, now);
    }

    fn take_name(&mut self, key: Key, ip: IpAddr, name: &HostName, now: Instant) {
        let Some(lookups) = self.lookups(key) else { return };
        lookups.session.name(ip, name);
        self.try_verdict(key, now);
    }

    fn start_ident(&mut self, key: Key, now: Instant) {
        let Some(pending) = self.pending.get_mut(key) else { return };
        let ends = pending.ends;
        let Some(lookups) = pending.lookups_mut() else { return };
        let registry = self.poll.registry();
        let started = Ident::start(ends.local, ends.peer).and_then(|mut client| {
            if self.reserve.has(&client) {
                return Err(Errno::EMFILE.into());
            }
            registry.register(&mut client, Source::Ident(key).token(), Ident::INTEREST)?;
            Ok(client)
        });
        match started {
            Ok(client) => {
                let deadline = now + self.config.lookups.ident_timeout;
                self.timers.set(deadline, Due::Ident(key));
                lookups.ident = Some(Box::new(IdentUnderWay { client, deadline }));
            }
            // Refused at once, no route, or something on our side: the user is not known.
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::ENOMEM, Errno::from_raw);
                if lies_with_us(errno) {
                    log::ident_not_asked(&error);
                }
                self.end_ident(key, None, now);
            }
        }
    }

    pub(super) fn step_ident(&mut self, key: Key, now: Instant) {
        let Some(ident) = self.lookups(key).and_then(|lookups| lookups.ident.as_mut()) else { return };
        if let Progress::Done(user) = ident.client.step() {
            self.end_ident(key, user, now);
        }
    }

    pub(super) fn end_ident(&mut self, key: Key, user: Option<Vec<u8>>, now: Instant) {
        let Some(lookups) = self.lookups(key) else { return };
        lookups.session.ident(user.map(Vec::into_boxed_slice));
        if let Some(ident) = lookups.ident.take() {
            self.timers.cancel(ident.deadline, Due::Ident(key));
        }
        self.try_verdict(key, now);
    }

    /// The time limit has come: the connection goes on with what is known.
    pub(super) fn lookups_expired(&mut self, key: Key, now: Instant) {
        self.give_up_share(key);
        let Some(lookups) = self.lookups(key) else { return };
        lookups.session.expire();
        log::lookups_late(self.config.lookups.timeout);
        self.counters.count(Event::LookupsLate, now);
        self.try_verdict(key, now);
    }

    /// The client has reset its connection: its place is free at once.
    pub(super) fn client_gone(&mut self, key: Key, now: Instant) {
        let Some(pending) = self.take_out(key) else { return };
        self.counters.count(Event::Gone, now);
        self.report_gone(&pending, now);
    }

    /// Carries the verdict out if it has fallen. One that is to be served takes its slot later in the
    /// turn: of those whose verdicts fall together, he who came first is served first.
    fn try_verdict(&mut self, key: Key, now: Instant) {
        let Some(pending) = self.pending.get_mut(key) else { return };
        let Some(lookups) = pending.lookups() else { return };
        let Some(verdict) = lookups.session.verdict(&self.config, &self.base, &pending.ends) else { return };
        for (list, result) in lookups.session.list_results(&self.config) {
            self.counters.lists[list].count(result);
            if let Some(trouble) = result.trouble() {
                log::list_trouble(list, &self.config.lists[list].display, trouble);
            }
        }
        match verdict {
            Verdict::Serve(env) => {
                let arrival = pending.arrival;
                self.end_lookups(key);
                if let Some(pending) = self.pending.get_mut(key) {
                    pending.stage = Stage::WaitsForSlot { env, decided: now };
                    self.ready.insert((arrival, key));
                }
            }
            Verdict::Refuse(reason) => {
                let mismatch = self.config.lookups.mismatch;
                let host = lookups.session.remote_name().and_then(|name| name.variable(mismatch)).map(str::to_owned);
                let Some(Pending { stream, ends, since, .. }) = self.take_out(key) else { return };
                let client = Client { stream, peer: ends.peer, local: Some(ends.local), since };
                self.refuse(client, host.as_deref(), reason, now);
            }
        }
    }

    /// Starts at most `most` handlers for those whose verdict is to serve, in order of arrival, while there are slots.
    /// Those that cannot be started do not count: their places are free at once. Where it is a process that
    /// is wanting, the others wait.
    pub(super) fn fill_slots(&mut self, most: usize, now: Instant) {
        let mut started = 0;
        while started < most && !self.starts_rest {
            let Some(&(arrival, key)) = self.ready.first() else { return };
            if self.pending.get(key).is_some_and(|pending| pending.slot.is_none()) {
                let Some(slot) = self.take_slot() else { return };
                if let Some(pending) = self.pending.get_mut(key) {
                    pending.slot = Some(slot);
                }
            }
            self.ready.remove(&(arrival, key));
            if let Some(pending) = self.take_out(key) {
                started += usize::from(self.serve(pending, now));
            }
        }
    }

    /// True if somebody can be served at once who was left for the next turn.
    pub(super) fn may_start(&self) -> bool {
        let first = self.ready.first().filter(|_| !self.starts_rest);
        let first = first.and_then(|&(_, key)| self.pending.get(key));
        first.is_some_and(|pending| pending.slot.is_some() || self.occupancy.has_free_slot())
    }

    /// Takes a connection out of the table, with its registration, its deadlines and its share in lookups.
    fn take_out(&mut self, key: Key) -> Option<Pending> {
        self.end_lookups(key);
        let pending = self.pending.remove(key)?;
        self.ready.remove(&(pending.arrival, key));
        if pending.registered {
            // The handler will hold the same open socket, so closing ours would not do it. It fails
            // only for a socket that is not registered.
            let _ = self.poll.registry().deregister(&mut SourceFd(&pending.stream.as_raw_fd()));
        }
        Some(pending)
    }

    /// Ends what is under way for a connection: nothing of it comes back.
    fn end_lookups(&mut self, key: Key) {
        self.give_up_share(key);
        let Some(lookups) = self.pending.get_mut(key).and_then(Pending::lookups_mut) else { return };
        self.timers.cancel(lookups.deadline, Due::Lookups(key));
        if let Some(ident) = lookups.ident.take() {
            self.timers.cancel(ident.deadline, Due::Ident(key));
        }
    }

    /// Gives up the connection's share in the questions that are still open.
    fn give_up_share(&mut self, key: Key) {
        let Some(pending) = self.pending.get(key) else { return };
        let Some(lookups) = pending.lookups() else { return };
        for question in lookups.session.open_questions(&self.config, &pending.ends) {
            self.lookup.forget(&question, key);
        }
        for ip in lookups.session.open_names(&self.config, &pending.ends) {
            self.lookup.forget_name(ip, key);
        }
    }
}

/// True if it is this host that has run out of something (descriptors, memory, ports, watches), or forbids it.
fn lies_with_us(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM
            | Errno::ENOBUFS
            | Errno::ENOSPC
            | Errno::EAGAIN
            | Errno::EADDRNOTAVAIL
            | Errno::EADDRINUSE
            | Errno::EACCES
            | Errno::EPERM
            | Errno::EAFNOSUPPORT
    )
}

//! Fills the status, when somebody asks for it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::log;
use crate::pending::Stage;
use crate::policy::session::Wait;
use crate::reactor::Reactor;
use crate::status::{HANDLERS_SHOWN, Handler, List, Snapshot, State, Waits};

impl Reactor {
    pub(super) fn snapshot(&mut self, now: Instant) -> Snapshot {
        let uptime = self.counters.uptime(now);
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (resolver, helpers) = self.lookup.status(self.config.lookups.cache_entries);
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: unix_time.saturating_sub(uptime).as_secs(),
            uptime,
            program: self.config.handler.program.to_string_lossy().replace(char::is_control, "?"),
            state: match (self.shortage, self.may_accept()) {
                _ if self.drain.is_some() => State::Draining,
                (true, _) => State::Resting,
                (false, true) => State::Accepting,
                (false, false) => State::Full,
            },
            listeners: self.listeners.addresses(),
            limits: self.config.limits,
            slots_used: self.occupancy.slots_in_use(),
            pending: self.headers.len() + self.pending.len(),
            waiting_for_slot: self.ready.len(),
            lingering: self.lingering.len(),
            minute: self.counters.last_minute(now),
            total: self.counters.total(),
            lists: self.list_figures(),
            resolver,
            helpers,
            waits: self.waits(),
            handlers: self.children.len(),
            oldest: self.oldest_handlers(now),
            suppressed: log::suppressed(),
            lost: log::lost(),
        }
    }

    fn list_figures(&self) -> Vec<List> {
        let lists = self.config.lists.iter().zip(&self.counters.lists);
        lists
            .map(|(list, counts)| List {
                kind: list.kind,
                zone: self.config.zones[usize::from(list.zone)].name.clone(),
                display: list.display.replace(char::is_control, "?"),
                variable: String::from_utf8_lossy(&list.variable).replace(char::is_control, "?"),
                counts: *counts,
                times: self.counters.zones[usize::from(list.zone)],
            })
            .collect()
    }

    fn waits(&self) -> Waits {
        let lists = vec![0; self.config.lists.len()];
        let mut waits = Waits { header: self.headers.len(), lists, ..Waits::default() };
        for (_, pending) in self.pending.iter() {
            let Stage::Lookups(lookups) = &pending.stage else { continue };
            for wait in lookups.session.waits_for() {
                match wait {
                    Wait::RemoteName => waits.remote_name += 1,
                    Wait::LocalName => waits.local_name += 1,
                    Wait::Ident => waits.ident += 1,
                    Wait::List(index) => waits.lists[index] += 1,
                }
            }
        }
        waits
    }

    fn oldest_handlers(&self, now: Instant) -> Vec<Handler> {
        let mut all: Vec<_> = self.children.iter().map(|(pid, handler)| (handler.since, pid, handler.peer)).collect();
        all.sort_unstable();
        all.truncate(HANDLERS_SHOWN);
        let age = |since| now.saturating_duration_since(since);
        all.into_iter().map(|(since, pid, peer)| Handler { peer, pid: pid.as_raw(), age: age(since) }).collect()
    }
}

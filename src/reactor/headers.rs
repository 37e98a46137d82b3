//! Connections whose PROXY header has not come yet: from accept to admission.
//!
//! They have a table of their own, because nothing that a pending connection has is known of them:
//! who the client is, and so whose share it takes. A slot they do hold, as every connection does
//! from accept on; with `-maxpending` they take a place among the pending ones instead.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;

use crate::log::{self, Connection, Decision};
use crate::proxy::{self, Progress, Waiting};
use crate::reactor::Reactor;
use crate::reactor::timer::Due;
use crate::reactor::token::Source;
use crate::status::counters::Event;
use crate::table::Key;

impl Reactor {
    /// Takes a connection that begins with a header, which may take `limit`.
    pub(super) fn await_header(&mut self, waiting: Waiting, limit: Duration, now: Instant) {
        if self.config.proxy.as_ref().is_some_and(|proxy| !proxy::is_trusted(proxy, waiting.real.peer)) {
            self.counters.count(Event::ProxyFrom, now);
            log::proxy_not_trusted(waiting.real.peer.ip());
            return log_end(&waiting, Decision::Refused, Some("proxyfrom"), None, now);
        }
        // Many proxies send it along with their first packet.
        match proxy::read(&waiting.stream, false) {
            Progress::Incomplete => {}
            progress => return self.end_header(waiting, progress, now),
        }
        let key = self.headers.next_key();
        let fd = waiting.stream.as_raw_fd();
        // What has come since it was read raises its event by this.
        if self.poll.registry().register(&mut SourceFd(&fd), Source::Header(key).token(), Interest::READABLE).is_err() {
            return self.end_header(waiting, Progress::Bad("it cannot be waited for"), now);
        }
        self.timers.set(now + limit, Due::Header(key));
        self.headers.insert((waiting, now + limit));
    }

    /// Something has come, or the end; `ended`: no more will.
    pub(super) fn step_header(&mut self, key: Key, ended: bool, now: Instant) {
        let Some((waiting, _)) = self.headers.get(key) else { return };
        match proxy::read(&waiting.stream, ended) {
            Progress::Incomplete => {}
            progress => self.leave_header(key, progress, now),
        }
    }

    pub(super) fn header_late(&mut self, key: Key, now: Instant) {
        self.leave_header(key, Progress::Bad("it did not come in time"), now);
    }

    /// Takes a connection out of the table, and on to what comes next.
    fn leave_header(&mut self, key: Key, progress: Progress, now: Instant) {
        let Some((waiting, deadline)) = self.headers.remove(key) else { return };
        self.timers.cancel(deadline, Due::Header(key));
        // The handler will hold the same open socket, so closing ours would not do it. It fails
        // only for a socket that is not registered.
        let _ = self.poll.registry().deregister(&mut SourceFd(&waiting.stream.as_raw_fd()));
        if self.headers.is_empty() {
            self.headers.shrink();
        }
        self.end_header(waiting, progress, now);
    }

    fn end_header(&mut self, waiting: Waiting, progress: Progress, now: Instant) {
        match progress {
            Progress::Header(header) => self.admit_proxied(waiting, header, now),
            Progress::Bad(why) => {
                self.counters.count(Event::BadHeader, now);
                log::proxy_header_bad(waiting.real.peer.ip(), why);
                log_end(&waiting, Decision::Failed, Some("proxy"), Some(why), now);
            }
            Progress::Gone | Progress::Incomplete => {
                self.counters.count(Event::Gone, now);
                log_end(&waiting, Decision::Gone, None, None, now);
            }
        }
    }
}

fn log_end(waiting: &Waiting, decision: Decision, by: Option<&str>, detail: Option<&str>, now: Instant) {
    log::connection(&Connection {
        remote: waiting.real.peer,
        local: waiting.real.local,
        host: None,
        decision,
        by,
        detail: detail.map(str::as_bytes),
        lookups: now.saturating_duration_since(waiting.since),
        pid: None,
    });
}

//! The control socket in the loop: takes a few connections at a time, answers, and drops who is slow.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;

use crate::control::Request;
use crate::control::server::{Accepted, PATIENCE, SESSIONS_MOST, Server, Session, Step};
use crate::log;
use crate::reactor::timer::Due;
use crate::reactor::token::Source;
use crate::reactor::upgrade::TRIAL_PATIENCE;
use crate::reactor::{Reactor, SHORTAGE_PAUSE};
use crate::table::{Key, Table};

/// Connections taken in one turn.
const ACCEPTS: usize = 16;

/// The control socket and those who ask there.
pub(super) struct Control {
    server: Server,
    /// With the instant at which each is dropped.
    sessions: Table<(Session, Instant)>,
}

impl Control {
    pub fn new(server: Server, registry: &mio::Registry) -> std::io::Result<Self> {
        registry.register(&mut SourceFd(&server.as_raw_fd()), Source::ControlDoor.token(), Interest::READABLE)?;
        Ok(Control { server, sessions: Table::default() })
    }

    /// The socket, and how it is known in the file system.
    pub fn identity(&self) -> (RawFd, u64, u64) {
        let (device, inode) = self.server.identity();
        (self.server.as_raw_fd(), device, inode)
    }
}

impl Reactor {
    pub(super) fn accept_control(&mut self, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(control) = &self.control else { return };
            match control.server.accept() {
                Accepted::Session(session) => self.admit_control(session, now),
                Accepted::Stranger(uid) => log::control_refused(uid),
                Accepted::Nobody => return,
                Accepted::Shortage => return self.timers.set(now + SHORTAGE_PAUSE, Due::ControlDoor),
            }
        }
        // More may wait, and raised their event already.
        self.timers.set(now + Duration::from_millis(1), Due::ControlDoor);
    }

    fn admit_control(&mut self, mut session: Session, now: Instant) {
        let Some(control) = &mut self.control else { return };
        if control.sessions.len() >= SESSIONS_MOST {
            session.refuse("too many ask at the same time");
            return;
        }
        let until = now + PATIENCE;
        let key = control.sessions.next_key();
        let token = Source::Control(key).token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Registered first: what has come already raises its edge then.
        if self.poll.registry().register(&mut SourceFd(&session.as_raw_fd()), token, interest).is_ok() {
            control.sessions.insert((session, until));
            self.timers.set(until, Due::Control(key));
        }
    }

    pub(super) fn step_control(&mut self, key: Key, now: Instant) {
        let Some((session, _)) = self.control.as_mut().and_then(|control| control.sessions.get_mut(key)) else {
            return;
        };
        let step = match session.step() {
            Step::Asked(request) => self.carry_out(key, request, now),
            step => step,
        };
        if step == Step::Ended {
            self.end_control(key);
        }
    }

    fn carry_out(&mut self, key: Key, request: Request, now: Instant) -> Step {
        let answer = match request {
            Request::Status(form) => Ok(Some(self.snapshot(now).write(form))),
            Request::Drain(limit) => {
                self.start_drain(limit, now);
                Ok(Some(String::new()))
            }
            Request::Upgrade => self.start_upgrade(key, now).map(|()| None),
        };
        let Some(control) = &mut self.control else { return Step::Ended };
        let Some((session, until)) = control.sessions.get_mut(key) else { return Step::Ended };
        match answer {
            Ok(Some(body)) => session.answer(body.as_bytes()),
            Err(why) => session.refuse(&why),
            Ok(None) => {
                // The trial ends before that, and with it the wait.
                let later = now + TRIAL_PATIENCE + PATIENCE;
                self.timers.cancel(std::mem::replace(until, later), Due::Control(key));
                self.timers.set(later, Due::Control(key));
                session.hold()
            }
        }
    }

    /// Answers a held request: why it cannot be.
    pub(super) fn refuse_control(&mut self, key: Key, why: &str) {
        let Some((session, _)) = self.control.as_mut().and_then(|control| control.sessions.get_mut(key)) else {
            return;
        };
        if session.refuse(why) == Step::Ended {
            self.end_control(key);
        }
    }

    /// The descriptor of a held request, to be answered by the program that takes over.
    pub(super) fn control_descriptor(&self, key: Key) -> Option<RawFd> {
        self.control.as_ref()?.sessions.get(key).map(|(session, _)| session.as_raw_fd())
    }

    /// Tells the one who asked for the upgrade that it is done. So little fits at once.
    pub(super) fn answer_control(&self, stream: OwnedFd) {
        Session::take_on(stream).answer(b"");
    }

    pub(super) fn end_control(&mut self, key: Key) {
        let Some((_, until)) = self.control.as_mut().and_then(|control| control.sessions.remove(key)) else { return };
        self.timers.cancel(until, Due::Control(key));
    }
}

//! The dispatcher with real processes whose lookups are scripted.

use std::thread;

use mio::{Events, Poll};
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

/// What the helpers of these tests find: the last octet says how they behave.
fn scripted(ip: IpAddr) -> HostName {
    let IpAddr::V4(v4) = ip else { return HostName::Mismatch };
    match v4.octets()[3] {
        HANG => loop {
            nix::unistd::pause();
        },
        DIE => {
            // Killed, as by a fault in a module of the switch.
            let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
            HostName::Absent
        }
        last @ 1..=99 => HostName::Known(format!("host{last}.example").into()),
        200 => HostName::SoftError,
        _ => HostName::Absent,
    }
}
const HANG: u8 = 250;
const DIE: u8 = 251;

fn known(last: u8) -> HostName {
    scripted(ip(last))
}

/// The loop around an [`NssResolver`]: its events, its dead, its deadlines. `skip` is how far
/// the resolver's clock runs ahead, so that no test waits for a time-out.
struct Reactor {
    nss: NssResolver,
    poll: Poll,
    skip: Duration,
}

impl Reactor {
    fn new(helpers: usize, lookup: Lookup) -> Self {
        let mut nss = NssResolver::with_lookup(lookup, helpers, false, None, TIMEOUT, 10, Instant::now()).unwrap();
        let poll = Poll::new().unwrap();
        nss.attach(poll.registry().try_clone().unwrap(), Token).unwrap();
        Reactor { nss, poll, skip: Duration::ZERO }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.skip
    }

    fn ask(&mut self, last: u8, waiter: u64) -> Option<HostName> {
        let now = self.now();
        self.nss.ask(ip(last), waiter, now)
    }

    fn pids(&self) -> Vec<Pid> {
        self.nss.slots.iter().filter_map(Slot::pid).collect()
    }

    fn turn(&mut self) {
        let mut events = Events::with_capacity(16);
        self.poll.poll(&mut events, Some(Duration::from_millis(2))).unwrap();
        let now = self.now();
        for event in &events {
            self.nss.ready(event.token().0, now);
        }
        self.reap();
        if self.nss.deadline().is_some_and(|deadline| deadline <= now) {
            self.nss.expire(now);
        }
    }

    fn reap(&mut self) {
        let now = self.now();
        for pid in self.pids() {
            if waitpid(pid, Some(WaitPidFlag::WNOHANG)) != Ok(WaitStatus::StillAlive) {
                assert!(self.nss.exited(pid, now));
            }
        }
    }

    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut NssResolver) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = done(&mut self.nss) {
                return value;
            }
            assert!(Instant::now() < deadline, "{what}");
            self.turn();
        }
    }

    fn resolved(&mut self) -> Resolved {
        self.until("no result", NssResolver::next_resolved)
    }

    /// Waits until helper `index` is (not) busy.
    fn busy(&mut self, index: usize) {
        self.until("not busy", |nss| matches!(nss.slots[index].state, State::Busy { .. }).then_some(()));
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

#[test]
fn questions_are_shared_answered_and_kept() {
    let mut reactor = Reactor::new(2, scripted);
    assert_eq!(reactor.ask(1, 10), None);
    assert_eq!(reactor.ask(1, 11), None);
    assert_eq!(reactor.resolved(), Resolved { ip: ip(1), name: known(1), waiters: vec![10, 11] });
    assert_eq!(reactor.nss.number, 1, "asked once");
    assert_eq!(reactor.ask(1, 12), Some(known(1)));

    reactor.skip += Duration::from_secs(u64::from(KEEP_ANSWER));
    assert_eq!(reactor.ask(1, 13), None);
    assert_eq!(reactor.resolved().waiters, [13]);
    reactor.nss.forget_answers();
    assert_eq!(reactor.ask(1, 14), None);
}

#[test]
fn all_four_outcomes_come_through_and_failures_are_kept_for_less() {
    let mut reactor = Reactor::new(1, scripted);
    for (last, name) in [(7, known(7)), (100, HostName::Absent), (200, HostName::SoftError)] {
        assert_eq!(reactor.ask(last, 1), None);
        assert_eq!(reactor.resolved().name, name);
    }
    let now = reactor.now();
    assert_eq!(reactor.nss.ask("2001:db8::1".parse().unwrap(), 1, now), None);
    assert_eq!(reactor.resolved().name, HostName::Mismatch);

    assert_eq!(reactor.ask(200, 1), Some(HostName::SoftError));
    reactor.skip += Duration::from_secs(u64::from(KEEP_FAILURE));
    assert_eq!(reactor.ask(200, 1), None);
    assert_eq!(reactor.ask(100, 1), Some(HostName::Absent));
}

#[test]
fn more_questions_than_helpers_wait_in_their_order() {
    let mut reactor = Reactor::new(1, scripted);
    for last in 1..=50 {
        assert_eq!(reactor.ask(last, u64::from(last)), None);
    }
    for last in 1..=50 {
        assert_eq!(reactor.resolved(), Resolved { ip: ip(last), name: known(last), waiters: vec![last.into()] });
    }
    assert!(reactor.nss.waiting.is_empty() && reactor.nss.queue.is_empty());
    assert_eq!(reactor.nss.deadline(), None);
}

#[test]
fn what_nobody_waits_for_is_not_asked_or_not_told() {
    let mut reactor = Reactor::new(1, scripted);
    reactor.ask(HANG, 1);
    reactor.busy(0);
    reactor.ask(2, 2);
    reactor.ask(3, 3);
    reactor.ask(3, 4);
    reactor.nss.forget(ip(2), 2);
    reactor.nss.forget(ip(3), 3);
    reactor.nss.forget(ip(HANG), 1);
    reactor.nss.forget(ip(99), 9);
    assert_eq!(reactor.nss.queue, [ip(3)]);
    reactor.skip += TIMEOUT;
    assert_eq!(reactor.resolved(), Resolved { ip: ip(3), name: known(3), waiters: vec![4] });
    assert_eq!(reactor.nss.next_resolved(), None);
    // Its failure is known all the same.
    assert_eq!(reactor.ask(HANG, 5), Some(HostName::SoftError));
}

#[test]
fn a_helper_that_hangs_is_killed_and_replaced_after_the_time_out() {
    let mut reactor = Reactor::new(1, scripted);
    let first = reactor.pids()[0];
    let asked = reactor.now();
    assert_eq!(reactor.ask(HANG, 1), None);
    assert_eq!(reactor.ask(5, 2), None);
    let deadline = reactor.nss.deadline().unwrap();
    assert!(deadline >= asked + TIMEOUT && deadline <= reactor.now() + TIMEOUT);
    reactor.nss.expire(deadline - Duration::from_millis(1));
    assert_eq!(reactor.pids(), [first], "not before its time");
    reactor.skip += TIMEOUT;
    assert_eq!(reactor.resolved(), Resolved { ip: ip(HANG), name: HostName::SoftError, waiters: vec![1] });
    assert_eq!(reactor.resolved(), Resolved { ip: ip(5), name: known(5), waiters: vec![2] });
    assert_ne!(reactor.pids(), [first]);
}

#[test]
fn a_helper_that_dies_fails_its_lookup_and_is_replaced_after_a_pause() {
    let mut reactor = Reactor::new(1, scripted);
    let first = reactor.pids()[0];
    assert_eq!(reactor.ask(DIE, 1), None);
    assert_eq!(reactor.ask(6, 2), None);
    assert_eq!(reactor.resolved(), Resolved { ip: ip(DIE), name: HostName::SoftError, waiters: vec![1] });
    let deadline = reactor.until("not reaped", |nss| nss.deadline());
    assert_eq!(deadline, reactor.nss.slots[0].started + SHORTEST_PAUSE);
    assert_eq!(reactor.pids(), [], "no replacement before the pause is over");
    reactor.skip += SHORTEST_PAUSE;
    assert_eq!(reactor.resolved(), Resolved { ip: ip(6), name: known(6), waiters: vec![2] });
    assert_ne!(reactor.pids(), [first]);
    assert_eq!(reactor.nss.slots[0].failures, 0);
}

#[test]
fn an_idle_helper_that_is_killed_is_replaced() {
    let mut reactor = Reactor::new(2, scripted);
    let before = reactor.pids();
    kill(before[0], Signal::SIGKILL).unwrap();
    reactor.skip += SHORTEST_PAUSE;
    reactor.until("no replacement", |nss| {
        (nss.slots[0].helper().is_some() && nss.slots[0].pid() != Some(before[0])).then_some(())
    });
    assert_eq!(reactor.pids()[1], before[1]);
    // The replacement is in the poll set: both work at the same time.
    reactor.ask(HANG, 1);
    reactor.ask(8, 2);
    assert_eq!(reactor.resolved().name, known(8));
    assert!(!reactor.nss.exited(Pid::this(), Instant::now()));
}

/// The answer was sent before the end, and is read although the end is seen first.
#[test]
fn an_answer_given_before_the_end_counts() {
    let mut reactor = Reactor::new(1, scripted);
    let pid = reactor.pids()[0];
    assert_eq!(reactor.ask(9, 1), None);
    reactor.poll.poll(&mut Events::with_capacity(1), Some(PATIENCE)).unwrap();
    kill(pid, Signal::SIGKILL).unwrap();
    waitpid(pid, None).unwrap();
    assert!(reactor.nss.exited(pid, Instant::now()));
    assert_eq!(reactor.nss.next_resolved(), Some(Resolved { ip: ip(9), name: known(9), waiters: vec![1] }));
}

#[test]
fn helpers_that_always_die_make_no_loop_of_forks_and_nobody_waits_for_them() {
    let mut reactor = Reactor::new(1, |_| scripted(ip(DIE)));
    let mut starts = vec![reactor.nss.slots[0].started];
    for round in 1..=HOPELESS {
        assert_eq!(reactor.ask(round as u8, 1), None, "{round}");
        assert_eq!(reactor.resolved().name, HostName::SoftError);
        if round < HOPELESS {
            let due = reactor.until("not reaped", |nss| nss.deadline());
            starts.push(due);
            reactor.skip = due - Instant::now();
            reactor.until("not started", |nss| nss.slots[0].helper().map(|_| ()));
        }
    }
    let pauses: Vec<u64> = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses, [1, 2]);
    assert_eq!(reactor.ask(77, 1), Some(HostName::SoftError), "at once");
    assert_eq!(pause(4), Duration::from_secs(8));
    assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
}

#[test]
fn those_who_queue_are_let_go_when_the_last_helper_fails() {
    let mut reactor = Reactor::new(1, scripted);
    reactor.nss.slots[0].failures = HOPELESS - 1;
    reactor.ask(DIE, 1);
    reactor.ask(1, 2);
    reactor.ask(2, 3);
    let mut waiters: Vec<u64> = Vec::new();
    for _ in 0..3 {
        let resolved = reactor.resolved();
        assert_eq!(resolved.name, HostName::SoftError);
        waiters.extend(resolved.waiters);
    }
    assert_eq!(waiters, [1, 2, 3]);
}

/// Whatever a library writes to its standard error is no answer; a flood of it ends the helper.
#[test]
fn packets_that_are_no_answer_are_passed_over_up_to_a_point() {
    fn noisy(ip: IpAddr) -> HostName {
        let IpAddr::V4(v4) = ip else { return HostName::Mismatch };
        for _ in 0..v4.octets()[3] {
            let _ = nix::unistd::write(std::io::stderr(), b"library: look at me\n");
        }
        let _ = prctl::set_name(c"made-its-noise");
        HostName::Absent
    }
    for (packets, expected) in [(3, HostName::Absent), (MAX_PACKETS as u8, HostName::SoftError)] {
        let mut reactor = Reactor::new(1, noisy);
        let comm = format!("/proc/{}/comm", reactor.pids()[0]);
        reactor.ask(packets, 1);
        let deadline = Instant::now() + PATIENCE;
        while std::fs::read_to_string(&comm).unwrap() != "made-its-noise\n" {
            assert!(Instant::now() < deadline, "not asked");
            thread::yield_now();
        }
        assert_eq!(reactor.resolved().name, expected, "{packets}");
    }
}

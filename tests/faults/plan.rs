//! Which calls are made to fail, with which error, and in which order.
//!
//! The work of each scenario is traced twice without a fault. Every kind of call in it fails once before
//! any fails in a second way, so that a machine that is too slow for all has tried something of each.

use std::collections::BTreeMap;
use std::thread;

use crate::errors::errors;
use crate::random::Random;
use crate::said::Lines;
use crate::scenarios::Scenario;
use crate::trace::{Call, Trace};
use crate::world::Outcome;

/// Calls of one kind that are made to fail, of each scenario: the first ones.
const OCCURRENCES: usize = 3;

/// How often it is tried to have a kind of call fail for the first time: the work is not the same to the last
/// call each time.
const ATTEMPTS: usize = 8;

/// Calls that mean something else in each scenario, though they look the same.
const DIFFERS: [&str; 6] = ["clone", "mmap", "openat", "epoll_ctl", "epoll_wait", "write"];

/// What is made to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its place among the scenarios.
    pub scenario: usize,
    pub name: String,
    pub subject: String,
    pub nth: usize,
    pub error: &'static str,
}

/// A kind of call of a scenario, and the ways to have it fail, in the order in which to try for the first.
#[derive(Debug, Clone)]
pub struct Kind {
    pub scenario: usize,
    pub name: String,
    pub subject: String,
    /// It is made each time, so it must have failed.
    pub is_sure: bool,
    pub cases: Vec<Case>,
}

/// A scenario without a fault.
pub struct Learnt {
    /// The calls that the work takes, by name and subject, with their places.
    pub calls: BTreeMap<(String, String), Vec<usize>>,
    /// Those that were not made when it was done again.
    unsure: Vec<(String, String)>,
    /// What is said.
    pub usual: Lines,
}

/// Err: why not.
pub fn learn(scenarios: &'static [Scenario]) -> Vec<Result<Learnt, &'static str>> {
    thread::scope(|scope| {
        let learning: Vec<_> = scenarios.iter().map(|scenario| scope.spawn(|| learn_one(scenario))).collect();
        learning.into_iter().map(|thread| thread.join().expect("work without faults goes well")).collect()
    })
}

fn learn_one(scenario: &Scenario) -> Result<Learnt, &'static str> {
    let once = || {
        let done = scenario.in_place(|| trace(scenario));
        done.ok_or("no namespaces are permitted here")?.ok_or("strace is missing, or may not trace here")
    };
    let ((calls, said), (others, also_said)) = (once()?, once()?);
    let unsure = calls.keys().filter(|kind| !others.contains_key(*kind)).cloned().collect();
    Ok(Learnt { calls, unsure, usual: said.or(also_said) })
}

type Calls = BTreeMap<(String, String), Vec<usize>>;

fn trace(scenario: &Scenario) -> Option<(Calls, Lines)> {
    for attempt in 1.. {
        let world = (scenario.prepare)();
        let daemon = scenario.daemon(&world);
        let trace = Trace::attach(daemon.pid(), None)?;
        let outcomes = (scenario.work)(&world, &daemon);
        let traced = trace.detach();
        let said = scenario.said(&world, &daemon);
        if outcomes.iter().any(|(_, outcome)| *outcome != Outcome::Right) {
            // The machine may have been busy for a moment.
            assert!(attempt < ATTEMPTS, "{} without a fault: {outcomes:?}\n{said}", scenario.name);
            continue;
        }
        let mut calls = Calls::new();
        for Call { name, subject, nth, .. } in traced {
            calls.entry((name, subject)).or_default().push(nth);
        }
        return Some((calls, Lines::of(&said)));
    }
    None
}

/// What is to be tried first of each kind, and what else there is to try, with the places that come first ahead.
pub fn plan(
    scenarios: &'static [Scenario],
    learnt: &[Result<Learnt, &'static str>],
    brief: bool,
    random: &mut Random,
) -> (Vec<Kind>, Vec<Case>) {
    let (mut kinds, mut rest) = (Vec::new(), Vec::new());
    let mut seen = Vec::new();
    for (index, (scenario, learnt)) in scenarios.iter().zip(learnt).enumerate() {
        let Ok(learnt) = learnt else { continue };
        for (kind, places) in &learnt.calls {
            let (name, subject) = kind;
            let mut errors = errors(name, subject).to_vec();
            if errors.is_empty() {
                continue;
            }
            let case = |nth: usize, error| {
                let (name, subject) = (name.clone(), subject.clone());
                Case { scenario: index, name, subject, nth, error }
            };
            if !brief {
                random.shuffle(&mut errors);
            }
            let first = (0..ATTEMPTS).map(|n| case(places[n % places.len()], errors[n % errors.len()])).collect();
            let (name, subject) = kind.clone();
            let is_sure = !learnt.unsure.contains(kind);
            kinds.push(Kind { scenario: index, name, subject, is_sure, cases: first });
            // What an earlier scenario does in the same way is not tried in every way again.
            let is_own = DIFFERS.contains(&kind.0.as_str())
                || scenario.own_calls.iter().any(|(name, subject)| (*name, *subject) == (&*kind.0, &*kind.1));
            if brief || seen.contains(kind) && !is_own {
                continue;
            }
            seen.push(kind.clone());
            for (rank, &nth) in places.iter().take(OCCURRENCES).enumerate() {
                rest.extend(errors.iter().map(|error| (rank, case(nth, error))));
            }
        }
    }
    random.shuffle(&mut kinds);
    random.shuffle(&mut rest);
    rest.sort_by_key(|(rank, _)| *rank);
    (kinds, rest.into_iter().map(|(_, case)| case).collect())
}

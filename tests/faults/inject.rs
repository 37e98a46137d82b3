//! Every system call that the loop makes fails once, with each error that it can have.
//!
//! A scenario is some work that takes the daemon through its calls. It is traced without a fault to learn
//! them; then, for each call and error, a fresh daemon does the same work with that one call failing.
//! Meanwhile every client must get what the rules say, or less with a line in the log, said once;
//! afterwards all must be as if nothing had been.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Client, DEADLINE, Daemon, procfs, wait_until};
use crate::errors::{errors, listed_stay_out, why_quiet};
use crate::plan::{self, Case, Kind, Learnt};
use crate::random::{Random, seed};
use crate::said::Lines;
use crate::scenarios::Scenario;
use crate::trace::Trace;
use crate::world::{Outcome, World};

/// How long it may take after a fault until all is well again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A client may also come late because the machine is busy. So what ends in this has to be so twice.
const UNSAID: &str = "and nothing is said";

/// Lines for one fault.
const MOST_LINES: usize = 4;

/// Cases tried at the same time; most of each is waiting.
const WORKERS: usize = 6;

/// The least that a client got.
struct Least {
    outcome: Outcome,
    /// If nothing was said of it: why that is right.
    why_quiet: Option<&'static str>,
    /// One who is on a list was served.
    let_in: bool,
}

/// What came of one case.
enum Verdict {
    Passed(Least),
    /// The call was not made this time, or was another one.
    NotReached,
    Failed(String),
}

/// Injects; `brief`: one error of each kind of call. Prints what was counted.
pub fn run(scenarios: &'static [Scenario], brief: bool, budget: Duration) {
    let end = Instant::now() + budget;
    let seed = seed();
    let mut random = Random::new(seed);
    let learnt = plan::learn(scenarios);
    for (scenario, learnt) in scenarios.iter().zip(&learnt) {
        if let Err(why) = learnt {
            println!("faults: injection: {} not tried: {why}", scenario.name);
        }
    }
    let (kinds, rest) = plan::plan(scenarios, &learnt, brief, &mut random);
    if kinds.is_empty() {
        return;
    }
    print_kinds(&learnt, seed);
    let injection = Injection { scenarios, learnt: &learnt, end, counts: Mutex::default() };
    each(&kinds, |kind| injection.strike(kind));
    let tried: Vec<Case> = std::mem::take(&mut injection.counts.lock().unwrap().tried);
    let rest: Vec<Case> = rest.into_iter().filter(|case| !tried.contains(case)).collect();
    each(&rest, |case| {
        if injection.is_over() {
            *injection.counts.lock().unwrap().left_out.entry(case.scenario).or_default() += 1;
        } else {
            injection.try_case(case);
        }
    });
    let counts = injection.counts.into_inner().unwrap();
    counts.print(scenarios, tried.len() + rest.len(), seed);
    assert!(counts.failures.is_empty(), "{} failed:\n{}", counts.failures.len(), counts.failures.join("\n"));
    let Counts { missed, passed, not_reached, .. } = counts;
    assert!(missed.is_empty(), "not made to fail even once: {}", missed.join(", "));
    assert!(passed > not_reached, "the work is not the same each time");
}

fn print_kinds(learnt: &[Result<Learnt, &'static str>], seed: u64) {
    let mut kinds = BTreeMap::new();
    for (kind, places) in learnt.iter().flatten().flat_map(|learnt| &learnt.calls) {
        *kinds.entry(kind).or_insert(0) += places.len();
    }
    println!("faults: injection: {} kinds of calls, seed {seed}:", kinds.len());
    for ((name, subject), count) in &kinds {
        println!("    {count:4} {name} {subject}: {}", errors(name, subject).join(" "));
    }
}

/// Calls `body` with each, some at the same time.
fn each<T: Sync>(items: &[T], body: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    body(item);
                }
            });
        }
    });
}

struct Injection<'a> {
    scenarios: &'static [Scenario],
    learnt: &'a [Result<Learnt, &'static str>],
    end: Instant,
    counts: Mutex<Counts>,
}

impl Injection<'_> {
    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    /// Has a kind of call fail for the first time.
    fn strike(&self, kind: &Kind) {
        let is_struck = kind.cases.iter().any(|case| !self.is_over() && self.try_case(case));
        if !is_struck && kind.is_sure {
            let name = self.scenarios[kind.scenario].name;
            self.counts.lock().unwrap().missed.push(format!("{name}: {} {}", kind.name, kind.subject));
        }
    }

    /// True if the call has failed.
    fn try_case(&self, case: &Case) -> bool {
        let scenario = &self.scenarios[case.scenario];
        let Ok(Learnt { usual, .. }) = &self.learnt[case.scenario] else { return false };
        let once = || {
            // One that panics, for want of a port say, must not take the others with it.
            let inject = AssertUnwindSafe(|| scenario.in_place(|| inject(scenario, usual, case)));
            match catch_unwind(inject) {
                Ok(verdict) => verdict.unwrap_or_else(|| Verdict::Failed("no namespaces".into())),
                Err(panic) => Verdict::Failed(format!("a panic: {}", text_of(&*panic))),
            }
        };
        let verdict = match once() {
            Verdict::Failed(why) if why.contains(UNSAID) => once(),
            verdict => verdict,
        };
        self.counts.lock().unwrap().count(scenario, case, verdict)
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

#[derive(Default)]
struct Counts {
    tried: Vec<Case>,
    passed: usize,
    right: usize,
    less: usize,
    nothing: usize,
    /// Where less was got and nothing said, with the reason.
    quiet: BTreeMap<String, usize>,
    /// Where one who is on a list was served.
    let_in: BTreeMap<String, usize>,
    not_reached: usize,
    failures: Vec<String>,
    /// Kinds of calls that did not fail even once.
    missed: Vec<String>,
    /// Cases of each scenario for which there was no time.
    left_out: BTreeMap<usize, usize>,
}

impl Counts {
    /// True if the call has failed.
    fn count(&mut self, scenario: &Scenario, case: &Case, verdict: Verdict) -> bool {
        self.tried.push(case.clone());
        let Case { name, subject, nth, error, .. } = case;
        match verdict {
            Verdict::Passed(Least { outcome, why_quiet, let_in }) => {
                if let Some(why) = why_quiet {
                    let what = format!("{}: {name} {subject} {error}: {outcome:?}: {why}", scenario.name);
                    *self.quiet.entry(what).or_default() += 1;
                }
                if let_in {
                    let what = format!("{}: {name} {subject} {error}", scenario.name);
                    *self.let_in.entry(what).or_default() += 1;
                }
                self.passed += 1;
                match outcome {
                    Outcome::Right => self.right += 1,
                    Outcome::Nothing => self.nothing += 1,
                    _ => self.less += 1,
                }
                true
            }
            Verdict::NotReached => {
                self.not_reached += 1;
                false
            }
            Verdict::Failed(why) => {
                let line = format!("{}: {name} {subject} no. {nth}: {error}: {why}", scenario.name);
                println!("FAILED {line}");
                self.failures.push(line);
                true
            }
        }
    }

    fn print(&self, scenarios: &[Scenario], cases: usize, seed: u64) {
        let Counts { passed, right, less, nothing, quiet, let_in, not_reached, left_out, .. } = self;
        for (what, count) in quiet {
            println!("    less, and not said: {count} {what}");
        }
        for (what, count) in let_in {
            println!("    on a list, and let in, as it is documented: {count} {what}");
        }
        println!(
            "faults: injection: {passed} of {cases} cases passed: in {right} every client got all, in {less} one got less ({} not said, {} on a list), \
             in {nothing} one got nothing; in {not_reached} the call was not made again",
            quiet.values().sum::<usize>(),
            let_in.values().sum::<usize>()
        );
        if !left_out.is_empty() {
            let left_out: Vec<_> =
                left_out.iter().map(|(scenario, count)| format!("{count} of {}", scenarios[*scenario].name)).collect();
            println!(
                "faults: injection: no time was left for {}; FAULTS_SEED={seed} tries in the same order",
                left_out.join(", ")
            );
        }
    }
}

fn inject(scenario: &Scenario, usual: &Lines, case: &Case) -> Verdict {
    let world = (scenario.prepare)();
    let mut daemon = scenario.daemon(&world);
    let children = daemon.children().len();
    let before = daemon.descriptors();
    let Some(trace) = Trace::attach(daemon.pid(), Some((&case.name, case.nth, case.error))) else {
        return Verdict::Failed("cannot trace".into());
    };
    let outcomes = (scenario.work)(&world, &daemon);
    // A call of the turn after the last client's.
    wait_until(Duration::from_millis(50), || trace.has_struck());
    let calls = trace.detach();
    let said = scenario.said(&world, &daemon);
    let mut judge = || -> Result<Option<Least>, String> {
        let Some(struck) = calls.iter().find(|call| call.injected) else { return Ok(None) };
        if (&struck.name, &struck.subject) != (&case.name, &case.subject) {
            return Ok(None);
        }
        if daemon.has_ended() && !scenario.ends {
            return Err(format!("the daemon ended: {:?}", daemon.wait()));
        }
        let beyond = Lines::of(&said).beyond(usual);
        let least = least(case, &outcomes, &beyond)?;
        if let Some(line) = beyond.repeated() {
            return Err(format!("said more than once: {line}"));
        }
        if beyond.kinds() > MOST_LINES {
            return Err(format!("{} lines for one fault", beyond.kinds()));
        }
        let count = |name| calls.iter().filter(|call| call.name == name).count();
        let (waits, accepts) = (count("epoll_wait"), count("accept4"));
        if waits > 100 + 15 * accepts {
            return Err(format!("spins: {waits} turns for {accepts} calls of accept4"));
        }
        if scenario.ends {
            return ended(&mut daemon).map(|()| Some(least));
        }
        afterwards(scenario, &world, &daemon, before, children)?;
        if daemon.has_ended() {
            return Err("the daemon ended later".into());
        }
        Ok(Some(least))
    };
    match judge() {
        Ok(Some(least)) => Verdict::Passed(least),
        Ok(None) => Verdict::NotReached,
        Err(why) => {
            let struck = calls.iter().position(|call| call.injected).unwrap_or(0);
            let from = struck.saturating_sub(6);
            let around: Vec<&str> = calls[from..].iter().take(14).map(|call| call.line.as_str()).collect();
            Verdict::Failed(format!("{why}\n  it said: {said}  calls:\n    {}", around.join("\n    ")))
        }
    }
}

/// The least that one got. Err: more is missing than the fault excuses, or nothing is said of it beyond what is usual.
fn least(case: &Case, outcomes: &[(&'static str, Outcome)], beyond: &Lines) -> Result<Least, String> {
    let Case { name, subject, error, .. } = case;
    let mut least = Least { outcome: Outcome::Right, why_quiet: None, let_in: false };
    for (client, outcome) in outcomes {
        match outcome {
            Outcome::Right => continue,
            Outcome::Wrong(what) => return Err(format!("{client}: {what}")),
            Outcome::LetIn if listed_stay_out(name, subject, error) => {
                return Err(format!("{client}: on a list, and let in"));
            }
            Outcome::Told(_) => {}
            _ if !beyond.is_empty() => {}
            _ => match why_quiet(name, subject, error, outcome) {
                None => return Err(format!("{client}: {outcome:?}, {UNSAID}")),
                why => least.why_quiet = why,
            },
        }
        least.let_in |= *outcome == Outcome::LetIn;
        if least.outcome != Outcome::Nothing {
            least.outcome = outcome.clone();
        }
    }
    Ok(least)
}

/// A daemon that was told to end when it has nothing left to do does so.
fn ended(daemon: &mut Daemon) -> Result<(), String> {
    if !wait_until(DEADLINE, || daemon.has_ended()) {
        return Err("the daemon does not end".into());
    }
    let status = daemon.wait();
    if status.success() { Ok(()) } else { Err(format!("the daemon ended with {status}")) }
}

/// All is as before: every client is served, every slot is free, nothing is left open.
fn afterwards(
    scenario: &Scenario,
    world: &World,
    daemon: &Daemon,
    descriptors: usize,
    children: usize,
) -> Result<(), String> {
    let mut outcomes = Vec::new();
    let is_right = |outcome: &Outcome| *outcome == Outcome::Right;
    // Some faults are followed by a pause, of a second at most.
    wait_until(LONGEST_PAUSE, || {
        outcomes = (scenario.check)(world, daemon);
        outcomes.iter().all(|(_, outcome)| is_right(outcome))
    });
    if let Some((client, outcome)) = outcomes.iter().find(|(_, outcome)| !is_right(outcome)) {
        return Err(format!("afterwards {client}: {outcome:?}; it says: {}", daemon.stderr()));
    }
    let most = scenario.slots;
    let mut clients: Vec<Client> = (0..most).map(|_| daemon.connect_from(world.plain.into())).collect();
    if let Some(without) = clients.iter_mut().position(|client| !client.read_until("\nend\n")) {
        return Err(format!("a slot is lost: client {without} of {most} is not served"));
    }
    drop(clients);
    if !wait_until(DEADLINE, || daemon.children().len() == children) {
        return Err(format!("{} children instead of {children}", daemon.children().len()));
    }
    if !wait_until(DEADLINE, || daemon.descriptors() == descriptors) {
        return Err(format!("{} descriptors instead of {descriptors}", daemon.descriptors()));
    }
    match procfs::threads(daemon.pid()) {
        1 => Ok(()),
        n => Err(format!("{n} threads")),
    }
}

//! Every system call that the loop makes fails once, with each error that it can have.
//!
//! A scenario is some work that takes the daemon through its calls. It is traced once to learn them;
//! then, for each call and error, a fresh daemon does the same work with that one call failing.
//! Meanwhile every client must get what the rules say, or less with a line in the log; afterwards
//! all must be as if nothing had been.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Client, DEADLINE, Daemon, Scratch, namespace, procfs, wait_until};
use crate::random::{Random, seed};
use crate::scenarios::Scenario;
use crate::trace::{Call, Trace};
use crate::world::{Outcome, World};

/// Calls of one kind that are made to fail, of each scenario: the first ones.
const OCCURRENCES: usize = 3;

/// How long it may take after a fault until all is well again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Calls that mean something else in each scenario, though they look the same.
const DIFFERS: [&str; 6] = ["clone", "mmap", "openat", "epoll_ctl", "epoll_wait", "write"];

/// Cases tried at the same time; most of each is waiting.
const WORKERS: usize = 6;

/// What is made to fail.
#[derive(Debug, Clone)]
struct Case {
    scenario: &'static Scenario,
    name: String,
    subject: String,
    nth: usize,
    error: &'static str,
}

/// What came of one case.
enum Verdict {
    /// With the least that a client got, and whether anything was said.
    Passed(Outcome, bool),
    /// The call was not made this time, or was another one.
    NotReached,
    Failed(String),
}

/// The errors that a call can have, by name and subject. Those that the kernel does not give for what
/// the daemon asks (a descriptor that is not open, a second registration) are none of its concern, nor
/// is "try again" where there is something: then an edge would be lost that is not lost in truth.
/// A call that is not here, of a newer C library say, can fail in ways common to all.
fn errors(name: &str, subject: &str) -> &'static [&'static str] {
    match (name, subject) {
        ("accept4", _) => &[
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "ECONNABORTED",
            "EPROTO",
            "EPERM",
            "EINTR",
            "ENETDOWN",
            "EHOSTUNREACH",
            "ETIMEDOUT",
        ],
        ("epoll_wait", _) => &["EINTR"],
        ("epoll_ctl", "EPOLL_CTL_ADD") => &["ENOMEM", "ENOSPC"],
        ("socket", _) => &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES", "EAFNOSUPPORT"],
        ("bind", _) => &["EADDRINUSE", "EADDRNOTAVAIL", "ENOMEM"],
        ("connect", _) => &[
            "ECONNREFUSED",
            "ENETUNREACH",
            "EHOSTUNREACH",
            "ETIMEDOUT",
            "EADDRNOTAVAIL",
            "EADDRINUSE",
            "EAGAIN",
            "EPERM",
            "EINTR",
            "ENOBUFS",
        ],
        ("setsockopt", _) => &["ENOPROTOOPT", "ENOMEM"],
        ("getsockname" | "getpeername", _) => &["ENOBUFS"],
        ("sendto" | "sendmsg", "UDP") => &["ENOBUFS", "ENOMEM", "EPERM", "ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH"],
        ("sendto" | "sendmsg", _) => &["ENOBUFS", "ENOMEM", "EPIPE", "ECONNRESET", "EINTR", "EAGAIN"],
        ("recvfrom" | "recvmsg", "UDP") => &["ECONNREFUSED", "ENOMEM", "EINTR", "EHOSTUNREACH"],
        ("recvfrom" | "recvmsg", _) => &["ECONNRESET", "ETIMEDOUT", "ENOMEM", "EINTR", "EHOSTUNREACH"],
        ("read" | "pread64", "TCP") => &["ECONNRESET", "ETIMEDOUT", "ENOMEM", "EINTR", "EHOSTUNREACH"],
        ("read", "signalfd") => &["EINTR"],
        ("read" | "pread64" | "lseek", _) => &["EIO", "EINTR", "ENOMEM"],
        ("write", "TCP") => &["EPIPE", "ECONNRESET", "ETIMEDOUT", "ENOBUFS", "EINTR"],
        ("write", "pipe") => &["EAGAIN", "EPIPE", "EINTR"],
        ("write", _) => &["ENOSPC", "EIO", "EDQUOT", "EFBIG", "EINTR", "EAGAIN"],
        ("clone" | "clone3" | "fork", _) => &["EAGAIN", "ENOMEM"],
        ("wait4" | "waitid", _) => &["EINTR"],
        ("fcntl", "F_DUPFD_CLOEXEC" | "F_DUPFD") => &["EMFILE"],
        ("openat", _) => &["EMFILE", "ENFILE", "ENOENT", "EACCES", "EIO", "EINTR", "ENOMEM", "ENOSPC"],
        ("fstat" | "newfstatat" | "statx", _) => &["EIO", "ENOMEM", "EACCES"],
        ("flock", _) => &["EAGAIN", "ENOLCK", "EINTR"],
        ("socketpair" | "pipe2" | "pipe", _) => &["EMFILE", "ENFILE", "ENOMEM"],
        ("mmap" | "mremap", _) => &["ENOMEM"],
        ("shutdown", _) => &["ENOTCONN"],
        ("getrandom", _) => &["EINTR", "ENOSYS"],
        ("kill", _) => &["ESRCH"],
        // Cannot fail for what is asked; a failed close would be a leak of strace's making, and brk tells
        // of a failure in a way that strace cannot.
        ("brk", _) => &[],
        ("close" | "munmap" | "madvise" | "mprotect" | "fcntl" | "epoll_ctl" | "getpid" | "getuid" | "geteuid", _) => {
            &[]
        }
        ("rt_sigprocmask" | "rt_sigaction" | "restart_syscall" | "gettid" | "clock_gettime" | "getegid", _) => &[],
        _ => &["ENOMEM", "EIO"],
    }
}

/// Injects; `brief`: one error of each call, of the scenario that serves. Prints what was counted.
pub fn run(scenarios: &'static [Scenario], brief: bool, budget: Duration) {
    let seed = seed();
    let mut random = Random::new(seed);
    let mut cases = Vec::new();
    let mut calls = BTreeMap::new();
    for scenario in scenarios {
        let Some(learnt) = in_place(scenario, || learn(scenario)).flatten() else {
            eprintln!("faults: {}: not run, tracing is not permitted here", scenario.name);
            return;
        };
        for ((name, subject), places) in learnt {
            let errors = errors(&name, &subject);
            let count = calls.entry((name.clone(), subject.clone())).or_insert(0);
            let is_new = *count == 0;
            *count += places.len();
            // What an earlier scenario does in the same way is not tried again.
            if !is_new && !DIFFERS.contains(&name.as_str()) {
                continue;
            }
            for &nth in places.iter().take(if brief { 1 } else { OCCURRENCES }) {
                for &error in errors.iter().take(if brief { 1 } else { usize::MAX }) {
                    cases.push(Case { scenario, name: name.clone(), subject: subject.clone(), nth, error });
                }
            }
        }
    }
    println!("faults: injection: {} kinds of calls, seed {seed}:", calls.len());
    for ((name, subject), count) in &calls {
        println!("    {count:4} {name} {subject}: {}", errors(name, subject).join(" "));
    }
    random.shuffle(&mut cases);
    let end = Instant::now() + budget;
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(Counts::default());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if Instant::now() > end {
                        break;
                    }
                    let verdict = in_place(case.scenario, || inject(case));
                    let verdict = verdict.unwrap_or_else(|| Verdict::Failed("no namespaces".into()));
                    counts.lock().unwrap().count(case, verdict);
                }
            });
        }
    });
    let Counts { passed, right, less, nothing, unsaid, unsaid_by, not_reached, failures } =
        counts.into_inner().unwrap();
    if passed + not_reached + failures.len() < cases.len() {
        println!("faults: injection: the time is over; FAULTS_SEED={seed} tries the same ones");
    }
    for (what, count) in &unsaid_by {
        println!("    less, and not said: {count} {what}");
    }
    println!(
        "faults: injection: {passed} of {} cases passed: in {right} every client got all, in {less} one got less ({unsaid} not said), \
         in {nothing} one got nothing; in {not_reached} the call was not made again",
        cases.len()
    );
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(passed > not_reached, "the work is not the same each time");
}

#[derive(Default)]
struct Counts {
    passed: usize,
    right: usize,
    less: usize,
    nothing: usize,
    unsaid: usize,
    unsaid_by: BTreeMap<String, usize>,
    not_reached: usize,
    failures: Vec<String>,
}

impl Counts {
    fn count(&mut self, case: &Case, verdict: Verdict) {
        let outcome = match verdict {
            Verdict::Passed(outcome, said) => {
                if let (Outcome::Less(what), false) = (&outcome, said) {
                    self.unsaid += 1;
                    *self
                        .unsaid_by
                        .entry(format!("{} {} {}: {what}", case.name, case.subject, case.error))
                        .or_default() += 1;
                }
                outcome
            }
            Verdict::NotReached => {
                self.not_reached += 1;
                return;
            }
            Verdict::Failed(why) => {
                let Case { scenario, name, subject, nth, error } = case;
                let line = format!("{}: {name} {subject} no. {nth}: {error}: {why}", scenario.name);
                println!("FAILED {line}");
                self.failures.push(line);
                return;
            }
        };
        self.passed += 1;
        match outcome {
            Outcome::Right => self.right += 1,
            Outcome::Less(_) => self.less += 1,
            _ => self.nothing += 1,
        }
    }
}

/// True if it is a shortage here, which an administrator has to hear of; and not the other side's, or
/// one in the middle of a conversation with it.
fn is_ours(case: &Case) -> bool {
    let conversation = matches!(case.name.as_str(), "sendto" | "sendmsg" | "recvfrom" | "recvmsg" | "write" | "read");
    let at_hand = ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ENOSPC", "EIO"].contains(&case.error);
    at_hand && !(conversation && ["TCP", "UNIX"].contains(&case.subject.as_str()))
}

type Learnt = BTreeMap<(String, String), Vec<usize>>;

/// Runs `body` where the scenario wants to be. None: no namespaces are permitted here.
fn in_place<T: Send>(scenario: &Scenario, body: impl FnOnce() -> T + Send) -> Option<T> {
    if !scenario.own_files {
        return Some(body());
    }
    namespace::run(|| {
        let scratch = Scratch::new();
        namespace::replace_file("/etc/hosts", &scratch.file("hosts", "127.0.0.1 localhost\n"));
        namespace::replace_file("/etc/nsswitch.conf", &scratch.file("nsswitch.conf", "hosts: files\n"));
        body()
    })
}

/// The calls that the work takes, by name and subject, with their places.
fn learn(scenario: &'static Scenario) -> Option<Learnt> {
    let world = (scenario.prepare)();
    let daemon = start(scenario, &world);
    let trace = Trace::attach(daemon.pid(), None)?;
    let outcomes = (scenario.work)(&world, &daemon);
    let calls = trace.detach();
    assert!(outcomes.iter().all(|(_, o)| *o == Outcome::Right), "without faults: {outcomes:?}\n{}", daemon.stderr());
    let mut learnt = Learnt::new();
    for Call { name, subject, nth, .. } in calls {
        learnt.entry((name, subject)).or_default().push(nth);
    }
    Some(learnt)
}

/// A daemon that is in its loop, with nothing to do.
fn start(scenario: &Scenario, world: &World) -> Daemon {
    let daemon = (scenario.start)(world).start();
    // It listens before it is in its loop. Once a first client is gone, it is.
    assert_eq!(world.plain_client(), Outcome::Right, "{}", daemon.stderr());
    let settled = || procfs::sockets(daemon.pid()) == scenario.sockets && daemon.children().len() == scenario.children;
    assert!(
        wait_until(DEADLINE, settled),
        "children {:?}, {} sockets",
        daemon.children(),
        procfs::sockets(daemon.pid())
    );
    daemon
}

fn inject(case: &Case) -> Verdict {
    let world = (case.scenario.prepare)();
    let mut daemon = start(case.scenario, &world);
    let children = daemon.children().len();
    let before = daemon.descriptors();
    let Some(trace) = Trace::attach(daemon.pid(), Some((&case.name, case.nth, case.error))) else {
        return Verdict::Failed("cannot trace".into());
    };
    let outcomes = (case.scenario.work)(&world, &daemon);
    // A call of the turn after the last client's.
    wait_until(Duration::from_millis(50), || trace.has_struck());
    let calls = trace.detach();
    let said = daemon.stderr() + &(case.scenario.log)(&world);
    let mut judge = || -> Result<Option<Outcome>, String> {
        let Some(struck) = calls.iter().find(|call| call.injected) else { return Ok(None) };
        if (&struck.name, &struck.subject) != (&case.name, &case.subject) {
            return Ok(None);
        }
        if daemon.has_ended() {
            return Err(format!("the daemon ended: {:?}", daemon.wait()));
        }
        let mut worst = Outcome::Right;
        for (client, outcome) in &outcomes {
            match outcome {
                Outcome::Right => {}
                Outcome::Wrong(why) => return Err(format!("{client}: {why}")),
                Outcome::Nothing if said.trim().is_empty() => {
                    return Err(format!("{client} got nothing, and nothing is said"));
                }
                Outcome::Nothing => worst = Outcome::Nothing,
                Outcome::Less(what) if said.trim().is_empty() && is_ours(case) => {
                    return Err(format!("{client}: {what}, and nothing is said"));
                }
                Outcome::Less(_) if worst == Outcome::Nothing => {}
                Outcome::Less(what) => worst = Outcome::Less(what.clone()),
            }
        }
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        if let Some(twice) = lines.windows(2).find(|w| w[0] == w[1]) {
            return Err(format!("said twice: {}", twice[0]));
        }
        let most = case.scenario.lines + 4;
        if lines.len() > most {
            return Err(format!("{} lines for one fault:\n{said}", lines.len()));
        }
        let waits = calls.iter().filter(|call| call.name == "epoll_wait").count();
        if waits > 400 {
            return Err(format!("spins: {waits} turns"));
        }
        afterwards(case, &world, &daemon, before, children)?;
        if daemon.has_ended() {
            return Err("the daemon ended later".into());
        }
        Ok(Some(worst))
    };
    match judge() {
        Ok(Some(outcome)) => Verdict::Passed(outcome, !said.trim().is_empty()),
        Ok(None) => Verdict::NotReached,
        Err(why) => {
            let struck = calls.iter().position(|call| call.injected).unwrap_or(0);
            let from = struck.saturating_sub(6);
            let around: Vec<&str> = calls[from..].iter().take(14).map(|call| call.line.as_str()).collect();
            Verdict::Failed(format!("{why}\n  it said: {said}  calls:\n    {}", around.join("\n    ")))
        }
    }
}

/// All is as before: every client is served, every slot is free, nothing is left open.
fn afterwards(case: &Case, world: &World, daemon: &Daemon, descriptors: usize, children: usize) -> Result<(), String> {
    let mut outcomes = Vec::new();
    let is_right = |outcome: &Outcome| *outcome == Outcome::Right;
    // Some faults are followed by a pause, of a second at most.
    wait_until(LONGEST_PAUSE, || {
        outcomes = (case.scenario.check)(world, daemon);
        outcomes.iter().all(|(_, outcome)| is_right(outcome))
    });
    if let Some((client, outcome)) = outcomes.iter().find(|(_, outcome)| !is_right(outcome)) {
        return Err(format!("afterwards {client}: {outcome:?}; it says: {}", daemon.stderr()));
    }
    let most = case.scenario.slots;
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

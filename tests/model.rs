//! The connection table against a model, in steps chosen at random. Sections 5, 6, 8, 10 and 11.
//!
//! The real reactor with real sockets and processes runs in this process, turn by turn, with a
//! clock of the test's, so that time limits come when the test wants them. After each step slots,
//! counts per address and block, the tables, the deadlines and the handlers must be the model's, and every
//! so often all descriptors must be accounted for. What each client sees is looked at too.
//!
//! `MODEL_STEPS` sets the number of steps, `MODEL_SEED` repeats a run. Without the test harness:
//! signals and children belong to the whole process.

#[path = "model/expected.rs"]
mod expected;
#[path = "model/outside.rs"]
mod outside;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use expected::{Asked, Connection, Limits, Model, Rule, SHORTAGE_TIME, State};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use outside::{Client, Daemon, LOCAL, Outside, Server, signal_daemon};

const STEPS: u64 = 100_000;
/// What has not come true by then never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// c-ares gives a query up after some ten seconds of real time; the test's connections do not wait that long.
const LONGEST_LOOKUP: Duration = Duration::from_secs(4);
const MOST_CLIENTS: usize = 40;

/// Numbers that look random (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> Option<T> {
        if choices.is_empty() { None } else { Some(choices[self.below(choices.len())].clone()) }
    }
}

struct Run {
    daemon: Daemon,
    server: Server,
    outside: Outside,
    model: Model,
    random: Random,
    clients: HashMap<u64, Client>,
    /// Whom the daemon takes each connection to be from.
    peers: HashMap<u64, SocketAddr>,
    /// Whom the kernel takes it to be from: with PROXY headers, somebody else.
    proxies: HashMap<u64, SocketAddr>,
    /// When lookups began, by the real clock.
    since: HashMap<u64, Instant>,
    /// Refused clients that have read their reply.
    told: BTreeSet<u64>,
    /// Descriptors while nothing is connected.
    base: usize,
    next_id: u64,
    history: VecDeque<String>,
    tally: BTreeMap<&'static str, u64>,
}

impl Run {
    fn new(limits: Limits, seed: u64) -> Run {
        let server = Server::start();
        let daemon = Daemon::start(&limits, server.address());
        let mut run = Run {
            outside: daemon.outside(),
            daemon,
            server,
            model: Model::new(limits, LOCAL),
            random: Random(seed | 1),
            clients: HashMap::new(),
            peers: HashMap::new(),
            proxies: HashMap::new(),
            since: HashMap::new(),
            told: BTreeSet::new(),
            base: 0,
            next_id: 0,
            history: VecDeque::new(),
            tally: BTreeMap::new(),
        };
        run.settle();
        // No query was made yet, so no socket of c-ares is among them.
        run.base = open_descriptors();
        run
    }

    fn note(&mut self, what: &'static str, details: String) {
        *self.tally.entry(what).or_default() += 1;
        self.history.push_back(format!("{what} {details}"));
        if self.history.len() > 40 {
            self.history.pop_front();
        }
    }

    fn step(&mut self) {
        // Time goes on by itself, unless something would fall due by it: that is a step of its own.
        let later = self.model.now + Duration::from_millis(1);
        if self.model.next_deadline().is_none_or(|due| due > later) {
            self.set_time(later);
        }
        let oldest = self.since.values().min().is_some_and(|since| since.elapsed() > LONGEST_LOOKUP);
        match self.random.below(100) {
            _ if oldest => self.time(),
            0..25 => self.connect(),
            25..33 => self.data(),
            33..36 => self.half_close(),
            36..44 => self.reset(),
            44..74 => self.answer(),
            74..82 => self.time(),
            82..96 => self.child_exit(),
            96 => self.handler_comes_or_goes(),
            97 => self.descriptors_run_out(),
            98 if self.random.one_in(4) => self.reload(),
            98 => self.stray_signal(),
            _ if self.random.one_in(10) => return self.drain(),
            _ => self.late_answers(),
        }
        self.settle();
    }

    fn set_time(&mut self, now: Duration) {
        self.model.now = now;
        self.daemon.now.set(now);
    }

    fn connections(&self, wanted: impl Fn(&State) -> bool) -> Vec<u64> {
        self.model.connections.iter().filter(|c| wanted(&c.state) && !c.reset).map(|c| c.id).collect()
    }

    fn address(&mut self) -> Ipv4Addr {
        let (block, host) = (self.random.below(3) as u8, self.random.below(3) as u8);
        Ipv4Addr::new(127, 77, 1 + block, 1 + host)
    }

    fn connect(&mut self) {
        if self.clients.len() >= MOST_CLIENTS {
            return self.reset();
        }
        if self.connections(|state| *state == State::Backlog).len() > self.random.below(16) {
            // More of them would show nothing new.
            return if self.random.one_in(2) { self.child_exit() } else { self.data() };
        }
        let peer = self.address();
        self.next_id += 1;
        let id = self.next_id;
        // With a PROXY header, who connects does not count.
        let from = if self.model.limits.proxy { LOCAL } else { peer };
        let client = Client::connect(from, self.daemon.address);
        let address = match self.model.limits.proxy {
            true => SocketAddr::from((peer, 1 + (id % 65_535) as u16)),
            false => client.address(),
        };
        self.note("connect", format!("{id} from {address}"));
        self.peers.insert(id, address);
        self.proxies.insert(id, client.address());
        self.clients.insert(id, client);
        self.model.connect(id, peer);
    }

    fn data(&mut self) {
        let proxy = self.model.limits.proxy;
        let mut able = self.connections(|state| matches!(state, State::Header { .. }));
        if able.is_empty() || self.random.one_in(4) {
            able = self.connections(|state| !proxy || !matches!(state, State::Backlog));
        }
        let Some(id) = self.random.pick(&able) else { return };
        let connection = self.model.get(id);
        if connection.ended {
            return;
        }
        let client = self.clients.get_mut(&id).expect("not reset");
        if !matches!(connection.state, State::Header { .. }) {
            client.send(b"EHLO client.example\r\n");
            return self.note("data", format!("{id}"));
        }
        let good = !self.random.one_in(6);
        let peer = self.peers[&id];
        let header = match good {
            true => format!("PROXY TCP4 {} {LOCAL} {} 25\r\nEHLO x\r\n", peer.ip(), peer.port()),
            false => "EHLO x\r\n".to_owned(),
        };
        let (first, rest) = header.split_at(if good && self.random.one_in(2) { 9 } else { 0 });
        client.send(first.as_bytes());
        // Whether the first part comes alone is up to chance.
        if self.random.one_in(2) {
            self.daemon.turn(Duration::ZERO);
        }
        self.clients.get_mut(&id).expect("not reset").send(rest.as_bytes());
        self.model.header(id, good);
        self.note(if good { "header" } else { "bad header" }, format!("{id}"));
    }

    fn half_close(&mut self) {
        let Some(id) = self.random.pick(&self.connections(|_| true)) else { return };
        self.clients.get_mut(&id).expect("not reset").half_close();
        self.model.get(id).ended = true;
        self.note("half-close", format!("{id}"));
    }

    fn reset(&mut self) {
        let Some(id) = self.random.pick(&self.connections(|_| true)) else { return };
        self.clients.remove(&id).expect("not reset").reset();
        self.model.get(id).reset = true;
        self.note("reset", format!("{id}"));
    }

    /// All that is open, of connections whose lookups are under way.
    fn open_questions(&self) -> BTreeSet<Asked> {
        let mut all = BTreeSet::new();
        for connection in &self.model.connections {
            if let State::Lookups { open, .. } = &connection.state {
                all.extend(open.iter().cloned());
            }
        }
        all
    }

    fn answer(&mut self) {
        let open: Vec<_> = self.open_questions().into_iter().collect();
        let Some(question) = self.random.pick(&open) else { return self.connect() };
        // Most clients are not listed.
        let records = self.random.one_in(if question.0.ends_with(".bl.example") { 5 } else { 2 });
        self.server.answer(&question, records);
        self.model.answer(&question, records);
        self.note("answer", format!("{question:?} {records}"));
    }

    /// Answers that nobody waits for any more.
    fn late_answers(&mut self) {
        let open = self.open_questions();
        for (block, host) in (1..4).flat_map(|block| (1..4).map(move |host| (block, host))) {
            let question = expected::list_name(Ipv4Addr::new(127, 77, block, host));
            if !open.contains(&question) && self.server.holds(&question) {
                self.server.answer(&question, true);
                self.note("late answer", format!("{question:?}"));
            }
        }
    }

    fn time(&mut self) {
        let Some(due) = self.model.next_deadline() else { return };
        self.set_time(due);
        self.model.expire();
        self.note("time", format!("{due:?}"));
    }

    fn reload(&mut self) {
        let mut rules = HashMap::new();
        for _ in 0..self.random.below(6) {
            let rule = match self.random.below(3) {
                0 => Rule::Deny,
                1 => Rule::AtMost(1 + self.random.below(3)),
                _ => Rule::Vouched,
            };
            rules.insert(self.address(), rule);
        }
        self.outside.write_rules(&rules);
        signal_daemon(Signal::SIGHUP);
        self.note("reload", format!("{rules:?}"));
        // The signal is read in one turn with whatever else comes; nothing may be accepted before it.
        self.daemon.turn(Duration::ZERO);
        self.model.rules = rules;
    }

    fn stray_signal(&mut self) {
        signal_daemon(Signal::SIGCHLD);
        self.note("stray SIGCHLD", String::new());
    }

    fn child_exit(&mut self) {
        let handlers = self.daemon.reactor.census().handlers;
        let Some((pid, peer)) = self.random.pick(&handlers) else { return self.answer() };
        let of = |id: &u64| self.peers.get(id) == Some(&peer);
        let served = self.model.connections.iter().find(|c| c.state == State::Served && of(&c.id));
        let id = served.expect("handlers are those of the model").id;
        self.model.get(id).state = State::Gone;
        let signal = if self.random.one_in(2) { Signal::SIGKILL } else { Signal::SIGTERM };
        kill(pid, signal).unwrap();
        self.note("child exit", format!("{id} {signal}"));
    }

    fn handler_comes_or_goes(&mut self) {
        self.model.no_handler = !self.model.no_handler && self.random.one_in(2);
        self.outside.take_handler_if_there();
        if !self.model.no_handler {
            self.outside.give_handler();
        }
        let spawns = if self.model.no_handler { "spawns fail" } else { "spawns work" };
        self.note(spawns, String::new());
    }

    /// A client comes, and there is no descriptor for it.
    fn descriptors_run_out(&mut self) {
        let waiting = self.model.connections.iter().any(|c| c.state == State::Backlog);
        if waiting || !self.model.counts().accepting || self.clients.len() >= MOST_CLIENTS {
            return;
        }
        self.connect();
        let lowest = std::os::fd::AsRawFd::as_raw_fd(&fs::File::open("/dev/null").unwrap());
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, lowest as u64, hard).unwrap();
        let end = Instant::now() + PATIENCE;
        while self.daemon.reactor.census().accepting {
            assert!(Instant::now() < end, "accepting does not rest");
            self.daemon.turn(Duration::from_millis(1));
        }
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        self.model.shortage_until = Some(self.model.now + SHORTAGE_TIME);
        self.note("no descriptors", String::new());
    }

    /// Everything ends, and nothing must be left.
    fn drain(&mut self) {
        self.note("drain", String::new());
        while !self.model.connections.is_empty() {
            for id in self.connections(|state| *state != State::Served) {
                self.clients.remove(&id).expect("not reset").reset();
                self.model.get(id).reset = true;
            }
            self.settle();
            for (pid, _) in self.daemon.reactor.census().handlers {
                kill(pid, Signal::SIGKILL).unwrap();
            }
            for connection in &mut self.model.connections {
                if connection.state == State::Served {
                    connection.state = State::Gone;
                }
            }
            self.settle();
            self.time();
            self.settle();
        }
        self.server.answer_all();
        self.settle();
        let counts = self.daemon.reactor.census();
        assert_eq!((counts.slots, counts.by_address.len(), counts.by_block.len()), (0, 0, 0));
        self.check_descriptors();
    }

    /// Waits until the daemon is where the model is, and clients have seen of it what they should.
    fn settle(&mut self) {
        self.model.settle();
        self.come_to_rest();
        while self.see_clients() {
            self.come_to_rest();
        }
        let known = &self.model.connections;
        self.since.retain(|id, _| known.iter().any(|c| c.id == *id && matches!(c.state, State::Lookups { .. })));
        for connection in known.iter().filter(|c| matches!(c.state, State::Lookups { .. })) {
            self.since.entry(connection.id).or_insert_with(Instant::now);
        }
        self.peers.retain(|id, _| known.iter().any(|c| c.id == *id));
        self.proxies.retain(|id, _| known.iter().any(|c| c.id == *id));
        self.told.retain(|id| known.iter().any(|c| c.id == *id));
    }

    /// The peers of connections in a state, as the daemon knows them.
    fn peers_of(&self, wanted: impl Fn(&State) -> bool) -> BTreeSet<SocketAddr> {
        let proxy = self.model.limits.proxy;
        let peer = |c: &Connection| match c.state {
            State::Header { .. } if proxy => self.proxies[&c.id],
            _ => self.peers[&c.id],
        };
        self.model.connections.iter().filter(|c| wanted(&c.state)).map(peer).collect()
    }

    fn come_to_rest(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            if self.daemon.turn(Duration::ZERO) | self.server.take() {
                continue;
            }
            let Err(difference) = self.agrees() else { break };
            assert!(Instant::now() < end, "{difference}\n{:#?}\n{:#?}", self.history, self.model.connections);
            self.daemon.turn(Duration::from_millis(2));
        }
    }

    fn agrees(&self) -> Result<(), String> {
        let census = self.daemon.reactor.census();
        for (what, found, expected) in [
            ("headers", census.headers, self.peers_of(|s| matches!(s, State::Header { .. }))),
            ("lookups", census.lookups, self.peers_of(|s| matches!(s, State::Lookups { .. }))),
            ("ready", census.ready, self.peers_of(|s| *s == State::Ready)),
            ("handlers", census.handlers.iter().map(|h| h.1).collect(), self.peers_of(|s| *s == State::Served)),
        ] {
            if found.len() != expected.len() || found.iter().any(|peer| !expected.contains(peer)) {
                return Err(format!("{what}: found {found:?}, expected {expected:?}"));
            }
        }
        let found = expected::Counts {
            slots: census.slots as usize,
            by_address: census.by_address,
            by_block: census.by_block,
            lingering: census.lingering,
            deadlines: census.deadlines,
            accepting: census.accepting,
        };
        let wanted = self.model.counts();
        if found != wanted {
            return Err(format!("found {found:?}\nexpected {wanted:?}"));
        }
        match self.open_questions().into_iter().find(|question| !self.server.holds(question)) {
            Some(question) => Err(format!("{question:?} was not asked")),
            None => Ok(()),
        }
    }

    /// A refused client has its reply, one that is gone sees the end, and nobody sees anything else.
    /// True if there was anything to see.
    fn see_clients(&mut self) -> bool {
        let mut any = false;
        let ids: Vec<u64> = self.clients.keys().copied().collect();
        for id in ids {
            let connection = self.model.connections.iter().find(|c| c.id == id);
            let refused = connection.is_some_and(|c| matches!(c.state, State::Lingering { .. }));
            if connection.is_some() && !(refused && self.told.insert(id)) {
                continue;
            }
            any = true;
            let text = self.read_to_the_end(id, if refused { b"554 no\r\n" } else { b"" });
            if refused {
                assert_eq!(text, b"554 no\r\n", "connection {id}");
            } else {
                self.clients.remove(&id);
            }
        }
        any
    }

    /// What the daemon sends until it closes, or until `last` has come.
    fn read_to_the_end(&mut self, id: u64, last: &[u8]) -> Vec<u8> {
        let end = Instant::now() + PATIENCE;
        let mut text = Vec::new();
        while let Some(more) = self.clients.get_mut(&id).expect("a client of the test").receive() {
            text.extend(more);
            if !last.is_empty() && text == last {
                break;
            }
            assert!(Instant::now() < end, "connection {id}: no end, only {text:?}; {:#?}", self.history);
            self.daemon.turn(Duration::from_millis(1));
        }
        text
    }

    fn dns_sockets(&self) -> usize {
        let table = fs::read_to_string("/proc/self/net/udp").unwrap();
        let inodes: BTreeSet<String> = table
            .lines()
            .skip(1)
            .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(9)?)))
            .collect();
        let own = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        // The server's own is not the daemon's.
        own.filter(|target| target.to_str().is_some_and(|name| inodes.contains(name))).count().saturating_sub(1)
    }

    fn check_descriptors(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            // The kernel's table may lack a line if others open and close sockets while it is read.
            let expected = self.base + self.dns_sockets() + self.clients.len() + self.model.descriptors();
            let found = open_descriptors();
            if found == expected {
                return;
            }
            assert!(Instant::now() < end, "{found} descriptors, expected {expected}: {:#?}", self.history);
            self.daemon.turn(Duration::from_millis(1));
        }
    }
}

impl Drop for Run {
    /// Also after a failure, nobody is left behind.
    fn drop(&mut self) {
        for (pid, _) in self.daemon.reactor.census().handlers {
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.outside.remove();
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn main() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let steps = number("MODEL_STEPS").unwrap_or(STEPS);
    let seed = number("MODEL_SEED")
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64));
    println!("model: {steps} steps, MODEL_SEED={seed}");
    let few = Limits { slots: 6, per_address: 3, per_block: 5, pending: 0, proxy: false, names: true };
    let ways = [
        ("slots from accept on", few),
        ("pending without slots", Limits { slots: 3, pending: 12, names: false, ..few }),
        ("PROXY headers", Limits { proxy: true, ..few }),
        ("PROXY headers, pending without slots", Limits { slots: 4, pending: 9, proxy: true, ..few }),
    ];
    let start = Instant::now();
    for (way, (name, limits)) in ways.into_iter().enumerate() {
        let mut run = Run::new(limits, seed.wrapping_mul(way as u64 + 1).wrapping_add(0x9e37_79b9));
        for step in 0..steps / ways.len() as u64 {
            run.step();
            if step % 64 == 0 {
                run.check_descriptors();
            }
        }
        run.drain();
        println!("{name}: {:?}", run.tally);
    }
    println!("test result: ok. 1 passed; 0 failed; {steps} steps in {:.1?}", start.elapsed());
}

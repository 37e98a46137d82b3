//! The DNS client in a small event loop of its own, against the scripted server.

#[path = "../../tests/common/dns.rs"]
pub mod dns;

mod crowds;
mod servers;

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::client::{FOR_LISTS, LISTS_TO_LEFT, MAX_STARTED, MAX_WANTED};
use super::{Counts, Failure, Finished, Resolver, Settings};
use crate::policy::question::{Answer, Family, ListingKind, Question, Records};
use crate::table::Key;
use dns::{A, ANY, Dns, Fault, Message, PTR, Record, TXT};

/// Within this time everything here has happened, or never will.
const PATIENCE: Duration = Duration::from_secs(60);

fn token(key: Key) -> Token {
    Token((key.generation as usize) << 16 | key.index as usize)
}

fn waiter(index: u32) -> Key {
    Key { index, generation: 7 }
}

/// The reactor's part, and a note of all that was handed out.
struct Loop {
    poll: Poll,
    events: Events,
    resolver: Resolver,
    /// In order, each waiter by itself.
    told: Vec<(Key, Question, Answer)>,
    failures: HashMap<Question, Failure>,
}

impl Loop {
    fn new(settings: Settings) -> Loop {
        let poll = Poll::new().unwrap();
        let resolver = Resolver::new(settings, poll.registry(), token, Instant::now()).unwrap();
        Loop { poll, events: Events::with_capacity(256), resolver, told: Vec::new(), failures: HashMap::new() }
    }

    fn asking(servers: &[SocketAddr], cache_entries: usize) -> Loop {
        Loop::new(Settings {
            nameservers: servers.to_vec(),
            resolv_conf: "/nonexistent/resolv.conf".to_owned(),
            cache_entries,
            zones: Rc::from(["bl.example".to_owned(), "wl.example".to_owned()]),
        })
    }

    fn ask(&mut self, question: &Question, waiter: Key) -> Option<Answer> {
        self.resolver.ask(question, waiter, Instant::now())
    }

    /// One turn, as the reactor takes it.
    fn turn(&mut self) {
        let timeout = self.resolver.timeout(Instant::now()).unwrap_or(PATIENCE).min(Duration::from_millis(100));
        self.poll.poll(&mut self.events, Some(timeout)).unwrap();
        for event in &self.events {
            let Token(token) = event.token();
            let key = Key { index: token as u32 & 0xffff, generation: (token >> 16) as u32 };
            self.resolver.ready(key, event.is_readable(), event.is_writable());
        }
        let now = Instant::now();
        self.resolver.turn(now);
        while let Some(Finished { question, answer, waiters, failure, .. }) = self.resolver.next_finished(now) {
            assert_eq!(failure.is_some(), answer == Answer::Failed);
            if let Some(failure) = failure {
                self.failures.insert(question.clone(), failure);
            }
            self.told.extend(waiters.as_slice().iter().map(|&key| (key, question.clone(), answer.clone())));
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Loop) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "{what} has not happened: {:?}", self.counts());
            self.turn();
        }
    }

    /// The answer to a question, asked here and now.
    fn answer(&mut self, question: &Question) -> Answer {
        let waiter = waiter(self.told.len() as u32);
        if let Some(answer) = self.ask(question, waiter) {
            return answer;
        }
        self.until("an answer", |l| l.told.iter().any(|told| told.0 == waiter));
        self.told.pop().unwrap().2
    }

    fn counts(&self) -> Counts {
        self.resolver.counts()
    }

    /// Has c-ares learn that the server is fast, so that what is silent is given up sooner.
    fn warm_up(&mut self, name: &str) {
        for _ in 0..4 {
            assert_ne!(self.answer(&host(name)), Answer::Failed);
        }
    }

    /// Until no query is under way, wanted or not.
    fn drain(&mut self) {
        self.until("the end of all queries", |l| l.counts().in_flight == 0 && l.counts().queued == 0);
    }
}

fn host(name: &str) -> Question {
    Question::Addresses(name.into(), Family::V4)
}

fn ptr(n: u32) -> Question {
    Question::Names(IpAddr::from((0x0a00_0000 + n).to_be_bytes()))
}

fn found(ips: &[&str]) -> Answer {
    Answer::Found(Rc::new(Records::Addresses(ips.iter().map(|ip| ip.parse().unwrap()).collect())))
}

fn a(ip: &str) -> Message {
    Message::new().record(Record::a(ip))
}

#[test]
fn each_kind_of_question_is_asked_and_answered() {
    let server = Dns::start();
    server
        .set("1.2.0.192.in-addr.arpa", PTR, Message::new().record(Record::ptr("Mail.Example")))
        .set("mail.example", A, a("192.0.2.1"))
        .set("mail.example", dns::AAAA, a("2001:db8::1"))
        .set("1.2.0.192.wl.example", A, a("127.0.0.2"))
        .set("1.2.0.192.wl.example", TXT, Message::new().record(Record::txt(&[b"trusted"])));
    let mut l = Loop::asking(&[server.address], 10);
    let ip: IpAddr = "192.0.2.1".parse().unwrap();
    let names = Records::Names(vec!["Mail.Example".into()]);
    assert_eq!(l.answer(&Question::Names(ip)), Answer::Found(Rc::new(names)));
    assert_eq!(l.answer(&host("Mail.Example")), found(&["192.0.2.1"]));
    assert_eq!(l.answer(&Question::Addresses("mail.example".into(), Family::V6)), found(&["2001:db8::1"]));
    let listing = |zone, kind| Question::Listing { zone, ip, kind };
    assert_eq!(l.answer(&listing(1, ListingKind::A)), found(&["127.0.0.2"]));
    let text = Records::Text((*b"trusted").into());
    assert_eq!(l.answer(&listing(1, ListingKind::Txt)), Answer::Found(Rc::new(text)));
    assert_eq!(l.answer(&listing(0, ListingKind::A)), Answer::Absent);
    assert_eq!(l.answer(&listing(9, ListingKind::A)), Answer::Failed);
    assert_eq!(l.counts().sent, 6, "a list that there is not is not asked");
}

#[test]
fn servers_of_both_families_are_asked() {
    let server = Dns::start_on("::1".parse().unwrap());
    server.set("h.example", A, a("192.0.2.1"));
    let mut l = Loop::asking(&[server.address], 10);
    assert_eq!(l.resolver.servers(), [server.address.to_string()]);
    assert_eq!(l.answer(&host("h.example")), found(&["192.0.2.1"]));
}

#[test]
fn connections_share_a_query_and_the_cache_saves_the_next() {
    let server = Dns::start();
    let late = Duration::from_millis(50);
    server.set("h.example", A, a("192.0.2.1").late(late));
    for cache in [10, 0] {
        let before = server.count("h.example", A);
        let mut l = Loop::asking(&[server.address], cache);
        let asked = Instant::now();
        for n in 0..100 {
            assert_eq!(l.ask(&host("h.example"), waiter(n)), None);
        }
        l.turn();
        let standing = l.resolver.standing(&host("h.example"), asked + late).unwrap();
        assert!(standing.sent && standing.age <= late, "{standing:?}");
        l.until("100 answers", |l| l.told.len() == 100);
        assert!(asked.elapsed() >= late);
        assert!(l.told.iter().all(|told| told.2 == found(&["192.0.2.1"])));
        let told: Vec<_> = l.told.iter().map(|told| told.0.index).collect();
        assert_eq!(told, (0..100).collect::<Vec<_>>(), "who came first is told first");
        assert_eq!(server.count("h.example", A) - before, 1);
        assert_eq!((l.counts().sent, l.counts().shared), (1, 99));
        assert_eq!(l.resolver.standing(&host("h.example"), asked), None);
        assert_eq!(l.ask(&host("h.example"), waiter(100)).is_some(), cache > 0);
        assert_eq!(l.counts().hits, u64::from(cache > 0));
    }
}

#[test]
fn error_codes_and_absence_have_their_answers() {
    let server = Dns::start();
    for (name, rcode) in [("formerr", 1), ("servfail", 2), ("nxdomain", 3), ("notimp", 4), ("refused", 5)] {
        server.set(name, A, Message::new().rcode(rcode));
    }
    server.set("nodata", A, Message::new()).set(
        "otherclass",
        A,
        Message::new().record(Record::a("192.0.2.1").class(3)),
    );
    let mut l = Loop::asking(&[server.address], 0);
    for (name, expected, failure) in [
        ("formerr", Answer::Failed, Some(Failure::OtherCode)),
        ("servfail", Answer::Failed, Some(Failure::ServFail)),
        ("nxdomain", Answer::Absent, None),
        ("notimp", Answer::Failed, Some(Failure::OtherCode)),
        ("refused", Answer::Failed, Some(Failure::Refused)),
        ("nodata", Answer::Absent, None),
        ("otherclass", Answer::Absent, None),
    ] {
        assert_eq!(l.answer(&host(name)), expected, "{name}");
        assert_eq!(l.failures.get(&host(name)), failure.as_ref(), "{name}");
    }
    assert_eq!(l.counts().failures, 4);
}

#[test]
fn names_that_cannot_be_asked_fail_without_a_query() {
    let server = Dns::start();
    let mut l = Loop::asking(&[server.address], 0);
    let long = "x".repeat(64);
    for name in ["", ".", "a..b", "a b", "a\0b", "a\\b", "a\nb", &long] {
        assert_eq!(l.answer(&host(name)), Answer::Failed, "{name:?}");
        assert_eq!(l.failures[&host(name)], Failure::BadName, "{name:?}");
    }
    assert_eq!((l.counts().sent, l.counts().in_flight), (0, 0));
    assert!(server.asked().is_empty());
}

#[test]
fn forged_and_broken_replies_are_not_believed() {
    let server = Dns::start();
    server
        .set("wrongid", A, a("192.0.2.66").fault(Fault::WrongId))
        .set("wrongname", A, a("192.0.2.66").fault(Fault::WrongQuestion))
        .set("loop", A, a("192.0.2.66").fault(Fault::PointerLoop))
        .set("short", A, a("192.0.2.66").fault(Fault::CutShort))
        .set("silent", A, a("192.0.2.66").fault(Fault::Silent))
        .set("good", A, a("192.0.2.1"));
    let mut l = Loop::asking(&[server.address], 0);
    l.warm_up("good");
    let bad = ["wrongid", "wrongname", "loop", "short", "silent"];
    for (n, name) in bad.iter().enumerate() {
        assert_eq!(l.ask(&host(name), waiter(n as u32)), None);
    }
    // They hold nobody else up.
    let asked = Instant::now();
    assert_eq!(l.answer(&host("good")), found(&["192.0.2.1"]));
    assert!(asked.elapsed() < Duration::from_secs(2));
    l.until("the end of all of them", |l| l.told.len() == bad.len());
    for (_, question, answer) in &l.told {
        assert_eq!(*answer, Answer::Failed, "{question:?}");
    }
    assert_eq!(l.failures[&host("silent")], Failure::TimedOut);
    assert_eq!(l.failures[&host("wrongid")], Failure::TimedOut);
    assert_eq!(l.answer(&host("good")), found(&["192.0.2.1"]));
    assert_eq!(l.counts().in_flight, 0);
}

#[test]
fn truncated_answers_are_asked_again_over_tcp() {
    let server = Dns::start();
    let mut big = Message::new().fault(Fault::Truncated);
    for n in 0..4000u32 {
        big = big.record(Record::a(&IpAddr::from((n + 1).to_be_bytes()).to_string()));
    }
    let texts = [&[b't'; 255][..]; 250];
    let text = Message::new().record(Record::txt(&texts)).fault(Fault::Truncated);
    assert!(text.encode(&dns::query(1, "big.example", TXT)).unwrap().len() > 64_000);
    server.set("big.example", A, big).set("1.2.0.192.bl.example", TXT, text).set(
        "closed.example",
        A,
        a("192.0.2.1").fault(Fault::TcpClosed),
    );
    let mut l = Loop::asking(&[server.address], 10);
    let Answer::Found(records) = l.answer(&host("big.example")) else { panic!("nothing found") };
    let Records::Addresses(addresses) = &*records else { panic!("not addresses") };
    assert_eq!(addresses.len(), 1024);
    assert_eq!(l.counts().cached, 0, "so large an answer is not kept");
    let listing = Question::Listing { zone: 0, ip: "192.0.2.1".parse().unwrap(), kind: ListingKind::Txt };
    assert_eq!(l.answer(&listing), Answer::Found(Rc::new(Records::Text(Box::new([b't'; 512])))));
    assert!(server.asked().iter().any(|query| query.tcp && query.name == "big.example"));
    assert_eq!(l.answer(&host("closed.example")), Answer::Failed);
    // Several over TCP at once, on connections old and new.
    for n in 0..20 {
        server.set(&format!("t{n}.example"), A, a("192.0.2.1").fault(Fault::Truncated));
        assert_eq!(l.ask(&host(&format!("t{n}.example")), waiter(n)), None);
    }
    l.until("20 answers", |l| l.told.len() == 20);
    assert!(l.told.iter().all(|told| told.2 == found(&["192.0.2.1"])), "{:?}", l.failures);
}

#[test]
fn chains_are_followed_and_hostile_names_are_not_passed_on() {
    let server = Dns::start();
    server
        .set(
            "4.3.2.10.in-addr.arpa",
            PTR,
            Message::new()
                .record(Record::cname("4.0-7.3.2.10.in-addr.arpa"))
                .record(Record::ptr("h.example").owner("4.0-7.3.2.10.in-addr.arpa"))
                .record(Record::ptr_bytes(b"evil\r\n\x1b[2J.example").owner("4.0-7.3.2.10.in-addr.arpa")),
        )
        .set(
            "loop.example",
            A,
            Message::new()
                .record(Record::cname("pool.example"))
                .record(Record::cname("loop.example").owner("pool.example")),
        );
    let mut l = Loop::asking(&[server.address], 0);
    let names = Records::Names(vec!["h.example".into(), "".into()]);
    assert_eq!(l.answer(&Question::Names("10.2.3.4".parse().unwrap())), Answer::Found(Rc::new(names)));
    assert_eq!(l.answer(&host("loop.example")), Answer::Failed);
    assert_eq!(l.failures[&host("loop.example")], Failure::Nonsense);
}

#[test]
fn what_nobody_wants_is_not_asked_and_late_answers_go_to_the_cache_alone() {
    let server = Dns::start();
    server.otherwise(a("192.0.2.1").late(Duration::from_millis(100)));
    let mut l = Loop::asking(&[server.address], 10);
    l.ask(&host("never.example"), waiter(1));
    l.resolver.forget(&host("never.example"), waiter(1));
    for n in 1..=2 {
        l.ask(&host("shared.example"), waiter(n));
    }
    l.ask(&host("left.example"), waiter(1));
    l.turn();
    l.resolver.forget(&host("shared.example"), waiter(1));
    l.resolver.forget(&host("left.example"), waiter(1));
    assert_eq!(l.resolver.standing(&host("left.example"), Instant::now()), None);
    l.until("the cache has both", |l| l.counts().cached == 2);
    let told: Vec<_> = l.told.iter().map(|told| (told.0, told.1.clone())).collect();
    assert_eq!(told, [(waiter(2), host("shared.example"))]);
    assert_eq!(server.count("never.example", ANY), 0);
    assert_eq!(l.ask(&host("left.example"), waiter(3)), Some(found(&["192.0.2.1"])));
}

#[test]
fn without_a_server_everything_fails_at_once() {
    // A port that was free a moment ago: nobody listens.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut l = Loop::asking(&[port], 0);
    let start = Instant::now();
    for n in 0..50 {
        assert_eq!(l.ask(&ptr(n), waiter(n)), None);
    }
    l.until("50 answers", |l| l.told.len() == 50);
    assert!(l.told.iter().all(|told| told.2 == Answer::Failed));
    assert_eq!(l.failures[&ptr(0)], Failure::Unreachable);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_dead_server_is_passed_over_for_a_living_one() {
    let (dead, living) = (Dns::start(), Dns::start());
    dead.otherwise(Message::new().fault(Fault::Silent));
    living.otherwise(a("192.0.2.1"));
    let mut l = Loop::asking(&[dead.address, living.address], 0);
    let start = Instant::now();
    assert_eq!(l.answer(&host("a.example")), found(&["192.0.2.1"]));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let again = Instant::now();
    assert_eq!(l.answer(&host("b.example")), found(&["192.0.2.1"]));
    assert!(again.elapsed() < Duration::from_secs(1), "now it is known: {:?}", again.elapsed());
}

/// Writes a resolv.conf and returns its path; the directory goes with the guard.
struct Conf(std::path::PathBuf);

impl Conf {
    fn new(name: &str) -> Conf {
        let directory = std::env::temp_dir().join(format!("couriertcpd-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Conf(directory)
    }

    fn path(&self) -> String {
        self.0.join("resolv.conf").to_str().unwrap().to_owned()
    }

    /// As resolvconf and its like do it: written aside, then renamed.
    fn write(&self, text: &str) {
        std::fs::write(self.0.join("new"), text).unwrap();
        std::fs::rename(self.0.join("new"), self.path()).unwrap();
    }

    fn settings(&self) -> Settings {
        Settings { nameservers: Vec::new(), resolv_conf: self.path(), cache_entries: 10, zones: Rc::from([]) }
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn nameserver(address: SocketAddr) -> String {
    format!("nameserver {address}\n")
}

#[test]
fn resolv_conf_says_which_servers_but_not_how_long() {
    let server = Dns::start();
    server.set("slow.example", A, a("192.0.2.1").late(Duration::from_millis(1300)));
    let conf = Conf::new("options");
    // Were these followed, the lookup would be given up after a second.
    conf.write(&format!("# comment\nrubbish\n{}options timeout:1 attempts:1 ndots:5\n", nameserver(server.address)));
    let mut l = Loop::new(conf.settings());
    assert_eq!(l.resolver.servers(), [server.address.to_string()]);
    assert_eq!(l.answer(&host("slow.example")), found(&["192.0.2.1"]));
}

#[test]
fn without_resolv_conf_the_host_itself_is_asked() {
    let conf = Conf::new("none");
    let l = Loop::new(conf.settings());
    assert_eq!(l.resolver.servers().len(), 1);
    assert!(l.resolver.servers()[0].starts_with("127.0.0.1"), "{:?}", l.resolver.servers());
}

#[test]
fn a_reload_lets_the_old_servers_finish_and_asks_the_new_ones() {
    let (old, new) = (Dns::start(), Dns::start());
    old.set("late.example", A, a("192.0.2.1").late(Duration::from_millis(300)));
    old.set("failing.example", A, Message::new().rcode(2).late(Duration::from_millis(50)));
    old.set("silent.example", A, Message::new().fault(Fault::Silent));
    old.set("kept.example", A, a("192.0.2.1"));
    new.otherwise(a("192.0.2.2"));
    let conf = Conf::new("reload");
    conf.write(&nameserver(old.address));
    let mut l = Loop::new(conf.settings());
    for n in 0..4 {
        old.set(&format!("fast{n}.example"), A, a("192.0.2.1"));
        l.warm_up(&format!("fast{n}.example"));
    }
    assert_eq!(l.answer(&host("kept.example")), found(&["192.0.2.1"]));
    assert_eq!(l.ask(&host("kept.example"), waiter(0)), Some(found(&["192.0.2.1"])));
    for (n, name) in ["late.example", "failing.example", "silent.example"].iter().enumerate() {
        assert_eq!(l.ask(&host(name), waiter(n as u32)), None);
    }
    l.until("the old server is asked", |_| old.asked().len() >= 8);
    conf.write(&nameserver(new.address));
    l.resolver.reload(Instant::now()).unwrap();
    assert_eq!(l.counts().cached, 0);
    assert_eq!(l.answer(&host("kept.example")), found(&["192.0.2.2"]));
    // Somebody new wants what the dead server was asked: it is asked again.
    assert_eq!(l.ask(&host("silent.example"), waiter(3)), None);
    l.until("four answers", |l| l.told.len() == 4);
    let told: HashMap<_, _> = l.told.iter().map(|told| (told.0.index, told.2.clone())).collect();
    assert_eq!(told[&0], found(&["192.0.2.1"]), "an answer of the old server counts");
    assert_eq!(told[&1], found(&["192.0.2.2"]), "its failure does not");
    assert_eq!((&told[&2], &told[&3]), (&found(&["192.0.2.2"]), &found(&["192.0.2.2"])));
    assert_eq!(l.ask(&host("late.example"), waiter(4)), None, "what the old server said is not kept");
    l.drain();
}

#[test]
fn a_changed_resolv_conf_is_noticed() {
    let (old, new) = (Dns::start(), Dns::start());
    old.otherwise(a("192.0.2.1"));
    new.otherwise(a("192.0.2.2"));
    let conf = Conf::new("change");
    conf.write(&nameserver(old.address));
    let mut l = Loop::new(conf.settings());
    assert_eq!(l.answer(&host("a.example")), found(&["192.0.2.1"]));
    std::fs::remove_file(conf.path()).unwrap();
    let end = Instant::now() + PATIENCE;
    let mut n = 0;
    // The file is looked at once a second, while there is something to ask.
    let gone = Instant::now() + Duration::from_millis(1100);
    while Instant::now() < gone {
        n += 1;
        assert_eq!(l.answer(&host(&format!("b{n}.example"))), found(&["192.0.2.1"]), "no file is no change");
    }
    conf.write(&nameserver(new.address));
    while l.answer(&host(&format!("c{n}.example"))) != found(&["192.0.2.2"]) {
        assert!(Instant::now() < end);
        n += 1;
    }
    assert_eq!(l.resolver.servers(), [new.address.to_string()]);
}

/// Twenty thousand questions at once: the queries in flight stay within their limit, and every one
/// is answered. (What it takes and gives back: `tests/resolver_memory.rs`.)
#[test]
fn a_burst_is_queued_and_answered() {
    let server = Dns::start();
    server.otherwise(Message::new().rcode(3).late(Duration::from_millis(200)));
    let mut l = Loop::asking(&[server.address], 1000);
    let count = 20_000;
    for n in 0..count {
        assert_eq!(l.ask(&ptr(n), waiter(n)), None);
    }
    let most = Cell::new(0);
    l.until("all answers", |l| {
        most.set(most.get().max(l.counts().in_flight));
        l.told.len() == count as usize
    });
    // How close it comes to the limit depends on the machine.
    assert!((1..=MAX_WANTED).contains(&most.get()), "{} in flight", most.get());
    // More if the machine is so slow that some were taken for silent.
    assert!(l.counts().sent >= u64::from(count));
    assert_eq!((l.counts().failures, l.counts().cached), (0, 1000));
    assert!(l.told.iter().all(|told| told.2 == Answer::Absent));
    l.until("rest", |l| l.resolver.timeout(Instant::now()).is_none());
}

/// Silent names of clients that stay: others are asked all the same, lists at once.
#[test]
fn a_crowd_of_silent_names_gives_way_to_others() {
    let server = Dns::start();
    server.set("*.in-addr.arpa", PTR, Message::new().fault(Fault::Silent)).set("h.example", A, a("192.0.2.1"));
    let mut l = Loop::asking(&[server.address], 0);
    let many = (MAX_WANTED - FOR_LISTS) as u32;
    for n in 0..2 * many {
        assert_eq!(l.ask(&ptr(n), waiter(n)), None);
    }
    l.until("all in flight", |l| l.counts().in_flight == many as usize);
    assert_eq!(l.counts().queued, many as usize, "the limit holds");
    let list = Question::Listing { zone: 0, ip: IpAddr::from([192, 0, 2, 1]), kind: ListingKind::A };
    l.ask(&list, waiter(2 * many));
    l.until("the list's answer", |l| l.told.iter().any(|told| told.1 == list));
    l.told.clear();
    for (n, name) in ["h.example", "H.example", "h.Example"].into_iter().enumerate() {
        l.ask(&host(name), waiter(2 * many + 1 + n as u32));
        l.until("an answer", |l| !l.told.is_empty());
        let (key, question, answer) = l.told.pop().unwrap();
        assert_eq!((key, question), (waiter(2 * many + 1 + n as u32), host(name)));
        assert_eq!(answer, found(&["192.0.2.1"]));
        assert!(l.told.is_empty() && l.failures.is_empty(), "nobody of the crowd is told anything");
    }
    assert!((1..=MAX_WANTED).contains(&l.counts().in_flight), "{} in flight", l.counts().in_flight);
    for n in 0..2 * many {
        l.resolver.forget(&ptr(n), waiter(n));
    }
    assert_eq!(l.counts().queued, 0);
    l.until("rest", |l| l.counts().in_flight == 0);
}

/// Queries that nobody waits for any more cannot be taken back, and keep nobody from being asked.
#[test]
fn while_orphans_hang_others_are_asked() {
    let server = Dns::start();
    server.set("*.in-addr.arpa", PTR, Message::new().fault(Fault::Silent)).set("h.example", A, a("192.0.2.1"));
    let mut l = Loop::asking(&[server.address], 0);
    let many = (MAX_WANTED - FOR_LISTS) as u32;
    for n in 0..many {
        assert_eq!(l.ask(&ptr(n), waiter(n)), None);
    }
    l.until("all in flight", |l| l.counts().in_flight == many as usize);
    for n in 0..many {
        l.resolver.forget(&ptr(n), waiter(n));
    }
    l.ask(&host("h.example"), waiter(many));
    l.until("an answer", |l| !l.told.is_empty());
    assert_eq!(l.told[0].2, found(&["192.0.2.1"]));
    assert_eq!(l.told.len(), 1);
    // They are given up before their tries are over.
    l.drain();
    assert_eq!((l.counts().sent, l.counts().failures), (u64::from(many) + 1, 0));
}

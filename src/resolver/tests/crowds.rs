//! Crowds whose names are silent, and what must stay as it is for others beside them.

use super::*;

/// Names that only a crowd asks for.
fn crowd(l: &mut Loop, count: u32) {
    for n in 0..count {
        assert_eq!(l.ask(&ptr(n), waiter(n)), None);
    }
}

/// Names of a crowd are silent, other ones are not.
fn server() -> Dns {
    let server = Dns::start();
    server.otherwise(a("192.0.2.1"));
    server.set("*.in-addr.arpa", PTR, Message::new().fault(Fault::Silent));
    server
}

const PLACES: u32 = (MAX_WANTED - FOR_LISTS) as u32;

#[test]
fn a_dead_server_is_passed_over_in_a_crowd_as_well() {
    let (dead, living) = (Dns::start(), server());
    dead.otherwise(Message::new().fault(Fault::Silent));
    let mut l = Loop::asking(&[dead.address, living.address], 0);
    l.warm_up("h.example");
    crowd(&mut l, 2 * PLACES);
    assert_eq!(l.answer(&host("first.example")), found(&["192.0.2.1"]));
    let start = Instant::now();
    for n in 0..10 {
        assert_eq!(l.answer(&host(&format!("other{n}.example"))), found(&["192.0.2.1"]));
    }
    assert!(start.elapsed() < Duration::from_secs(8), "a try of the dead one each: {:?}", start.elapsed());
}

/// They would hold their places until c-ares gives up.
#[test]
fn silent_names_of_before_a_reload_give_way_too() {
    let server = server();
    let mut l = Loop::asking(&[server.address], 0);
    l.warm_up("h.example");
    crowd(&mut l, PLACES);
    l.until("all in flight", |l| l.counts().in_flight == PLACES as usize);
    l.resolver.reload(Instant::now()).unwrap();
    let start = Instant::now();
    assert_eq!(l.answer(&host("other.example")), found(&["192.0.2.1"]));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

/// Likewise when lists show that the servers are fast: see `Channels::current`.
#[test]
fn silent_names_of_before_anything_was_answered_give_way_too() {
    let server = server();
    let mut l = Loop::asking(&[server.address], 0);
    crowd(&mut l, PLACES - 10);
    l.until("all in flight", |l| l.counts().in_flight == PLACES as usize - 10);
    let listing = Question::Listing { zone: 0, ip: IpAddr::from([192, 0, 2, 1]), kind: ListingKind::A };
    assert_ne!(l.answer(&listing), Answer::Failed);
    crowd(&mut l, PLACES + 200);
    let start = Instant::now();
    assert_eq!(l.answer(&host("other.example")), found(&["192.0.2.1"]));
    assert!(start.elapsed() < Duration::from_secs(3), "twenty times ten places: {:?}", start.elapsed());
}

/// Channels are made all the time in a crowd and after one; none asks this host because there is no file.
#[test]
fn new_channels_ask_the_same_servers_though_resolv_conf_is_gone() {
    let server = server();
    let conf = Conf::new("gone");
    conf.write(&nameserver(server.address));
    let mut l = Loop::new(conf.settings());
    l.warm_up("h.example");
    std::fs::remove_file(conf.path()).unwrap();
    crowd(&mut l, 2 * PLACES);
    for n in 0..5 {
        assert_eq!(l.answer(&host(&format!("other{n}.example"))), found(&["192.0.2.1"]), "{n}");
    }
    (0..2 * PLACES).for_each(|n| l.resolver.forget(&ptr(n), waiter(n)));
    l.until("rest", |l| l.resolver.timeout(Instant::now()).is_none());
    assert_eq!(l.resolver.servers(), [server.address.to_string()]);
    assert_eq!(l.answer(&host("last.example")), found(&["192.0.2.1"]));
}

/// Name servers that take longer than a crowd is left alone for, be they known as fast or not at all: it takes a second
/// try, and nobody goes without.
fn slow_answers_come_in_the_end(late: Duration, were_fast: bool) {
    let server = Dns::start();
    server.otherwise(Message::new().rcode(3).late(late)).set("h.example", A, a("192.0.2.1"));
    let mut l = Loop::asking(&[server.address], 0);
    if were_fast {
        l.warm_up("h.example");
    }
    let before = l.counts().sent;
    crowd(&mut l, 2 * MAX_WANTED as u32);
    l.until("all answers", |l| l.told.len() == 2 * MAX_WANTED);
    let failed = l.told.iter().filter(|told| told.2 != Answer::Absent).count();
    // A server known as fast c-ares itself gives up earlier, a few times where the machine is busy.
    assert!(failed <= if were_fast { 100 } else { 0 }, "{failed}, {:?}", l.failures.iter().next());
    println!("{failed} of {} failed", 2 * MAX_WANTED);
    assert!(l.counts().sent - before > 2 * MAX_WANTED as u64, "some were asked twice");
    l.until("rest", |l| l.resolver.timeout(Instant::now()).is_none());
}

#[test]
fn slow_answers_to_many_come_in_the_end() {
    slow_answers_come_in_the_end(Duration::from_millis(1300), false);
}

#[test]
fn slower_answers_to_many_come_in_the_end() {
    slow_answers_come_in_the_end(Duration::from_millis(2500), false);
}

#[test]
fn answers_that_become_slow_come_in_the_end() {
    slow_answers_come_in_the_end(Duration::from_millis(1500), true);
}

/// A server that was dead while the crowd was there is asked again after it, though another one answers as well.
#[test]
fn a_first_server_that_is_back_is_asked_again_after_a_crowd() {
    let (first, second) = (server(), server());
    first.otherwise(Message::new().fault(Fault::Silent));
    let mut l = Loop::asking(&[first.address, second.address], 0);
    l.warm_up("h.example");
    crowd(&mut l, 2 * PLACES);
    assert_eq!(l.answer(&host("other.example")), found(&["192.0.2.1"]));
    (0..2 * PLACES).for_each(|n| l.resolver.forget(&ptr(n), waiter(n)));
    l.until("rest", |l| l.resolver.timeout(Instant::now()).is_none());
    first.otherwise(a("192.0.2.2"));
    assert_eq!(l.answer(&host("last.example")), found(&["192.0.2.2"]));
    assert_eq!(l.resolver.servers(), [first.address.to_string(), second.address.to_string()]);
}

/// A long queue is no reason to ask for a name just once, and for a moment.
#[test]
fn what_has_queued_for_long_is_asked_for_twice() {
    let server = server();
    let mut l = Loop::asking(&[server.address], 0);
    l.warm_up("h.example");
    crowd(&mut l, PLACES);
    l.until("all in flight", |l| l.counts().in_flight == PLACES as usize);
    // They are as old as if they had waited in the queue.
    let late = Instant::now() + Duration::from_secs(30);
    l.ask(&host("other.example"), waiter(PLACES));
    l.resolver.turn(late);
    l.resolver.turn(late + Duration::from_secs(3));
    assert!(l.resolver.counts().in_flight < PLACES as usize, "they were given up");
    assert!(l.resolver.next_finished(late).is_none_or(|finished| finished.answer != Answer::Failed));
}

/// Lists do not give way to each other, since whoever asks for one has to wait for it; but none takes all the places.
#[test]
fn a_silent_list_leaves_places_to_another() {
    let server = Dns::start();
    server.otherwise(Message::new().rcode(3));
    server.set("*.bl.example", A, Message::new().fault(Fault::Silent));
    let mut l = Loop::asking(&[server.address], 0);
    let listing = |zone, n: u32| Question::Listing { zone, ip: IpAddr::from(n.to_be_bytes()), kind: ListingKind::A };
    let start = Instant::now();
    let count = 2 * MAX_WANTED as u32;
    for n in 0..count {
        assert_eq!(l.ask(&listing(0, n), waiter(n)), None);
    }
    let most = MAX_WANTED * LISTS_TO_LEFT / (LISTS_TO_LEFT + 1);
    l.until("as many as may be in flight", |l| l.counts().in_flight == most);
    for n in 0..500 {
        assert_eq!(l.answer(&listing(1, n)), Answer::Absent, "{n}");
    }
    assert!(start.elapsed() < Duration::from_secs(6), "none has waited for a place: {:?}", start.elapsed());
    assert_eq!(l.counts().in_flight, most);
    // Whoever waited has gone, and others have come, twenty times; those queries are under way all the same.
    let round = MAX_STARTED as u32;
    for n in 1..=20 {
        (0..count + n * round).for_each(|n| l.resolver.forget(&listing(0, n), waiter(n)));
        (count + n * round..count + (n + 1) * round).for_each(|n| assert_eq!(l.ask(&listing(0, n), waiter(n)), None));
        l.resolver.turn(Instant::now());
    }
    assert_eq!(l.counts().in_flight, 2 * most, "a fifth is left");
    for n in 500..1000 {
        assert_eq!(l.answer(&listing(1, n)), Answer::Absent, "{n}");
    }
}

/// One silent list does not have names asked for too late either, be there silent ones among them.
#[test]
fn a_silent_list_leaves_places_to_names() {
    let server = server();
    server.set("*.bl.example", A, Message::new().fault(Fault::Silent));
    let mut l = Loop::asking(&[server.address], 0);
    l.warm_up("h.example");
    let listing = |n: u32| Question::Listing { zone: 0, ip: IpAddr::from(n.to_be_bytes()), kind: ListingKind::A };
    let count = 2 * MAX_WANTED as u32;
    (0..count).for_each(|n| assert_eq!(l.ask(&listing(n), waiter(n)), None));
    let most = MAX_WANTED * LISTS_TO_LEFT / (LISTS_TO_LEFT + 1);
    l.until("as many as may be in flight", |l| l.counts().in_flight == most);
    let start = Instant::now();
    for n in 0..500 {
        assert_eq!(l.answer(&host(&format!("some{n}.example"))), found(&["192.0.2.1"]), "{n}");
    }
    assert!(start.elapsed() < Duration::from_secs(4), "none has waited for a place: {:?}", start.elapsed());
    (0..PLACES).for_each(|n| assert_eq!(l.ask(&ptr(n), waiter(count + n)), None));
    let half = (MAX_WANTED - most) / 2;
    l.until("half of what is left is taken", |l| l.counts().in_flight >= most + half);
    let start = Instant::now();
    for n in 0..20 {
        assert_eq!(l.answer(&host(&format!("other{n}.example"))), found(&["192.0.2.1"]), "{n}");
    }
    println!("20 names beside silent ones and a silent list: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(20), "silent ones give way: {:?}", start.elapsed());
    assert!(l.counts().in_flight <= most + half + 1, "{:?}", l.counts());
}

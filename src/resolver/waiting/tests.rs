//! Queues, shared questions, and the numbers of queries.

use super::*;
use crate::policy::question::ListingKind;
use std::net::IpAddr;

fn question(n: u8) -> Question {
    Question::Names(IpAddr::from([192, 0, 2, n]))
}

fn key(index: u32) -> Key {
    Key { index, generation: 0 }
}

const ALL: Allowed = Allowed { lists: usize::MAX, names: true, late: true };

#[test]
fn an_entry_has_64_bytes() {
    // Question, Entry and the three links of the table.
    assert!(size_of::<Question>() + size_of::<Entry>() + 3 * size_of::<Place>() <= 64);
}

#[test]
fn questions_are_sent_in_order_of_arrival_and_shared() {
    let mut waiting = Waiting::default();
    for n in [1, 2, 3] {
        assert_eq!(waiting.add(&question(n), key(n.into()), 0, None), Added::Queued);
    }
    assert_eq!(waiting.add(&question(2), key(9), 5, None), Added::Shared);
    let mut order = Vec::new();
    let mut places = Vec::new();
    while let Some((place, question)) = waiting.send_next(places.len() as u32, ALL) {
        order.push(question.clone());
        places.push(place);
    }
    assert_eq!(order, [question(1), question(2), question(3)]);
    assert_eq!((waiting.wanted(), waiting.queued()), (3, 0));
    assert_eq!(waiting.state(&question(2)), Some((true, 0)));
    assert_eq!(waiting.expects(places[1], 1), Some(Expected { wanted: true, alone: false, late: false }));
    assert_eq!(waiting.expects(places[1], 0), None);
    let (asked, waiters, _) = waiting.finish(places[1]).unwrap();
    assert_eq!((asked, waiters.as_slice()), (question(2), &[key(2), key(9)][..]));
    assert_eq!((waiting.wanted(), waiting.len()), (2, 2));
}

/// One connection has sixty names to confirm and asks for four at a time; another that comes in
/// between waits behind those four, not behind sixty.
#[test]
fn a_connection_with_many_names_does_not_starve_another() {
    let mut waiting = Waiting::default();
    let mut names = 0;
    let mut ask = |waiting: &mut Waiting| {
        names += 1;
        waiting.add(&question(names), key(1), 0, None);
    };
    (0..4).for_each(|_| ask(&mut waiting));
    waiting.add(&question(200), key(2), 0, None);
    let mut sent = 0;
    loop {
        let (place, asked) = waiting.send_next(sent, ALL).unwrap();
        let done = *asked == question(200);
        sent += 1;
        waiting.finish(place);
        if done {
            break;
        }
        ask(&mut waiting);
    }
    assert_eq!(sent, 5);
}

/// Silent zones of names must not make lists be asked too late, which would let everybody in.
#[test]
fn lists_are_asked_before_names_and_without_them() {
    let mut waiting = Waiting::default();
    let list = |n: u8| Question::Listing { zone: 0, ip: IpAddr::from([192, 0, 2, n]), kind: ListingKind::A };
    waiting.add(&question(1), key(1), 0, None);
    waiting.add(&list(1), key(1), 0, None);
    waiting.add(&list(2), key(1), 0, None);
    assert_eq!((waiting.queued(), waiting.queues().lists()), (3, 2));
    assert_eq!(waiting.queues().names(), 1);
    assert_eq!(
        waiting.send_next(1, Allowed { names: false, late: false, ..ALL }).map(|(_, asked)| asked.clone()),
        Some(list(1))
    );
    assert_eq!(waiting.send_next(1, Allowed { lists: 0, names: false, late: false }), None);
    assert_eq!(waiting.send_next(2, ALL).map(|(_, asked)| asked.clone()), Some(list(2)));
    assert_eq!(waiting.send_next(3, Allowed { names: false, late: false, ..ALL }), None);
    assert_eq!(waiting.send_next(3, ALL).map(|(_, asked)| asked.clone()), Some(question(1)));
}

/// One whose servers are silent keeps its places.
#[test]
fn the_list_with_the_fewest_questions_under_way_is_next() {
    let mut waiting = Waiting::default();
    let list = |zone, n: u8| Question::Listing { zone, ip: IpAddr::from([192, 0, 2, n]), kind: ListingKind::A };
    let mut sent = 0;
    let mut send = |waiting: &mut Waiting| {
        sent += 1;
        let (place, asked) = waiting.send_next(sent, ALL).unwrap();
        (place, asked.clone())
    };
    let add = |waiting: &mut Waiting, zone, n: u8| waiting.add(&list(zone, n), key(n.into()), 0, None);
    (1..=6).for_each(|n| assert_eq!(add(&mut waiting, 0, n), Added::Queued));
    (1..=3).for_each(|n| assert_eq!(send(&mut waiting).1, list(0, n)));
    (1..=3).for_each(|n| assert_eq!(add(&mut waiting, 7, n), Added::Queued));
    // The second list is answered each time.
    for n in 1..=2 {
        let (place, asked) = send(&mut waiting);
        assert_eq!(asked, list(7, n));
        waiting.finish(place);
    }
    assert_eq!((send(&mut waiting).1, send(&mut waiting).1), (list(7, 3), list(0, 4)));
    // It still has its place when nobody waits for it, but not when it is queued again, or answered.
    waiting.remove(&list(0, 1), key(1));
    waiting.requeue(waiting.table.find(&list(0, 2)).unwrap());
    waiting.finish(waiting.table.find(&list(0, 3)).unwrap());
    (4..=5).for_each(|n| assert_eq!(add(&mut waiting, 7, n), Added::Queued));
    assert!(!waiting.has_next(Allowed { lists: 0, ..ALL }), "there is no place");
    let order: Vec<_> = (0..5).map(|_| send(&mut waiting).1).collect();
    assert_eq!(order, [list(7, 4), list(0, 5), list(7, 5), list(0, 6), list(0, 2)]);
    add(&mut waiting, 0, 7);
    assert!(!waiting.has_next(Allowed { lists: 5, ..ALL }), "it has so many");
    assert!(waiting.has_next(Allowed { lists: 6, ..ALL }));
    add(&mut waiting, 5, 1);
    assert!(waiting.has_next(Allowed { lists: 1, ..ALL }), "another one has none");
}

#[test]
fn a_queued_question_goes_with_its_last_waiter_and_a_sent_one_stays() {
    let mut waiting = Waiting::default();
    waiting.add(&question(1), key(1), 0, None);
    waiting.add(&question(1), key(2), 0, None);
    waiting.add(&question(2), key(1), 0, None);
    waiting.remove(&question(1), key(1));
    waiting.remove(&question(1), key(7));
    assert_eq!(waiting.queued(), 2);
    waiting.remove(&question(1), key(2));
    assert_eq!((waiting.queued(), waiting.state(&question(1))), (1, None));
    let (place, asked) = waiting.send_next(0, ALL).unwrap();
    assert_eq!(*asked, question(2));
    waiting.remove(&question(2), key(1));
    assert_eq!(
        (waiting.wanted(), waiting.len(), waiting.expects(place, 0)),
        (0, 1, Some(Expected { wanted: false, alone: false, late: false }))
    );
    assert_eq!(waiting.add(&question(2), key(3), 300, None), Added::Shared);
    assert_eq!((waiting.wanted(), waiting.state(&question(2))), (1, Some((true, 300))));
    assert_eq!(waiting.finish(place).unwrap().1, Waiters::One(key(3)));
    assert_eq!((waiting.wanted(), waiting.len()), (0, 0));
}

#[test]
fn what_gave_way_goes_last_and_a_newcomer_brings_it_forward() {
    let mut waiting = Waiting::default();
    let mut places = Vec::new();
    for n in 1..=3 {
        waiting.add(&question(n), key(n.into()), 0, None);
        places.push(waiting.send_next(n.into(), ALL).unwrap().0);
    }
    places.iter().for_each(|&place| waiting.postpone(place));
    assert_eq!((waiting.wanted(), waiting.queued(), waiting.queues().names()), (0, 3, 0));
    assert_eq!(waiting.state(&question(1)), Some((true, 0)), "it has been asked");
    assert_eq!(waiting.expects(places[0], 1), None);
    assert!(!waiting.has_next(Allowed { late: false, ..ALL }));
    for n in [4, 5] {
        waiting.add(&question(n), key(n.into()), 0, None);
    }
    assert_eq!(waiting.add(&question(2), key(9), 900, None), Added::Shared);
    assert_eq!(waiting.queues().names(), 3);
    let order: Vec<_> = (10..15).map(|n| waiting.send_next(n, ALL).map(|(_, asked)| asked.clone()).unwrap()).collect();
    assert_eq!(order, [4, 5, 2, 1, 3].map(question));
    assert!(!waiting.has_next(ALL));
    // Gone with its last waiter, like any that is queued.
    waiting.postpone(places[0]);
    waiting.remove(&question(1), key(1));
    assert_eq!((waiting.queued(), waiting.state(&question(1))), (0, None));
}

const LAST: u32 = (1 << NUMBER_BITS) - 1;

#[test]
fn numbers_wrap() {
    assert_eq!((next_number(LAST), next_number(5)), (0, 6));
    for (a, b, expected) in [(1, 2, true), (2, 1, false), (3, 3, false), (LAST, 0, true), (0, LAST, false)] {
        assert_eq!(is_before(a, b), expected, "{a} {b}");
    }
}

#[test]
fn what_the_old_servers_were_asked_is_asked_again() {
    let mut waiting = Waiting::default();
    waiting.add(&question(1), key(1), 0, None);
    let (place, _) = waiting.send_next(LAST, ALL).unwrap();
    waiting.add(&question(1), key(2), 0, Some(0));
    assert_eq!((waiting.queued(), waiting.wanted()), (1, 0));
    assert_eq!(waiting.expects(place, LAST), None, "the old answer no longer counts");
    let (again, _) = waiting.send_next(0, ALL).unwrap();
    assert_eq!((again, waiting.wanted()), (place, 1));
    waiting.add(&question(1), key(3), 0, Some(0));
    assert_eq!(waiting.queued(), 0);
    assert_eq!(waiting.send_alone(place, LAST), Some(&question(1)));
    assert_eq!(waiting.expects(place, 0), None);
    assert_eq!(waiting.expects(place, LAST), Some(Expected { wanted: true, alone: true, late: false }));
    assert_eq!(waiting.finish(place).unwrap().1.as_slice().len(), 3);
}

#[test]
fn a_question_without_an_answer_for_a_second_is_pressed_and_fails_with_its_last_query() {
    let mut waiting = Waiting::default();
    waiting.add(&question(1), key(1), 0, None);
    let place = waiting.send_next(7, ALL).unwrap().0;
    assert_eq!(waiting.add(&question(1), key(2), 500, None), Added::Shared);
    assert_eq!(waiting.add(&question(1), key(3), 600, None), Added::Overdue(place, 7));
    assert_eq!(waiting.press(place), Some(&question(1)));
    assert_eq!(waiting.add(&question(1), key(4), 1000, None), Added::Shared);
    assert!(waiting.has_another(place));
    assert!(!waiting.has_another(place));
    assert_eq!(waiting.expects(place, 7), Some(Expected { wanted: true, alone: false, late: false }));
    for n in 1..=MORE_MAX {
        assert_eq!(waiting.add(&question(1), key(5), 600 * n, None), Added::Overdue(place, 7));
        waiting.press(place);
    }
    assert_eq!(waiting.add(&question(1), key(5), 60_000, None), Added::Shared);
    // Whoever comes after all others have left does not wait for the old query either.
    waiting.add(&question(2), key(1), 0, None);
    let place = waiting.send_next(8, ALL).unwrap().0;
    waiting.remove(&question(2), key(1));
    assert_eq!(waiting.add(&question(2), key(2), 700, None), Added::Overdue(place, 8));
}

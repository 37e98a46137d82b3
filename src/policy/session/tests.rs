//! Every order of answers against a plain sequential reading, and at every step against every
//! possible continuation: a verdict is given as soon as, and not before, all continuations agree.

use std::collections::BTreeMap;

use super::*;
use crate::config::{DnsList, ListKind, ListMessage};
use crate::policy::question::{Family, ListingKind, Records};
use crate::policy::testing::{add_list, addresses, config, ip, names, text};

const ENDS: Ends = Ends {
    peer: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 4000),
    local: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 25)), 25),
};

type Answers = BTreeMap<(u16, bool), Answer>;

/// What can come back for an A and for a TXT question.
fn universe(txt: bool) -> Vec<Answer> {
    if txt {
        vec![text("reason"), Answer::Absent, Answer::Failed]
    } else {
        vec![addresses(&["127.0.0.2"]), addresses(&["203.0.113.9"]), Answer::Absent, Answer::Failed]
    }
}

/// The lists read one after the other with all answers at hand, written without looking at `dnsbl`.
fn sequential(config: &Config, answers: &Answers, record: &Delta) -> Option<BTreeMap<String, String>> {
    let mut env: BTreeMap<String, String> = record
        .iter()
        .map(|(n, v)| (String::from_utf8(n.into()).unwrap(), String::from_utf8(v.into()).unwrap()))
        .collect();
    let mut hits = 0;
    for list in &config.lists {
        let var = String::from_utf8(list.variable.clone()).unwrap();
        if env.contains_key(&var) {
            continue;
        }
        let a: Vec<String> = match &answers[&(list.zone, false)] {
            Answer::Found(records) => match &**records {
                Records::Addresses(list) => list.iter().map(ToString::to_string).collect(),
                other => panic!("{other:?}"),
            },
            Answer::Absent => vec![],
            // Nobody is on it, whatever the text says: without the address it may be that of a refusal.
            Answer::Failed => continue,
        };
        let txt = match wants_txt(list).then(|| &answers[&(list.zone, true)]) {
            Some(Answer::Found(records)) => match &**records {
                Records::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
                other => panic!("{other:?}"),
            },
            _ => None,
        };
        let counted = match list.expect {
            Some(expected) => a.iter().find(|a| **a == expected.to_string()),
            None => a.iter().find(|a| a.starts_with("127.")),
        };
        if counted.is_none() && !a.is_empty() {
            if list.expect.is_none() {
                let note = format!("{}:{}", list.display, a[0]);
                let errors = env.entry(format!("{var}_ERROR")).or_default();
                *errors = if errors.is_empty() { note } else { format!("{errors} {note}") };
            }
            continue;
        }
        if counted.is_none() && (txt.is_none() || list.expect.is_some()) {
            continue;
        }
        let value = match (&list.kind, &list.message, &txt) {
            (ListKind::Allow, ..) => String::new(),
            (_, ListMessage::Text(t), _) if !t.is_empty() => String::from_utf8(t.clone()).unwrap(),
            (_, _, Some(txt)) => txt.clone(),
            _ => format!("192.0.2.7 is listed by {}", list.display),
        };
        env.insert(var.clone(), value);
        env.insert(format!("{var}_ZONE"), list.display.clone());
        if let Some(address) = counted {
            env.insert(format!("{var}_IP"), address.clone());
            if list.kind == ListKind::Allow {
                env.insert(format!("ALLOW_{hits}"), var.clone());
                hits += 1;
            }
        }
        if let Some(txt) = txt {
            env.insert(format!("{var}_TXT"), txt);
        }
    }
    let dropped = config.drop.iter().any(|v| env.get(std::str::from_utf8(v).unwrap()).is_some_and(|v| !v.is_empty()));
    (!dropped).then_some(env)
}

fn wants_txt(list: &DnsList) -> bool {
    (list.kind == ListKind::Block && list.message == ListMessage::Txt)
        || (list.kind == ListKind::Allow && list.message != ListMessage::Absent)
}

fn environment(verdict: Verdict) -> Option<BTreeMap<String, String>> {
    match verdict {
        Verdict::Serve(env) => Some(
            env.iter()
                .map(|(n, v)| (String::from_utf8(n.into()).unwrap(), String::from_utf8(v.into()).unwrap()))
                .filter(|(n, _)| !n.starts_with("TCP"))
                .collect(),
        ),
        Verdict::Refuse(Reason::Dropped(_)) => None,
        Verdict::Refuse(reason) => panic!("{reason:?}"),
    }
}

fn key(question: &Question) -> (u16, bool) {
    match question {
        Question::Listing { zone, kind, .. } => (*zone, *kind == ListingKind::Txt),
        other => panic!("{other:?}"),
    }
}

/// All ways to answer `keys`: for each key the place of its answer in the universe.
fn completions(keys: &[(u16, bool)]) -> Vec<Vec<usize>> {
    keys.iter().fold(vec![vec![]], |all, &(_, txt)| {
        let extended = |places: &Vec<usize>| {
            let places = places.clone();
            (0..universe(txt).len()).map(move |place| [&places[..], &[place]].concat())
        };
        all.iter().flat_map(extended).collect()
    })
}

fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    (0..items.len())
        .flat_map(|i| {
            let mut rest = items.to_vec();
            let first = rest.remove(i);
            permutations(&rest).into_iter().map(move |mut p| {
                p.insert(0, first.clone());
                p
            })
        })
        .collect()
}

/// `spec`: kind, zone, variable, message, expected address.
type Spec = (ListKind, &'static str, &'static str, Option<&'static str>, Option<&'static str>);

fn check(specs: &[Spec], drop: &[&str], record: &[(&str, &str)]) {
    let mut config = config();
    for (kind, zone, variable, message, expect) in specs {
        add_list(&mut config, *kind, zone, variable, *message);
        config.lists.last_mut().unwrap().expect = expect.map(|a| a.parse().unwrap());
    }
    config.drop = drop.iter().map(|v| v.as_bytes().to_vec()).collect();
    let mut env = Delta::default();
    for (name, value) in record {
        env.set(name.as_bytes(), value.as_bytes());
    }
    let base = Base::default();

    let mut wanted = Wanted::default();
    Session::start(&config, &base, &ENDS, env.clone(), &mut wanted);
    let mut keys: Vec<_> = wanted.questions.iter().map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert!(keys.len() <= 5, "too many questions to try every order");
    let all = completions(&keys);
    let answers_at = |places: &[usize]| -> Answers {
        keys.iter().zip(places).map(|(&key, &place)| (key, universe(key.1).swap_remove(place))).collect()
    };
    let outcome = |places: &Vec<usize>| {
        let mut full = answers_at(places);
        // Lists that were not asked have their variable set, so their answers are never read.
        for zone in 0..config.zones.len() as u16 {
            for txt in [false, true] {
                full.entry((zone, txt)).or_insert(Answer::Absent);
            }
        }
        sequential(&config, &full, &env)
    };
    let outcomes: Vec<_> = all.iter().map(outcome).collect();
    for (places, expected) in all.iter().zip(&outcomes) {
        let answers = answers_at(places);
        for order in permutations(&(0..keys.len()).collect::<Vec<_>>()) {
            let mut session = Session::start(&config, &base, &ENDS, env.clone(), &mut Wanted::default());
            for known in 0..=order.len() {
                if known > 0 {
                    let (zone, txt) = keys[order[known - 1]];
                    let kind = if txt { ListingKind::Txt } else { ListingKind::A };
                    let question = Question::Listing { zone, ip: ENDS.peer.ip(), kind };
                    session.answer(&config, &question, &answers[&(zone, txt)], &mut Wanted::default());
                }
                let verdict = session.verdict(&config, &base, &ENDS).map(environment);
                if let Some(verdict) = verdict {
                    assert_eq!(verdict, *expected, "{specs:?} {order:?} after {known} of {answers:?}");
                    break;
                }
                assert!(known < order.len(), "{specs:?}: no verdict with all answers {answers:?}");
                let is_possible = |other: &[usize]| order[..known].iter().all(|&i| other[i] == places[i]);
                let mut possible = all.iter().zip(&outcomes).filter(|(other, _)| is_possible(other));
                assert!(
                    possible.any(|(_, other)| other != expected),
                    "{specs:?} {order:?}: waits after {known} of {answers:?} though nothing open matters"
                );
            }
        }
    }
}

#[test]
fn every_order_of_answers_gives_the_sequential_outcome_at_the_first_possible_moment() {
    use ListKind::{Allow, Block};
    let table: &[(&[Spec], &[&str], &[(&str, &str)])] = &[
        (&[(Block, "a", "BLOCK", None, None)], &[], &[]),
        (&[(Block, "a", "BLOCK", Some("*"), None)], &[], &[]),
        (&[(Block, "a", "BLOCK", Some("*"), Some("127.0.0.2"))], &["BLOCK"], &[]),
        (&[(Block, "a", "BLOCK", None, None), (Block, "b", "BLOCK", Some("no"), None)], &[], &[]),
        (&[(Block, "a", "BLOCK", None, None), (Block, "b", "BLOCK", Some("no"), None)], &["BLOCK"], &[]),
        (&[(Allow, "w", "BLOCK", None, None), (Block, "b", "BLOCK", Some("*"), None)], &["BLOCK"], &[]),
        (&[(Block, "b", "BLOCK", Some("*"), None), (Allow, "w", "BLOCK", Some(""), None)], &["BLOCK"], &[]),
        (&[(Block, "a", "BLOCK", None, None), (Block, "b", "SPAM", None, None)], &["BLOCK"], &[]),
        (&[(Block, "a", "BLOCK", None, None), (Block, "b", "SPAM", None, None)], &["SPAM", "BLOCK"], &[]),
        (
            &[
                (Block, "a", "BLOCK", None, Some("127.0.0.2")),
                (Block, "a", "BLOCK", Some("second"), Some("203.0.113.9")),
                (Block, "b", "BLOCK", None, None),
            ],
            &["BLOCK"],
            &[],
        ),
        (
            &[
                (Block, "a", "BLOCK", None, None),
                (Allow, "w", "BLOCK", None, None),
                (Block, "b", "BLOCK", Some("*"), None),
            ],
            &["BLOCK"],
            &[],
        ),
        (&[(Block, "a", "BLOCK", None, None), (Block, "b", "OTHER", None, None)], &[], &[("BLOCK", "")]),
        (&[(Block, "a", "BLOCK", None, None)], &["BLOCK"], &[("BLOCK", "by the record")]),
        (&[(Allow, "w", "OK", Some(""), None), (Allow, "v", "OK2", None, None)], &[], &[]),
        (
            &[
                (Block, "a", "BLOCK", None, None),
                (Block, "b", "BLOCK", None, None),
                (Block, "c", "BLOCK", None, None),
                (Block, "d", "BLOCK", None, None),
            ],
            &["BLOCK"],
            &[],
        ),
    ];
    for (specs, drop, record) in table {
        check(specs, drop, record);
    }
}

fn named_config() -> Config {
    let mut config = config();
    config.lookups.names = NameSource::Dns;
    config.lookups.ident = true;
    config
}

#[test]
fn names_and_ident_are_waited_for_and_a_certain_refusal_is_not() {
    let mut config = named_config();
    add_list(&mut config, ListKind::Block, "a", "BLOCK", None);
    config.drop = vec![b"BLOCK".to_vec()];
    let base = Base::default();
    let mut wanted = Wanted::default();
    let mut session = Session::start(&config, &base, &ENDS, Delta::default(), &mut wanted);
    assert_eq!(wanted.questions.len(), 3);
    assert!(wanted.ident);
    let listing = Question::Listing { zone: 0, ip: ENDS.peer.ip(), kind: ListingKind::A };
    session.answer(&config, &listing, &addresses(&["127.0.0.2"]), &mut wanted);
    assert_eq!(session.verdict(&config, &base, &ENDS), Some(Verdict::Refuse(Reason::Dropped(b"BLOCK".to_vec()))));
    assert_eq!(session.open_questions(&config, &ENDS).len(), 2);
}

#[test]
fn the_variables_of_a_served_connection() {
    let config = named_config();
    let base = Base::default();
    let mut wanted = Wanted::default();
    let mut session = Session::start(&config, &base, &ENDS, Delta::default(), &mut wanted);
    session.answer(&config, &Question::Names(ENDS.peer.ip()), &names(&["Mail.Example"]), &mut wanted);
    session.answer(&config, &Question::Names(ENDS.local.ip()), &Answer::Absent, &mut wanted);
    session.ident(Some(b"joe".as_slice().into()));
    assert_eq!(session.verdict(&config, &base, &ENDS), None);
    let forward = Question::Addresses("Mail.Example".into(), Family::V4);
    assert_eq!(wanted.questions.last(), Some(&forward));
    session.answer(&config, &forward, &addresses(&["192.0.2.7"]), &mut wanted);
    let Some(Verdict::Serve(env)) = session.verdict(&config, &base, &ENDS) else { panic!() };
    let env: Vec<String> =
        env.iter().map(|(n, v)| format!("{}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v))).collect();
    assert_eq!(
        env,
        [
            "TCPLOCALIP=192.0.2.25",
            "TCPLOCALPORT=25",
            "TCPREMOTEIP=192.0.2.7",
            "TCPREMOTEPORT=4000",
            "TCPREMOTEHOST=Mail.Example",
            "TCPREMOTEINFO=joe"
        ]
    );
}

#[test]
fn what_lookups_find_can_be_dropped_for() {
    let base = Base::default();
    for (variable, name, dropped) in [
        ("TCPREMOTEHOST", names(&["mail.example"]), true),
        ("TCPREMOTEHOST", Answer::Failed, true),
        ("TCPREMOTEHOST", Answer::Absent, false),
        ("TCPLOCALHOST", names(&["mail.example"]), false),
        ("TCPREMOTEINFO", Answer::Absent, true),
        ("TCPREMOTEIP", Answer::Absent, true),
    ] {
        let mut config = named_config();
        config.drop = vec![variable.into()];
        let mut session = Session::start(&config, &base, &ENDS, Delta::default(), &mut Wanted::default());
        session.ident(Some(b"joe".as_slice().into()));
        session.answer(&config, &Question::Names(ENDS.local.ip()), &Answer::Absent, &mut Wanted::default());
        session.answer(&config, &Question::Names(ENDS.peer.ip()), &name, &mut Wanted::default());
        let forward = Question::Addresses("mail.example".into(), Family::V4);
        session.answer(&config, &forward, &addresses(&["192.0.2.7"]), &mut Wanted::default());
        match session.verdict(&config, &base, &ENDS) {
            Some(Verdict::Refuse(Reason::Dropped(by))) => assert!(dropped && by == variable.as_bytes(), "{variable}"),
            Some(Verdict::Serve(_)) => assert!(!dropped, "{variable} {name:?}"),
            other => panic!("{variable} {name:?}: {other:?}"),
        }
    }
}

#[test]
fn at_the_time_limit_everything_open_counts_as_failed() {
    let mut config = named_config();
    add_list(&mut config, ListKind::Block, "a", "BLOCK", Some("*"));
    config.drop = vec![b"BLOCK".to_vec()];
    let base = Base::default();
    let mut session = Session::start(&config, &base, &ENDS, Delta::default(), &mut Wanted::default());
    assert_eq!(session.verdict(&config, &base, &ENDS), None);
    session.expire();
    let Some(Verdict::Serve(env)) = session.verdict(&config, &base, &ENDS) else { panic!() };
    assert_eq!(env.get(b"TCPREMOTEHOST"), Some(&b"softdnserr"[..]));
    assert_eq!(env.get(b"TCPREMOTEINFO"), None);
    assert_eq!(env.get(b"BLOCK"), None);
    assert_eq!(session.list_results(&config).collect::<Vec<_>>(), [(0, ListResult::Late)]);
    assert!(session.open_questions(&config, &ENDS).is_empty());
}

#[test]
fn peer_and_local_end_may_be_the_same_address() {
    let mut config = named_config();
    config.lookups.ident = false;
    let base = Base::default();
    let ends = Ends { peer: SocketAddr::new(ip("127.0.0.1"), 4000), local: SocketAddr::new(ip("127.0.0.1"), 25) };
    let mut session = Session::start(&config, &base, &ends, Delta::default(), &mut Wanted::default());
    session.answer(&config, &Question::Names(ip("127.0.0.1")), &Answer::Absent, &mut Wanted::default());
    assert!(session.verdict(&config, &base, &ends).is_some());
}

#[test]
fn the_name_service_switch_answers_in_the_place_of_dns() {
    let mut config = named_config();
    config.lookups.names = NameSource::Nss(4);
    config.lookups.ident = false;
    let base = Base::default();
    let mut wanted = Wanted::default();
    let mut session = Session::start(&config, &base, &ENDS, Delta::default(), &mut wanted);
    assert_eq!(wanted.names, [ENDS.peer.ip(), ENDS.local.ip()]);
    assert!(wanted.questions.is_empty());
    session.name(ENDS.local.ip(), &HostName::Absent);
    assert_eq!(session.open_names(&config, &ENDS).collect::<Vec<_>>(), [ENDS.peer.ip()]);
    session.name(ENDS.peer.ip(), &HostName::Known("h".into()));
    assert!(session.verdict(&config, &base, &ENDS).is_some());
}

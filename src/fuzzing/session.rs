//! The lookups of one connection, answered in any order: the verdict is the same, and once it has
//! fallen nothing changes it.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::rc::Rc;

use super::Input;
use crate::config::{Config, ListKind, NameSource};
use crate::policy::env::{Base, Delta};
use crate::policy::question::{Answer, HostName, Question, Records};
use crate::policy::session::{Ends, Session, Wanted};
use crate::policy::testing::{add_list, config};
use crate::policy::{Reason, Verdict};

/// The world that is asked: what it said once it says again.
struct World<'a> {
    input: Input<'a>,
    said: HashMap<Question, Answer>,
    user: Option<Box<[u8]>>,
    names: HashMap<std::net::IpAddr, HostName>,
}

impl World<'_> {
    fn answer(&mut self, question: &Question, ends: &Ends) -> Answer {
        if let Some(answer) = self.said.get(question) {
            return answer.clone();
        }
        let choice = self.input.byte();
        let records = match question {
            _ if choice < 48 => None,
            Question::Names(_) => {
                let count = 1 + choice % 7;
                let names =
                    (0..count).map(|_| Rc::from(self.input.one_of(&["a.example", "b.example", "", "c.example"])));
                Some(Records::Names(names.collect()))
            }
            Question::Addresses(..) => {
                let ip = if choice & 1 == 0 { ends.peer.ip() } else { [198, 51, 100, choice].into() };
                Some(Records::Addresses(vec![ip]))
            }
            Question::Listing { kind: crate::policy::question::ListingKind::A, .. } => {
                let count = 1 + choice % 3;
                let ips = (0..count).map(|_| {
                    let odd = [[127, 255, 255, 254], [127, 0, 0, 1], [203, 0, 113, 9], [127, 0, 0, 255]];
                    let good = [[127, 0, 0, 2], [127, 0, 0, 3]];
                    let pick = self.input.byte();
                    if pick & 1 == 0 { good[usize::from(pick >> 1) % 2] } else { odd[usize::from(pick >> 1) % 4] }
                        .into()
                });
                Some(Records::Addresses(ips.collect()))
            }
            Question::Listing { .. } => Some(Records::Text(vec![choice; usize::from(choice % 4)].into())),
        };
        let answer = match records {
            Some(records) => Answer::Found(Rc::new(records)),
            None if choice & 1 == 0 => Answer::Absent,
            None => Answer::Failed,
        };
        self.said.insert(question.clone(), answer.clone());
        answer
    }

    fn name(&mut self, ip: std::net::IpAddr) -> HostName {
        let choice = self.input.byte();
        self.names
            .entry(ip)
            .or_insert_with(|| match choice % 4 {
                0 => HostName::Known("h.example".into()),
                1 => HostName::Absent,
                2 => HostName::SoftError,
                _ => HostName::Mismatch,
            })
            .clone()
    }
}

fn configuration(input: &mut Input) -> Config {
    let mut config = config();
    config.lookups.names = input.one_of(&[NameSource::Off, NameSource::Dns, NameSource::Nss(1)]);
    config.lookups.ident = input.byte() & 1 == 1;
    for _ in 0..input.below(5) {
        let kind = input.one_of(&[ListKind::Block, ListKind::Allow]);
        let zone = input.one_of(&["a", "b", "c"]);
        let variable = input.one_of(&["BLOCK", "BLOCK", "SPAM", "BLOCK_ZONE"]);
        add_list(&mut config, kind, zone, variable, input.one_of(&[None, Some("*"), Some(""), Some("no @")]));
        let expect = input.one_of(&[None, None, Some([127, 0, 0, 2]), Some([203, 0, 113, 9])]);
        config.lists.last_mut().expect("added above").expect = expect.map(Into::into);
    }
    for zone in &mut config.zones {
        zone.any = input.byte() & 7 == 7;
    }
    config.drop = input
        .one_of::<&[&str]>(&[&[], &["BLOCK"], &["SPAM", "BLOCK"], &["BLOCK_TXT"]])
        .iter()
        .map(|v| v.as_bytes().to_vec())
        .collect();
    config
}

/// A configuration, an order, and a world.
pub fn events(data: &[u8]) {
    let mut input = Input(data);
    let config = configuration(&mut input);
    let ends = Ends {
        peer: ([192, 0, 2, 7], 4000).into(),
        local: (if input.byte() & 7 == 7 { [192, 0, 2, 7] } else { [192, 0, 2, 25] }, 25).into(),
    };
    let mut record = Delta::default();
    if input.byte() & 7 == 7 {
        record.set(b"BLOCK", if input.byte() & 1 == 0 { b"" } else { b"by the record" });
    }
    let base = Base::new((input.byte() & 15 == 15).then_some(("SPAM", "inherited")));
    let (first_order, second_order) = (input.word(), input.word());
    let expire_at = input.byte();
    let user = (input.byte() & 1 == 1).then(|| Box::from(&b"joe"[..]));
    let mut world = World { input, said: HashMap::new(), user, names: HashMap::new() };

    let run = |order, expire_at, world: &mut World| play(&config, &base, &ends, &record, order, expire_at, world);
    let first = run(first_order, None, &mut world);
    let second = run(second_order, None, &mut world);
    assert_eq!(first, second, "the order of the answers decided");
    // With a time limit the verdict may be another, but there is one.
    run(first_order, Some(expire_at), &mut world);
}

/// Something that is under way.
#[derive(Clone, PartialEq, Eq)]
enum Open {
    Question(Question),
    Name(std::net::IpAddr),
    Ident,
}

/// Of two variables that drop a connection, the one that is known first is the reason: by then the
/// connection is closed.
fn without_variable(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Refuse(Reason::Dropped(_)) => Verdict::Refuse(Reason::Dropped(Vec::new())),
        other => other,
    }
}

fn play(
    config: &Config,
    base: &Base,
    ends: &Ends,
    record: &Delta,
    order: u16,
    expire_at: Option<u8>,
    world: &mut World,
) -> Verdict {
    let mut wanted = Wanted::default();
    let mut session = Session::start(config, base, ends, record.clone(), &mut wanted);
    let mut open: Vec<Open> = Vec::new();
    let mut verdict: Option<Verdict> = None;
    let mut order = u32::from(order) | 0x1_0000;
    for step in 0u8..=255 {
        let Wanted { questions, moot, names, ident } = std::mem::take(&mut wanted);
        open.extend(questions.into_iter().map(Open::Question));
        for question in moot {
            let at = open.iter().position(|other| *other == Open::Question(question.clone()));
            open.swap_remove(at.expect("given up, and never asked"));
        }
        open.extend(names.into_iter().map(Open::Name));
        open.extend(ident.then_some(Open::Ident));
        let now = session.verdict(config, base, ends).map(without_variable);
        if let Some(before) = &verdict {
            assert_eq!(now.as_ref(), Some(before), "the verdict had fallen");
        }
        verdict = now;
        if open.is_empty() || expire_at.is_some_and(|at| at % 16 == step) {
            break;
        }
        for question in session.open_questions(config, ends) {
            assert!(open.contains(&Open::Question(question)), "open, and never asked");
        }
        order = order.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match open.swap_remove((order >> 16) as usize % open.len()) {
            Open::Question(question) => {
                let answer = world.answer(&question, ends);
                session.answer(config, &question, &answer, &mut wanted);
                // Asked by several parts of a session, it is answered for all of them.
                open.retain(|other| *other != Open::Question(question.clone()));
            }
            Open::Name(ip) => session.name(ip, &world.name(ip)),
            Open::Ident => session.ident(world.user.clone()),
        }
    }
    session.expire();
    assert!(session.open_questions(config, ends).is_empty() && session.open_names(config, ends).next().is_none());
    let last = session.verdict(config, base, ends).expect("after the time limit there is a verdict");
    let last = without_variable(last);
    if let Some(verdict) = verdict {
        assert_eq!(last, verdict, "the verdict had fallen before the time limit");
    }
    for (list, _) in session.list_results(config) {
        assert!(list < config.lists.len());
    }
    last
}

use super::*;
use crate::policy::testing::{add_list, addresses, config, ip, text};

fn replies(a: Answer, txt: Option<Answer>) -> Replies {
    Replies { a: Part::Done(a), txt: txt.map_or(Part::NotAsked, Part::Done) }
}

/// The variables that one list sets for 192.0.2.7, as `NAME=VALUE`.
fn outcome(kind: ListKind, message: Option<&str>, expect: Option<&str>, any: bool, replies: &Replies) -> Vec<String> {
    let mut config = config();
    add_list(&mut config, kind, "bl.test", "V", message);
    config.lists[0].expect = expect.map(|a| a.parse().unwrap());
    config.zones[0].any = any;
    let env =
        fold(&config, std::slice::from_ref(replies), ip("192.0.2.7"), &Delta::default(), &Base::default()).unwrap();
    env.iter().map(|(n, v)| format!("{}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v))).collect()
}

#[test]
fn a_block_hit_sets_text_address_and_zone() {
    let zone = ["V_IP=127.0.0.2", "V_ZONE=BL.TEST"].map(str::to_owned);
    for (message, txt, expected) in [
        (None, None, "V=192.0.2.7 is listed by BL.TEST"),
        (Some(""), None, "V=192.0.2.7 is listed by BL.TEST"),
        (Some("550 @ go @ away, please"), None, "V=550 192.0.2.7 go @ away, please"),
        (Some("*"), Some(Answer::Absent), "V=192.0.2.7 is listed by BL.TEST"),
        (Some("*"), Some(Answer::Failed), "V=192.0.2.7 is listed by BL.TEST"),
        (Some("*"), Some(text("")), "V=192.0.2.7 is listed by BL.TEST"),
    ] {
        let got = outcome(ListKind::Block, message, None, false, &replies(addresses(&["127.0.0.2"]), txt));
        assert_eq!(got, [&[expected.to_owned()], &zone[..]].concat(), "{message:?}");
    }
    assert_eq!(
        outcome(ListKind::Block, Some("*"), None, false, &replies(addresses(&["127.0.0.2"]), Some(text("why")))),
        ["V=why", "V_IP=127.0.0.2", "V_TXT=why", "V_ZONE=BL.TEST"]
    );
}

#[test]
fn an_allow_hit_sets_an_empty_variable_and_counts() {
    assert_eq!(
        outcome(ListKind::Allow, Some(""), None, false, &replies(addresses(&["127.0.0.9"]), Some(text("t")))),
        ["V=", "V_IP=127.0.0.9", "V_TXT=t", "V_ZONE=BL.TEST", "ALLOW_0=V"]
    );
    assert_eq!(
        outcome(ListKind::Allow, Some(""), None, false, &replies(Answer::Absent, Some(text("t")))),
        ["V=", "V_TXT=t", "V_ZONE=BL.TEST"],
        "no ALLOW_n by text alone"
    );
}

#[test]
fn what_is_a_listing_and_what_is_not() {
    let hit = |address: &str| vec![format!("V_IP={address}")];
    let error = |text: &str| vec![format!("V_ERROR={text}")];
    for (kind, records, expect, any, expected) in [
        (ListKind::Block, vec!["127.0.0.2"], None, false, hit("127.0.0.2")),
        (ListKind::Block, vec!["127.0.1.255"], None, false, hit("127.0.1.255")),
        (ListKind::Block, vec!["127.0.0.255"], None, false, hit("127.0.0.255")),
        (ListKind::Allow, vec!["127.0.0.255"], None, false, error("BL.TEST:127.0.0.255")),
        (ListKind::Block, vec!["127.0.0.1"], None, false, error("BL.TEST:127.0.0.1")),
        (ListKind::Block, vec!["127.255.255.254"], None, false, error("BL.TEST:127.255.255.254")),
        (ListKind::Block, vec!["127.255.255.254"], None, true, hit("127.255.255.254")),
        (
            ListKind::Block,
            vec!["203.0.113.1", "127.0.0.1"],
            None,
            false,
            error("BL.TEST:203.0.113.1 BL.TEST:127.0.0.1"),
        ),
        (ListKind::Block, vec!["203.0.113.1"], None, true, hit("203.0.113.1")),
        (ListKind::Block, vec!["127.0.0.1", "127.0.0.4", "127.0.0.5"], None, false, hit("127.0.0.4")),
        (ListKind::Block, vec!["127.0.0.4", "127.0.0.5"], Some("127.0.0.5"), false, hit("127.0.0.5")),
        (ListKind::Block, vec!["127.0.0.4"], Some("127.0.0.5"), false, vec![]),
        (ListKind::Block, vec!["127.0.0.1"], Some("127.0.0.1"), false, hit("127.0.0.1")),
        (ListKind::Allow, vec!["127.0.0.4"], Some("127.0.0.5"), true, vec![]),
    ] {
        let got = outcome(kind, None, expect, any, &replies(addresses(&records), None));
        let got: Vec<String> =
            got.into_iter().filter(|v| v.starts_with("V_IP=") || v.starts_with("V_ERROR=")).collect();
        assert_eq!(got, expected, "{kind:?} {records:?} {expect:?} {any}");
    }
}

#[test]
fn failures_and_text_alone() {
    for (a, txt, expect, expected) in [
        // As likely the text of a refusal, which an A record would have told.
        (Answer::Failed, Some(text("t")), None, 0),
        (Answer::Absent, Some(text("t")), None, 3),
        (Answer::Absent, Some(text("t")), Some("127.0.0.2"), 0),
        (Answer::Absent, Some(Answer::Failed), None, 0),
        (addresses(&["127.255.255.254"]), Some(text("quota exceeded")), None, 1),
    ] {
        let got = outcome(ListKind::Block, Some("*"), expect, false, &replies(a.clone(), txt));
        assert_eq!(got.len(), expected, "{a:?} {got:?}");
    }
}

//! One status with something everywhere, in its forms.

use std::time::Instant;

use super::counters::{Counters, Event};
use super::*;
use crate::config::Prefix6;
use crate::policy::session::ListResult;

fn limits() -> Limits {
    let prefix6 = Prefix6::default();
    Limits { max_procs: 40, max_per_ip: 4, max_per_block: Some(9), warn_at: 35, max_pending: 100, prefix6 }
}

fn sample() -> Snapshot {
    let start = Instant::now();
    let mut counters = Counters::new(2, 1, start);
    for (event, times) in [(Event::Accepted, 10), (Event::Served, 6), (Event::PerAddress, 3), (Event::NotStarted, 1)] {
        (0..times).for_each(|_| counters.count(event, start));
    }
    let later = start + Duration::from_secs(3600);
    counters.count(Event::Accepted, later);
    for result in [ListResult::Listed, ListResult::NotListed, ListResult::Late, ListResult::Open] {
        counters.lists[0].count(result);
    }
    for time in [3, 4, 700] {
        counters.zones[0].add(Duration::from_millis(time));
    }
    let list = |kind, counts| List {
        kind,
        zone: "bl.example".into(),
        display: "a \"list\" \\".into(),
        variable: "BLOCK".into(),
        counts,
        times: counters.zones[0],
    };
    Snapshot {
        version: "0.1.0",
        pid: 77,
        started: 1_790_000_000,
        uptime: counters.uptime(later),
        program: "/bin/pro\u{e9}".into(),
        state: State::Full,
        listeners: vec!["127.0.0.1:25".parse().unwrap(), "[::1]:25".parse().unwrap()],
        limits: limits(),
        slots_used: 3,
        pending: 5,
        waiting_for_slot: 2,
        lingering: 1,
        lists: vec![list(ListKind::Block, counters.lists[0]), list(ListKind::Allow, counters.lists[1])],
        minute: counters.last_minute(later),
        total: counters.total(),
        resolver: Some(Resolver {
            servers: vec!["192.0.2.53:53".into()],
            counts: resolver::Counts { sent: 8, hits: 2, failures: 1, ..Default::default() },
            cache_most: 1000,
        }),
        helpers: Some(nss::Counts { helpers: 4, busy: 1, ..Default::default() }),
        waits: Waits { header: 0, remote_name: 2, local_name: 0, ident: 1, lists: vec![3, 0] },
        handlers: 3,
        oldest: [("192.0.2.1:5", 100, 90), ("192.0.2.1:6", 101, 80), ("[2001:db8::1]:7", 102, 1)]
            .map(|(peer, pid, age)| Handler { peer: peer.parse().unwrap(), pid, age: Duration::from_secs(age) })
            .into(),
        suppressed: 12,
        lost: 1,
    }
}

#[test]
fn the_text_is_for_people() {
    let text = sample().write(Form::Text);
    for line in [
        "couriertcpd 0.1.0, process 77, up 1 h 0 min, runs /bin/pro\u{e9}",
        "listens on 127.0.0.1:25, [::1]:25; full: new connections wait",
        "slots in use 3 of 40, warning from 35",
        "pending 5 of 100, 2 of them waiting for a slot",
        "for one address 4 at most, for one block 9 at most",
        "connections              last minute      in all",
        "accepted                           1          11",
        "refused                            0           3",
        "  maxperip                         0           3",
        "  spawn                            0           1",
        "DNS lists                               asked     hits   errors unneeded   median    worst",
        "block a \"list\" \\ BLOCK                     4        1        1        1     5 ms   700 ms",
        "name servers 192.0.2.53:53",
        "connections wait for: client's name 2, ident 1, list a \"list\" \\ 3",
        "handlers 3",
        "  192.0.2.1  2, oldest 1 min 30 s, process 100 101",
        "  2001:db8::1  1, 1 s, process 102",
        "messages held back 12, lost 1",
    ] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.lines().any(|l| words(l) == words(line)), "no line {line:?} in:\n{text}");
    }
    assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
}

#[test]
fn times_have_two_units() {
    for (seconds, text) in [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (7322, "2 h 2 min"), (200_000, "2 d 7 h")] {
        assert_eq!(text::time(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn the_json_is_json_with_the_names_that_were_promised() {
    let json = sample().write(Form::Json);
    let mut rest = json.as_bytes();
    value(&mut rest);
    assert_eq!(rest.trim_ascii(), b"", "after the end");
    for line in [
        "  \"uptime_seconds\": 3600.000,",
        "  \"start_time\": 1790000000,",
        "  \"state\": \"full\",",
        "    \"maxperc\": 9",
        "        \"maxperip\": 3,",
        "        \"spawn\": 1,",
        "      \"display\": \"a \\\"list\\\" \\\\\",",
        "      \"median_seconds\": 0.005,",
        "      \"age_seconds\": 90.000",
        "    \"suppressed\": 12,",
    ] {
        assert!(json.lines().any(|l| l == line), "no line {line:?} in:\n{json}");
    }
}

/// Reads one JSON value off the front, or panics.
fn value(rest: &mut &[u8]) {
    let next = |rest: &mut &[u8]| {
        *rest = rest.trim_ascii_start();
        let byte = rest[0];
        *rest = &rest[1..];
        byte
    };
    match next(rest) {
        open @ (b'{' | b'[') => {
            let close = open + 2;
            if rest.trim_ascii_start()[0] == close {
                next(rest);
                return;
            }
            loop {
                if open == b'{' {
                    assert_eq!(rest.trim_ascii_start()[0], b'"');
                    value(rest);
                    assert_eq!(next(rest), b':');
                }
                value(rest);
                match next(rest) {
                    b',' => {}
                    byte if byte == close => return,
                    byte => panic!("{} before {}", char::from(byte), String::from_utf8_lossy(rest)),
                }
            }
        }
        b'"' => {
            while rest[0] != b'"' {
                assert!(rest[0] >= b' ');
                *rest = &rest[if rest[0] == b'\\' { 2 } else { 1 }..];
            }
            *rest = &rest[1..];
        }
        first => {
            let end = rest.iter().position(|b| b",]} \n".contains(b)).unwrap();
            let word = [&[first], &rest[..end]].concat();
            *rest = &rest[end..];
            let word = String::from_utf8(word).unwrap();
            assert!(word == "null" || word.parse::<f64>().is_ok(), "{word}");
        }
    }
}

#[test]
fn the_metrics_keep_to_the_format() {
    let text = sample().write(Form::Prometheus);
    for line in [
        "couriertcpd_build_info{version=\"0.1.0\"} 1",
        "couriertcpd_refused_connections_total{reason=\"maxperip\"} 3",
        "couriertcpd_dns_list_hits_total{list=\"a \\\"list\\\" \\\\\",number=\"1\"} 1",
        "couriertcpd_dns_list_answer_seconds_bucket{list=\"a \\\"list\\\" \\\\\",number=\"2\",le=\"0.005\"} 2",
        "couriertcpd_dns_list_answer_seconds_bucket{list=\"a \\\"list\\\" \\\\\",number=\"1\",le=\"+Inf\"} 3",
        "couriertcpd_dns_list_answer_seconds_sum{list=\"a \\\"list\\\" \\\\\",number=\"1\"} 0.707",
        "couriertcpd_oldest_handler_age_seconds 90",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in:\n{text}");
    }
    // Each metric has its help, then its type, then its samples, all together and once.
    let mut seen = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, _) = line.strip_prefix("# HELP ").expect("help first").split_once(' ').unwrap();
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect("type second");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert!(!seen.contains(&name), "{name} twice");
        seen.push(name);
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let (sample, number) = sample.rsplit_once(' ').unwrap();
            assert!(number.parse::<f64>().is_ok(), "{number}");
            let sample = sample.split('{').next().unwrap();
            let suffixes: &[_] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| sample == format!("{name}{suffix}")), "{sample} in {name}");
        }
    }
    assert!(seen.len() > 30);
}

#[test]
fn the_short_form_is_one_line() {
    assert_eq!(
        sample().short(),
        "status uptime=3600 slots=3/40 pending=5/100 minute_accepted=1 minute_served=0 minute_refused=0 \
         minute_failed=0 accepted=11 served=6 refused=3 failed=1 gone=0 suppressed=12"
    );
}

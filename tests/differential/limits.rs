//! Limits and the messages about them. Section 11.

use super::scenario::{Event, PLAIN, Scenario, between, from, sending, stay};

macro_rules! options {
    ($($option:expr),*) => { &["-nodnslookup", "-noidentlookup", $($option),*] };
}

/// Visits and long stays of 127.0.0.2 and its neighbours.
const V2: Event = from("127.0.0.2");
const V3: Event = from("127.0.0.3");
const V4: Event = from("127.0.0.4");
const S2: Event = stay("127.0.0.2");
const S3: Event = stay("127.0.0.3");
const S4: Event = stay("127.0.0.4");

const REACHED: &str = "log ALERT: Maximum connection limit reached for ::ffff:127.0.0.2";
const REACHED_3: &str = "log ALERT: Maximum connection limit reached for ::ffff:127.0.0.3";
const FULL_BLOCK: &str = "log ALERT: Maximum connection limit reached for block 127.0.0.0/24";
const DROPPED_2: &str = "log WARN: dropped blocked connection from ::ffff:127.0.0.2";
const DROPPED_3: &str = "log WARN: dropped blocked connection from ::ffff:127.0.0.3";

#[rustfmt::skip]
pub const TABLE: &[Scenario] = &[
    Scenario { name: "maxperip: four by default", events: &[S2, S2, S2, S2, V2, V3],
        theirs: &["stays", "stays", "stays", "stays", "closed", "served", REACHED], ..PLAIN },
    Scenario { name: "maxperip: 1", options: options!["-maxperip=1"], events: &[S2, V2, V3],
        theirs: &["stays", "closed", "served", REACHED], ..PLAIN },
    Scenario { name: "maxperip: refused, having sent", options: options!["-maxperip=1", "-denymsg=go away"],
        events: &[S2, sending("127.0.0.2", "x"), V2], theirs: &["stays", "closed reset", "closed", REACHED, REACHED],
        ours: Some(("alert-once", &["stays", "closed reset", "closed", REACHED])), ..PLAIN },
    Scenario { name: "maxperip: free again after the end", options: options!["-maxperip=1"], events: &[V2, V2, V2],
        theirs: &["served", "served", "served"], ..PLAIN },
    Scenario { name: "maxperip: two addresses", options: options!["-maxperip=1"], events: &[S2, S3, V2, V3],
        theirs: &["stays", "stays", "closed", "closed", REACHED, REACHED_3], ..PLAIN },
    Scenario { name: "maxperip: over all ports", options: options!["-maxperip=1"],
        arguments: &["127.0.0.9.25,127.0.0.9.26"], events: &[S2, between("127.0.0.2", "127.0.0.9:26")],
        theirs: &["stays", "closed", REACHED], ..PLAIN },
    Scenario { name: "MAXCPERIP: raised", access: Some("127.0.0.2\tallow,MAXCPERIP=5\n"),
        events: &[S2, S2, S2, S2, S2, V2], theirs: &["stays", "stays", "stays", "stays", "stays", "closed", REACHED],
        ..PLAIN },
    Scenario { name: "MAXCPERIP: lowered", access: Some("127.0.0.2\tallow,MAXCPERIP=1\n"), events: &[S2, V2, S3, S3],
        theirs: &["stays", "closed", "stays", "stays", REACHED], ..PLAIN },
    Scenario { name: "MAXCPERIP: 0", options: options!["-maxperip=1"], access: Some("127.0.0.2\tallow,MAXCPERIP=0\n"),
        events: &[S2, V2], theirs: &["stays", "closed", REACHED], ..PLAIN },
    Scenario { name: "MAXCPERIP: no number", options: options!["-maxperip=1"],
        access: Some("127.0.0.2\tallow,MAXCPERIP=x\n"), events: &[S2, V2], theirs: &["stays", "closed", REACHED],
        ..PLAIN },
    Scenario { name: "MAXCPERIP: begins with a number", options: options!["-maxperip=1"],
        access: Some("127.0.0.2\tallow,MAXCPERIP=2x\n"), events: &[S2, S2, V2],
        theirs: &["stays", "stays", "closed", REACHED], ..PLAIN },
    Scenario { name: "MAXCPERIP: inherited", environment: &[("MAXCPERIP", "1")], events: &[S2, V2],
        theirs: &["stays", "closed", REACHED], ..PLAIN },
    Scenario { name: "maxperc: IPv4", options: options!["-maxperc=2"], events: &[S2, S3, V4, from("127.0.1.4")],
        theirs: &["stays", "stays", "closed", "served"],
        ours: Some(("maxperc-logged", &["stays", "stays", "closed", "served", FULL_BLOCK])), ..PLAIN },
    Scenario { name: "maxperc: IPv6", options: options!["-maxperc=1"], arguments: &["25"],
        events: &[S2, between("127.0.0.3", "127.0.0.9:25"), between("127.0.1.3", "127.0.0.9:25")],
        theirs: &["stays", "closed", "served"],
        ours: Some(("maxperc-logged", &["stays", "closed", "served", FULL_BLOCK])), ..PLAIN },
    Scenario { name: "warn: from maxprocs", options: options!["-maxprocs=3"], events: &[S2, S3, S4],
        theirs: &["stays", "stays", "stays", "log WARN: 2 active connections.",
            "log ALERT: 3 maximum active connections."],
        ..PLAIN },
    Scenario { name: "warn: 1", options: options!["-warn=1"], events: &[S2, S3],
        theirs: &["stays", "stays", "log WARN: 1 active connections."], ..PLAIN },
    Scenario { name: "warn: beyond maxprocs", options: options!["-warn=5", "-maxprocs=2"], events: &[S2, S3],
        theirs: &["stays", "stays", "log WARN: 1 active connections.", "log ALERT: 2 maximum active connections."],
        ..PLAIN },
    Scenario { name: "warn: 0", options: options!["-warn=0", "-maxprocs=4"], events: &[S2, S3, S4, stay("127.0.0.5")],
        theirs: &["stays", "stays", "stays", "stays", "log WARN: 1 active connections.",
            "log ALERT: 4 maximum active connections."],
        ..PLAIN },
    Scenario { name: "warn: negative", options: options!["-warn=-1", "-maxprocs=4"], events: &[S2, S3],
        theirs: &["stays", "stays"], ..PLAIN },
    Scenario { name: "warn: default of 10", options: options!["-maxprocs=10", "-maxperip=10"], events: &[S2; 8],
        theirs: &["stays", "stays", "stays", "stays", "stays", "stays", "stays", "stays",
            "log WARN: 8 active connections."],
        ..PLAIN },
    Scenario { name: "maxprocs: 1", options: options!["-maxprocs=1"], events: &[S2],
        theirs: &["stays", "log ALERT: 1 maximum active connections."], ..PLAIN },
    Scenario { name: "drop: message", options: options!["-drop", "-denymsg=no"],
        access: Some("127\tallow,BLOCK=listed\n"), events: &[V2, V3, V2],
        theirs: &["closed \"no\\n\"", "closed \"no\\n\"", "closed \"no\\n\"", DROPPED_2, DROPPED_3, DROPPED_2],
        ours: Some(("alert-once", &["closed \"no\\r\\n\"", "closed \"no\\r\\n\"", "closed \"no\\r\\n\"", DROPPED_2])),
        ..PLAIN },
];

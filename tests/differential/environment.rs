//! The handler's environment and its standard error. Sections 7 and 11.

use super::scenario::{PLAIN, Scenario, between, from, sending};

#[rustfmt::skip]
pub const TABLE: &[Scenario] = &[
    Scenario { name: "variables of the daemon", environment: &[("A", "1"), ("PATH", "/bin"), ("EMPTY", "")],
        theirs: &["served A=1 EMPTY= PATH=/bin"], ..PLAIN },
    Scenario { name: "stale address variables",
        environment: &[("TCPREMOTEIP", "10.0.0.1"), ("TCPREMOTEPORT", "1"), ("TCPLOCALIP", "10.0.0.2"),
            ("TCPLOCALPORT", "2")],
        theirs: &["served"], ..PLAIN },
    Scenario { name: "stale names",
        environment: &[("TCPREMOTEHOST", "stale.example"), ("TCPLOCALHOST", "stale.example"), ("TCPREMOTEINFO",
            "stale")],
        theirs: &["served TCPLOCALHOST=stale.example TCPREMOTEHOST=stale.example TCPREMOTEINFO=stale"],
        ours: Some(("stale-variables", &["served"])), ..PLAIN },
    Scenario { name: "other TCP variables", environment: &[("TCPX", "1")], theirs: &["served TCPX=1"], ..PLAIN },
    Scenario { name: "inherited BLOCK and RELAYCLIENT", environment: &[("BLOCK", "x"), ("RELAYCLIENT", "")],
        theirs: &["served BLOCK=x RELAYCLIENT="], ..PLAIN },
    Scenario { name: "IPv6 client", arguments: &["25"],
        events: &[between("2001:db8::2", "[2001:db8::1]:25"), between("::1", "[::1]:25")],
        theirs: &["served", "served"], ..PLAIN },
    Scenario { name: "what the client sends reaches the handler", handler: &["report", "echo"],
        events: &[sending("127.0.0.2", "hello\n")], theirs: &["served + \"hello\\n\""], ..PLAIN },
    Scenario { name: "stderr: socket", options: &["-nodnslookup", "-noidentlookup", "-stderr=socket"],
        handler: &["report", "stderr:complaint", "drain"], theirs: &["served + \"complaint\\n\""], ..PLAIN },
    Scenario { name: "stderr: the daemon's", handler: &["report", "stderr:WARN: of the handler", "drain"],
        theirs: &["served", "log WARN: of the handler"], ..PLAIN },
    Scenario { name: "stderr: a file", options: &["-nodnslookup", "-noidentlookup", "-stderr={dir}/log"],
        handler: &["report", "stderr:WARN: of the handler", "drain"], theirs: &["served"], ..PLAIN },
    Scenario { name: "a handler that crashes", handler: &["report", "crash"],
        events: &[from("127.0.0.2"), from("127.0.0.2")], theirs: &["served", "served"], ..PLAIN },
    Scenario { name: "a handler that fails", handler: &["exit:7"], theirs: &["closed"], ..PLAIN },
    Scenario { name: "a handler that leaves what the client sent", handler: &["say:bye"],
        events: &[sending("127.0.0.2", "not read\n")], theirs: &["closed \"bye\\n\" reset"], ..PLAIN },
];

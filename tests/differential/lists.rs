//! The forms of LIST. Section 3.

use super::scenario::{PLAIN, Scenario, between, from, to};

const QUIET: Scenario = Scenario { events: &[], ..PLAIN };

pub const TABLE: &[Scenario] = &[
    Scenario { name: "LIST: a port", arguments: &["25"], events: &[from("127.0.0.2"), between("2001:db8::2", "[2001:db8::1]:25")], theirs: &["served", "served"], ..PLAIN },
    Scenario { name: "LIST: address 0", arguments: &["0.25"], events: &[to("127.0.0.10:25"), between("2001:db8::2", "[2001:db8::1]:25")], theirs: &["served", "served"], ..PLAIN },
    Scenario { name: "LIST: a service name", arguments: &["127.0.0.9.smtp"], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: a service name alone", arguments: &["smtp"], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: alias of a service", arguments: &["127.0.0.9.mail"], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: service of UDP only", arguments: &["127.0.0.9.tftp"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "LIST: service with a dash", arguments: &["127.0.0.9.domain-s"], events: &[to("127.0.0.9:853")], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: unknown service", arguments: &["nosuchservice"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "LIST: port 0", arguments: &["0"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "LIST: port 65535", arguments: &["127.0.0.9.65535"], events: &[to("127.0.0.9:65535")], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: port 65536", arguments: &["65536"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "LIST: port 65561 is not 25", arguments: &["127.0.0.9.65561"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "LIST: number with letters", arguments: &["127.0.0.9.25x"], theirs: &["listens on 127.0.0.9:25"], ours: Some(("numbers", &["exit 1"])), ..QUIET },
    Scenario { name: "LIST: number with zeros", arguments: &["127.0.0.9.0025"], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: several entries", arguments: &["127.0.0.9.25,127.0.0.10.26,::1.27"], events: &[from("127.0.0.2"), to("127.0.0.10:26"), between("::1", "[::1]:27")], theirs: &["served", "served", "served"], ..PLAIN },
    Scenario { name: "LIST: IPv6 address", arguments: &["2001:db8::1.25"], events: &[between("2001:db8::2", "[2001:db8::1]:25")], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: mapped address", arguments: &["::ffff:127.0.0.9.25"], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: -address for entries that name none", options: &["-address=127.0.0.9", "-nodnslookup", "-noidentlookup"], arguments: &["25,127.0.0.10.26"], events: &[from("127.0.0.2"), to("127.0.0.10:26")], theirs: &["served", "served"], ..PLAIN },
    Scenario { name: "LIST: -address and an entry of 0", options: &["-address=127.0.0.9", "-nodnslookup", "-noidentlookup"], arguments: &["0.25"], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: -address=0", options: &["-address=0", "-nodnslookup", "-noidentlookup"], arguments: &["25"], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: -address empty", options: &["-address=", "-nodnslookup", "-noidentlookup"], arguments: &["25"], theirs: &["exit 1"], ..PLAIN },
    Scenario { name: "LIST: empty entries", arguments: &[",127.0.0.9.25,,"], theirs: &["served"], ..PLAIN },
    Scenario { name: "LIST: blanks", arguments: &["127.0.0.9.25, 127.0.0.10.26"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "LIST: an entry twice", arguments: &["127.0.0.9.25,127.0.0.9.25"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "LIST: host name", arguments: &["localhost.25"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "LIST: short address", arguments: &["127.1.25"], theirs: &["listens on 127.0.0.1:25"], ours: Some(("short-address", &["exit 1"])), ..QUIET },
    Scenario { name: "LIST: colon before the port", arguments: &["127.0.0.9:25"], theirs: &["nobody listens"], ours: Some(("list-colon", &["served"])), ..PLAIN },
    Scenario { name: "LIST: brackets", arguments: &["[2001:db8::1]:25"], events: &[between("2001:db8::2", "[2001:db8::1]:25")], theirs: &["exit 1"], ours: Some(("list-colon", &["served"])), ..PLAIN },
    Scenario { name: "LIST: an address of nobody", arguments: &["203.0.113.9.25"], theirs: &["exit 1"], ..QUIET },
];

//! Which command lines start, and what ends the options. Section 2.

use super::scenario::{PLAIN, Scenario};

/// Most need no handler that talks: it is enough whether the daemon listens.
const QUIET: Scenario = Scenario { events: &[], ..PLAIN };

pub const TABLE: &[Scenario] = &[
    Scenario { name: "no lookups", theirs: &["served"], ..PLAIN },
    Scenario { name: "an option that does not exist", options: &["-nosuch"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "two dashes", options: &["--nodnslookup", "-noidentlookup"], theirs: &["exit 1"], ours: Some(("double-dash", &["served"])), ..PLAIN },
    Scenario { name: "an option that does not exist, two dashes", options: &["--nosuch"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "a lone dash ends the options", options: &["-nodnslookup", "-noidentlookup", "-"], theirs: &["served"], ..PLAIN },
    Scenario { name: "two dashes end the options", options: &["-nodnslookup", "-noidentlookup", "--"], theirs: &["exit 1"], ours: Some(("double-dash", &["served"])), ..PLAIN },
    Scenario { name: "a value only after the equals sign", options: &["-nodnslookup", "-noidentlookup", "-drop"], theirs: &["served"], ..PLAIN },
    Scenario { name: "abbreviated option", options: &["-nodns"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "option in capitals", options: &["-NODNSLOOKUP"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "a flag with a value", options: &["-nodnslookup=x", "-noidentlookup"], theirs: &["served"], ..PLAIN },
    Scenario { name: "maxprocs is no number", options: &["-maxprocs=x"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "maxprocs 0", options: &["-maxprocs=0"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "maxprocs negative", options: &["-maxprocs=-1"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "maxprocs empty", options: &["-maxprocs="], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "maxprocs without value", options: &["-maxprocs"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "maxprocs begins with a number", options: &["-maxprocs=5x"], theirs: &["listens on 127.0.0.9:25"], ours: Some(("numbers", &["exit 1"])), ..QUIET },
    Scenario { name: "maxperip is no number", options: &["-maxperip=x"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "maxperip 0", options: &["-maxperip=0"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "maxperc is no number", options: &["-maxperc=x"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "maxperc 0", options: &["-maxperc=0"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "listen is no number", options: &["-listen=x"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "listen 0", options: &["-listen=0"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "listen 5", options: &["-listen=5"], theirs: &["listens on 127.0.0.9:25"], ..QUIET },
    Scenario { name: "warn is no number", options: &["-warn=x"], theirs: &["listens on 127.0.0.9:25"], ours: Some(("numbers", &["exit 1"])), ..QUIET },
    Scenario { name: "warn beyond maxprocs", options: &["-warn=100"], theirs: &["listens on 127.0.0.9:25"], ..QUIET },
    Scenario { name: "accesslocal without access", options: &["-accesslocal", "-nodnslookup", "-noidentlookup"], theirs: &["served"], ..PLAIN },
    Scenario { name: "access file that is missing", options: &["-access={dir}/nosuch", "-nodnslookup", "-noidentlookup"], theirs: &["served"], ours: Some(("access-missing", &["exit 1"])), ..PLAIN },
    Scenario { name: "address that is none", options: &["-address=localhost"], arguments: &["25"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "user that does not exist", options: &["-user=nosuchuser"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "group that does not exist", options: &["-group=nosuchgroup"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "stop without pid", options: &["-stop"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "restart without pid", options: &["-restart"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "stderr file in no directory", options: &["-stderr={dir}/no/such"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "program that is missing", arguments: &["127.0.0.9.25", "/nosuch/program"], theirs: &["closed"], ours: Some(("missing-program", &["exit 1"])), ..PLAIN },
    Scenario { name: "program is not searched in PATH", environment: &[("PATH", "/bin:/usr/bin")], arguments: &["127.0.0.9.25", "cat"], theirs: &["closed"], ours: Some(("missing-program", &["exit 1"])), ..PLAIN },
    Scenario { name: "options behind LIST are the program's", arguments: &["127.0.0.9.25", "/bin/echo", "-drop", "--", "-n"], theirs: &["closed \"-drop -- -n\\n\""], ..PLAIN },
    Scenario { name: "denymsg without value", options: &["-denymsg", "-nodnslookup", "-noidentlookup"], theirs: &["served"], ..PLAIN },
    Scenario { name: "help", options: &["-help"], theirs: &["exit 1"], ..QUIET },
    Scenario { name: "version", options: &["-version"], theirs: &["exit 1"], ..QUIET },
];

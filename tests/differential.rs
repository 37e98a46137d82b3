//! The differential suite: the same scenarios against the reference and against ours.
//!
//! A scenario says what the reference does; the reference itself is held to it first, so that no
//! wrong belief of ours can pass. Ours must do the same, or, where it differs on purpose, what the
//! scenario says under the id of that difference (`differential/differences.rs`). A difference
//! that no longer is one fails too.
//!
//! TCPD_UNDER_TEST=theirs or ours runs one side alone. Without the reference, or without the right
//! to make namespaces, the suite says how many scenarios it skips.

mod common;

#[path = "differential/access.rs"]
mod access;
#[path = "differential/background.rs"]
mod background;
#[path = "differential/differences.rs"]
mod differences;
#[path = "differential/dnsbl.rs"]
mod dnsbl;
#[path = "differential/environment.rs"]
mod environment;
#[path = "differential/ident.rs"]
mod ident;
#[path = "differential/limits.rs"]
mod limits;
#[path = "differential/lists.rs"]
mod lists;
#[path = "differential/names.rs"]
mod names;
#[path = "differential/network.rs"]
mod network;
#[path = "differential/options.rs"]
mod options;
#[path = "differential/privileges.rs"]
mod privileges;
#[path = "differential/scenario.rs"]
mod scenario;

use common::Program;
use scenario::Scenario;

const TABLES: [&[Scenario]; 9] = [
    options::TABLE,
    lists::TABLE,
    access::TABLE,
    environment::TABLE,
    privileges::TABLE,
    limits::TABLE,
    names::TABLE,
    dnsbl::TABLE,
    ident::TABLE,
];

fn all() -> impl Iterator<Item = &'static Scenario> {
    TABLES.iter().flat_map(|table| table.iter())
}

/// The programs to run, theirs first. Says so if the reference is wanted and not here.
fn programs(scenarios: usize) -> Vec<Program> {
    let only = std::env::var("TCPD_UNDER_TEST").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut programs = Vec::new();
    match Program::Theirs.path() {
        Some(_) if wanted("theirs") => programs.push(Program::Theirs),
        None if wanted("theirs") => {
            say(&format!("the reference is not here: {scenarios} scenarios skipped against it"))
        }
        _ => (),
    }
    if wanted("ours") {
        programs.push(Program::Ours);
    }
    programs
}

/// Past the capture of the test runner: what is skipped must be seen.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs a table on both programs, all of it before it fails.
fn run(table: &'static [Scenario], prepare: fn()) {
    let programs = programs(table.len());
    let faults = common::namespace::run(|| {
        prepare();
        let runs = programs.iter().flat_map(|program| table.iter().map(move |scenario| (program, scenario)));
        runs.filter_map(|(program, scenario)| scenario.check(*program).err()).collect::<Vec<String>>()
    });
    match faults {
        None => say(&format!("namespaces are not permitted: {} scenarios skipped", table.len())),
        Some(faults) => assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n")),
    }
}

/// Runs a scenario that is written as a function.
fn run_function(scenario: fn(&[Program]) -> Option<()>) {
    if scenario(&programs(1)).is_none() {
        say("namespaces are not permitted: 1 scenario skipped");
    }
}

#[test]
fn options() {
    run(options::TABLE, || ());
}

#[test]
fn lists() {
    run(lists::TABLE, || ());
}

#[test]
fn access() {
    run(access::TABLE, || ());
}

#[test]
fn environment() {
    run(environment::TABLE, || ());
}

#[test]
fn privileges() {
    run(privileges::TABLE, privileges::accounts);
}

#[test]
fn limits() {
    run(limits::TABLE, || ());
}

#[test]
fn names() {
    run(names::TABLE, network::name_server);
}

#[test]
fn dnsbl() {
    run(dnsbl::TABLE, network::name_server);
}

#[test]
fn ident() {
    run(ident::TABLE, network::name_server);
}

#[test]
fn background_start_and_stop() {
    run_function(background::start_and_stop);
}

#[test]
fn background_restart() {
    run_function(background::restart_reads_the_access_file);
}

#[test]
fn background_second_start() {
    run_function(background::a_second_start_changes_nothing);
}

#[test]
fn background_stale_file() {
    run_function(background::a_stale_file_hinders_nobody);
}

#[test]
fn background_busy_port() {
    run_function(background::a_busy_port_is_reported);
}

/// Each difference is shown by a scenario, and each scenario that differs names a known one.
#[test]
fn the_list_of_differences_is_exact() {
    let mut shown: Vec<&str> = all().filter_map(|scenario| Some(scenario.ours?.0)).collect();
    shown.sort();
    shown.dedup();
    let mut known: Vec<&str> = differences::TABLE.iter().map(|(id, _)| *id).collect();
    known.sort();
    assert_eq!(shown, known);
}

#[test]
fn the_manual_page_tells_of_every_difference() {
    let page = include_str!("../man/couriertcpd.8");
    let section = page.split(".Sh DIFFERENCES FROM THE ORIGINAL\n").nth(1).expect("the section is there");
    let comments = section.lines().filter_map(|line| line.strip_prefix(".\\\" "));
    let told: Vec<&str> = comments.flat_map(str::split_whitespace).collect();
    for (id, what) in differences::TABLE {
        assert!(told.contains(id), "{id}: {what}");
    }
}

#[test]
fn scenarios_have_names_of_their_own() {
    let mut names: Vec<&str> = all().map(|scenario| scenario.name).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        panic!("two scenarios are called {:?}", twice[0]);
    }
}

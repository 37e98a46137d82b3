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
#[path = "differential/differences.rs"]
mod differences;
#[path = "differential/environment.rs"]
mod environment;
#[path = "differential/limits.rs"]
mod limits;
#[path = "differential/lists.rs"]
mod lists;
#[path = "differential/options.rs"]
mod options;
#[path = "differential/privileges.rs"]
mod privileges;
#[path = "differential/scenario.rs"]
mod scenario;

use common::Program;
use scenario::Scenario;

/// Runs a table on both programs, all of it before it fails.
fn run(table: &[Scenario]) {
    let only = std::env::var("TCPD_UNDER_TEST").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let theirs = wanted("theirs") && Program::Theirs.path().is_some();
    if wanted("theirs") && !theirs {
        say(&format!("the reference is not here: {} scenarios not checked against it", table.len()));
    }
    let programs = [(Program::Theirs, theirs), (Program::Ours, wanted("ours"))];
    let faults = common::namespace::run(|| {
        let runs = programs.iter().filter(|(_, run)| *run).flat_map(|(p, _)| table.iter().map(move |s| (p, s)));
        runs.filter_map(|(program, scenario)| scenario.check(*program).err()).collect::<Vec<String>>()
    });
    match faults {
        None => say(&format!("namespaces are not permitted: {} scenarios skipped", table.len())),
        Some(faults) => assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n")),
    }
}

#[test]
fn options() {
    run(options::TABLE);
}

#[test]
fn lists() {
    run(lists::TABLE);
}

#[test]
fn access() {
    run(access::TABLE);
}

#[test]
fn environment() {
    run(environment::TABLE);
}

#[test]
fn privileges() {
    run(privileges::TABLE);
}

#[test]
fn limits() {
    run(limits::TABLE);
}

/// Each difference is shown by a scenario, and each scenario that differs names a known one.
#[test]
fn the_list_of_differences_is_exact() {
    let tables =
        [options::TABLE, lists::TABLE, access::TABLE, environment::TABLE, privileges::TABLE, limits::TABLE];
    let mut shown: Vec<&str> = tables.iter().flat_map(|t| t.iter()).filter_map(|s| Some(s.ours?.0)).collect();
    shown.sort();
    shown.dedup();
    let mut known: Vec<&str> = differences::TABLE.iter().map(|(id, _)| *id).collect();
    known.sort();
    assert_eq!(shown, known);
}

#[test]
fn scenarios_have_names_of_their_own() {
    let tables =
        [options::TABLE, lists::TABLE, access::TABLE, environment::TABLE, privileges::TABLE, limits::TABLE];
    let mut names: Vec<&str> = tables.iter().flat_map(|t| t.iter()).map(|s| s.name).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
        panic!("two scenarios are called {:?}", twice[0]);
    }
}

/// Past the capture of the test runner: what was skipped must be seen.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

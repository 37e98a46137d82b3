//! What must never happen, tried: faults of the system, hostile clients and services, signals, a soak.
//!
//! `make check` runs a short selection; `make check-faults` all of it, in less than ten minutes, and
//! prints what was tried and what was counted. What is chosen at random hangs on a seed that is
//! printed; FAULTS_SEED=N tries the same again. Needs root, strace and the right to trace.

mod common;

#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/errors.rs"]
mod errors;
#[path = "faults/inject.rs"]
mod inject;
#[path = "faults/kill.rs"]
mod kill;
#[path = "faults/logs.rs"]
mod logs;
#[path = "faults/memory.rs"]
mod memory;
#[path = "faults/plan.rs"]
mod plan;
#[path = "faults/random.rs"]
mod random;
#[path = "faults/rules.rs"]
mod rules;
#[path = "faults/said.rs"]
mod said;
#[path = "faults/scenarios.rs"]
mod scenarios;
#[path = "faults/services.rs"]
mod services;
#[path = "faults/signals.rs"]
mod signals;
#[path = "faults/soak.rs"]
mod soak;
#[path = "faults/trace.rs"]
mod trace;
#[path = "faults/world.rs"]
mod world;

use std::time::Duration;

use scenarios::Scenario;

static BRIEF: [Scenario; 1] = [scenarios::SERVE];
static ALL: [Scenario; 7] = [
    scenarios::SERVE,
    scenarios::RELOAD,
    scenarios::LOGGER,
    scenarios::HELPER,
    scenarios::NAMES,
    scenarios::UPGRADE,
    scenarios::DRAIN,
];

#[test]
fn a_call_that_fails_once_does_no_lasting_harm() {
    inject::run(&BRIEF, true, Duration::from_secs(60));
}

#[test]
#[ignore = "minutes: make check-faults"]
fn every_call_fails_once_with_every_error() {
    inject::run(&ALL, false, Duration::from_secs(240));
}

#[test]
fn a_full_file_system_costs_lines_and_no_client() {
    logs::a_full_file_system();
}

#[test]
fn a_stuck_syslog_costs_lines_and_no_client() {
    logs::a_stuck_syslog();
}

#[test]
fn a_stopped_logger_costs_lines_and_no_client() {
    logs::a_stopped_logger();
}

#[test]
fn a_slow_logger_costs_nothing() {
    logs::a_slow_logger();
}

#[test]
fn a_full_pipe_stops_only_who_writes_to_it() {
    logs::a_full_pipe();
}

#[test]
#[ignore = "minutes: make check-faults"]
fn loggers_that_die_lose_a_line_each_at_most() {
    logs::dying_loggers(3);
}

#[test]
fn without_memory_clients_wait_and_nobody_comes_in_who_is_listed() {
    memory::a_limit_on_memory(4000);
}

#[test]
fn a_daemon_killed_a_few_times_starts_anew() {
    kill::at_random_moments(6, random::seed());
}

#[test]
#[ignore = "minutes: make check-faults"]
fn a_daemon_killed_at_random_moments_starts_anew() {
    kill::at_random_moments(60, random::seed());
}

#[test]
fn hundreds_who_hold_on_keep_nobody_waiting() {
    clients::floods(500, Some(&[0, 3, 8]));
}

#[test]
#[ignore = "minutes: make check-faults"]
fn thousands_who_hold_on_reset_or_dawdle_keep_nobody_waiting() {
    clients::floods(5000, None);
}

#[test]
#[ignore = "minutes: make check-faults"]
fn name_servers_that_misbehave_cost_no_more_than_the_time_limit() {
    services::name_servers_that_misbehave();
}

#[test]
#[ignore = "minutes: make check-faults"]
fn all_name_servers_die_and_come_back() {
    services::all_name_servers_dead_then_alive();
}

#[test]
fn ident_servers_that_trickle_are_given_up() {
    services::ident_servers_that_trickle();
}

#[test]
fn a_short_storm_of_signals() {
    signals::storm(Duration::from_secs(3), random::seed());
}

#[test]
#[ignore = "minutes: make check-faults"]
fn a_storm_of_signals() {
    signals::storm(Duration::from_secs(20), random::seed());
}

#[test]
fn it_ends_at_once_though_hundreds_of_lookups_are_pending() {
    signals::terminate_with_lookups_pending();
}

#[test]
fn a_soak_of_a_few_seconds() {
    soak::run(Duration::from_secs(5), random::seed());
}

/// `make soak MINUTES=n`; a minute in `make check-faults`.
#[test]
#[ignore = "minutes: make check-faults, make soak MINUTES=n"]
fn soak_for_minutes() {
    let minutes = std::env::var("MINUTES").map_or(1, |text| text.parse().expect("MINUTES is a number"));
    soak::run(Duration::from_secs(60 * minutes), random::seed());
}

//! The status in the text format of Prometheus, version 0.0.4.
//!
//! Names follow its conventions: a prefix, base units, `_total` for what only grows. The counters
//! begin anew with the process, which Prometheus expects.

use std::fmt::{Display, Write as _};

use super::Snapshot;
use super::counters::Event;

pub(super) fn write(s: &Snapshot) -> String {
    let mut out = Metrics(String::new());
    process(s, &mut out);
    connections(s, &mut out);
    lists(s, &mut out);
    resolver(s, &mut out);
    out.0
}

fn process(s: &Snapshot, out: &mut Metrics) {
    out.head("build_info", Gauge, "Always 1; the version is a label.");
    out.sample("build_info", &[("version", s.version)], 1);
    out.one("start_time_seconds", Gauge, "When the daemon began to serve, in seconds since 1970.", s.started);
    out.one("slots_used", Gauge, "Connection slots in use.", s.slots_used);
    out.one("slots_limit", Gauge, "Connection slots there are (-maxprocs).", s.limits.max_procs);
    out.one("pending_connections", Gauge, "Connections accepted and not handed over.", s.pending);
    out.one(
        "pending_connections_limit",
        Gauge,
        "Pending connections outside slots (-maxpending).",
        s.limits.max_pending,
    );
    out.one("accepting", Gauge, "1 if new connections are taken now.", u8::from(s.state == super::State::Accepting));
    out.one("handlers_running", Gauge, "Handlers that run.", s.handlers);
    let oldest = s.oldest.first().map_or(0.0, |handler| handler.age.as_secs_f64());
    out.one("oldest_handler_age_seconds", Gauge, "Age of the handler that runs longest, 0 if none runs.", oldest);
    out.one("log_messages_suppressed_total", Counter, "Messages held back since too many came.", s.suppressed);
    out.one("log_messages_lost_total", Counter, "Messages that could not be written.", s.lost);
}

fn connections(s: &Snapshot, out: &mut Metrics) {
    let total = |event| s.total.of(event);
    out.one("accepted_connections_total", Counter, "Connections accepted.", total(Event::Accepted));
    out.one("served_connections_total", Counter, "Connections that a handler was started for.", total(Event::Served));
    out.head("refused_connections_total", Counter, "Connections refused, by reason.");
    for (event, reason) in Event::REFUSALS {
        out.sample("refused_connections_total", &[("reason", reason)], total(event));
    }
    out.head("failed_connections_total", Counter, "Connections that were to be served and could not be, by reason.");
    for (event, reason) in Event::FAILURES {
        out.sample("failed_connections_total", &[("reason", reason)], total(event));
    }
    out.one("gone_connections_total", Counter, "Clients gone before it was decided.", total(Event::Gone));
    out.one("late_lookups_total", Counter, "Connections whose lookups were cut off.", total(Event::LookupsLate));
    out.one("handlers_ended_total", Counter, "Handlers that have ended.", total(Event::Ended));
    out.head("waiting_connections", Gauge, "Pending connections by what they wait for; several things may apply.");
    for (what, count) in [
        ("proxy_header", s.waits.header),
        ("remote_host", s.waits.remote_name),
        ("local_host", s.waits.local_name),
        ("ident", s.waits.ident),
    ] {
        out.sample("waiting_connections", &[("lookup", what)], count);
    }
    for (number, (list, count)) in s.lists.iter().zip(&s.waits.lists).enumerate() {
        let number = (number + 1).to_string();
        out.sample("waiting_connections", &[("lookup", "list"), ("list", &list.display), ("number", &number)], count);
    }
}

fn lists(s: &Snapshot, out: &mut Metrics) {
    if s.lists.is_empty() {
        return;
    }
    // Two lists may have the same name, so their number on the command line tells them apart.
    let numbers: Vec<_> = (1..=s.lists.len()).map(|number| number.to_string()).collect();
    let lists = || s.lists.iter().zip(&numbers);
    out.head("dns_list_lookups_total", Counter, "Connections that asked a DNS list.");
    for (list, number) in lists() {
        let labels = [("list", list.display.as_str()), ("number", number), ("kind", list.kind())];
        out.sample("dns_list_lookups_total", &labels, list.counts.asked);
    }
    out.head("dns_list_hits_total", Counter, "Connections that a DNS list has.");
    for (list, number) in lists() {
        out.sample("dns_list_hits_total", &[("list", &list.display), ("number", number)], list.counts.listed);
    }
    out.head("dns_list_errors_total", Counter, "Connections for which a DNS list gave nothing to use, by reason.");
    for (list, number) in lists() {
        let c = &list.counts;
        for (reason, count) in [("failed", c.failed), ("late", c.late), ("unusable", c.unusable)] {
            let labels = [("list", list.display.as_str()), ("number", number), ("reason", reason)];
            out.sample("dns_list_errors_total", &labels, count);
        }
    }
    out.head("dns_list_unneeded_total", Counter, "Connections decided before a DNS list had answered.");
    for (list, number) in lists() {
        out.sample("dns_list_unneeded_total", &[("list", &list.display), ("number", number)], list.counts.unneeded);
    }
    out.head("dns_list_answer_seconds", Histogram, "How long answers from a DNS list took.");
    for (list, number) in lists() {
        let labels = [("list", list.display.as_str()), ("number", number.as_str())];
        for (bound, count) in list.times.cumulative() {
            let bound = bound.to_string();
            out.sample("dns_list_answer_seconds_bucket", &[labels[0], labels[1], ("le", &bound)], count);
        }
        let count = list.times.count();
        out.sample("dns_list_answer_seconds_bucket", &[labels[0], labels[1], ("le", "+Inf")], count);
        out.sample("dns_list_answer_seconds_sum", &labels, list.times.sum().as_secs_f64());
        out.sample("dns_list_answer_seconds_count", &labels, count);
    }
}

fn resolver(s: &Snapshot, out: &mut Metrics) {
    if let Some(resolver) = &s.resolver {
        let c = &resolver.counts;
        out.one("dns_queries_total", Counter, "DNS queries sent.", c.sent);
        out.one("dns_failures_total", Counter, "DNS answers that were failures.", c.failures);
        out.one("dns_shared_total", Counter, "DNS questions that shared a query under way.", c.shared);
        out.one("dns_cache_hits_total", Counter, "DNS questions answered from the cache.", c.hits);
        out.one("dns_cache_entries", Gauge, "DNS answers kept.", c.cached);
        out.one("dns_cache_entries_limit", Gauge, "DNS answers kept at most (-dnscache).", resolver.cache_most);
        out.one("dns_queries_in_flight", Gauge, "DNS queries under way.", c.in_flight);
        out.one("dns_questions_queued", Gauge, "DNS questions that wait to be sent.", c.queued);
    }
    if let Some(c) = &s.helpers {
        out.one("name_helpers", Gauge, "Helper processes for host names (-resolver=nss).", c.helpers);
        out.one("name_helpers_busy", Gauge, "Helper processes that look a name up.", c.busy);
        out.one("name_helper_questions_total", Counter, "Questions given to helper processes.", c.asked);
        out.one("name_helper_questions_queued", Gauge, "Questions that wait for a helper process.", c.queued);
        out.one("name_helper_cache_hits_total", Counter, "Host names found in the cache.", c.hits);
        out.one("name_helper_cache_entries", Gauge, "Host names kept.", c.cached);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

struct Metrics(String);

// Writing to a String cannot fail, so the results carry nothing.
impl Metrics {
    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        };
        let _ = writeln!(self.0, "# HELP couriertcpd_{name} {help}\n# TYPE couriertcpd_{name} {kind}");
    }

    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "couriertcpd_{name}");
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if i == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '"' | '\\' => self.0.extend(['\\', c]),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

//! The status for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::counters::Event;
use super::{HANDLERS_SHOWN, Snapshot, State};

/// Addresses shown with their handlers; whoever has more is better served by the other forms.
const ADDRESSES_SHOWN: usize = 50;

// Writing to a String cannot fail, so the results carry nothing.
pub(super) fn write(s: &Snapshot) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "couriertcpd {}, process {}, up {}, runs {}", s.version, s.pid, time(s.uptime), s.program);
    let listeners: Vec<_> = s.listeners.iter().map(ToString::to_string).collect();
    let state = match s.state {
        State::Accepting => "accepting",
        State::Full => "full: new connections wait",
        State::Draining => "draining: nobody new is let in",
        State::Resting => "resting: descriptors, memory or processes have run out",
    };
    let listeners = if listeners.is_empty() { "nothing".to_owned() } else { listeners.join(", ") };
    let _ = writeln!(out, "listens on {listeners}; {state}");
    limits(s, &mut out);
    connections(s, &mut out);
    lists(s, &mut out);
    resolver(s, &mut out);
    waits(s, &mut out);
    handlers(s, &mut out);
    let _ = writeln!(out, "\nmessages held back {}, lost {}", s.suppressed, s.lost);
    out
}

fn limits(s: &Snapshot, out: &mut String) {
    let _ =
        writeln!(out, "\nslots in use {} of {}, warning from {}", s.slots_used, s.limits.max_procs, s.limits.warn_at);
    let _ = write!(out, "pending {}", s.pending);
    let _ = match s.limits.max_pending {
        0 => writeln!(out, ", in slots"),
        most => writeln!(out, " of {most}, {} of them waiting for a slot", s.waiting_for_slot),
    };
    let _ = write!(out, "for one address {} at most", s.limits.max_per_ip);
    let _ = match s.limits.max_per_block {
        None => writeln!(out, ", for one block no limit"),
        Some(most) => writeln!(out, ", for one block {most} at most"),
    };
    if s.lingering > 0 {
        let _ = writeln!(out, "refused clients that still read their reply {}", s.lingering);
    }
}

fn connections(s: &Snapshot, out: &mut String) {
    let one = |event: Event| (s.minute.of(event), s.total.of(event));
    let _ = writeln!(out, "\n{:24}{:>12}{:>12}", "connections", "last minute", "in all");
    let mut row = |name: &str, (minute, total): (u64, u64)| {
        let _ = writeln!(out, "{name:24}{minute:>12}{total:>12}");
    };
    row("accepted", one(Event::Accepted));
    row("served", one(Event::Served));
    row("refused", (s.minute.refused(), s.total.refused()));
    for (event, name) in Event::REFUSALS {
        row(&format!("  {name}"), one(event));
    }
    row("failed", (s.minute.failed(), s.total.failed()));
    for (event, name) in Event::FAILURES {
        row(&format!("  {name}"), one(event));
    }
    row("gone before decided", one(Event::Gone));
    row("lookups cut off", one(Event::LookupsLate));
    row("handlers ended", one(Event::Ended));
}

fn lists(s: &Snapshot, out: &mut String) {
    if s.lists.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:36}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "DNS lists", "asked", "hits", "errors", "unneeded", "median", "worst"
    );
    for list in &s.lists {
        let name = format!("{} {} {}", list.kind(), list.display, list.variable);
        let counts = &list.counts;
        let _ = writeln!(
            out,
            "{name:36}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            counts.asked,
            counts.listed,
            counts.errors(),
            counts.unneeded,
            milliseconds(list.times.median()),
            milliseconds(list.times.worst()),
        );
    }
}

fn resolver(s: &Snapshot, out: &mut String) {
    if let Some(resolver) = &s.resolver {
        let c = &resolver.counts;
        let servers = if resolver.servers.is_empty() { "none".to_owned() } else { resolver.servers.join(", ") };
        let _ = writeln!(
            out,
            "\nname servers {servers}\n\
             DNS queries {}, failures {}, under way {}, queued {}\n\
             answers from the cache {}, shared {}; kept {} of {}",
            c.sent, c.failures, c.in_flight, c.queued, c.hits, c.shared, c.cached, resolver.cache_most
        );
    }
    if let Some(c) = &s.helpers {
        let _ = writeln!(
            out,
            "\nname helpers {} of {} busy, questions {}, queued {}, answers from the cache {}, kept {}",
            c.busy, c.helpers, c.asked, c.queued, c.hits, c.cached
        );
    }
}

fn waits(s: &Snapshot, out: &mut String) {
    let named = [
        ("PROXY header", s.waits.header),
        ("client's name", s.waits.remote_name),
        ("local name", s.waits.local_name),
        ("ident", s.waits.ident),
    ];
    let named = named.into_iter().map(|(name, count)| (name.to_owned(), count));
    let lists = s.lists.iter().zip(&s.waits.lists).map(|(list, count)| (format!("list {}", list.display), *count));
    let waits: Vec<_> =
        named.chain(lists).filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if !waits.is_empty() {
        let _ = writeln!(out, "connections wait for: {}", waits.join(", "));
    }
}

/// Handlers by address, those that have one for the longest time first.
fn handlers(s: &Snapshot, out: &mut String) {
    let _ = writeln!(out, "\nhandlers {}", s.handlers);
    let mut by_address: BTreeMap<IpAddr, (Duration, Vec<i32>)> = BTreeMap::new();
    for handler in &s.oldest {
        let (oldest, pids) = by_address.entry(handler.peer.ip()).or_default();
        *oldest = (*oldest).max(handler.age);
        pids.push(handler.pid);
    }
    let mut rows: Vec<_> = by_address.into_iter().collect();
    rows.sort_by_key(|(_, (oldest, _))| std::cmp::Reverse(*oldest));
    for (address, (oldest, pids)) in rows.iter().take(ADDRESSES_SHOWN) {
        let shown: Vec<_> = pids.iter().take(8).map(ToString::to_string).collect();
        let more = if pids.len() > shown.len() { " ..." } else { "" };
        let oldest = if pids.len() > 1 { format!("oldest {}", time(*oldest)) } else { time(*oldest) };
        let _ = writeln!(out, "  {address}  {}, {oldest}, process {}{more}", pids.len(), shown.join(" "));
    }
    if rows.len() > ADDRESSES_SHOWN || s.handlers > HANDLERS_SHOWN {
        let _ = writeln!(out, "  and more");
    }
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{} ms", time.as_millis()))
}

/// A time in the two largest units that it has.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

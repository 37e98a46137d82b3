//! The status for programs: one JSON object, whose names stay.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::counters::{Event, Tally};
use super::{List, Snapshot};

pub(super) fn write(s: &Snapshot) -> String {
    let mut json = Json::default();
    json.object(None, |json| {
        json.text("version", s.version);
        json.number("pid", s.pid);
        json.number("start_time", s.started);
        json.number("uptime_seconds", seconds(s.uptime));
        json.text("program", &s.program);
        json.text("state", s.state.name());
        json.array("listeners", |json| s.listeners.iter().for_each(|address| json.item_text(&address.to_string())));
        json.object(Some("limits"), |json| {
            json.number("maxprocs", s.limits.max_procs);
            json.number("warn", s.limits.warn_at);
            json.number("maxpending", s.limits.max_pending);
            json.number("maxperip", s.limits.max_per_ip);
            json.optional("maxperc", s.limits.max_per_block);
        });
        json.number("slots_used", s.slots_used);
        json.number("pending", s.pending);
        json.number("waiting_for_slot", s.waiting_for_slot);
        json.number("lingering", s.lingering);
        json.object(Some("connections"), |json| {
            tally(json, "last_minute", &s.minute);
            tally(json, "total", &s.total);
        });
        json.array("lists", |json| s.lists.iter().for_each(|list| write_list(json, list)));
        match &s.resolver {
            None => json.null("resolver"),
            Some(resolver) => json.object(Some("resolver"), |json| {
                json.array("servers", |json| resolver.servers.iter().for_each(|server| json.item_text(server)));
                json.number("queries", resolver.counts.sent);
                json.number("failures", resolver.counts.failures);
                json.number("shared", resolver.counts.shared);
                json.number("cache_hits", resolver.counts.hits);
                json.number("cache_entries", resolver.counts.cached);
                json.number("cache_limit", resolver.cache_most);
                json.number("in_flight", resolver.counts.in_flight);
                json.number("queued", resolver.counts.queued);
            }),
        }
        match &s.helpers {
            None => json.null("name_helpers"),
            Some(helpers) => json.object(Some("name_helpers"), |json| {
                json.number("helpers", helpers.helpers);
                json.number("busy", helpers.busy);
                json.number("questions", helpers.asked);
                json.number("queued", helpers.queued);
                json.number("cache_hits", helpers.hits);
                json.number("cache_entries", helpers.cached);
            }),
        }
        json.object(Some("waits"), |json| {
            json.number("proxy_header", s.waits.header);
            json.number("remote_host", s.waits.remote_name);
            json.number("local_host", s.waits.local_name);
            json.number("ident", s.waits.ident);
            json.array("lists", |json| s.waits.lists.iter().for_each(|count| json.item(count)));
        });
        json.number("handlers_running", s.handlers);
        json.array("handlers", |json| {
            for handler in &s.oldest {
                json.object(None, |json| {
                    json.text("ip", &handler.peer.ip().to_string());
                    json.number("port", handler.peer.port());
                    json.number("pid", handler.pid);
                    json.number("age_seconds", seconds(handler.age));
                });
            }
        });
        json.object(Some("messages"), |json| {
            json.number("suppressed", s.suppressed);
            json.number("lost", s.lost);
        });
    });
    json.out.push('\n');
    json.out
}

fn tally(json: &mut Json, name: &str, tally: &Tally) {
    json.object(Some(name), |json| {
        json.number("accepted", tally.of(Event::Accepted));
        json.number("served", tally.of(Event::Served));
        for (group, events) in [("refused", &Event::REFUSALS[..]), ("failed", &Event::FAILURES)] {
            json.object(Some(group), |json| {
                events.iter().for_each(|(event, name)| json.number(name, tally.of(*event)))
            });
        }
        json.number("gone", tally.of(Event::Gone));
        json.number("lookups_late", tally.of(Event::LookupsLate));
        json.number("handlers_ended", tally.of(Event::Ended));
    });
}

fn write_list(json: &mut Json, list: &List) {
    json.object(None, |json| {
        json.text("kind", list.kind());
        json.text("zone", &list.zone);
        json.text("display", &list.display);
        json.text("variable", &list.variable);
        json.number("asked", list.counts.asked);
        json.number("hits", list.counts.listed);
        json.number("failed", list.counts.failed);
        json.number("late", list.counts.late);
        json.number("unusable", list.counts.unusable);
        json.number("unneeded", list.counts.unneeded);
        json.number("answers", list.times.count());
        json.optional("median_seconds", list.times.median().map(seconds));
        json.optional("worst_seconds", list.times.worst().map(seconds));
    });
}

fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}

/// Writes JSON (RFC 8259). Two blanks a level, so that people can read it too.
#[derive(Default)]
struct Json {
    out: String,
    depth: usize,
    /// Something precedes on this level, so a comma is needed.
    follows: bool,
}

// Writing to a String cannot fail, so the results carry nothing.
impl Json {
    fn begin(&mut self, name: Option<&str>) {
        if self.follows {
            self.out.push(',');
        }
        if self.depth > 0 {
            let _ = write!(self.out, "\n{:1$}", "", 2 * self.depth);
        }
        if let Some(name) = name {
            string(&mut self.out, name);
            self.out.push_str(": ");
        }
        self.follows = true;
    }

    fn nested(&mut self, name: Option<&str>, brackets: [char; 2], fill: impl FnOnce(&mut Self)) {
        self.begin(name);
        self.out.push(brackets[0]);
        self.depth += 1;
        self.follows = false;
        fill(self);
        self.depth -= 1;
        if self.follows {
            let _ = write!(self.out, "\n{:1$}", "", 2 * self.depth);
        }
        self.out.push(brackets[1]);
        self.follows = true;
    }

    fn object(&mut self, name: Option<&str>, fill: impl FnOnce(&mut Self)) {
        self.nested(name, ['{', '}'], fill);
    }

    fn array(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nested(Some(name), ['[', ']'], fill);
    }

    fn number(&mut self, name: &str, value: impl Display) {
        self.begin(Some(name));
        let _ = write!(self.out, "{value}");
    }

    fn optional(&mut self, name: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.null(name),
        }
    }

    fn null(&mut self, name: &str) {
        self.number(name, "null");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.begin(Some(name));
        string(&mut self.out, value);
    }

    fn item(&mut self, value: impl Display) {
        self.begin(None);
        let _ = write!(self.out, "{value}");
    }

    fn item_text(&mut self, value: &str) {
        self.begin(None);
        string(&mut self.out, value);
    }
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_and_levels_indented() {
        let mut json = Json::default();
        json.object(None, |json| {
            json.text("a\"b", "c\\d\n\u{7f}\u{e9}");
            json.array("empty", |_| {});
            json.array("full", |json| [1, 2].iter().for_each(|n| json.item(n)));
            json.optional("none", None::<u32>);
        });
        let expected = "{\n  \"a\\\"b\": \"c\\\\d\\u000a\\u007f\u{e9}\",\n  \"empty\": [],\n  \"full\": [\n    1,\n    2\n  ],\n  \"none\": null\n}";
        assert_eq!(json.out, expected);
    }
}

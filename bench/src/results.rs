//! What was measured, by row and subject, one value a round; medians, ratios, and what they are held against.

use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Debug)]
pub struct Row {
    pub id: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// By subject, in the order in which they first came.
    pub subjects: Vec<(String, Vec<f64>)>,
}

/// A promise and what came of it.
#[derive(Debug)]
pub struct Check {
    pub text: String,
    pub at_least: bool,
    pub bound: f64,
    pub value: f64,
    pub rounds: usize,
}

impl Check {
    pub fn holds(&self) -> bool {
        if self.at_least { self.value >= self.bound } else { self.value <= self.bound }
    }
}

#[derive(Debug, Default)]
pub struct Results {
    pub rows: Vec<Row>,
    pub checks: Vec<Check>,
    /// What the run was made on and with.
    pub about: BTreeMap<&'static str, String>,
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

impl Results {
    pub fn row(&mut self, id: &'static str, title: &'static str, unit: &'static str) {
        if self.rows.iter().all(|row| row.id != id) {
            self.rows.push(Row { id, title, unit, subjects: Vec::new() });
        }
    }

    /// Adds a value of the round under way. The row has been made before.
    pub fn add(&mut self, id: &str, subject: &str, value: f64) {
        let Some(row) = self.rows.iter_mut().find(|row| row.id == id) else { return };
        match row.subjects.iter_mut().find(|(name, _)| name == subject) {
            Some((_, values)) => values.push(value),
            None => row.subjects.push((subject.to_owned(), vec![value])),
        }
    }

    pub fn values(&self, id: &str, subject: &str) -> &[f64] {
        self.rows
            .iter()
            .find(|row| row.id == id)
            .and_then(|row| row.subjects.iter().find(|(name, _)| name == subject))
            .map_or(&[], |(_, values)| values)
    }

    /// Holds a median against a bound.
    pub fn check(&mut self, text: &str, (id, subject): (&str, &str), at_least: bool, bound: f64) {
        let values = self.values(id, subject);
        if !values.is_empty() {
            let (value, rounds) = (median(values), values.len());
            self.checks.push(Check { text: text.to_owned(), at_least, bound, value, rounds });
        }
    }

    /// Holds the median of the rounds' own ratios against a bound: what else the machine did meanwhile touches both
    /// sides of one round alike.
    pub fn check_ratio(&mut self, text: &str, ours: (&str, &str), theirs: (&str, &str), bound: f64) {
        let pairs = self.values(ours.0, ours.1).iter().zip(self.values(theirs.0, theirs.1));
        let ratios: Vec<f64> = pairs.map(|(a, b)| a / b).collect();
        if !ratios.is_empty() {
            let (value, rounds) = (median(&ratios), ratios.len());
            self.checks.push(Check { text: text.to_owned(), at_least: true, bound, value, rounds });
        }
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let _ = writeln!(text, "\n{} ({})", row.title, row.unit);
            let first = row.subjects.first().map_or(f64::NAN, |(_, values)| median(values));
            for (name, values) in &row.subjects {
                let middle = median(values);
                let low = values.iter().copied().fold(f64::INFINITY, f64::min);
                let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let _ = writeln!(
                    text,
                    "  {name:<34} {:>12}   {:>6.2}   {} .. {}   n={}",
                    number(middle),
                    first / middle,
                    number(low),
                    number(high),
                    values.len()
                );
            }
        }
        let _ = writeln!(text, "\nheld against");
        for check in &self.checks {
            let sign = if check.at_least { ">=" } else { "<=" };
            let _ = writeln!(
                text,
                "  {}  {:<66} {:>10}  {sign} {:<8} n={}",
                if check.holds() { "ok  " } else { "MISS" },
                check.text,
                number(check.value),
                number(check.bound),
                check.rounds
            );
        }
        text
    }

    pub fn json(&self) -> String {
        let mut text = String::from("{\n \"about\": {");
        for (index, (name, value)) in self.about.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(text, "{comma}\n  {}: {}", quoted(name), quoted(value));
        }
        text.push_str("\n },\n \"rows\": [");
        for (index, row) in self.rows.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let (id, title, unit) = (quoted(row.id), quoted(row.title), quoted(row.unit));
            let _ = write!(text, "{comma}\n  {{\"id\": {id}, \"title\": {title}, \"unit\": {unit}, \"subjects\": [");
            for (index, (name, values)) in row.subjects.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                let all: Vec<String> = values.iter().map(|value| json_number(*value)).collect();
                let (name, middle) = (quoted(name), json_number(median(values)));
                let all = all.join(", ");
                let _ = write!(text, "{comma}\n   {{\"name\": {name}, \"median\": {middle}, \"values\": [{all}]}}");
            }
            text.push_str("\n  ]}");
        }
        text.push_str("\n ],\n \"checks\": [");
        for (index, check) in self.checks.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let bound = if check.at_least { "at_least" } else { "at_most" };
            let _ = write!(
                text,
                "{comma}\n  {{\"text\": {}, \"{bound}\": {}, \"value\": {}, \"rounds\": {}, \"holds\": {}}}",
                quoted(&check.text),
                json_number(check.bound),
                json_number(check.value),
                check.rounds,
                check.holds()
            );
        }
        text.push_str("\n ]\n}\n");
        text
    }
}

/// With as many digits as say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn json_number(value: f64) -> String {
    if value.is_finite() { format!("{value:.4}") } else { "null".to_owned() }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

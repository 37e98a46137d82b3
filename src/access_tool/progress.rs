//! A progress bar for a person who waits: on a terminal only, and only after a second.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// What is done sooner than this needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(100);
/// Steps between two looks at the clock.
const STRIDE: u64 = 512;
const WIDTH: u64 = 40;

#[derive(Debug)]
pub struct Progress<W: Write> {
    /// None: nobody watches.
    out: Option<W>,
    what: &'static str,
    done: u64,
    total: u64,
    /// When the bar is drawn next.
    due: Instant,
    drawn: bool,
}

impl Progress<io::Stderr> {
    /// On standard error, if that is a terminal.
    pub fn on_terminal(what: &'static str, total: u64) -> Self {
        let stderr = io::stderr();
        Progress::new(stderr.is_terminal().then_some(stderr), what, total, Instant::now())
    }
}

impl<W: Write> Progress<W> {
    fn new(out: Option<W>, what: &'static str, total: u64, now: Instant) -> Self {
        Progress { out, what, done: 0, total, due: now + PATIENCE, drawn: false }
    }

    pub fn step(&mut self) {
        self.done += 1;
        if self.out.is_some() && self.done % STRIDE == 0 {
            self.draw(Instant::now());
        }
    }

    fn draw(&mut self, now: Instant) {
        if now < self.due {
            return;
        }
        self.due = now + REDRAW;
        self.drawn = true;
        let part = |of: u64| of * self.done.min(self.total) / self.total.max(1);
        let bar = "#".repeat(part(WIDTH) as usize);
        if let Some(out) = &mut self.out {
            // A terminal that has gone is no reason to stop.
            let _ = write!(out, "\r{} [{bar:<width$}] {:3} %", self.what, part(100), width = WIDTH as usize);
            let _ = out.flush();
        }
    }
}

/// The line is given back clean.
impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        if let Some(out) = self.out.as_mut().filter(|_| self.drawn) {
            let _ = write!(out, "\r{:width$}\r", "", width = self.what.len() + WIDTH as usize + 10);
            let _ = out.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_within_a_second_and_the_line_is_left_clean() {
        let (mut out, start) = (Vec::new(), Instant::now());
        let mut progress = Progress::new(Some(&mut out), "writing", 1000, start);
        progress.done = 250;
        progress.draw(start + Duration::from_millis(999));
        drop(progress);
        assert!(out.is_empty());

        let mut progress = Progress::new(Some(&mut out), "writing", 1000, start);
        progress.done = 250;
        progress.draw(start + Duration::from_secs(1));
        progress.done = 500;
        progress.draw(start + Duration::from_millis(1050));
        progress.done = 1000;
        progress.draw(start + Duration::from_millis(1100));
        drop(progress);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.split('\r').collect();
        assert_eq!(lines.len(), 5, "{text:?}");
        assert_eq!(lines[1], format!("writing [{:40}]  25 %", "#".repeat(10)));
        assert_eq!(lines[2], format!("writing [{}] 100 %", "#".repeat(40)));
        assert!(lines[3].trim().is_empty() && lines[3].len() >= lines[2].len());
        assert_eq!(lines[4], "");
    }

    #[test]
    fn more_steps_than_expected_and_none_expected_do_no_harm() {
        let (mut out, start) = (Vec::new(), Instant::now());
        for total in [0, 10] {
            let mut progress = Progress::new(Some(&mut out), "x", total, start);
            progress.done = 20;
            progress.draw(start + PATIENCE);
        }
        assert!(String::from_utf8(out).unwrap().contains("100 %"));
    }
}

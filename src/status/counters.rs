//! What the daemon counts: connections by what became of them, and how the DNS lists do.
//!
//! Plain numbers in fixed room, for the whole run and for the last minute. The reactor counts as
//! things happen, and that is all the cost there is while nobody asks. Pure: the caller brings the
//! time.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::policy::Reason;
use crate::policy::session::ListResult;

/// What is counted of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Accepted,
    /// A handler was started.
    Served,
    /// Refused by a record of the access file.
    Denied,
    /// Refused because the access file could not be read.
    AccessUnknown,
    PerAddress,
    PerBlock,
    Dropped,
    /// No process could be started.
    NotStarted,
    /// Refused by `-proxyfrom`.
    ProxyFrom,
    /// No PROXY header that can be used came.
    BadHeader,
    /// The client went away before it was decided.
    Gone,
    /// A handler has ended.
    Ended,
    /// `-lookuptimeout` cut lookups off.
    LookupsLate,
}

impl Event {
    pub const ALL: [Event; 13] = [
        Event::Accepted,
        Event::Served,
        Event::Denied,
        Event::AccessUnknown,
        Event::PerAddress,
        Event::PerBlock,
        Event::Dropped,
        Event::NotStarted,
        Event::ProxyFrom,
        Event::BadHeader,
        Event::Gone,
        Event::Ended,
        Event::LookupsLate,
    ];
    /// Refusals, with the stable name of each reason.
    pub const REFUSALS: [(Event, &'static str); 6] = [
        (Event::Denied, "access"),
        (Event::AccessUnknown, "access_unreadable"),
        (Event::PerAddress, "maxperip"),
        (Event::PerBlock, "maxperc"),
        (Event::Dropped, "drop"),
        (Event::ProxyFrom, "proxyfrom"),
    ];
    /// Failures, with the stable name of each reason.
    pub const FAILURES: [(Event, &'static str); 2] = [(Event::NotStarted, "spawn"), (Event::BadHeader, "proxy")];

    pub fn refused(reason: &Reason) -> Self {
        match reason {
            Reason::Denied => Event::Denied,
            Reason::AccessUnknown => Event::AccessUnknown,
            Reason::PerAddress => Event::PerAddress,
            Reason::PerBlock => Event::PerBlock,
            Reason::Dropped(_) => Event::Dropped,
        }
    }
}

const EVENTS: usize = Event::ALL.len();

/// One number for each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally([u64; EVENTS]);

impl Tally {
    pub fn of(&self, event: Event) -> u64 {
        self.0[event as usize]
    }

    pub fn refused(&self) -> u64 {
        Event::REFUSALS.iter().map(|(event, _)| self.of(*event)).sum()
    }

    pub fn failed(&self) -> u64 {
        Event::FAILURES.iter().map(|(event, _)| self.of(*event)).sum()
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Seconds that "the last minute" has, the one that is not over included.
const MINUTE: usize = 60;

/// All counts of a run.
#[derive(Debug)]
pub struct Counters {
    start: Instant,
    /// When the second that is counted in is over.
    turn: Instant,
    total: Tally,
    /// One second each; the place of a second is its number modulo [`MINUTE`].
    seconds: [[u32; EVENTS]; MINUTE],
    /// The number, since `start`, of the second that was last counted in.
    current: u64,
    /// One for each of `Config::lists`.
    pub lists: Box<[ListCounts]>,
    /// How long answers took, one for each of `Config::zones`.
    pub zones: Box<[Times]>,
}

impl Counters {
    pub fn new(lists: usize, zones: usize, now: Instant) -> Self {
        Counters {
            start: now,
            turn: now + SECOND,
            total: Tally::default(),
            seconds: [[0; EVENTS]; MINUTE],
            current: 0,
            lists: vec![ListCounts::default(); lists].into(),
            zones: vec![Times::default(); zones].into(),
        }
    }

    pub fn count(&mut self, event: Event, now: Instant) {
        self.advance(now);
        self.total.0[event as usize] += 1;
        let second = &mut self.seconds[(self.current % MINUTE as u64) as usize];
        second[event as usize] = second[event as usize].saturating_add(1);
    }

    pub fn total(&self) -> Tally {
        self.total
    }

    pub fn last_minute(&mut self, now: Instant) -> Tally {
        self.advance(now);
        let mut tally = Tally::default();
        for second in &self.seconds {
            for (sum, count) in tally.0.iter_mut().zip(second) {
                *sum += u64::from(*count);
            }
        }
        tally
    }

    pub fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    /// Clears the seconds that have passed without a count.
    fn advance(&mut self, now: Instant) {
        if now < self.turn {
            return;
        }
        let second = self.uptime(now).as_secs();
        self.turn = self.start + Duration::from_secs(second + 1);
        let passed = (second - self.current).min(MINUTE as u64);
        for number in second + 1 - passed..=second {
            self.seconds[(number % MINUTE as u64) as usize] = [0; EVENTS];
        }
        self.current = second;
    }
}

/// What became of asking one list, by connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListCounts {
    /// Connections that asked it.
    pub asked: u64,
    pub listed: u64,
    /// The lookup failed.
    pub failed: u64,
    /// No answer within the time limit.
    pub late: u64,
    /// An answer that is no listing.
    pub unusable: u64,
    /// Its answer was no longer needed when the verdict fell.
    pub unneeded: u64,
}

impl ListCounts {
    pub fn count(&mut self, result: ListResult) {
        self.asked += 1;
        match result {
            ListResult::Open => self.unneeded += 1,
            ListResult::Listed | ListResult::ListedWithoutText => self.listed += 1,
            ListResult::NotListed => {}
            ListResult::Failed => self.failed += 1,
            ListResult::Late => self.late += 1,
            ListResult::Unusable(_) => self.unusable += 1,
        }
    }

    pub fn errors(&self) -> u64 {
        self.failed + self.late + self.unusable
    }
}

/// How long things took: a histogram of fixed size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// By [`Times::BOUNDS`], and one more for what took longer.
    counts: [u64; Times::BOUNDS.len() + 1],
    sum_ms: u64,
    worst_ms: u64,
}

impl Times {
    /// Upper ends, in milliseconds: three for each power of ten, the steps in which people think.
    pub const BOUNDS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];

    pub fn add(&mut self, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = Self::BOUNDS.iter().position(|&bound| ms <= bound).unwrap_or(Self::BOUNDS.len());
        self.counts[bucket] += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
        self.worst_ms = self.worst_ms.max(ms);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum(&self) -> Duration {
        Duration::from_millis(self.sum_ms)
    }

    pub fn worst(&self) -> Option<Duration> {
        (self.count() > 0).then(|| Duration::from_millis(self.worst_ms))
    }

    /// Half of all took no longer; exact to a step of [`Times::BOUNDS`], within which an even spread is assumed.
    pub fn median(&self) -> Option<Duration> {
        let half = self.count().div_ceil(2);
        let mut below = 0;
        let (bucket, count) = self.counts.iter().enumerate().find(|(_, count)| {
            below += **count;
            half > 0 && below >= half
        })?;
        let low = bucket.checked_sub(1).map_or(0, |before| Self::BOUNDS[before]);
        let high = Self::BOUNDS.get(bucket).copied().unwrap_or(self.worst_ms).min(self.worst_ms);
        let within = half - (below - count);
        Some(Duration::from_millis(low.min(high) + high.saturating_sub(low) * within / count))
    }

    /// Each upper end in seconds with the number of those that took no longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        Self::BOUNDS.iter().zip(&self.counts).scan(0, |sum, (&bound, count)| {
            *sum += count;
            Some((bound as f64 / 1000.0, *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_as_they_stand() {
        for (number, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, number, "{event:?}");
        }
    }

    #[test]
    fn the_last_minute_forgets_and_the_total_does_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut counters = Counters::new(0, 0, start);
        for (seconds, times) in [(0, 3), (1, 1), (59, 2)] {
            for _ in 0..times {
                counters.count(Event::Accepted, at(seconds));
            }
        }
        for (seconds, expected) in [(59, 6), (60, 3), (61, 2), (118, 2), (119, 0), (10_000, 0)] {
            assert_eq!(counters.last_minute(at(seconds)).of(Event::Accepted), expected, "after {seconds} s");
        }
        counters.count(Event::Accepted, at(10_000));
        assert_eq!(counters.last_minute(at(10_059)).of(Event::Accepted), 1);
        assert_eq!(counters.last_minute(at(10_060)).of(Event::Accepted), 0);
        assert_eq!(counters.total().of(Event::Accepted), 7);
    }

    #[test]
    fn sums_take_in_every_reason() {
        let now = Instant::now();
        let mut counters = Counters::new(0, 0, now);
        for event in Event::ALL {
            counters.count(event, now);
        }
        assert_eq!((counters.total().refused(), counters.total().failed()), (6, 2));
        assert_eq!(counters.last_minute(now), counters.total());
    }

    #[test]
    fn median_and_worst_come_from_the_histogram() {
        let ms = Duration::from_millis;
        for (times, median, worst) in [
            (&[][..], None, None),
            (&[7], Some(7), Some(7)),
            (&[0, 0, 0], Some(0), Some(0)),
            (&[3, 3, 900], Some(5), Some(900)),
            (&[20, 30, 40, 50], Some(30), Some(50)),
            (&[60_000, 60_000], Some(35_000), Some(60_000)),
        ] {
            let mut all = Times::default();
            times.iter().for_each(|&time| all.add(ms(time)));
            assert_eq!((all.median(), all.worst()), (median.map(ms), worst.map(ms)), "{times:?}");
            assert_eq!(all.count(), times.len() as u64);
            assert_eq!(all.sum(), ms(times.iter().sum()));
        }
        let mut all = Times::default();
        [1, 2, 2, 20_000].into_iter().for_each(|time| all.add(ms(time)));
        let steps: Vec<_> = all.cumulative().collect();
        assert_eq!((steps[0], steps[1], steps[12]), ((0.001, 1), (0.002, 3), (10.0, 3)));
    }
}

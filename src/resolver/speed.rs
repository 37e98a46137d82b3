//! How fast the name servers answer: by that it is decided when a query has been silent for long.
//!
//! One query at a time is timed, so it costs no memory with each. Those without an answer say nothing: of them a
//! crowd has any number. Pure: no I/O, no clock.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::channel::{MAX_TIMEOUT, TRIES};

/// First time-out of a query while nothing is known; c-ares adapts it to what it sees, down to a quarter of a second.
/// Short enough that a dead first server costs little.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
const LEAST_TIMEOUT: Duration = Duration::from_millis(250);
/// Bounds of how long a query is left alone while others want its place.
const PATIENCE: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(3)];
/// The same if those have been asked for before: they only compete with each other, and where servers have become slow
/// it is from them that it is learned. c-ares hears no answer to a try that has timed out, so there must be the time
/// for a later one to be answered, with tries that begin with a quarter of a second as well.
const PATIENCE_LATER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(8)];
/// A query that has no answer by then is no longer timed.
const TOO_LONG: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub struct Speed {
    /// The query that is timed, and since when.
    timed: Option<(u32, Instant)>,
    /// What an answer takes, on average over the last few.
    usual: Option<Duration>,
}

impl Speed {
    /// Query `number` is sent.
    pub fn sent(&mut self, number: u32, now: Instant) {
        if self.timed.is_none_or(|(_, since)| now.saturating_duration_since(since) > TOO_LONG) {
            self.timed = Some((number, now));
        }
    }

    /// Query `number` has ended, with an answer or without.
    pub fn ended(&mut self, number: u32, answered: bool, now: Instant) {
        let Some((_, since)) = self.timed.filter(|(timed, _)| *timed == number) else { return };
        self.timed = None;
        if answered {
            let took = now.saturating_duration_since(since);
            self.usual = Some(self.usual.map_or(took, |usual| (usual * 3 + took) / 4));
        }
    }

    /// True once there was an answer.
    pub fn is_known(&self) -> bool {
        self.usual.is_some()
    }

    /// True if it makes a difference to what is assumed while nothing is known.
    pub fn is_fast(&self) -> bool {
        self.first_timeout() <= FIRST_TIMEOUT / 2
    }

    /// After so long without an answer a query is sent once more.
    pub fn first_timeout(&self) -> Duration {
        self.usual.map_or(FIRST_TIMEOUT, |usual| (usual * 5).clamp(LEAST_TIMEOUT, FIRST_TIMEOUT))
    }

    /// How long a server is tried by a query that is left alone: each time for twice as long.
    pub fn longest(&self) -> Duration {
        (0..TRIES).map(|n| (self.first_timeout() * (1 << n)).min(MAX_TIMEOUT)).sum()
    }

    /// How long a query for a name is left alone if others want its place: such as were not asked for yet, or, `later`,
    /// only such as were.
    pub fn patience(&self, later: bool) -> Duration {
        let usual = self.usual.unwrap_or(FIRST_TIMEOUT / 4);
        let (alone, [least, most]) =
            if later { (self.first_timeout() * 4, PATIENCE_LATER) } else { (usual * 2, PATIENCE) };
        alone.clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn answers_of_timed_queries_count() {
        let mut speed = Speed::default();
        let seen = |speed: &Speed| (speed.first_timeout(), speed.patience(false), speed.patience(true));
        let start = Instant::now();
        assert_eq!(seen(&speed), (ms(2000), ms(1000), ms(8000)));
        speed.sent(1, start);
        // While one is timed no other is.
        speed.sent(2, start + ms(10));
        speed.ended(2, true, start + ms(20));
        speed.ended(1, false, start + ms(30));
        assert_eq!(seen(&speed), (ms(2000), ms(1000), ms(8000)));
        assert!(!speed.is_known() && !speed.is_fast());
        assert_eq!(speed.longest(), ms(26_000));
        for (took, expected) in [(10, (250, 300, 5000)), (2010, (2000, 1020, 8000)), (9000, (2000, 3000, 8000))] {
            speed.sent(3, start);
            speed.ended(3, true, start + ms(took));
            assert_eq!(seen(&speed), (ms(expected.0), ms(expected.1), ms(expected.2)), "{took}");
        }
        // One that never ends is given up for another.
        speed.sent(4, start);
        speed.sent(5, start + ms(4000));
        speed.ended(5, true, start + ms(4000));
        assert_eq!(speed.patience(false), ms(3000));
        speed.sent(6, start + ms(4001));
        speed.ended(6, true, start + ms(4002));
        assert_eq!(speed.patience(false), ms(3000), "an average");
        (0..20).for_each(|n| {
            speed.sent(n, start);
            speed.ended(n, true, start + ms(1));
        });
        assert_eq!(seen(&speed), (ms(250), ms(300), ms(5000)));
        assert!(speed.is_known() && speed.is_fast());
        assert_eq!(speed.longest(), ms(12_750));
    }
}

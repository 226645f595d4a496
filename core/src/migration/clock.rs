//! When something happened at the peer, by this node's clock.
//!
//! Each message on a control connection says when it was sent, by its sender's clock, and how long the
//! last one from the other side had been there by then. From that each side knows the round trip
//! without the time that the peer took, and where the peer's clock stands: to half a round trip, as
//! NTP does it. The two clocks count from whenever their connection began.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::marks::micros;

/// What a message says of its time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// When it was sent, by its sender's clock.
    pub(crate) sent: u64,
    /// The last message from the other side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) echo: Option<Echo>,
}

/// A message that came from the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Echo {
    /// When it was sent, by the other side's clock.
    pub(crate) sent: u64,
    /// How long ago it arrived.
    pub(crate) held: u64,
}

/// One side's clock, and what it knows of the other's.
#[derive(Debug)]
pub(super) struct PeerClock {
    start: Instant,
    /// What the peer said last of its time, and when it came.
    heard: Option<(u64, Instant)>,
    best: Option<Sample>,
}

/// Where the peer's clock stood at a moment of this node's.
#[derive(Clone, Copy, Debug)]
struct Sample {
    here: u64,
    there: u64,
    round_trip: u64,
}

impl PeerClock {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            heard: None,
            best: None,
        }
    }

    /// The stamp of a message that is sent now.
    pub(super) fn stamp(&self, now: Instant) -> Stamp {
        Stamp {
            sent: self.at(now),
            echo: self.heard.map(|(sent, arrived)| Echo {
                sent,
                held: micros(now.saturating_duration_since(arrived)),
            }),
        }
    }

    /// A moment, as the peer is told it.
    pub(super) fn at(&self, moment: Instant) -> u64 {
        micros(moment.saturating_duration_since(self.start))
    }

    /// A message with that stamp arrived.
    pub(super) fn heard(&mut self, stamp: Stamp, now: Instant) {
        self.heard = Some((stamp.sent, now));
        let arrived = self.at(now);
        let Some(echo) = stamp.echo else { return };
        // A peer whose times cannot be is not believed.
        let there_and_back = arrived.checked_sub(echo.sent);
        let Some(round_trip) = there_and_back.and_then(|time| time.checked_sub(echo.held)) else {
            return;
        };
        // The newest of two that are equally good: clocks drift.
        if self.best.is_none_or(|best| round_trip <= best.round_trip) {
            self.best = Some(Sample {
                here: arrived - round_trip / 2,
                there: stamp.sent,
                round_trip,
            });
        }
    }

    /// The moment at which the peer's clock stood at `there`, if that is known.
    pub(super) fn moment(&self, there: u64) -> Option<Instant> {
        let sample = self.best?;
        let here = sample.here.checked_add(there)?.checked_sub(sample.there)?;
        self.start.checked_add(Duration::from_micros(here))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clocks, the second of which began 500 ms later.
    struct Pair {
        zero: Instant,
        near: PeerClock,
        far: PeerClock,
    }

    impl Pair {
        fn new() -> Self {
            let zero = Instant::now();
            Self {
                zero,
                near: PeerClock::new(zero),
                far: PeerClock::new(zero + Duration::from_millis(500)),
            }
        }

        fn ms(&self, ms: u64) -> Instant {
            self.zero + Duration::from_millis(ms)
        }

        /// A message from `near` and its answer, at these times.
        fn exchange(&mut self, [sent, arrived, answered, back]: [u64; 4]) {
            let stamp = self.near.stamp(self.ms(sent));
            self.far.heard(stamp, self.ms(arrived));
            let stamp = self.far.stamp(self.ms(answered));
            self.near.heard(stamp, self.ms(back));
        }
    }

    #[test]
    fn a_moment_at_the_peer_is_known_to_half_a_round_trip() {
        let mut pair = Pair::new();
        assert_eq!(pair.near.moment(1), None, "before any answer");
        // The peer takes two seconds, which are no part of the round trip.
        pair.exchange([1000, 1004, 3004, 3008]);
        let there = pair.far.at(pair.ms(5000));
        assert_eq!(pair.near.moment(there), Some(pair.ms(5000)));
        // A worse sample, late on one way, changes nothing.
        pair.exchange([6000, 6004, 6004, 6100]);
        assert_eq!(pair.near.moment(there), Some(pair.ms(5000)));
        // A moment before the sample, and one before the peer's clock began.
        let early = pair.far.at(pair.ms(700));
        assert_eq!(pair.near.moment(early), Some(pair.ms(700)));
    }

    #[test]
    fn times_that_cannot_be_are_not_believed() {
        let mut pair = Pair::new();
        for (sent, held) in [(u64::MAX, 0), (0, u64::MAX), (9_000_000, 1)] {
            let stamp = Stamp {
                sent: 7,
                echo: Some(Echo { sent, held }),
            };
            let now = pair.ms(1000);
            pair.near.heard(stamp, now);
            assert_eq!(pair.near.moment(7), None);
        }
        pair.exchange([1000, 1001, 1001, 1002]);
        assert_eq!(pair.near.moment(u64::MAX), None);
    }
}

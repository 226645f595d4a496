//! When a silent peer is asked whether it is there, and when it is given up.

use std::time::{Duration, Instant};

use super::PINGS_MAX;

/// Counts the silent periods of a connection. Whatever arrives is an answer.
#[derive(Debug)]
pub(super) struct KeepAlive {
    period: Duration,
    next: Instant,
    unanswered: u32,
}

/// What the time asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// It did not answer.
    Lost,
}

impl KeepAlive {
    pub(super) fn new(period: Duration, now: Instant) -> Self {
        Self {
            period,
            next: now + period,
            unanswered: 0,
        }
    }

    /// Something arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        self.next = now + self.period;
        self.unanswered = 0;
    }

    /// The peer is there, as something else than what it sends shows.
    pub(super) fn answered(&mut self) {
        self.unanswered = 0;
    }

    pub(super) fn timeout(&self) -> Instant {
        self.next
    }

    pub(super) fn elapsed(&mut self, now: Instant) -> Due {
        if now < self.next {
            return Due::Nothing;
        }
        if self.unanswered == PINGS_MAX {
            return Due::Lost;
        }
        self.unanswered += 1;
        self.next = now + self.period;
        Due::Ping
    }
}

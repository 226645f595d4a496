//! A time limit that may be set by who does not know the time.

use std::time::{Duration, Instant};

/// A time limit, in force or not. It begins when the session is next told the time, for most of what
/// an application does to a session has no time with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Off,
    Beginning,
    Until(Instant),
}

impl Limit {
    /// Has it in force, as it was if it was.
    pub(super) fn set(&mut self, on: bool) {
        *self = match *self {
            _ if !on => Limit::Off,
            Limit::Off => Limit::Beginning,
            set => set,
        };
    }

    pub(super) fn begin(&mut self, now: Instant, allowed: Duration) {
        if *self == Limit::Beginning {
            *self = Limit::Until(now + allowed);
        }
    }

    /// When to look: at once, by the time last told, where it has not begun.
    pub(super) fn timeout(self, now: Instant) -> Option<Instant> {
        match self {
            Limit::Off => None,
            Limit::Beginning => Some(now),
            Limit::Until(end) => Some(end),
        }
    }

    pub(super) fn is_over(self, now: Instant) -> bool {
        matches!(self, Limit::Until(end) if end <= now)
    }
}

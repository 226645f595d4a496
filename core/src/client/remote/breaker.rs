//! Circuit breakers: when a node does not keep up, it is left alone for a while.
//!
//! There is one for each kind of operation, because a node that cannot start VMs may well say how
//! they are. Only `unavailable` and `timeout` open one: those are the errors of a node that has too
//! much to do, and every other answer, an error too, shows that it works. No clock in here: the time
//! is an argument.

use std::time::{Duration, Instant};

use crate::action::Action;
use crate::error::DWCPError;

/// Failures in a row that open a breaker: one request with all its repetitions is not enough.
const THRESHOLD: u32 = 5;
/// How long a breaker stays open at first. It doubles each time the probe fails.
const OPEN_FIRST: Duration = Duration::from_secs(1);
/// The longest it stays open: a node that was restarted should not be kept waiting much longer.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// Kinds of operations that fail together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What changes nothing, streams included.
    Read,
    /// The life of a VM.
    Lifecycle,
    /// Moving VMs.
    Migration,
    /// Keeping them.
    Snapshot,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Read, Kind::Lifecycle, Kind::Migration, Kind::Snapshot];

    /// The kind of an action.
    pub(super) const fn of(action: &Action) -> Kind {
        match action {
            Action::Migrate { .. }
            | Action::PlanMigration { .. }
            | Action::CancelMigration { .. }
            | Action::ResolveMigration { .. } => Kind::Migration,
            Action::Snapshot { .. }
            | Action::RestoreSnapshot { .. }
            | Action::DeleteSnapshot { .. } => Kind::Snapshot,
            _ if action.is_read_only() => Kind::Read,
            _ => Kind::Lifecycle,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Kind::Read => "reading",
            Kind::Lifecycle => "lifecycle",
            Kind::Migration => "migration",
            Kind::Snapshot => "snapshot",
        }
    }

    const fn index(self) -> usize {
        match self {
            Kind::Read => 0,
            Kind::Lifecycle => 1,
            Kind::Migration => 2,
            Kind::Snapshot => 3,
        }
    }
}

/// What a try says of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered.
    Works,
    /// It did not keep up.
    Fails,
    /// Nothing: the connection broke, or nobody waited for the answer.
    Unknown,
}

/// Where a breaker stands.
///
/// ```text
///            THRESHOLD failures in a row              the pause is over
///   Closed ─────────────────────────────▶ Open ─────────────────────────▶ Probing
///     ▲                                    ▲                                │ │
///     │            the probe worked        │        the probe failed        │ │
///     └────────────────────────────────────┼────────────────────────────────┘ │
///                                          └──────────────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    // `pause` is that before the probe.
    Probing { pause: Duration },
}

/// The breaker of one kind of operation.
#[derive(Debug, Clone, Copy)]
struct Breaker {
    state: State,
}

impl Breaker {
    const NEW: Breaker = Breaker {
        state: State::Closed { failures: 0 },
    };

    /// Whether a request may go now, and where it is the probe, nobody else may until it has ended.
    /// Else how long to wait, at least.
    fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until, pause } if now >= until => {
                self.state = State::Probing { pause };
                Ok(())
            }
            State::Open { until, .. } => Err(until - now),
            State::Probing { .. } => Err(Duration::ZERO),
        }
    }

    fn record(&mut self, verdict: Verdict, now: Instant) {
        self.state = match (self.state, verdict) {
            (State::Closed { .. } | State::Probing { .. }, Verdict::Works) => {
                State::Closed { failures: 0 }
            }
            (State::Closed { failures }, Verdict::Fails) if failures + 1 < THRESHOLD => {
                State::Closed {
                    failures: failures + 1,
                }
            }
            (State::Closed { .. }, Verdict::Fails) => State::Open {
                until: now + OPEN_FIRST,
                pause: OPEN_FIRST,
            },
            (State::Probing { pause }, Verdict::Fails) => {
                let pause = (2 * pause).min(OPEN_MAX);
                State::Open {
                    until: now + pause,
                    pause,
                }
            }
            // The next request is the probe then.
            (State::Probing { pause }, Verdict::Unknown) => State::Open { until: now, pause },
            // Requests that were on their way when it opened say nothing new.
            (state @ State::Open { .. }, _) | (state, Verdict::Unknown) => state,
        };
    }
}

/// The breakers of a node.
#[derive(Debug)]
pub(super) struct Breakers([Breaker; Kind::ALL.len()]);

impl Default for Breakers {
    fn default() -> Breakers {
        Breakers([Breaker::NEW; Kind::ALL.len()])
    }
}

impl Breakers {
    /// Whether a request of a kind may be sent now. Whoever may has to `record` what came of it.
    ///
    /// # Errors
    ///
    /// `Unavailable`, saying how long it will be so.
    pub(super) fn admit(&mut self, kind: Kind, now: Instant) -> Result<(), DWCPError> {
        let admitted = self.0[kind.index()].admit(now);
        admitted.map_err(|wait| {
            let until = if wait.is_zero() {
                "until the one request that tries has its answer".to_owned()
            } else {
                format!("for another {} ms", wait.as_millis().max(1))
            };
            DWCPError::Unavailable(format!(
                "the circuit breaker for {} requests is open, because the node was unavailable or \
                 did not answer in time: nothing is sent {until}",
                kind.name()
            ))
        })
    }

    /// Takes note of what came of an admitted request.
    pub(super) fn record(&mut self, kind: Kind, verdict: Verdict, now: Instant) {
        self.0[kind.index()].record(verdict, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn open(breakers: &mut Breakers, now: Instant) {
        for _ in 0..THRESHOLD {
            assert_eq!(breakers.admit(Kind::Read, now), Ok(()));
            breakers.record(Kind::Read, Verdict::Fails, now);
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_begins_the_count_anew() {
        let (mut breakers, now) = (Breakers::default(), Instant::now());
        for round in 0..3 {
            for _ in 0..THRESHOLD - 1 {
                breakers.record(Kind::Read, Verdict::Fails, now);
            }
            // What says nothing of the node counts neither way.
            breakers.record(Kind::Read, Verdict::Unknown, now);
            assert_eq!(breakers.admit(Kind::Read, now), Ok(()), "{round}");
            breakers.record(Kind::Read, Verdict::Works, now);
        }
        open(&mut breakers, now);
        let error = breakers.admit(Kind::Read, now).unwrap_err();
        assert!(
            matches!(&error, DWCPError::Unavailable(text)
                if text.contains("circuit breaker for reading") && text.contains("another 1000 ms")),
            "{error}"
        );
    }

    #[test]
    fn kinds_fail_apart() {
        let (mut breakers, now) = (Breakers::default(), Instant::now());
        open(&mut breakers, now);
        for kind in Kind::ALL {
            assert_eq!(breakers.admit(kind, now).is_ok(), kind != Kind::Read);
        }
    }

    #[test]
    fn one_probe_decides() {
        let (mut breakers, now) = (Breakers::default(), Instant::now());
        open(&mut breakers, now);
        // Late answers to requests that were sent before it opened change nothing.
        breakers.record(Kind::Read, Verdict::Works, now);
        assert!(breakers.admit(Kind::Read, now + OPEN_FIRST - MS).is_err());

        let mut now = now + OPEN_FIRST;
        let mut pause = OPEN_FIRST;
        for _ in 0..8 {
            assert_eq!(breakers.admit(Kind::Read, now), Ok(()));
            let error = breakers.admit(Kind::Read, now).unwrap_err();
            assert!(error.message().contains("the one request"), "{error}");
            breakers.record(Kind::Read, Verdict::Fails, now);
            pause = (2 * pause).min(OPEN_MAX);
            assert!(breakers.admit(Kind::Read, now + pause - MS).is_err());
            now += pause;
        }
        assert_eq!(pause, OPEN_MAX);

        // A probe that nobody waited for leaves the place to the next.
        assert_eq!(breakers.admit(Kind::Read, now), Ok(()));
        breakers.record(Kind::Read, Verdict::Unknown, now);
        assert_eq!(breakers.admit(Kind::Read, now), Ok(()));
        breakers.record(Kind::Read, Verdict::Works, now);
        for _ in 0..3 {
            assert_eq!(breakers.admit(Kind::Read, now), Ok(()));
        }
    }

    #[test]
    fn every_action_has_its_kind() {
        let id = || "x".to_owned();
        for (action, kind) in [
            (Action::Get { vm_id: id() }, Kind::Read),
            (Action::ListMigrations, Kind::Read),
            (Action::ListSnapshots { vm_id: id() }, Kind::Read),
            (Action::Health, Kind::Read),
            (Action::Start { vm_id: id() }, Kind::Lifecycle),
            (Action::Destroy { vm_id: id() }, Kind::Lifecycle),
            (
                Action::CancelMigration { migration_id: id() },
                Kind::Migration,
            ),
            (Action::DeleteSnapshot { snapshot_id: id() }, Kind::Snapshot),
        ] {
            assert_eq!(Kind::of(&action), kind, "{action:?}");
        }
    }
}

//! What may be repeated, and when.
//!
//! A request is repeated where that can do no harm: it changes nothing, it carries an idempotency
//! key, or it was certainly not executed. And only after errors that pass: a wrong key stays wrong.

use std::time::Duration;

use super::breaker::Verdict;
use crate::action::Action;
use crate::error::DWCPError;
use crate::model::{new_uuid, random_token};

/// The longest pause before a repetition, whatever `retry_backoff` and the number of tries say: longer
/// ones belong to whoever called.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a node says of a VM that runs elsewhere now. It will say the same again, and it works.
const MOVED: &str = "moved to the node";

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: DWCPError,
    /// Whether the node may have done what was asked.
    pub(super) executed: bool,
    /// Whether another try is out of the question, whatever the error.
    pub(super) last: bool,
}

impl Failure {
    /// One after which the request may have been executed.
    pub(super) const fn perhaps(error: DWCPError) -> Failure {
        Failure {
            error,
            executed: true,
            last: false,
        }
    }

    /// One before the request could be executed.
    pub(super) const fn never(error: DWCPError) -> Failure {
        Failure {
            error,
            executed: false,
            last: false,
        }
    }

    /// One that this side decided, and would decide again.
    pub(super) const fn refused(error: DWCPError) -> Failure {
        Failure {
            error,
            executed: false,
            last: true,
        }
    }

    /// Whether the request may be repeated after it. `harmless`: executing it twice is the same as
    /// executing it once.
    pub(super) fn may_repeat(&self, harmless: bool) -> bool {
        if self.last || has_moved(&self.error) {
            return false;
        }
        match &self.error {
            DWCPError::Connection(_) | DWCPError::Unavailable(_) => harmless || !self.executed,
            DWCPError::Timeout(_) | DWCPError::ResourceLimit(_) => harmless,
            _ => false,
        }
    }
}

/// Whether an error says that the VM runs on another node.
pub(super) fn has_moved(error: &DWCPError) -> bool {
    matches!(error, DWCPError::Unavailable(text) if text.contains(MOVED))
}

/// What an answer says of the node. `patient`: the request waits for a guest, whose silence is not
/// the node's.
pub(super) fn verdict<T>(result: &Result<T, Failure>, patient: bool) -> Verdict {
    match result.as_ref().map_err(|failure| &failure.error) {
        Err(DWCPError::Connection(_)) => Verdict::Unknown,
        Err(DWCPError::Timeout(_)) if patient => Verdict::Unknown,
        Err(error @ (DWCPError::Timeout(_) | DWCPError::Unavailable(_))) if !has_moved(error) => {
            Verdict::Fails
        }
        _ => Verdict::Works,
    }
}

/// Whether an action waits for a guest.
pub(super) fn waits_for_guest(action: &Action) -> bool {
    matches!(action, Action::Stop { options, .. } if !options.force)
}

/// Whether executing an action twice is the same as executing it once.
pub(super) fn is_harmless(action: &Action) -> bool {
    action.is_read_only() || action.key().is_some()
}

/// Gives an action that takes an idempotency key, and was given none, one of its own, so that it may
/// be repeated when an answer is lost.
pub(super) fn give_key(action: &mut Action) {
    if let Action::Create { key, .. } | Action::Migrate { key, .. } | Action::Snapshot { key, .. } =
        action
        && key.is_none()
    {
        *key = Some(new_uuid());
    }
}

/// How often and how patiently to repeat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Repetitions after the first try.
    pub(super) attempts: u32,
    /// The first pause, at most.
    pub(super) backoff: Duration,
}

impl Policy {
    /// The pause before repetition `number`, counted from 0: anything between nothing and a span that
    /// doubles each time, so that clients that failed together do not come back together.
    pub(super) fn pause(self, number: u32, random: u32) -> Duration {
        if self.backoff.is_zero() {
            return Duration::ZERO;
        }
        let doubled = 1_u32.checked_shl(number).filter(|factor| *factor > 0);
        let span = doubled
            .and_then(|factor| self.backoff.checked_mul(factor))
            .map_or(PAUSE_MAX, |span| span.min(PAUSE_MAX));
        span.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// A random number for a pause.
pub(super) fn random() -> u32 {
    let [a, b, c, d, ..] = random_token();
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StopOptions;

    fn text() -> String {
        "x".to_owned()
    }

    #[test]
    fn only_what_can_do_no_harm_is_repeated() {
        type Make = fn(DWCPError) -> Failure;
        let (perhaps, never): (Make, Make) = (Failure::perhaps, Failure::never);
        // failure, harmless, repeated
        for (failure, harmless, repeated) in [
            (perhaps(DWCPError::Connection(text())), true, true),
            (perhaps(DWCPError::Connection(text())), false, false),
            (never(DWCPError::Connection(text())), false, true),
            (perhaps(DWCPError::Unavailable(text())), true, true),
            (perhaps(DWCPError::Unavailable(text())), false, false),
            (never(DWCPError::Unavailable(text())), false, true),
            (perhaps(DWCPError::Timeout(text())), true, true),
            (perhaps(DWCPError::Timeout(text())), false, false),
            (perhaps(DWCPError::ResourceLimit(text())), true, true),
            (perhaps(DWCPError::ResourceLimit(text())), false, false),
            (never(DWCPError::Authentication(text())), true, false),
            (never(DWCPError::PermissionDenied(text())), true, false),
            (never(DWCPError::Protocol(text())), true, false),
            (never(DWCPError::InvalidOperation(text())), true, false),
            (never(DWCPError::Config(text())), true, false),
            (never(DWCPError::VMNotFound(text())), true, false),
            (never(DWCPError::Internal(text())), true, false),
        ] {
            assert_eq!(failure.may_repeat(harmless), repeated, "{failure:?}");
        }
        assert!(!Failure::refused(DWCPError::Unavailable(text())).may_repeat(true));
        let moved = DWCPError::Unavailable("VM x moved to the node b; ask there".into());
        assert!(!never(moved).may_repeat(true));
    }

    #[test]
    fn only_unavailable_and_timeout_speak_against_a_node() {
        let verdict = |error, patient| verdict::<()>(&Err(Failure::perhaps(error)), patient);
        assert_eq!(
            verdict(DWCPError::Unavailable(text()), false),
            Verdict::Fails
        );
        assert_eq!(verdict(DWCPError::Timeout(text()), false), Verdict::Fails);
        assert_eq!(verdict(DWCPError::Timeout(text()), true), Verdict::Unknown);
        assert_eq!(
            verdict(DWCPError::Connection(text()), false),
            Verdict::Unknown
        );
        for error in [
            DWCPError::VMNotFound(text()),
            DWCPError::ResourceLimit(text()),
            DWCPError::Internal(text()),
            DWCPError::Unavailable("VM x moved to the node b".into()),
        ] {
            assert_eq!(verdict(error, false), Verdict::Works);
        }
        assert_eq!(super::verdict(&Ok(()), false), Verdict::Works);
    }

    #[test]
    fn what_makes_something_gets_a_key() {
        let mut create = Action::Create {
            config: Box::default(),
            key: None,
        };
        assert!(!is_harmless(&create));
        give_key(&mut create);
        assert_eq!(create.key().map(str::len), Some(36));
        assert!(is_harmless(&create));
        let kept = create.clone();
        give_key(&mut create);
        assert_eq!(create, kept, "a key that is there is kept");

        let mut start = Action::Start { vm_id: text() };
        give_key(&mut start);
        assert!(!is_harmless(&start));
        assert!(is_harmless(&Action::Health));
    }

    #[test]
    fn only_a_graceful_stop_waits_for_a_guest() {
        let stop = |options| Action::Stop {
            vm_id: text(),
            options,
        };
        assert!(waits_for_guest(&stop(StopOptions::default())));
        assert!(!waits_for_guest(&stop(StopOptions::force())));
        assert!(!waits_for_guest(&Action::Health));
    }

    #[test]
    fn pauses_double_and_are_anywhere_within() {
        let policy = Policy {
            attempts: 3,
            backoff: Duration::from_secs(1),
        };
        for (number, most) in [(0, 1), (1, 2), (2, 4), (3, 8), (5, 30), (31, 30), (99, 30)] {
            assert_eq!(policy.pause(number, u32::MAX), Duration::from_secs(most));
            assert_eq!(policy.pause(number, 0), Duration::ZERO);
            let half = policy.pause(number, u32::MAX / 2);
            assert!((half.as_secs_f64() - most as f64 / 2.0).abs() < 0.01);
        }
        let none = Policy {
            attempts: 3,
            backoff: Duration::ZERO,
        };
        assert_eq!(none.pause(40, u32::MAX), Duration::ZERO);
    }
}

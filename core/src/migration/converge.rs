//! Slowing a guest down that writes faster than can be copied, and letting go of it on every exit.
//!
//! `switch` says when that is called for. The brake is pressed in steps, each held for as long as the rule
//! needs to see what it brought, and released by whoever comes first: the end of copying, its being
//! stopped, or the end of the engine.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::machine::Machine;

/// What can slow the vCPUs of a machine down.
pub(crate) trait Throttle: Send + Sync {
    /// Keeps the vCPUs from running for so many percent of the time;
    /// 0: runs them as ever. Returns at once.
    fn throttle(&self, percent: u8);
}

impl Throttle for Machine {
    fn throttle(&self, percent: u8) {
        self.hold_back(percent);
    }
}

/// How far it is pressed, in percent. A guest should not notice more than it has to, so it begins low; what
/// is left of its speed is then roughly halved by each step. The last leaves it one part in a hundred: it
/// still runs, and keeps its connections.
const STEPS: [u8; 7] = [20, 40, 60, 80, 90, 95, 99];

/// Holds a machine's vCPUs back, step by step.
pub(super) struct Brake {
    /// `None`: not permitted, or nothing that could.
    on: Option<Arc<dyn Throttle>>,
    step: Mutex<Step>,
}

#[derive(Default)]
struct Step {
    /// Steps that were taken.
    taken: usize,
    /// Let go of for good.
    released: bool,
}

impl Brake {
    pub(super) fn new(on: Option<Arc<dyn Throttle>>) -> Self {
        Self {
            on,
            step: Mutex::default(),
        }
    }

    /// Takes one more step. How far it is pressed now, or `None` where there is nothing more to press.
    pub(super) fn press(&self) -> Option<u8> {
        let on = self.on.as_ref()?;
        let mut step = self.lock();
        let percent = *STEPS.get(step.taken).filter(|_| !step.released)?;
        step.taken += 1;
        // Under the lock: a release that comes now has the last word.
        on.throttle(percent);
        Some(percent)
    }

    /// Lets go, for good.
    pub(super) fn release(&self) {
        let mut step = self.lock();
        if let Some(on) = self
            .on
            .as_ref()
            .filter(|_| step.taken > 0 && !step.released)
        {
            on.throttle(0);
        }
        step.released = true;
    }

    fn lock(&self) -> MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<u8>>);

    impl Throttle for Recorder {
        fn throttle(&self, percent: u8) {
            self.0.lock().unwrap().push(percent);
        }
    }

    fn brake() -> (Arc<Recorder>, Brake) {
        let recorder = Arc::new(Recorder::default());
        let on = Arc::clone(&recorder) as Arc<dyn Throttle>;
        (recorder, Brake::new(Some(on)))
    }

    fn calls(recorder: &Recorder) -> Vec<u8> {
        recorder.0.lock().unwrap().clone()
    }

    #[test]
    fn it_is_pressed_in_steps_and_never_wholly() {
        let (recorder, brake) = brake();
        let pressed: Vec<u8> = std::iter::from_fn(|| brake.press()).collect();
        assert_eq!(pressed, STEPS);
        assert_eq!(calls(&recorder), STEPS);
        assert!(pressed.is_sorted() && pressed.iter().all(|&percent| percent < 100));
    }

    #[test]
    fn it_is_let_go_of_once_and_then_stays_so() {
        let (recorder, brake) = brake();
        brake.press();
        brake.release();
        assert_eq!(brake.press(), None);
        drop(brake);
        assert_eq!(calls(&recorder), [20, 0]);
    }

    #[test]
    fn who_forgets_it_lets_go_and_what_was_not_pressed_is_left_alone() {
        let (recorder, pressed) = brake();
        pressed.press();
        drop(pressed);
        assert_eq!(calls(&recorder), [20, 0]);
        let (recorder, untouched) = brake();
        drop(untouched);
        assert_eq!(calls(&recorder), [0; 0]);
        assert_eq!(Brake::new(None).press(), None);
    }
}

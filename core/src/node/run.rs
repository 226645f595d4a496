//! One run of a VM's machine, from its start to its end: what the machine tells the node, and the
//! figures that are kept of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::keyboard::Keyboard;
use super::metrics::Samples;
use crate::machine::{Hooks, News};

/// Most events a guest can cause between its start (or reset) and its end. The built-in guest has a
/// handful to tell; one that rings without end must not push the events of others out of the log.
pub(super) const GUEST_EVENTS_MAX: u32 = 64;

/// What a machine and the node share. The machine holds it through its hooks; it holds no machine.
#[derive(Debug)]
pub(crate) struct Run {
    inbox: Mutex<Inbox>,
    /// Rung when there is something to look at; counts the rings.
    bell: watch::Sender<u64>,
    pub(super) samples: Samples,
    pub(super) keyboard: Arc<Keyboard>,
    /// Checks of memory that were asked for and done.
    checks: AtomicU64,
}

#[derive(Debug, Default)]
struct Inbox {
    news: VecDeque<News>,
    /// Events caused so far.
    told: u32,
    /// No machine belongs to it any more.
    over: bool,
}

impl Run {
    pub(crate) fn new() -> Arc<Run> {
        Arc::new(Run {
            inbox: Mutex::default(),
            bell: watch::Sender::new(0),
            samples: Samples::default(),
            keyboard: Arc::default(),
            checks: AtomicU64::new(0),
        })
    }

    /// The hooks of the machine that this run is of. They block nowhere and hold nothing without
    /// bound, whatever the guest does.
    pub(crate) fn hooks(self: &Arc<Run>) -> Hooks {
        let (end, news) = (Arc::clone(self), Arc::clone(self));
        Hooks {
            on_end: Box::new(move || end.ring()),
            on_news: Box::new(move |one| {
                {
                    let mut inbox = news.lock();
                    if inbox.told >= GUEST_EVENTS_MAX {
                        return;
                    }
                    inbox.told += 1;
                    inbox.news.push_back(one);
                }
                news.ring();
            }),
        }
    }

    /// Makes whoever waits look again.
    pub(crate) fn ring(&self) {
        self.bell
            .send_modify(|rings| *rings = rings.wrapping_add(1));
    }

    /// A listener that hears every ring from now on.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    pub(super) fn take_news(&self) -> VecDeque<News> {
        std::mem::take(&mut self.lock().news)
    }

    /// The guest starts anew.
    pub(super) fn reset(&self) {
        let mut inbox = self.lock();
        inbox.told = 0;
        inbox.news.clear();
        self.checks.store(0, Ordering::Relaxed);
    }

    /// Its machine was taken away.
    pub(super) fn finish(&self) {
        self.lock().over = true;
        self.ring();
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Waits until its machine is taken away.
    pub(super) async fn over(&self) {
        let mut bell = self.listen();
        // The bell is here, so it does not go away.
        while !self.is_over() && bell.changed().await.is_ok() {}
    }

    /// Checks that were done.
    pub(super) fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    /// Counts a check that was done; how many there were.
    pub(super) fn checked(&self) -> u64 {
        self.checks.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_rings_without_end_is_not_heard_without_end() {
        let run = Run::new();
        let hooks = run.hooks();
        for gpa in 0..10_000 {
            (hooks.on_news)(News::Fault(gpa));
            if gpa % 3 == 0 {
                run.take_news();
            }
        }
        assert!(run.take_news().is_empty());
        run.reset();
        (hooks.on_news)(News::Filled);
        assert_eq!(run.take_news(), [News::Filled]);
    }

    #[test]
    fn listeners_hear_the_end() {
        let run = Run::new();
        let listener = run.listen();
        (run.hooks().on_end)();
        assert!(listener.has_changed().unwrap());
        assert!(!run.is_over());
        run.finish();
        assert!(run.is_over());
    }
}

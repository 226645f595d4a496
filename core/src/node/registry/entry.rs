//! One VM: what works on it, beside the state that the book has.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};

use super::super::run::Run;
use crate::machine::{Console, Machine};
use crate::model::VMState;

/// A VM's machine, and what it shares with the node.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) machine: Arc<Machine>,
    pub(crate) run: Arc<Run>,
}

/// What waiters look at: the state of a VM, and which run of its guest it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) struct Standing {
    pub(in crate::node) state: VMState,
    /// Rises when the guest starts anew, by a start or a reset.
    pub(in crate::node) incarnation: u64,
    /// It is no longer on this node.
    pub(in crate::node) gone: bool,
}

/// One VM: what works on it, beside the state that the book has.
#[derive(Debug)]
pub(crate) struct VmEntry {
    pub(in crate::node) id: String,
    /// Held while its life is changed: one start, stop, pause and so on at a time.
    lifecycle: Arc<tokio::sync::Mutex<()>>,
    /// Held while its memory is checked: the guest does one check at a time.
    pub(in crate::node) verifying: tokio::sync::Mutex<()>,
    /// Its machine while it has one.
    running: Mutex<Option<Running>>,
    /// What its guest printed before it failed: of a crash, often all that there is to see.
    last_words: Mutex<Option<Console>>,
    standing: watch::Sender<Standing>,
    /// Forced stops that wait; whoever gives the guest time lets them through.
    forced: watch::Sender<u32>,
}

impl VmEntry {
    pub(super) fn new(id: &str, state: VMState) -> Arc<VmEntry> {
        Arc::new(VmEntry {
            id: id.to_owned(),
            lifecycle: Arc::default(),
            verifying: tokio::sync::Mutex::default(),
            running: Mutex::default(),
            last_words: Mutex::default(),
            standing: watch::Sender::new(Standing {
                state,
                incarnation: 0,
                gone: false,
            }),
            forced: watch::Sender::new(0),
        })
    }

    /// Waits until nothing else changes the VM's life, and keeps it so while the guard is held.
    pub(crate) async fn lock(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.lifecycle).lock_owned().await
    }

    /// The same, if nothing else changes it now.
    pub(in crate::node) fn try_lock(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.lifecycle).try_lock_owned().ok()
    }

    /// Its machine. Whoever holds the lifecycle lock, or the VM in state `migrating`, may keep it
    /// meanwhile; all others use [`with_machine`](Self::with_machine), so that who ends the VM has
    /// the last reference and knows when it is gone.
    pub(crate) fn machine(&self) -> Option<Running> {
        self.lock_running().clone()
    }

    /// Looks at its machine, for microseconds.
    pub(in crate::node) fn with_machine<T>(
        &self,
        look: impl FnOnce(&Machine, &Arc<Run>) -> T,
    ) -> Option<T> {
        let running = self.lock_running();
        running.as_ref().map(|own| look(&own.machine, &own.run))
    }

    /// Whether it has one.
    #[cfg(test)]
    pub(in crate::node) fn has_machine(&self) -> bool {
        self.lock_running().is_some()
    }

    /// Gives it a machine, which has a console of its own.
    pub(crate) fn put_machine(&self, running: Running) {
        *self.lock_running() = Some(running);
        *self.lock_last_words() = None;
    }

    /// Keeps what its machine's guest printed, until it has another machine.
    pub(in crate::node) fn keep_last_words(&self) {
        let console = self.with_machine(|machine, _| machine.console().clone());
        *self.lock_last_words() = console;
    }

    /// What was kept so.
    pub(in crate::node) fn last_words(&self) -> Option<Console> {
        self.lock_last_words().clone()
    }

    /// Takes its machine away. The caller ends it by dropping it, off the async threads.
    pub(crate) fn take_machine(&self) -> Option<Arc<Machine>> {
        let running = self.lock_running().take()?;
        running.run.finish();
        Some(running.machine)
    }

    /// What waiters look at.
    pub(in crate::node) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Announces a forced stop until the guard is dropped.
    pub(in crate::node) fn force(self: &Arc<Self>) -> Forced {
        self.forced.send_modify(|count| *count += 1);
        Forced(Arc::clone(self))
    }

    /// Waits for a forced stop.
    pub(in crate::node) async fn is_forced(&self) {
        // The sender is here, so it is not gone.
        let _ = self.forced.subscribe().wait_for(|count| *count > 0).await;
    }

    /// The guest starts anew.
    pub(in crate::node) fn begin_incarnation(&self) {
        self.standing
            .send_modify(|standing| standing.incarnation += 1);
    }

    pub(super) fn tell(&self, state: VMState, gone: bool) {
        self.standing.send_modify(|standing| {
            standing.state = state;
            standing.gone = gone;
        });
    }

    fn lock_last_words(&self) -> MutexGuard<'_, Option<Console>> {
        self.last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A forced stop that waits for its turn.
pub(in crate::node) struct Forced(Arc<VmEntry>);

impl Drop for Forced {
    fn drop(&mut self) {
        self.0.forced.send_modify(|count| *count -= 1);
    }
}

//! Asking the built-in guest: what it says of itself, and to check its memory.

use std::sync::Arc;

use super::Shared;
use super::registry::Standing;
use crate::action::Action;
use crate::error::{DWCPError, Result};
use crate::model::{GuestReport, VMState};

impl Shared {
    /// What the guest says of itself.
    pub(super) fn guest_report(&self, action: &Action) -> Result<GuestReport> {
        let (entry, _) = self.registry.find_legal(action)?;
        let report = entry.with_machine(|machine, run| {
            let pulse = machine.pulse()?;
            let mut report = pulse.report(&entry.id);
            report.pages_verified = report
                .pages_filled
                .saturating_mul(report.laps.saturating_add(run.checks()));
            Some(report)
        });
        match report {
            Some(Some(report)) => Ok(report),
            Some(None) => Err(DWCPError::Unsupported(
                "guest_report: only the built-in guest dwcp/pulse reports on itself".into(),
            )),
            None => Err(DWCPError::InvalidOperation(format!(
                "guest_report: VM {} is ending",
                entry.id
            ))),
        }
    }

    /// Has the guest check all its memory, and reports.
    pub(super) async fn verify(self: &Arc<Self>, action: &Action) -> Result<GuestReport> {
        let (entry, _) = self.registry.find_legal(action)?;
        // One after the other: a guest that is asked again begins again.
        let _turn = entry.verifying.lock().await;
        let mut standing = entry.standing();
        let began = *standing.borrow_and_update();
        self.registry.find_legal(action)?;
        let guest = entry.with_machine(|machine, run| (machine.pulse().cloned(), Arc::clone(run)));
        let (pulse, run) = match guest {
            Some((Some(pulse), run)) => (pulse, run),
            Some((None, _)) => {
                return Err(DWCPError::Unsupported(
                    "verify: only the built-in guest dwcp/pulse can check its memory".into(),
                ));
            }
            None => return Err(self.interrupted(&entry.id, began)),
        };
        let number = pulse.ask_check();
        let other = |now: &Standing| {
            now.gone
                || now.incarnation != began.incarnation
                || matches!(now.state, VMState::Paused | VMState::Unknown)
                || !now.state.is_active()
        };
        tokio::select! {
            biased;
            () = pulse.wait_checked(number) => {}
            now = standing.wait_for(other) => {
                let now = now.map_or(began, |now| *now);
                return Err(self.interrupted(&entry.id, now));
            }
        }
        let mut report = pulse.report(&entry.id);
        pulse.forget_longest_gap();
        report.verified = report.faults == 0;
        // Complete laps in the background, and complete checks on request: at least.
        let rounds = report.laps.saturating_add(run.checked());
        report.pages_verified = report.pages_filled.saturating_mul(rounds);
        Ok(report)
    }

    /// Why a check did not end.
    fn interrupted(&self, id: &str, now: Standing) -> DWCPError {
        if let Some(error) = self.registry.why_over(Some(id)) {
            return error;
        }
        let what = match now.state {
            VMState::Running | VMState::Migrating => "was reset".to_owned(),
            state => format!("is {state}"),
        };
        DWCPError::InvalidOperation(format!(
            "verify: VM {id} {what}, so its memory was not checked to the end"
        ))
    }
}

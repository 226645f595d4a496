//! Migrations of VMs that are stopped: nothing of memory moves, and the hand-over is the same.

use super::super::Phase;
use super::super::faults::Faults;
use super::support::*;
use crate::model::{MigrationState, MigrationStatus};

/// One such migration, with what goes wrong.
fn once(fail: Option<Phase>) -> (MigrationStatus, [String; 2], [Vec<String>; 2]) {
    let vm = vm(16 << 20, 1, &[]);
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    let faults = Faults {
        fail,
        ..Faults::default()
    };
    let status = begin_stopped(&vm, &a, &b, faults).end();
    b.settle();
    let outcome = |host: &Host| host.outcome.lock().unwrap().clone().unwrap_or_default();
    let records = |host: &Host| host.records.lock().unwrap().clone();
    (
        status,
        [outcome(&a), outcome(&b)],
        [records(&a), records(&b)],
    )
}

#[test]
fn a_stopped_vm_is_handed_over_as_one_that_runs_and_sends_nothing() {
    let (status, [left, arrived], [source, target]) = once(None);
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    assert_eq!((status.bytes_sent, status.channels), (0, 0));
    assert_eq!((status.downtime_us, status.breakdown.total_us), (0, 0));
    assert!(left.starts_with("Moved"), "{left}");
    assert!(arrived.starts_with("Running"), "{arrived}");
    assert!(source[0].starts_with("Granted"), "{source:?}");
    assert!(target[0].starts_with("Taken"), "{target:?}");
}

#[test]
fn a_failure_at_each_phase_leaves_a_stopped_vm_where_it_was() {
    for phase in [
        Phase::Build,
        Phase::Attach,
        Phase::Receive,
        Phase::Pause,
        Phase::Save,
        Phase::Load,
        Phase::Persist,
        Phase::Lock,
    ] {
        let (status, [left, _], _) = once(Some(phase));
        assert_eq!(
            status.state,
            MigrationState::Failed,
            "{phase:?}: {status:?}"
        );
        assert!(left.starts_with("StayedHere"), "{phase:?}: {left}");
    }
}

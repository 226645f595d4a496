//! Migrations that go wrong: the guest runs on at the source, nothing stays behind, and the next
//! migration works. And memory that arrives wrong, which the guest must find.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Phase;
use super::super::faults::{Faults, Mutation};
use super::support::*;
use crate::model::{MigrationOptions, MigrationState, VM};

fn busy() -> VM {
    let rates = [
        ("dirty-pages-per-second", "100000"),
        ("beat-hz", "1000"),
        ("fill", "8388608"),
        ("working-set", "2097152"),
    ];
    vm(32 << 20, 2, &rates)
}

fn failing(phase: Phase) -> Faults {
    Faults {
        fail: Some(phase),
        ..Faults::default()
    }
}

fn slow(phase: Phase, time: Duration) -> Faults {
    Faults {
        slow: Some((phase, time)),
        ..Faults::default()
    }
}

/// The guest at `host` runs and its memory is right.
fn assert_well(host: &Arc<Host>) {
    let machine = host.machine();
    let report = verify(&machine);
    assert_eq!(report.faults, 0, "{report:?}");
    wait("a beat", || {
        machine.pulse().unwrap().report("").beats > report.beats
    });
    assert!(
        !machine.harvester().is_logging(),
        "nobody follows its memory any more"
    );
}

#[test]
fn a_failure_at_each_phase_leaves_the_guest_where_it_was() {
    for hypervisor in back_ends() {
        let vm = busy();
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        wait_filled(&a.machine(), &vm);
        for phase in UNDONE {
            let status = begin(&vm, &a, &b, options(), failing(phase)).end();
            b.settle();
            assert_eq!(
                status.state,
                MigrationState::Failed,
                "{phase:?}: {status:?}"
            );
            assert!(!status.error.unwrap().is_empty());
            assert!(a.has_machine() && !b.has_machine(), "{phase:?}");
            assert_well(&a);
        }
        let status = migrate(&vm, &a, &b, options());
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_well(&b);
    }
}

#[test]
fn a_verdict_that_is_not_written_is_a_refusal() {
    for hypervisor in back_ends() {
        let vm = busy();
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        let status = begin(&vm, &a, &b, options(), failing(Phase::Decide)).end();
        b.settle();
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        assert!(
            b.records
                .lock()
                .unwrap()
                .iter()
                .any(|r| r.contains("Refused"))
        );
        assert!(
            a.records
                .lock()
                .unwrap()
                .iter()
                .any(|r| r.contains("Mine { epoch: 2 }"))
        );
        assert_well(&a);
    }
}

#[test]
fn a_vm_that_was_taken_and_does_not_run_is_not_resumed_at_the_source() {
    for hypervisor in back_ends() {
        let vm = busy();
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        let status = begin(&vm, &a, &b, options(), failing(Phase::Run)).end();
        b.settle();
        assert!(!a.has_machine(), "{status:?}");
        let outcome = b.outcome.lock().unwrap().clone().unwrap();
        assert!(outcome.starts_with("Lost"), "{outcome}");
    }
}

#[test]
fn a_cancel_at_each_phase_leaves_the_guest_where_it_was() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for hypervisor in back_ends() {
        let vm = busy();
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        wait_filled(&a.machine(), &vm);
        for phase in UNDONE {
            if matches!(phase, Phase::Persist | Phase::Lock) {
                continue; // after the grant: see the next test
            }
            let faults = slow(phase, Duration::from_millis(150));
            let migration = begin(&vm, &a, &b, options(), faults);
            // Somewhere before, in or after the slow phase; a cancel that comes too late says so.
            std::thread::sleep(Duration::from_millis(75));
            let cancelled = runtime.block_on(migration.outgoing.cancel());
            let status = migration.end();
            b.settle();
            cancelled.unwrap_or_else(|e| panic!("{phase:?}: {e}; {status:?}"));
            assert_eq!(
                status.state,
                MigrationState::Cancelled,
                "{phase:?}: {status:?}"
            );
            assert!(a.has_machine() && !b.has_machine(), "{phase:?}");
            assert_well(&a);
        }
        let status = migrate(&vm, &a, &b, options());
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_well(&b);
    }
}

#[test]
fn a_cancel_after_the_grant_is_refused_and_the_guest_moves() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for hypervisor in back_ends() {
        let vm = busy();
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        let faults = slow(Phase::Lock, Duration::from_millis(400));
        let migration = begin(&vm, &a, &b, options(), faults);
        wait("the grant", || {
            a.records
                .lock()
                .unwrap()
                .iter()
                .any(|r| r.contains("Granted"))
        });
        let refused = runtime.block_on(migration.outgoing.cancel()).unwrap_err();
        assert!(refused.to_string().contains("too late"), "{refused}");
        assert_eq!(migration.end().state, MigrationState::Completed);
        b.settle();
        assert_well(&b);
    }
}

#[test]
fn past_the_limit_the_source_takes_the_guest_back() {
    for hypervisor in back_ends() {
        let vm = busy();
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        wait_filled(&a.machine(), &vm);
        let limited = MigrationOptions {
            max_downtime: 300,
            ..options()
        };
        let faults = slow(Phase::Load, Duration::from_secs(3));
        let began = Instant::now();
        let status = begin(&vm, &a, &b, limited, faults).end();
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        assert!(status.error.unwrap().contains("limit on downtime"));
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "it did not wait for the slow load"
        );
        assert_well(&a);
        b.settle();
        assert!(!b.has_machine());
    }
}

/// Each of these loses something. A migration that does not notice is what the guest's own check is
/// for: it must.
#[test]
fn what_breaks_a_rule_of_copying_is_noticed_by_the_guest() {
    // Slow enough that what is lost is not written again before the switch.
    let slow_lap = [
        ("dirty-pages-per-second", "20000"),
        ("beat-hz", "1000"),
        ("fill", "8388608"),
        ("working-set", "8388608"),
    ];
    let vm = vm(32 << 20, 2, &slow_lap);
    let before_the_pause = slow(Phase::Pause, Duration::from_millis(50));
    for hypervisor in back_ends() {
        for (mutation, faults) in [
            (Mutation::DropDirtyBits, before_the_pause.clone()),
            (Mutation::DropChunk, before_the_pause.clone()),
            (Mutation::LookBeforeClear, Faults::default()),
        ] {
            // The guest has to write at the wrong moment, which on a busy host it may not get to do.
            let noticed = (0..20).any(|_| {
                let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
                a.boot(&vm);
                wait_filled(&a.machine(), &vm);
                let faults = Faults {
                    mutation: Some(mutation),
                    ..faults.clone()
                };
                let status = begin(&vm, &a, &b, options(), faults).end();
                b.settle();
                let completed = status.state == MigrationState::Completed;
                assert!(completed, "{mutation:?}: {status:?}");
                let report = verify(&b.machine());
                assert_eq!(report.faults > 0, report.first_fault.is_some());
                report.faults > 0
            });
            assert!(noticed, "{mutation:?} on {}", hypervisor.name());
        }
    }
}

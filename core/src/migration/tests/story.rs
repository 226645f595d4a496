//! Migrations that go well.

use super::support::*;
use crate::model::{MigrationOptions, MigrationState};

#[test]
fn a_busy_guest_moves_and_finds_its_memory_whole() {
    for hypervisor in back_ends() {
        for cpus in [1, 4] {
            let vm = vm(
                64 << 20,
                cpus,
                &[("dirty-pages-per-second", "20000"), ("beat-hz", "1000")],
            );
            let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
            a.boot(&vm);
            wait_filled(&a.machine(), &vm);
            let before = verify(&a.machine());
            let status = migrate(&vm, &a, &b, options());
            assert_eq!(status.state, MigrationState::Completed, "{status:?}");
            assert!(!a.has_machine());
            let after = verify(&b.machine());
            assert_eq!(after.faults, 0, "{after:?}");
            assert!(after.beats > before.beats);
            assert!(status.bytes_sent > 32 << 20);
            assert!(
                status.breakdown.total_us > 0 && status.breakdown.total_us <= status.downtime_us
            );
        }
    }
}

#[test]
fn checksums_and_a_pause_instead_of_rounds() {
    for hypervisor in back_ends() {
        let vm = vm(
            64 << 20,
            2,
            &[("dirty-pages-per-second", "20000"), ("beat-hz", "1000")],
        );
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        wait_filled(&a.machine(), &vm);
        let checked = MigrationOptions {
            verify_checksum: true,
            ..options()
        };
        let status = migrate(&vm, &a, &b, checked);
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        let paused = MigrationOptions {
            live: false,
            ..options()
        };
        let status = migrate(&vm, &b, &a, paused);
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(status.rounds.len(), 1, "{status:?}");
        assert_eq!(verify(&a.machine()).faults, 0);
    }
}

#[test]
fn there_and_back_again_leaves_nothing_behind() {
    for hypervisor in back_ends() {
        for cpus in [1, 4] {
            let rates = [
                ("dirty-pages-per-second", "100000"),
                ("beat-hz", "1000"),
                ("fill", "8388608"),
                ("working-set", "2097152"),
            ];
            let vm = vm(32 << 20, cpus, &rates);
            let (mut here, mut there) = (Host::new(&hypervisor), Host::new(&hypervisor));
            here.boot(&vm);
            wait_filled(&here.machine(), &vm);
            for _ in 0..25 {
                let status = migrate(&vm, &here, &there, options());
                assert_eq!(status.state, MigrationState::Completed, "{status:?}");
                let report = verify(&there.machine());
                assert_eq!(report.faults, 0, "{report:?}");
                std::mem::swap(&mut here, &mut there);
            }
        }
    }
}

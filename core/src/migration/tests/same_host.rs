//! Moves within one host: the memory is handed over, or, where that cannot be, copied or refused.

use std::time::Duration;

use super::super::Phase;
use super::super::faults::{Faults, HandFault};
use super::support::*;
use crate::hypervisor::{Kind, Section};
use crate::memory::{Backing, GuestRam};
use crate::model::{
    MigrationMode, MigrationOptions, MigrationState, MigrationStatus, SameHost, VM,
};

/// Writes all the time, and has more memory than any state is long.
fn busy(cpus: u32) -> VM {
    let rates = [
        ("dirty-pages-per-second", "100000"),
        ("beat-hz", "1000"),
        ("fill", "16777216"),
        ("working-set", "2097152"),
    ];
    vm(32 << 20, cpus, &rates)
}

fn with(same_host: SameHost) -> MigrationOptions {
    MigrationOptions {
        same_host,
        ..options()
    }
}

fn spoilt(hand: HandFault) -> Faults {
    Faults {
        hand: Some(hand),
        ..Faults::default()
    }
}

fn assert_handed(status: &MigrationStatus) {
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    assert_eq!(status.mode, MigrationMode::SameHost);
    let sent = status.bytes_sent;
    assert!((1..1 << 20).contains(&sent), "{sent} bytes: the state");
    assert_eq!(status.bytes, Default::default());
    assert_eq!((status.channels, status.rounds.len()), (0, 0));
    assert_eq!((status.progress, status.bytes_total), (100.0, sent));
    assert!(status.breakdown.total_us > 0 && status.breakdown.total_us <= status.downtime_us);
}

fn assert_copied(status: &MigrationStatus) {
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    assert_ne!(status.mode, MigrationMode::SameHost);
    assert!(status.bytes_sent >= 16 << 20, "{status:?}");
}

/// Reads the file behind a machine's memory: two that are the same are the same memory.
fn file_of(ram: &GuestRam) -> (u64, u64) {
    let stat = rustix::fs::fstat(ram.file().unwrap()).unwrap();
    (stat.st_dev, stat.st_ino)
}

#[test]
fn memory_is_handed_over_and_none_of_it_is_sent() {
    for hypervisor in back_ends() {
        for cpus in [1, 4] {
            let vm = busy(cpus);
            let (mut here, mut there) = (Host::new(&hypervisor), Host::new(&hypervisor));
            here.boot(&vm);
            wait_filled(&here.machine(), &vm);
            let file = file_of(here.machine().ram());
            for turn in 0..20 {
                let wanted = [SameHost::Auto, SameHost::Require][turn % 2];
                let before = here.machine().pulse().unwrap().report("").beats;
                let status = migrate(&vm, &here, &there, with(wanted));
                assert_handed(&status);
                assert!(!here.has_machine());
                let machine = there.machine();
                assert_eq!(file_of(machine.ram()), file, "the same memory");
                assert!(machine.ram().is_handed());
                let report = verify(&machine);
                assert_eq!(report.faults, 0, "{report:?}");
                assert!(report.beats > before);
                std::mem::swap(&mut here, &mut there);
            }
            // What was handed over is copied like any other.
            assert_copied(&migrate(&vm, &here, &there, with(SameHost::Never)));
            assert_ne!(file_of(there.machine().ram()), file);
            assert_eq!(verify(&there.machine()).faults, 0);
        }
    }
}

#[test]
fn memory_that_is_handed_over_of_a_guest_that_is_paused_first() {
    let vm = busy(2);
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    a.boot(&vm);
    wait_filled(&a.machine(), &vm);
    let paused = MigrationOptions {
        live: false,
        verify_checksum: true,
        bandwidth: 1 << 20,
        ..with(SameHost::Require)
    };
    assert_handed(&migrate(&vm, &a, &b, paused));
    assert_eq!(verify(&b.machine()).faults, 0);
}

const SPOILT: [HandFault; 8] = [
    HandFault::OtherHost,
    HandFault::NoSocket,
    HandFault::Silent,
    HandFault::WrongToken,
    HandFault::WrongSize,
    HandFault::Unsealed,
    HandFault::TwoFiles,
    HandFault::NoFile,
];

#[test]
fn what_cannot_be_handed_over_is_copied() {
    for fault in SPOILT {
        let vm = busy(1);
        let (a, b) = (Host::new(&sim()), Host::new(&sim()));
        a.boot(&vm);
        wait_filled(&a.machine(), &vm);
        let file = file_of(a.machine().ram());
        let status = begin(&vm, &a, &b, with(SameHost::Auto), spoilt(fault)).end();
        b.settle();
        assert_copied(&status);
        let machine = b.machine();
        assert!(!machine.ram().is_handed(), "{fault:?}");
        assert_ne!(file_of(machine.ram()), file, "{fault:?}");
        assert_eq!(verify(&machine).faults, 0, "{fault:?}");
    }
}

#[test]
fn what_cannot_be_handed_over_is_refused_where_that_is_required() {
    let vm = busy(1);
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    a.boot(&vm);
    wait_filled(&a.machine(), &vm);
    for fault in SPOILT {
        let status = begin(&vm, &a, &b, with(SameHost::Require), spoilt(fault)).end();
        b.settle();
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        let error = status.error.unwrap();
        assert!(
            error.contains("same_host: ") && error.contains("set `same_host` to `auto`"),
            "{fault:?}: {error}"
        );
        assert!(a.has_machine() && !b.has_machine(), "{fault:?}");
        assert_eq!((status.bytes_sent, status.downtime_us), (0, 0));
        assert_eq!(verify(&a.machine()).faults, 0);
    }
    assert_handed(&migrate(&vm, &a, &b, with(SameHost::Require)));
}

#[test]
fn private_memory_is_copied_or_refused_before_anything_begins() {
    let vm = busy(1);
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    a.boot_over(&vm, Backing::AnonymousHuge);
    wait_filled(&a.machine(), &vm);
    let refused = try_begin(&vm, &a, &b, with(SameHost::Require)).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("same_host: ") && refused.contains("huge_pages"),
        "{refused}"
    );
    assert!(a.has_machine() && !b.has_machine());
    assert_copied(&migrate(&vm, &a, &b, with(SameHost::Auto)));
    assert_eq!(verify(&b.machine()).faults, 0);
}

#[test]
fn a_failure_at_each_phase_leaves_the_guest_in_its_memory() {
    for hypervisor in back_ends() {
        let vm = busy(2);
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        wait_filled(&a.machine(), &vm);
        for phase in UNDONE.into_iter().chain([Phase::Decide]) {
            let faults = Faults {
                fail: Some(phase),
                ..Faults::default()
            };
            let status = begin(&vm, &a, &b, with(SameHost::Require), faults).end();
            b.settle();
            assert_eq!(
                status.state,
                MigrationState::Failed,
                "{phase:?}: {status:?}"
            );
            assert!(a.has_machine() && !b.has_machine(), "{phase:?}");
            let machine = a.machine();
            let report = verify(&machine);
            assert_eq!(report.faults, 0, "{phase:?}: {report:?}");
            wait("a beat", || {
                machine.pulse().unwrap().report("").beats > report.beats
            });
            assert!(!machine.harvester().is_logging(), "{phase:?}");
        }
        assert_handed(&migrate(&vm, &a, &b, with(SameHost::Require)));
        assert_eq!(verify(&b.machine()).faults, 0);
    }
}

#[test]
fn a_target_that_refuses_has_written_nothing_to_the_memory() {
    for hypervisor in back_ends() {
        let vm = busy(2);
        let (a, b) = (Host::new(&hypervisor), Host::new(&hypervisor));
        a.boot(&vm);
        let machine = a.machine();
        wait_filled(&machine, &vm);
        machine.pause();
        let before = (machine.ram().digest(), machine.ram().resident().unwrap());
        // The last three when the target is ready, and is told that the VM is its own.
        for phase in [
            Phase::Build,
            Phase::Load,
            Phase::Persist,
            Phase::Lock,
            Phase::Decide,
        ] {
            let faults = Faults {
                fail: Some(phase),
                ..Faults::default()
            };
            let status = begin_paused(&vm, &a, &b, with(SameHost::Require), faults).end();
            b.settle();
            assert_eq!(
                status.state,
                MigrationState::Failed,
                "{phase:?}: {status:?}"
            );
            let after = (machine.ram().digest(), machine.ram().resident().unwrap());
            assert_eq!(after, before, "{phase:?}");
        }
        let status = begin_paused(&vm, &a, &b, with(SameHost::Require), Faults::default()).end();
        b.settle();
        assert_handed(&status);
        drop(machine);
        let arrived = b.machine();
        assert_eq!(arrived.ram().digest(), before.0);
        arrived.resume().unwrap();
        assert_eq!(verify(&arrived).faults, 0);
    }
}

/// Where a guest has the clocks that KVM keeps in its memory, and what says so.
const CLOCK: u64 = 24 << 20;
const CLOCKS: [(u32, u64); 3] = [
    (0x4b56_4d00, CLOCK),
    (0x4b56_4d01, CLOCK + 4096 + 1),
    (0x4b56_4d03, CLOCK + 8192 + 1),
];

/// Turns the clocks on in a saved state.
fn with_clocks(mut state: Vec<Section>) -> Vec<Section> {
    let msrs = state
        .iter_mut()
        .filter(|section| section.kind == Kind::Msrs);
    let mut found = 0;
    for section in msrs {
        let (entries, _) = section.body.as_chunks_mut::<12>();
        for entry in entries {
            let index = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            if let Some((_, value)) = CLOCKS.iter().find(|(msr, _)| *msr == index) {
                entry[4..].copy_from_slice(&value.to_le_bytes());
                found += 1;
            }
        }
    }
    assert_eq!(found, CLOCKS.len(), "this KVM has all of them");
    state
}

#[test]
fn clocks_that_kvm_writes_to_memory_are_left_until_the_guest_runs() {
    let Some(kvm) = back_ends().into_iter().find(|own| own.name() == "kvm") else {
        return;
    };
    let vm = busy(1);
    let source = machine(&*kvm, &vm, None, Backing::Memfd).unwrap();
    source.boot().unwrap();
    source.resume().unwrap();
    wait_filled(&source, &vm);
    source.pause();
    let state = with_clocks(source.save().unwrap());
    let target = || {
        let file = source.ram().file().unwrap().try_clone_to_owned().unwrap();
        let ram = GuestRam::handed(vm.config.memory, file).unwrap();
        machine(&*kvm, &vm, Some(ram), Backing::Memfd).unwrap()
    };
    let before = source.ram().digest();
    let refused = target();
    refused.load(state.clone()).unwrap();
    assert_eq!(source.ram().digest(), before);
    drop(refused);
    assert_eq!(source.ram().digest(), before);
    // And it would be seen.
    let taken = target();
    taken.load(state).unwrap();
    assert_eq!(source.ram().read_words::<4>(CLOCK + 4096).unwrap(), [0; 4]);
    taken.resume().unwrap();
    wait("the clock", || {
        source.ram().read_words::<4>(CLOCK + 4096).unwrap() != [0; 4]
    });
}

#[test]
fn a_cancel_at_each_phase_leaves_the_guest_in_its_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let vm = busy(2);
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    a.boot(&vm);
    wait_filled(&a.machine(), &vm);
    for phase in UNDONE.into_iter().chain([Phase::Decide]) {
        if matches!(phase, Phase::Persist | Phase::Lock | Phase::Decide) {
            continue; // after the grant
        }
        let faults = Faults {
            slow: Some((phase, Duration::from_millis(150))),
            ..Faults::default()
        };
        let migration = begin(&vm, &a, &b, with(SameHost::Require), faults);
        std::thread::sleep(Duration::from_millis(75));
        let cancelled = runtime.block_on(migration.outgoing.cancel());
        let status = migration.end();
        b.settle();
        cancelled.unwrap_or_else(|e| panic!("{phase:?}: {e}; {status:?}"));
        assert_eq!(status.state, MigrationState::Cancelled, "{phase:?}");
        assert!(a.has_machine() && !b.has_machine(), "{phase:?}");
        assert_eq!(verify(&a.machine()).faults, 0, "{phase:?}");
    }
    assert_handed(&migrate(&vm, &a, &b, with(SameHost::Require)));
}

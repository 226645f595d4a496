//! Migrations that take the disk along: what the guest writes meanwhile is there, holes are holes, and of a disk that
//! does not come nothing is left.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::Phase;
use super::super::faults::{Faults, Guest, Moment, Mutation};
use super::support::*;
use crate::machine::Machine;
use crate::model::{MigrationMode, MigrationOptions, MigrationState, MigrationStatus, VM};
use crate::storage::{CLUSTER, sum};

const DISK: u64 = 64 << 20;

fn vm_with_disk() -> VM {
    let rates = [("dirty-pages-per-second", "1000"), ("fill", "1048576")];
    let mut vm = vm(16 << 20, 1, &rates);
    vm.config.disk = DISK;
    vm
}

fn with_disks() -> MigrationOptions {
    MigrationOptions {
        with_disks: true,
        verify_checksum: true,
        ..options()
    }
}

/// A pair, of which the first runs the VM, with some data at both ends of its disk and a part of a cluster between.
fn pair(back_end: &BackEnd, vm: &VM) -> (Arc<Host>, Arc<Host>) {
    let (a, b) = (Host::new(back_end), Host::new(back_end));
    a.boot(vm);
    let machine = a.machine();
    machine.write_disk(0, &[1; 4096]);
    machine.write_disk(10 << 20, &[2; 512 << 10]);
    machine.write_disk(20 * CLUSTER + 8192, &[3; 512]);
    machine.write_disk(DISK - 512, &[4; 512]);
    (a, b)
}

/// What writes the disk of a machine at moments of its migration.
fn guest(machine: &Arc<Machine>, act: impl Fn(&Machine, Moment) + Send + Sync + 'static) -> Faults {
    let machine = Arc::downgrade(machine);
    Faults {
        guest: Some(Guest(Arc::new(move |moment| {
            if let Some(machine) = machine.upgrade() {
                act(&machine, moment);
            }
        }))),
        ..Faults::default()
    }
}

fn digest(file: &File) -> u32 {
    sum(file, &|| Ok(())).unwrap()
}

/// One migration: how it ended, the disk that it left, and the one that is there.
fn moved(
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
    faults: Faults,
) -> (MigrationStatus, File, File) {
    let left = File::open(from.disk(vm)).unwrap();
    let status = begin(vm, from, to, options, faults).end();
    to.settle();
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    assert!(!from.disk(vm).exists(), "it is only there");
    let came = File::open(to.disk(vm)).unwrap();
    assert_eq!(came.metadata().unwrap().len(), DISK);
    (status, left, came)
}

#[test]
fn what_is_written_in_every_round_is_there_and_holes_stay_holes() {
    for back_end in back_ends() {
        let vm = vm_with_disk();
        let (a, b) = pair(&back_end, &vm);
        let (mut from, mut to) = (a, b);
        for turn in 0..20_u64 {
            let writes = AtomicU64::new(0);
            let faults = guest(&from.machine(), move |machine, moment| {
                let n = writes.fetch_add(1, Ordering::SeqCst);
                let bytes = [(turn + n + 5) as u8; 512];
                match moment {
                    // What is being sent, what was sent, and what nobody ever wrote.
                    Moment::Sending | Moment::Sent if n < 40 => {
                        machine.write_disk(n % 3 * CLUSTER, &bytes);
                        machine.write_disk((10 << 20) + n * 4096, &bytes);
                        machine.write_disk(DISK / 2 + turn * CLUSTER, &bytes);
                    }
                    Moment::Paused => machine.write_disk(40 * CLUSTER, &bytes),
                    _ => {}
                }
            });
            let options = MigrationOptions {
                verify_checksum: turn % 2 == 0,
                ..with_disks()
            };
            let (status, left, came) = moved(&vm, &from, &to, options, faults);
            assert_eq!(digest(&left), digest(&came), "turn {turn}");
            let blocks = |file: &File| file.metadata().unwrap().blocks();
            assert!(blocks(&came) <= blocks(&left), "holes were filled");
            assert!(status.bytes.disk > 512 << 10, "{:?}", status.bytes);
            assert!(status.rounds.len() >= 2, "{:?}", status.rounds);
            assert_eq!(status.progress, 100.0);
            (from, to) = (to, from);
        }
        assert_eq!(verify(&from.machine()).faults, 0);
    }
}

#[test]
fn what_is_discarded_meanwhile_is_a_hole_there() {
    let vm = vm_with_disk();
    let (a, b) = pair(&sim(), &vm);
    let discarded = (10 << 20)..(10 << 20) + (512 << 10);
    let faults = guest(&a.machine(), move |machine, moment| {
        if moment == Moment::Paused {
            machine.discard_disk(&discarded);
        }
    });
    let (_, left, came) = moved(&vm, &a, &b, with_disks(), faults);
    assert_eq!(digest(&left), digest(&came));
    let mut there = vec![9; 512 << 10];
    came.read_exact_at(&mut there, 10 << 20).unwrap();
    assert!(there.iter().all(|&byte| byte == 0));
    let taken = came.metadata().unwrap().blocks() * 512;
    assert!(taken < 512 << 10, "{taken} bytes");
}

#[test]
fn a_write_that_is_lost_is_noticed() {
    type Act = fn(&Machine, Moment);
    let table: [(Mutation, Act); 2] = [
        (Mutation::DropCluster, |machine, moment| {
            if moment == Moment::Paused {
                machine.write_disk(50 * CLUSTER, &[9; 512]);
            }
        }),
        (Mutation::ReadBeforeClear, |machine, moment| {
            if moment == Moment::Sent {
                machine.write_disk(0, &[9; 512]);
                machine.write_disk(DISK - 512, &[9; 512]);
            }
        }),
    ];
    for (mutation, act) in table {
        for broken in [false, true] {
            let vm = vm_with_disk();
            let (a, b) = pair(&sim(), &vm);
            // Once: what is written again would be sent again.
            let done = AtomicU64::new(0);
            let faults = Faults {
                mutation: broken.then_some(mutation),
                ..guest(&a.machine(), move |machine, moment| {
                    let once = moment == Moment::Paused || done.load(Ordering::SeqCst) < 5;
                    if once {
                        act(machine, moment);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                })
            };
            let (_, left, came) = moved(&vm, &a, &b, with_disks(), faults);
            let same = digest(&left) == digest(&came);
            assert_eq!(same, !broken, "{mutation:?}");
        }
    }
}

/// The VM is at the source, with its disk, which nobody follows; and nothing is at the destination.
fn assert_stayed(vm: &VM, a: &Arc<Host>, b: &Arc<Host>, before: u32, what: &str) {
    assert!(a.has_machine() && !b.has_machine(), "{what}");
    assert!(!b.disk(vm).exists(), "{what}: a disk is left");
    let disk = File::open(a.disk(vm)).unwrap();
    assert_eq!(digest(&disk), before, "{what}");
    assert_eq!(a.machine().disk_followers(), 0, "{what}: it is followed");
}

#[test]
fn a_failure_at_each_phase_leaves_the_disk_where_it_was() {
    for back_end in back_ends() {
        let vm = vm_with_disk();
        let (a, b) = pair(&back_end, &vm);
        let before = digest(&File::open(a.disk(&vm)).unwrap());
        for phase in UNDONE.into_iter().chain([Phase::Decide]) {
            let faults = Faults {
                fail: Some(phase),
                ..Faults::default()
            };
            let status = begin(&vm, &a, &b, with_disks(), faults).end();
            b.settle();
            assert_eq!(status.state, MigrationState::Failed, "{phase:?}");
            assert_stayed(&vm, &a, &b, before, &format!("{phase:?}"));
        }
        let (_, left, came) = moved(&vm, &a, &b, with_disks(), Faults::default());
        assert_eq!(digest(&left), digest(&came));
    }
}

#[test]
fn a_cancel_at_each_phase_leaves_the_disk_where_it_was() {
    let vm = vm_with_disk();
    let (a, b) = pair(&sim(), &vm);
    let before = digest(&File::open(a.disk(&vm)).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for phase in [
        Phase::Build,
        Phase::Attach,
        Phase::Copy,
        Phase::SendState,
        Phase::Load,
    ] {
        let faults = Faults {
            slow: Some((phase, Duration::from_millis(300))),
            ..Faults::default()
        };
        let migration = begin(&vm, &a, &b, with_disks(), faults);
        // So far that there is something to be removed, but for the first.
        wait("the offer", || b.is_asked());
        if phase != Phase::Build {
            wait("the machine", || b.has_machine());
        }
        runtime.block_on(migration.outgoing.cancel()).unwrap();
        let status = migration.end();
        b.settle();
        assert_eq!(status.state, MigrationState::Cancelled, "{phase:?}");
        assert_stayed(&vm, &a, &b, before, &format!("{phase:?}"));
    }
}

#[test]
fn the_disk_of_a_paused_vm_goes_in_one_round() {
    let vm = vm_with_disk();
    let (a, b) = pair(&sim(), &vm);
    a.machine().pause();
    let left = File::open(a.disk(&vm)).unwrap();
    let status = begin_paused(&vm, &a, &b, with_disks(), Faults::default()).end();
    b.settle();
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    assert_eq!(status.rounds.len(), 1, "{:?}", status.rounds);
    let came = File::open(b.disk(&vm)).unwrap();
    assert_eq!(digest(&left), digest(&came));
}

#[test]
fn where_memory_comes_late_the_disk_does_not() {
    let rates = [
        ("dirty-pages-per-second", "200000"),
        ("fill", "8388608"),
        ("working-set", "8388608"),
    ];
    let mut vm = vm(32 << 20, 1, &rates);
    vm.config.disk = DISK;
    let (a, b) = pair(&sim(), &vm);
    wait_filled(&a.machine(), &vm);
    let faults = guest(&a.machine(), |machine, moment| {
        if moment == Moment::Paused {
            machine.write_disk(30 * CLUSTER, &[9; 4096]);
        }
    });
    let options = MigrationOptions {
        post_copy: true,
        bandwidth: 64 << 20,
        max_downtime: 300,
        auto_converge: false,
        ..with_disks()
    };
    let (status, left, came) = moved(&vm, &a, &b, options, faults);
    assert_eq!(status.mode, MigrationMode::Postcopy, "{status:?}");
    assert_eq!(digest(&left), digest(&came));
    assert_eq!(verify(&b.machine()).faults, 0);
}

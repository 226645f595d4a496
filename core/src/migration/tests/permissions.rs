//! What a migration may do and need not: each permission used, and seen to be left where it is not given.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::Phase;
use super::super::converge::Throttle;
use super::super::faults::Faults;
use super::support::*;
use crate::machine::Machine;
use crate::memory::PAGE_SIZE;
use crate::model::{MigrationOptions, MigrationState, MigrationStatus, OnTimeout, VM};

/// Where the texts are, below the top of the guest's memory: it fills the lower half.
const TEXTS: u64 = 24 << 20;
const TEXT_PAGES: u64 = 1024;

fn guest() -> VM {
    let rates = [
        ("dirty-pages-per-second", "1000"),
        ("beat-hz", "1000"),
        ("fill", "4194304"),
    ];
    vm(32 << 20, 2, &rates)
}

fn text(page: u64) -> Vec<u8> {
    let line = format!("page {page} of a text that says the same again and again\n");
    let repeated = line.bytes().cycle();
    repeated.take(PAGE_SIZE as usize).collect()
}

/// Writes texts into memory that the guest has no use for.
fn write_texts(machine: &Machine) {
    for page in 0..TEXT_PAGES {
        let at = TEXTS + page * PAGE_SIZE;
        machine.ram().write(at, &text(page)).unwrap();
    }
}

fn has_texts(machine: &Machine) -> bool {
    let mut found = vec![0; PAGE_SIZE as usize];
    (0..TEXT_PAGES).all(|page| {
        let at = TEXTS + page * PAGE_SIZE;
        machine.ram().read(at, &mut found).unwrap();
        found == text(page)
    })
}

/// A slow link: compressing what can be compressed saves seconds.
fn slow() -> MigrationOptions {
    MigrationOptions {
        bandwidth: 8 << 20,
        ..options()
    }
}

fn moved(vm: &VM, options: MigrationOptions, back_end: &BackEnd) -> MigrationStatus {
    let (a, b) = (Host::new(back_end), Host::new(back_end));
    a.boot(vm);
    wait_filled(&a.machine(), vm);
    write_texts(&a.machine());
    let status = migrate(vm, &a, &b, options);
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    assert!(has_texts(&b.machine()));
    assert_eq!(verify(&b.machine()).faults, 0);
    status
}

#[test]
fn what_can_be_compressed_is_where_that_is_allowed() {
    for back_end in back_ends() {
        for verify_checksum in [false, true] {
            let options = MigrationOptions {
                compression: true,
                verify_checksum,
                ..slow()
            };
            let bytes = moved(&guest(), options, &back_end).bytes;
            // The texts, but for what shared a chunk with something else.
            assert!(bytes.compressed >= 2 << 20, "{bytes:?}");
            // What the guest fills its memory with is as good as random.
            assert!(bytes.data >= 4 << 20, "{bytes:?}");
        }
    }
}

#[test]
fn compressed_pages_are_fewer_bytes_on_the_wire() {
    let options = MigrationOptions {
        compression: true,
        ..slow()
    };
    let status = moved(&guest(), options, &sim());
    let bytes = status.bytes;
    let content = bytes.data + bytes.compressed;
    assert!(status.bytes_sent + (1 << 20) < content, "{status:?}");
}

#[test]
fn nothing_is_compressed_without_the_permission() {
    let status = moved(&guest(), slow(), &sim());
    assert_eq!(status.bytes.compressed, 0, "{status:?}");
    assert!(status.bytes_sent >= status.bytes.data, "{status:?}");
}

/// Records how far it is pressed. A guest of the simulation cannot be slowed down: at the percentage
/// `stops_at` this one stops it.
struct Brake {
    machine: Arc<Machine>,
    stops_at: u8,
    calls: Mutex<Vec<u8>>,
}

impl Throttle for Brake {
    fn throttle(&self, percent: u8) {
        self.calls.lock().unwrap().push(percent);
        if percent == self.stops_at {
            self.machine.pause();
        }
    }
}

impl Brake {
    fn calls(&self) -> Vec<u8> {
        self.calls.lock().unwrap().clone()
    }
}

/// A guest that writes all of its working set while any of it is sent.
fn writer() -> VM {
    let rates = [
        ("dirty-pages-per-second", "40000"),
        ("beat-hz", "1000"),
        ("fill", "4194304"),
        ("working-set", "4194304"),
    ];
    vm(16 << 20, 1, &rates)
}

/// What cannot converge: 4 MiB are left again and again, and a twentieth of that may be.
fn divergent() -> MigrationOptions {
    MigrationOptions {
        bandwidth: 40 << 20,
        max_downtime: 5,
        auto_converge: true,
        timeout: Some(Duration::from_secs(20)),
        ..options()
    }
}

/// Begins such a migration, with a brake that stops the guest at that percentage.
fn begin_divergent(
    vm: &VM,
    a: &Arc<Host>,
    b: &Arc<Host>,
    options: MigrationOptions,
    faults: Faults,
    stops_at: u8,
) -> (Arc<Brake>, Migration) {
    a.boot(vm);
    wait_filled(&a.machine(), vm);
    let brake = Arc::new(Brake {
        machine: a.machine(),
        stops_at,
        calls: Mutex::default(),
    });
    let throttle = Arc::clone(&brake) as Arc<dyn Throttle>;
    let migration = begin_braked(vm, a, b, options, faults, throttle);
    (brake, migration)
}

#[test]
fn a_guest_that_writes_too_fast_is_slowed_until_it_can_be_moved() {
    let vm = writer();
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    let options = MigrationOptions {
        // The switch itself is not what is tried here.
        max_downtime: 60,
        ..divergent()
    };
    let (brake, migration) = begin_divergent(&vm, &a, &b, options, Faults::default(), 60);
    let status = migration.end();
    b.settle();
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
    let mut calls = brake.calls();
    assert_eq!(calls.pop(), Some(0), "let go of");
    // On a busy host a guest may be slow enough before it is stopped.
    assert!(
        !calls.is_empty() && [20, 40, 60].starts_with(&calls),
        "{calls:?}"
    );
    assert_eq!(Some(status.throttle), calls.last().map(|&last| last.into()));
    assert_eq!(verify(&b.machine()).faults, 0);
}

#[test]
fn a_guest_is_let_go_of_when_it_is_not_moved() {
    for cancelled in [true, false] {
        let vm = writer();
        let (a, b) = (Host::new(&sim()), Host::new(&sim()));
        let faults = Faults {
            fail: (!cancelled).then_some(Phase::SendState),
            ..Faults::default()
        };
        let stops_at = if cancelled { 0 } else { 40 };
        let (brake, migration) = begin_divergent(&vm, &a, &b, divergent(), faults, stops_at);
        if cancelled {
            wait("the brake", || !brake.calls().is_empty());
            let cancel = migration.outgoing.cancel();
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.unwrap().block_on(cancel).unwrap();
        }
        let status = migration.end();
        assert!(
            matches!(
                status.state,
                MigrationState::Cancelled | MigrationState::Failed
            ),
            "{status:?}"
        );
        let calls = brake.calls();
        assert!(calls.len() > 1 && calls.ends_with(&[0]), "{calls:?}");
        assert_eq!(calls.iter().filter(|&&percent| percent == 0).count(), 1);
        b.settle();
        a.machine().resume().unwrap();
        assert_eq!(verify(&a.machine()).faults, 0);
    }
}

#[test]
fn nothing_is_slowed_without_the_permission() {
    let vm = writer();
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    let options = MigrationOptions {
        auto_converge: false,
        timeout: Some(Duration::from_secs(2)),
        ..divergent()
    };
    let (brake, migration) = begin_divergent(&vm, &a, &b, options, Faults::default(), 0);
    let status = migration.end();
    assert_eq!(status.state, MigrationState::Failed, "{status:?}");
    assert!(status.error.unwrap().contains("not moved within 2s"));
    assert!(status.rounds.len() > 4, "{:?}", status.rounds);
    assert_eq!((brake.calls(), status.throttle), (vec![], 0));
}

#[test]
fn the_time_runs_from_the_start_and_is_ignored_where_that_was_asked() {
    let vm = guest();
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    a.boot(&vm);
    // The target takes longer to make room than the whole migration may.
    let faults = || Faults {
        slow: Some((Phase::Build, Duration::from_millis(400))),
        ..Faults::default()
    };
    let limited = |on_timeout| MigrationOptions {
        timeout: Some(Duration::from_millis(100)),
        on_timeout,
        ..options()
    };
    let status = begin(&vm, &a, &b, limited(OnTimeout::Cancel), faults()).end();
    b.settle();
    assert_eq!(status.state, MigrationState::Failed, "{status:?}");
    assert!(status.error.unwrap().contains("not moved within 100ms"));
    let status = begin(&vm, &a, &b, limited(OnTimeout::Ignore), faults()).end();
    b.settle();
    assert_eq!(status.state, MigrationState::Completed, "{status:?}");
}

#[test]
fn a_paused_copy_is_limited_in_time_too() {
    let vm = guest();
    let (a, b) = (Host::new(&sim()), Host::new(&sim()));
    a.boot(&vm);
    wait_filled(&a.machine(), &vm);
    let options = MigrationOptions {
        live: false,
        bandwidth: 1 << 20,
        timeout: Some(Duration::from_millis(300)),
        ..options()
    };
    let status = migrate(&vm, &a, &b, options);
    assert_eq!(status.state, MigrationState::Failed, "{status:?}");
    assert!(status.error.unwrap().contains("not moved within 300ms"));
    assert_eq!(verify(&a.machine()).faults, 0);
}

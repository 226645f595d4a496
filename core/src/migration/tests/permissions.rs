//! What a migration may do and need not: each permission used, and seen to be left where it is not given.

use super::support::*;
use crate::machine::Machine;
use crate::memory::PAGE_SIZE;
use crate::model::{MigrationOptions, MigrationState, MigrationStatus, VM};

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

//! Snapshots of a machine on disk: taking them, and making a machine what it was.
//!
//! A job over a machine, beside migration: `capture` writes one, `restore` reads one; `directory` is
//! where they lie, `manifest`, `state` and `index` are the formats of their small files. Used by
//! `node`, which decides who may, holds the VM meanwhile, and makes the machines.
//!
//! # The format
//!
//! A snapshot is a directory named by its id:
//!
//! | file | holds |
//! |---|---|
//! | `snapshot.json` | what it is of, and what its other files are (`manifest`) |
//! | `state.bin` | all of the machine but its memory, and what its guest sees of the host (`state`) |
//! | `memory.img` | pages with data, each at its own RAM offset; holes elsewhere |
//! | `disk.img` | the disk, with its holes; its sum is in `snapshot.json` |
//! | `memory.idx` | which pages those are, and a checksum for each 2 MiB of memory (`index`) |
//!
//! A snapshot without memory has the disk, if the VM has one, beside `snapshot.json`, which ends in its own checksum; it has the digests
//! of `state.bin` and `memory.idx`, and the index the sums of the image, so no file can be taken for that
//! of another snapshot. Every file has a version of its own. A reader
//! refuses a version, a section, a kind or a field that it does not know, a length that is not what was
//! promised, and bytes left over, each by the name of the file: what it cannot read it does not guess.
//!
//! It is written under a name that starts with a dot, every file is synced, and then it gets its name,
//! which is synced too. So what has its name is complete; what has not is removed when a node starts. A
//! snapshot never changes once it has its name.
//!
//! # What is to come, and needs no other format
//!
//! * **Incremental**: `parent` in `snapshot.json` names the snapshot that it builds on, and the index
//!   says for pages that it does not list that they are the parent's, not zero; pages that became zero
//!   are listed as such. This version writes neither and refuses both. Chains are merged into one file
//!   before a restore: pages lie at their own offsets in every image of a chain, so that is a copy (or a
//!   reflink) of runs, parents first.
//! * **Lazy restore**: memory is checked in units of 2 MiB, each by its own sum, and the index finds a
//!   unit by its number; so a unit can be read and checked when it is first touched, in any order.
//! * **Live capture**: the order of writing does not matter to the format: pages have fixed places, and
//!   the index, which says what is there, is written last.
//! * More kinds of pages (compressed, shared) are new kinds of runs, more of a machine is a new section:
//!   older versions refuse them by name.

#![forbid(unsafe_code)]

mod capture;
mod directory;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod index;
mod manifest;
mod restore;
mod state;
#[cfg(test)]
mod tests;

use std::fmt::Display;

pub(crate) use capture::{NotCaptured, Source, capture};
#[cfg(test)]
pub(crate) use directory::Step;
pub(crate) use directory::{Found, Root};
#[cfg(fuzzing)]
pub(crate) use fuzz::fuzz_snapshot;
pub(crate) use manifest::{Manifest, Of};
pub(crate) use restore::Opened;

use crate::error::DWCPError;

/// What the snapshot is of, and what its other files are.
pub(crate) const MANIFEST: &str = "snapshot.json";
/// All of the machine but its memory.
pub(crate) const STATE: &str = "state.bin";
/// Pages with data, at their own offsets.
pub(crate) const MEMORY: &str = "memory.img";
/// Which pages those are.
pub(crate) const INDEX: &str = "memory.idx";

/// The disk.
pub(crate) const DISK: &str = "disk.img";

/// What is wrong with a file of a snapshot.
fn bad(id: &str, file: &str, why: &dyn Display) -> DWCPError {
    DWCPError::Snapshot(format!("{id}: {file}: {why}"))
}

/// The same, where the text of another layer's error says it.
fn bad_because(id: &str, file: &str, error: &DWCPError) -> DWCPError {
    bad(id, file, &error.message())
}

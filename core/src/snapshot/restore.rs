//! Making a machine what it was.
//!
//! Everything is checked before anybody relies on it: the small files when the snapshot is opened, each
//! chunk of memory when it has been read. The machine that is filled is a fresh one that has not run; one
//! that could not be filled is thrown away, and nothing has changed.

use std::fs::File;
use std::io;

use super::directory::Root;
use super::index::{self, Index};
use super::manifest::Manifest;
use super::state::{self, State};
use super::{DISK, INDEX, MEMORY, STATE, bad, bad_because};
use crate::error::Result;
use crate::hypervisor::{HostFacts, misfits};
use crate::machine::Machine;
use crate::memory::{GuestRam, read_pages, sum_pages};
use crate::storage;

/// A snapshot of which all has been read and checked but memory.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    root: &'a Root,
    manifest: Manifest,
    /// Where it has memory.
    machine: Option<(State, Index)>,
}

impl<'a> Opened<'a> {
    /// Reads and checks all small files of a snapshot.
    ///
    /// # Errors
    ///
    /// `snapshot` naming the file and what is wrong with it.
    pub(crate) fn new(root: &'a Root, id: &str) -> Result<Self> {
        let manifest = root.manifest(id)?;
        let machine = match &manifest.machine {
            None => None,
            Some(files) => {
                let bytes = root.read(id, STATE, state::LONGEST)?;
                let state = files.state.check(&bytes);
                let state = state.and_then(|()| State::decode(&bytes));
                let state = state.map_err(|e| bad_because(id, STATE, &e))?;
                let bytes = root.read(id, INDEX, index::longest(files.memory))?;
                let index = files.index.check(&bytes);
                let index = index.and_then(|()| Index::decode(&bytes));
                let index = index.map_err(|e| bad_because(id, INDEX, &e))?;
                if index.size != files.memory {
                    let why = format!("it is of a memory of {} bytes", index.size);
                    return Err(bad(id, INDEX, &why));
                }
                let length = root.open(id, MEMORY)?.metadata();
                let length = length.map_err(|e| bad(id, MEMORY, &e))?.len();
                if length != files.memory {
                    let why = format!("it has {length} bytes, where {} belong", files.memory);
                    return Err(bad(id, MEMORY, &why));
                }
                Some((state, index))
            }
        };
        Ok(Self {
            root,
            manifest,
            machine,
        })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its disk, checked from end to end, where it has one. `go_on` is asked from time to time; its error
    /// ends the work.
    ///
    /// # Errors
    ///
    /// `snapshot` naming what is wrong with it; that of `go_on`.
    pub(crate) fn disk(&self, go_on: &dyn Fn() -> Result<()>) -> Result<Option<File>> {
        let id = &self.manifest.id;
        let Some(kept) = &self.manifest.disk else {
            return Ok(None);
        };
        let disk = self.root.open(id, DISK)?;
        let length = disk.metadata().map_err(|e| bad(id, DISK, &e))?.len();
        if length != kept.length {
            let why = format!("it has {length} bytes, where {} belong", kept.length);
            return Err(bad(id, DISK, &why));
        }
        if storage::sum(&disk, go_on)? != kept.sum {
            return Err(bad(id, DISK, &"its checksum does not match"));
        }
        Ok(Some(disk))
    }

    /// What its guest sees of the host it was first started on; `None` without memory.
    ///
    /// # Errors
    ///
    /// `snapshot` naming all that `host` lacks.
    pub(crate) fn guest(&self, host: &HostFacts) -> Result<Option<HostFacts>> {
        let Some((state, _)) = &self.machine else {
            return Ok(None);
        };
        let lacks = misfits(&state.guest, host);
        if !lacks.is_empty() {
            let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
            let why = format!("this host cannot run the guest: {}", lacks.join("; "));
            return Err(bad(&self.manifest.id, STATE, &why));
        }
        Ok(Some(state.guest.clone()))
    }

    /// Fills a machine that has not run, with memory that holds nothing, and returns when it can run.
    /// `go_on` is asked from time to time; its error ends the work.
    ///
    /// # Errors
    ///
    /// `snapshot` naming the file and what is wrong with it; that of `go_on`. The machine is of no use then.
    pub(crate) fn fill(&mut self, machine: &Machine, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
        let id = &self.manifest.id;
        let Some((state, index)) = &mut self.machine else {
            return Err(bad(id, MEMORY, &"the snapshot was taken without memory"));
        };
        if index.size != machine.ram().size() {
            let why = format!(
                "{} bytes for a machine of {}",
                index.size,
                machine.ram().size()
            );
            return Err(bad(id, MEMORY, &why));
        }
        read_memory(self.root, id, index, machine.ram(), go_on)?;
        let sections = std::mem::take(&mut state.machine);
        let loaded = machine.load(sections);
        loaded.map_err(|e| bad_because(id, STATE, &e))
    }
}

/// Reads an image into memory that holds nothing, and checks it.
fn read_memory(
    root: &Root,
    id: &str,
    index: &Index,
    ram: &GuestRam,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let image = root.open(id, MEMORY)?;
    for chunk in &index.chunks {
        go_on()?;
        let mut sum = 0;
        for run in &chunk.runs {
            // All at once: a fault for each page would take longer than the reading.
            ram.populate(run)?;
            read_pages(&image, ram, run).map_err(|e: io::Error| bad(id, MEMORY, &e))?;
            sum = sum_pages(ram, sum, run)?;
        }
        if sum != chunk.sum {
            let at = chunk.number * index::CHUNK_SIZE;
            let why = format!("the checksum of the chunk at {at:#x} does not match");
            return Err(bad(id, MEMORY, &why));
        }
    }
    Ok(())
}

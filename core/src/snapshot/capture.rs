//! Taking a snapshot: everything in the pause.
//!
//! The guest stands still while its state is saved and its memory is copied to the page cache of the
//! host; it runs again before anything is synced. Whatever goes wrong, it runs again if it did before.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::directory::{Root, Staged};
use super::index::{CHUNK_PAGES, Chunk, Index};
use super::manifest::{Digest, DiskFile, Files, Manifest};
use super::state::State;
use super::{DISK, INDEX, MEMORY, STATE};
use crate::error::{DWCPError, Result};
use crate::machine::Machine;
use crate::memory::{GuestRam, PageRange, sum_pages, write_pages};
use crate::model::VMState;
use crate::storage;

/// A snapshot that was taken.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) manifest: Manifest,
    /// Bytes it takes on disk.
    pub(crate) size: u64,
    /// How long the guest stood still; nothing for one that did not run.
    pub(crate) pause: Duration,
}

/// A snapshot that was not taken, and left nothing behind.
#[derive(Debug)]
pub(crate) struct NotCaptured {
    pub(crate) error: DWCPError,
    /// Why the guest, which ran before, does not run on; `None` where all is as it was.
    pub(crate) stands: Option<DWCPError>,
}

impl From<DWCPError> for NotCaptured {
    fn from(error: DWCPError) -> Self {
        NotCaptured {
            error,
            stands: None,
        }
    }
}

/// Takes a snapshot: of the machine, where there is one, whose vCPUs run or not as the manifest says,
/// of the disk, and of the config alone where there is neither. `go_on` is asked from time to time; its error ends the
/// work.
///
/// Nobody else pauses, resumes or ends the machine meanwhile.
///
/// # Errors
///
/// `snapshot` naming the file that could not be written; `invalid_operation` for a guest that came to its
/// end; that of `go_on`.
pub(crate) fn capture(
    root: &Root,
    mut manifest: Manifest,
    source: &Source<'_>,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Captured, NotCaptured> {
    let staged = root.stage(&manifest.id)?;
    let copy = source
        .disk
        .map(|path| DiskCopy::begin(&staged, path))
        .transpose()?;
    let mut pause = Duration::ZERO;
    match source.machine {
        None => {
            if let Some(copy) = &copy {
                copy.make(go_on)?;
            }
        }
        Some(machine) => {
            let image = source.memory.then(|| staged.create(MEMORY)).transpose()?;
            let paused = Paused::new(machine, manifest.of.state == VMState::Running);
            let taken = paused.take(&staged, image.as_ref(), copy.as_ref(), go_on);
            // Before anything else: the guest waits.
            let resumed = paused.resume();
            let taken = match (taken, resumed) {
                (Ok(taken), Ok(time)) => {
                    pause = time;
                    taken
                }
                (Err(error), Ok(_)) => return Err(error.into()),
                (taken, Err(stands)) => {
                    let error = taken.err().unwrap_or_else(|| stands.clone());
                    let stands = Some(stands);
                    return Err(NotCaptured { error, stands });
                }
            };
            // Syncing may take long, and a guest that is to end waits for nothing.
            go_on()?;
            if let (Some(image), Some((state, index))) = (&image, taken) {
                manifest.machine = Some(keep(&staged, image, &state, &index)?);
            }
        }
    }
    if let Some(copy) = copy {
        manifest.disk = Some(copy.keep(go_on)?);
    }
    let id = manifest.id.clone();
    staged.commit(&manifest)?;
    let size = root.size(&id)?;
    Ok(Captured {
        manifest,
        size,
        pause,
    })
}

/// What a snapshot is taken of.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// The machine, where there is one.
    pub(crate) machine: Option<&'a Machine>,
    /// Whether its memory and its state are kept.
    pub(crate) memory: bool,
    /// The disk, where there is one. Nobody writes it but the machine.
    pub(crate) disk: Option<&'a Path>,
}

/// A copy of the disk.
struct DiskCopy<'a> {
    staged: &'a Staged<'a>,
    from: File,
    to: File,
}

impl<'a> DiskCopy<'a> {
    fn begin(staged: &'a Staged<'a>, path: &Path) -> Result<Self> {
        let from = File::open(path)
            .map_err(|error| DWCPError::Snapshot(format!("{}: {error}", path.display())))?;
        let to = staged.create(DISK)?;
        Ok(Self { staged, from, to })
    }

    /// Copies it. The guest stands still meanwhile.
    fn make(&self, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
        storage::copy(&self.from, &self.to, go_on)
    }

    /// Sums and syncs it.
    fn keep(self, go_on: &dyn Fn() -> Result<()>) -> Result<DiskFile> {
        self.staged.sync(DISK, &self.to)?;
        let length = self.to.metadata();
        let length = length.map_err(|e| self.staged.failed(DISK, &e))?.len();
        let sum = storage::sum(&self.to, go_on)?;
        Ok(DiskFile { length, sum })
    }
}

/// Writes the small files, and syncs all.
fn keep(staged: &Staged<'_>, image: &File, state: &State, index: &Index) -> Result<Files> {
    let (state, sums) = (state.encode()?, index.encode());
    staged.write(STATE, &state)?;
    staged.sync(MEMORY, image)?;
    staged.write(INDEX, &sums)?;
    Ok(Files {
        state: Digest::of(&state),
        index: Digest::of(&sums),
        memory: index.size,
    })
}

/// A machine that stands still. Dropped, as by a panic, it runs again if it did before.
struct Paused<'a> {
    machine: &'a Machine,
    runs: bool,
    began: Instant,
}

impl<'a> Paused<'a> {
    fn new(machine: &'a Machine, runs: bool) -> Self {
        let began = Instant::now();
        if runs {
            machine.pause();
        }
        Self {
            machine,
            runs,
            began,
        }
    }

    /// Takes state and memory where there is an image to put it in, and the disk where there is one.
    fn take(
        &self,
        staged: &Staged<'_>,
        image: Option<&File>,
        disk: Option<&DiskCopy<'_>>,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Option<(State, Index)>> {
        if self.machine.ended().is_some() {
            return Err(DWCPError::InvalidOperation(
                "snapshot: the guest has just come to its end".into(),
            ));
        }
        let mut kept = None;
        if let Some(image) = image {
            let state = State {
                machine: self.machine.save()?,
                guest: self.machine.config().guest.clone(),
            };
            let writer = MemoryWriter {
                ram: self.machine.ram(),
                staged,
                image,
            };
            kept = Some((state, writer.write(go_on)?));
        }
        // The guest writes nothing now, so both are of one moment.
        if let Some(disk) = disk {
            disk.make(go_on)?;
        }
        Ok(kept)
    }

    /// Lets it run again if it did before; how long it stood still.
    fn resume(mut self) -> Result<Duration> {
        if !std::mem::take(&mut self.runs) {
            return Ok(Duration::ZERO);
        }
        self.machine.resume()?;
        Ok(self.began.elapsed())
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if self.runs
            && let Err(error) = self.machine.resume()
        {
            tracing::error!(machine = ?self.machine, %error, "a guest could not be resumed");
        }
    }
}

/// Writes memory: data at its own offsets, holes for what is zero.
struct MemoryWriter<'a> {
    ram: &'a GuestRam,
    staged: &'a Staged<'a>,
    image: &'a File,
}

impl MemoryWriter<'_> {
    fn write(&self, go_on: &dyn Fn() -> Result<()>) -> Result<Index> {
        let failed = |e: io::Error| self.staged.failed(MEMORY, &e);
        let size = self.ram.size();
        self.image.set_len(size).map_err(failed)?;
        let mut chunks = Vec::new();
        let mut found: Option<(u64, Vec<PageRange>)> = None;
        let mut page = 0;
        // Holes are found without reading them: reading would fill them.
        while let Some(backed) = self.ram.next_data(page)? {
            page = backed.end;
            for piece in by_chunk(backed) {
                let number = piece.start / CHUNK_PAGES;
                // A chunk may have several pieces, with holes between them.
                if found.as_ref().is_some_and(|(open, _)| *open != number) {
                    go_on()?;
                    chunks.extend(self.write_chunk(found.take()).map_err(failed)?);
                }
                let (_, runs) = found.get_or_insert_with(|| (number, Vec::new()));
                self.look(piece, runs);
            }
        }
        chunks.extend(self.write_chunk(found).map_err(failed)?);
        Ok(Index { size, chunks })
    }

    /// Adds the pages of `piece` that hold more than zeros to `runs`.
    fn look(&self, piece: PageRange, runs: &mut Vec<PageRange>) {
        for page in piece.filter(|&page| !self.ram.is_zero(page)) {
            match runs.last_mut() {
                Some(last) if last.end == page => last.end = page + 1,
                _ => runs.push(page..page + 1),
            }
        }
    }

    /// Sums and writes the pages of a chunk that have data, if there are any.
    fn write_chunk(&self, found: Option<(u64, Vec<PageRange>)>) -> io::Result<Option<Chunk>> {
        let Some((number, runs)) = found.filter(|(_, runs)| !runs.is_empty()) else {
            return Ok(None);
        };
        let mut sum = 0;
        for run in &runs {
            sum = sum_pages(self.ram, sum, run).map_err(io::Error::other)?;
            write_pages(self.image, self.ram, run)?;
        }
        #[cfg(test)]
        self.staged.fail_in_memory()?;
        Ok(Some(Chunk { number, sum, runs }))
    }
}

/// Cuts a run at the borders of chunks.
fn by_chunk(run: PageRange) -> impl Iterator<Item = PageRange> {
    let mut at = run.start;
    std::iter::from_fn(move || {
        let start = at;
        at = ((start / CHUNK_PAGES + 1) * CHUNK_PAGES).min(run.end);
        (start < run.end).then_some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_at_the_borders_of_chunks() {
        let cut = |run| by_chunk(run).collect::<Vec<_>>();
        assert_eq!(cut(0..0), []);
        assert_eq!(cut(3..5).len(), 1);
        assert_eq!(cut(511..1025), vec![511..512, 512..1024, 1024..1025]);
    }
}

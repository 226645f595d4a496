//! Where snapshots lie: one directory each, below one of the node.
//!
//! A name that starts with a dot is a snapshot that is not there: being written, or being removed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::manifest::{self, Manifest};
use super::{MANIFEST, bad, bad_because};
use crate::error::{DWCPError, Result};

/// What is being written.
const NEW: &str = ".new-";
/// What is being removed.
const GONE: &str = ".gone-";

/// The directory of a node's snapshots. It belongs to one node at a time.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    /// The step that is to fail next.
    #[cfg(test)]
    pub(crate) fault: std::sync::Mutex<Option<Step>>,
}

/// What can fail while a snapshot is written.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Making its directory.
    Stage,
    /// Writing memory, once something is written.
    Memory,
    /// Writing the machine's state.
    State,
    /// Writing the index.
    Index,
    /// Writing the manifest.
    Manifest,
    /// Syncing a file.
    Sync,
    /// Giving it its name.
    Rename,
}

/// What is there.
#[derive(Debug)]
pub(crate) enum Found {
    /// A snapshot, and the bytes it takes on disk.
    Whole(Box<Manifest>, u64),
    /// One whose manifest cannot be read, and why.
    Damaged { id: String, why: String },
}

impl Root {
    /// That of the node that keeps its data in `data_dir`. Nothing is touched.
    pub(crate) fn new(data_dir: &Path) -> Root {
        Root {
            path: data_dir.join("snapshots"),
            #[cfg(test)]
            fault: std::sync::Mutex::default(),
        }
    }

    /// The snapshots that are there, in no order. Removes what was left half written or half removed.
    ///
    /// # Errors
    ///
    /// `snapshot` where the directory cannot be read, or a rest not removed.
    pub(crate) fn scan(&self) -> Result<Vec<Found>> {
        let failed = |error: &io::Error| self.failed(error);
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| failed(&e))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| failed(&e))?;
            let name = entry.file_name();
            // Ours are plain text.
            let Some(id) = name.to_str() else { continue };
            if id.starts_with(NEW) || id.starts_with(GONE) {
                std::fs::remove_dir_all(entry.path()).map_err(|e| failed(&e))?;
                tracing::info!(name = id, "removed the rest of a snapshot");
                continue;
            }
            if !is_id(id) || !entry.file_type().map_err(|e| failed(&e))?.is_dir() {
                tracing::debug!(name = id, "not a snapshot");
                continue;
            }
            found.push(
                match self.manifest(id).and_then(|m| Ok((m, self.size(id)?))) {
                    Ok((manifest, size)) => Found::Whole(Box::new(manifest), size),
                    Err(error) => Found::Damaged {
                        id: id.to_owned(),
                        why: error.message().to_owned(),
                    },
                },
            );
        }
        Ok(found)
    }

    /// Reads the manifest of a snapshot.
    pub(super) fn manifest(&self, id: &str) -> Result<Manifest> {
        let bytes = self.read(id, MANIFEST, manifest::LONGEST)?;
        let manifest = Manifest::decode(&bytes).map_err(|e| bad_because(id, MANIFEST, &e))?;
        if manifest.id != id {
            let why = format!("it is that of the snapshot {}", manifest.id);
            return Err(bad(id, MANIFEST, &why));
        }
        Ok(manifest)
    }

    /// Reads a small file of a snapshot.
    pub(super) fn read(&self, id: &str, file: &str, longest: u64) -> Result<Vec<u8>> {
        let failed = |e: io::Error| bad(id, file, &e);
        let mut bytes = Vec::new();
        let opened = self.open(id, file)?;
        // One more byte than may be there tells that there are too many.
        let mut limited = opened.take(longest + 1);
        limited.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > longest {
            return Err(bad(id, file, &format!("it is longer than {longest} bytes")));
        }
        Ok(bytes)
    }

    /// Opens a file of a snapshot.
    pub(super) fn open(&self, id: &str, file: &str) -> Result<File> {
        let path = self.path.join(id).join(file);
        let opened = File::open(path).and_then(|opened| {
            let is_file = opened.metadata()?.is_file();
            is_file
                .then_some(opened)
                .ok_or_else(|| io::Error::other("it is no file"))
        });
        opened.map_err(|e| bad(id, file, &e))
    }

    /// The bytes that the files of a snapshot take on disk.
    pub(crate) fn size(&self, id: &str) -> Result<u64> {
        let sum = || {
            let mut sum = 0;
            for entry in std::fs::read_dir(self.path.join(id))? {
                sum += entry?.metadata()?.blocks() * 512;
            }
            Ok(sum)
        };
        sum().map_err(|e: io::Error| bad(id, ".", &e))
    }

    /// Begins a snapshot.
    pub(super) fn stage(&self, id: &str) -> Result<Staged<'_>> {
        let path = self.path.join(format!("{NEW}{id}"));
        let make = || {
            #[cfg(test)]
            self.fail(Step::Stage)?;
            if !self.path.is_dir() {
                self.make()?;
            }
            DirBuilder::new().mode(0o700).create(&path)
        };
        make().map_err(|e: io::Error| bad(id, ".", &e))?;
        Ok(Staged {
            root: self,
            id: id.to_owned(),
            path,
        })
    }

    /// Makes the directory, so that it is still there after a power cut.
    fn make(&self) -> io::Result<()> {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.path)?;
        if let Some(parent) = self.path.parent() {
            sync_directory(parent)?;
        }
        Ok(())
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    ///
    /// `snapshot`. Where it is [not there](Self::is_there) any more nevertheless, the rest of its files
    /// is removed when a node starts.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let gone = self.path.join(format!("{GONE}{id}"));
        let remove = || {
            std::fs::rename(self.path.join(id), &gone)?;
            sync_directory(&self.path)?;
            std::fs::remove_dir_all(&gone)
        };
        match remove() {
            // Somebody was here before: what is to be so is so.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_there(id) => Ok(()),
            other => other.map_err(|e| bad(id, ".", &e)),
        }
    }

    /// Whether a snapshot has its name.
    pub(crate) fn is_there(&self, id: &str) -> bool {
        self.path.join(id).exists()
    }

    fn failed(&self, error: &io::Error) -> DWCPError {
        DWCPError::Snapshot(format!("{}: {error}", self.path.display()))
    }

    /// Fails where a test wants it.
    #[cfg(test)]
    fn fail(&self, step: Step) -> io::Result<()> {
        let fault = self.fault.lock();
        let mut fault = fault.unwrap_or_else(std::sync::PoisonError::into_inner);
        if fault.take_if(|next| *next == step).is_some() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }
}

/// A snapshot that is being written. Dropped before it is committed, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Staged<'a> {
    root: &'a Root,
    id: String,
    path: PathBuf,
}

impl Staged<'_> {
    /// Makes a file in it.
    pub(super) fn create(&self, file: &str) -> Result<File> {
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path.join(file));
        made.map_err(|e| self.failed(file, &e))
    }

    /// Makes a small file in it, and syncs it.
    pub(super) fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let mut made = self.create(file)?;
        let mut write = || {
            #[cfg(test)]
            self.root.fail(match file {
                MANIFEST => Step::Manifest,
                super::STATE => Step::State,
                _ => Step::Index,
            })?;
            made.write_all(bytes)
        };
        write().map_err(|e| self.failed(file, &e))?;
        self.sync(file, &made)
    }

    /// Makes what was written to a file last.
    pub(super) fn sync(&self, file: &str, made: &File) -> Result<()> {
        let sync = || {
            #[cfg(test)]
            self.root.fail(Step::Sync)?;
            made.sync_all()
        };
        sync().map_err(|e| self.failed(file, &e))
    }

    /// Where a test wants memory to fail, it does.
    #[cfg(test)]
    pub(super) fn fail_in_memory(&self) -> io::Result<()> {
        self.root.fail(Step::Memory)
    }

    /// What went wrong with a file.
    pub(super) fn failed(&self, file: &str, error: &io::Error) -> DWCPError {
        bad(&self.id, file, error)
    }

    /// Writes the manifest, and gives the snapshot its name: it is there, and complete.
    pub(super) fn commit(self, manifest: &Manifest) -> Result<()> {
        self.write(MANIFEST, &manifest.encode()?)?;
        let to = self.root.path.join(&self.id);
        let rename = || {
            sync_directory(&self.path)?;
            #[cfg(test)]
            self.root.fail(Step::Rename)?;
            std::fs::rename(&self.path, &to)
        };
        rename().map_err(|e| self.failed(".", &e))?;
        if let Err(error) = sync_directory(&self.root.path) {
            // It has its name, and nobody knows whether it keeps it: it is not to be there.
            let error = self.failed(".", &error);
            self.root.remove(&self.id)?;
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            // It has its name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the rest of a snapshot stays until the node starts anew");
            }
            Ok(()) => {}
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether a name can be that of a snapshot: a UUID as this library writes it.
fn is_id(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

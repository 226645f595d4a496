//! The disks of a node's VMs: a folder each, below one that nodes may share.
//!
//! In the folder is the disk, and an `id` that was drawn when it was made: two nodes that are to hand a
//! VM over find by it that they mean the same disk. `copied` are those that move with their VMs. All of it blocks, and
//! runs off the async threads.

mod copied;

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{DWCPError, Result};
use crate::machine::DiskConfig;
use crate::migration::DiskFacts;
use crate::model::{VM, VMConfig, new_uuid, validate};
use crate::storage;

/// What a disk is a whole number of, in bytes: the sector of every protocol.
const SECTOR: u64 = 512;
const DISK: &str = "disk.img";
/// What is to be the disk, while a snapshot is restored.
const STAGED: &str = "restored.img";
/// What was the disk, until it is certain that it is no longer wanted.
const REPLACED: &str = "replaced.img";
const ID: &str = "id";
/// What is locked by who may write the disk.
const LOCK: &str = "lock";
/// How the name of what is being made or removed begins.
const UNFINISHED: &str = ".new-";

/// Where the disks of a node's VMs are.
#[derive(Debug)]
pub(super) struct Disks {
    root: Option<PathBuf>,
    /// How the folders begin in which this node makes and removes disks; others share the root.
    unfinished: String,
}

/// Gives a VM whose config names no size for its disk the size of its image's, if that has one.
///
/// # Errors
///
/// `invalid_config` for a size that is no whole number of sectors, or smaller than the image's disk.
pub(super) fn settle_size(config: &mut VMConfig, image: Option<(&Path, u64)>) -> Result<()> {
    let least = image.map_or(0, |(_, size)| size.next_multiple_of(SECTOR));
    if config.disk == 0 {
        config.disk = least;
    }
    if !config.disk.is_multiple_of(SECTOR) {
        return validate::wrong(
            "disk",
            format_args!("must be a multiple of {SECTOR} bytes, not {}", config.disk),
        );
    }
    if config.disk < least {
        return validate::wrong(
            "disk",
            format_args!(
                "must be at least the {least} bytes of the image's disk, not {}",
                config.disk
            ),
        );
    }
    Ok(())
}

impl Disks {
    /// Below that folder; `None` for a node that keeps nothing. What this node was making or removing
    /// when it ended is a disk where its VM is among `vms`, and removed where it is not.
    ///
    /// # Errors
    ///
    /// `io` where the folder cannot be read, or a rest not removed.
    pub(super) fn open(
        root: Option<PathBuf>,
        node_uuid: &str,
        vms: &BTreeSet<String>,
    ) -> Result<Disks> {
        let disks = Disks {
            root,
            unfinished: format!("{UNFINISHED}{node_uuid}-"),
        };
        let Some(root) = &disks.root else {
            return Ok(disks);
        };
        let entries = match std::fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(disks),
            other => other.map_err(at(root))?,
        };
        for entry in entries {
            let path = entry.map_err(at(root))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let vm_id = name.and_then(|name| name.strip_prefix(&disks.unfinished));
            match vm_id {
                Some(vm_id) if vms.contains(vm_id) => disks.finish(vm_id)?,
                Some(_) => std::fs::remove_dir_all(&path).map_err(at(&path))?,
                None => {}
            }
        }
        Ok(disks)
    }

    /// Whether VMs can have disks here.
    pub(super) fn are_kept(&self) -> bool {
        self.root.is_some()
    }

    /// The disk of a VM, for its machine: the one it has, or the one that [`stage`](Self::stage) made.
    ///
    /// # Errors
    ///
    /// `unsupported` on a node that keeps nothing.
    pub(super) fn config(&self, vm: &VM, staged: bool) -> Result<DiskConfig> {
        let folder = self.folder(&vm.id)?;
        Ok(DiskConfig {
            path: folder.join(if staged { STAGED } else { DISK }),
            lock: folder.join(LOCK),
            serial: vm.id.clone(),
            iops_limit: vm.config.disk_iops_limit,
            io_threads: vm.config.io_threads,
        })
    }

    /// The file that is locked by who may write the disk of a VM.
    ///
    /// # Errors
    ///
    /// `unsupported` on a node that keeps nothing.
    pub(super) fn lock_file(&self, vm_id: &str) -> Result<PathBuf> {
        Ok(self.folder(vm_id)?.join(LOCK))
    }

    /// Makes a disk beside that of a VM, of what `from` holds, to take its place.
    ///
    /// # Errors
    ///
    /// `io` naming the file; that of `go_on`, which is asked from time to time.
    pub(super) fn stage(
        &self,
        vm_id: &str,
        from: &File,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let path = self.folder(vm_id)?.join(STAGED);
        let to = create(&path)?;
        let staged =
            storage::copy(from, &to, go_on).and_then(|()| to.sync_all().map_err(at(&path)));
        if staged.is_err() {
            self.drop_staged(vm_id)?;
        }
        staged
    }

    /// Puts the staged disk in the place of the VM's, which stays under another name; there is a disk
    /// at any moment.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(super) fn swap(&self, vm_id: &str) -> Result<()> {
        let folder = self.folder(vm_id)?;
        let (path, kept) = (folder.join(DISK), folder.join(REPLACED));
        match std::fs::remove_file(&kept) {
            // Of a node that ended in the middle of this.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&kept)(error)),
            _ => {}
        }
        std::fs::hard_link(&path, &kept).map_err(at(&kept))?;
        std::fs::rename(folder.join(STAGED), &path).map_err(at(&path))?;
        sync(&folder)
    }

    /// Undoes a [`swap`](Self::swap); the disk that was staged is gone.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(super) fn swap_back(&self, vm_id: &str) -> Result<()> {
        let folder = self.folder(vm_id)?;
        let path = folder.join(DISK);
        std::fs::rename(folder.join(REPLACED), &path).map_err(at(&path))?;
        sync(&folder)
    }

    /// Removes the disk that another took the place of.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(super) fn drop_replaced(&self, vm_id: &str) -> Result<()> {
        let path = self.folder(vm_id)?.join(REPLACED);
        std::fs::remove_file(&path).map_err(at(&path))
    }

    /// Removes a disk that was staged and is not wanted.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(super) fn drop_staged(&self, vm_id: &str) -> Result<()> {
        let path = self.folder(vm_id)?.join(STAGED);
        std::fs::remove_file(&path).map_err(at(&path))
    }

    /// Checks that the disk of a VM is here what it is on the node that offers the VM.
    ///
    /// # Errors
    ///
    /// `migration` saying what to do.
    pub(super) fn check(&self, vm_id: &str, there: &DiskFacts) -> Result<()> {
        let how = "nodes that hand VMs with disks over share a disk_dir";
        let here = self.facts(vm_id).map_err(|error| {
            DWCPError::Migration(format!("disk: not reachable here: {error}; {how}"))
        })?;
        if here == *there {
            return Ok(());
        }
        Err(DWCPError::Migration(if here.id == there.id {
            format!(
                "disk: it has {} bytes here, and {} there",
                here.size, there.size
            )
        } else {
            format!("disk: another one is here; {how}")
        }))
    }

    /// Makes the disk of a VM: `size` bytes, all zeros beyond what `image` has. It is one once the VM
    /// is known to be stored, and [`finish`](Self::finish) was called.
    ///
    /// # Errors
    ///
    /// `invalid_config` for a size smaller than the image, `io` naming the file.
    pub(super) fn make(&self, vm_id: &str, size: u64, image: Option<&Path>) -> Result<()> {
        let new = self.unfinished(vm_id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&new)
            .map_err(at(&new))?;
        let made = fill(&new, size, image);
        if made.is_err() {
            self.drop_unfinished(vm_id)?;
        }
        made
    }

    /// The VM of a disk that was made, or that was to be removed, is stored.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(super) fn finish(&self, vm_id: &str) -> Result<()> {
        let folder = self.folder(vm_id)?;
        std::fs::rename(self.unfinished(vm_id)?, &folder).map_err(at(&folder))?;
        sync(folder.parent().unwrap_or(&folder))
    }

    /// The VM of a disk that was made is not stored, or no longer.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(super) fn drop_unfinished(&self, vm_id: &str) -> Result<()> {
        let path = self.unfinished(vm_id)?;
        std::fs::remove_dir_all(&path).map_err(at(&path))
    }

    /// The VM of a disk is about to be removed: with [`drop_unfinished`](Self::drop_unfinished) its disk
    /// is, with [`finish`](Self::finish) it is not.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(super) fn begin_remove(&self, vm_id: &str) -> Result<()> {
        let folder = self.folder(vm_id)?;
        std::fs::rename(&folder, self.unfinished(vm_id)?).map_err(at(&folder))
    }

    /// What the disk of a VM is.
    ///
    /// # Errors
    ///
    /// `io` naming the file that cannot be read.
    pub(super) fn facts(&self, vm_id: &str) -> Result<DiskFacts> {
        let folder = self.folder(vm_id)?;
        let (id, disk) = (folder.join(ID), folder.join(DISK));
        let text = std::fs::read_to_string(&id).map_err(at(&id))?;
        let size = std::fs::metadata(&disk).map_err(at(&disk))?.len();
        Ok(DiskFacts {
            id: text.trim().to_owned(),
            size,
        })
    }

    fn folder(&self, vm_id: &str) -> Result<PathBuf> {
        let root = self.root.as_ref().ok_or_else(|| {
            DWCPError::Unsupported(
                "disk: this node keeps no disks; it was started without a data_dir".into(),
            )
        })?;
        Ok(root.join(vm_id))
    }

    fn unfinished(&self, vm_id: &str) -> Result<PathBuf> {
        self.folder(&format!("{}{vm_id}", self.unfinished))
    }
}

/// Writes what is in a disk's folder.
fn fill(folder: &Path, size: u64, image: Option<&Path>) -> Result<()> {
    let path = folder.join(DISK);
    let disk = create(&path)?;
    if let Some(image) = image {
        let from = File::open(image).map_err(at(image))?;
        let needs = from.metadata().map_err(at(image))?.len();
        if needs > size {
            return Err(DWCPError::Config(format!(
                "disk: the image has {needs} bytes, more than {size}"
            )));
        }
        storage::copy(&from, &disk, &|| Ok(()))?;
    }
    disk.set_len(size).map_err(at(&path))?;
    disk.sync_all().map_err(at(&path))?;
    let path = folder.join(ID);
    let mut id = create(&path)?;
    id.write_all(new_uuid().as_bytes())
        .and_then(|()| id.sync_all())
        .map_err(at(&path))?;
    sync(folder)
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(at(path))
}

fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(at(folder))
}

/// What goes wrong with a file, with its path.
fn at(path: &Path) -> impl FnOnce(io::Error) -> DWCPError {
    let path = path.display().to_string();
    move |error| DWCPError::Io(format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn open(root: &Path, vms: &[&str]) -> Disks {
        let vms = vms.iter().map(|&vm| vm.to_owned()).collect();
        Disks::open(Some(root.to_owned()), "me", &vms).unwrap()
    }

    #[test]
    fn a_disk_is_made_of_an_image_grown_and_removed() {
        let all = tempfile::tempdir().unwrap();
        let image = all.path().join("root.img");
        std::fs::write(&image, b"root file system").unwrap();
        let disks = open(&all.path().join("disks"), &[]);
        disks.make("vm", 1 << 30, Some(&image)).unwrap();
        assert!(disks.facts("vm").is_err(), "not yet");
        disks.finish("vm").unwrap();
        let facts = disks.facts("vm").unwrap();
        assert_eq!(facts.size, 1 << 30);
        let disk = File::open(all.path().join("disks/vm").join(DISK)).unwrap();
        let mut start = [0; 16];
        disk.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(&start, b"root file system");
        assert!(disk.metadata().unwrap().blocks() < 100, "it is sparse");

        disks.make("other", 1 << 20, None).unwrap();
        disks.finish("other").unwrap();
        assert_ne!(disks.facts("other").unwrap().id, facts.id);
        disks.begin_remove("vm").unwrap();
        disks.finish("vm").unwrap();
        assert_eq!(disks.facts("vm").unwrap(), facts, "thought better of");
        disks.begin_remove("vm").unwrap();
        disks.drop_unfinished("vm").unwrap();
        assert!(disks.facts("vm").is_err());
    }

    #[test]
    fn what_was_under_way_when_a_node_ended_goes_with_its_vm() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path();
        let disks = open(root, &[]);
        for vm in ["stored", "not-stored"] {
            disks.make(vm, 4096, None).unwrap();
        }
        let theirs = root.join(".new-other-vm");
        std::fs::create_dir_all(&theirs).unwrap();
        let disks = open(root, &["stored"]);
        assert_eq!(disks.facts("stored").unwrap().size, 4096);
        let left = std::fs::read_dir(root).unwrap().count();
        assert_eq!(left, 2, "the other is gone");
        assert!(theirs.exists(), "another node's");
    }

    #[test]
    fn a_disk_takes_the_place_of_another_and_gives_it_back() {
        let all = tempfile::tempdir().unwrap();
        let disks = open(all.path(), &[]);
        disks.make("vm", 4096, None).unwrap();
        disks.finish("vm").unwrap();
        let path = disks.folder("vm").unwrap().join(DISK);
        std::fs::write(&path, b"before").unwrap();
        let from = tempfile::tempfile().unwrap();
        from.write_all_at(b"after", 0).unwrap();
        let now = || std::fs::read(&path).unwrap();
        let files = || std::fs::read_dir(path.parent().unwrap()).unwrap().count();

        disks.stage("vm", &from, &|| Ok(())).unwrap();
        disks.drop_staged("vm").unwrap();
        disks.stage("vm", &from, &|| Ok(())).unwrap();
        assert_eq!(now(), b"before");
        disks.swap("vm").unwrap();
        assert_eq!(now(), b"after");
        disks.swap_back("vm").unwrap();
        assert_eq!((now(), files()), (b"before".to_vec(), 2));

        disks.stage("vm", &from, &|| Ok(())).unwrap();
        disks.swap("vm").unwrap();
        disks.drop_replaced("vm").unwrap();
        assert_eq!((now(), files()), (b"after".to_vec(), 2));
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let all = tempfile::tempdir().unwrap();
        let image = all.path().join("root.img");
        std::fs::write(&image, vec![1; 4096]).unwrap();
        let root = all.path().join("disks");
        let disks = open(&root, &[]);
        let error = disks.make("vm", 512, Some(&image)).unwrap_err();
        assert!(error.message().starts_with("disk: "), "{error}");
        assert!(
            disks
                .make("vm", 512, Some(&all.path().join("none")))
                .is_err()
        );
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);

        let none = Disks::open(None, "me", &BTreeSet::new()).unwrap();
        assert!(!none.are_kept());
        let error = none.make("vm", 512, None).unwrap_err();
        assert!(matches!(error, DWCPError::Unsupported(_)), "{error}");
    }
}

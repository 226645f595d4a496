//! Disks that move with their VMs.
//!
//! Until it is certain who has the VM, a mark in the disk's folder says what the folder is: `arriving` where the disk is
//! being filled, `leaving` with the migration that copies it away. A node that is started again knows by them what to
//! remove; where a VM with such a folder is here, its disk stays.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::statvfs;

use super::{DISK, Disks, SECTOR, at, create, sync};
use crate::error::{DWCPError, Result};
use crate::migration::DiskFacts;

/// The disk is being filled by that node; nobody has it yet.
const ARRIVING: &str = "arriving";
/// The disk is copied away: the node, and the migration.
const LEAVING: &str = "leaving";

impl Disks {
    /// What the disk of a VM takes now, in bytes.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(in crate::node) fn taken(&self, vm_id: &str) -> Result<u64> {
        let path = self.folder(vm_id)?.join(DISK);
        // What `stat` counts in.
        Ok(std::fs::metadata(&path).map_err(at(&path))?.blocks() * SECTOR)
    }

    /// Checks that a disk which takes so many bytes can be copied to here.
    ///
    /// # Errors
    ///
    /// `migration` saying what to do.
    pub(in crate::node) fn check_room(&self, vm_id: &str, there: u64) -> Result<()> {
        let refused = |why: String| Err(DWCPError::Migration(format!("with_disks: {why}")));
        let folder = self.folder(vm_id)?;
        if folder.symlink_metadata().is_ok() {
            return refused(
                "the node has a disk of this VM already: where nodes share a disk_dir, leave `with_disks` off; it \
                 is never overwritten"
                    .to_owned(),
            );
        }
        // The folder is made with the first disk.
        let exists = folder.ancestors().find(|path| path.exists());
        let exists = exists.unwrap_or(Path::new("/"));
        let found = statvfs(exists).map_err(|error| at(exists)(error.into()))?;
        let room = found.f_bavail.saturating_mul(found.f_frsize);
        if there > room {
            return refused(format!(
                "the disk takes {there} bytes, and the node has room for {room}: make room, or move the VM elsewhere"
            ));
        }
        Ok(())
    }

    /// Makes the disk of a VM that comes, all holes.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(in crate::node) fn make_arriving(&self, vm_id: &str, disk: &DiskFacts) -> Result<()> {
        self.make(vm_id, disk.size, None)?;
        let made = self
            .write_mark(&self.unfinished(vm_id)?, ARRIVING, &self.unfinished)
            .and_then(|()| self.finish(vm_id));
        if made.is_err() {
            self.drop_unfinished(vm_id)?;
        }
        made
    }

    /// The VM has come.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(in crate::node) fn keep_arriving(&self, vm_id: &str) -> Result<()> {
        remove_mark(&self.folder(vm_id)?, ARRIVING)
    }

    /// The VM does not come: removes what was made for it, and nothing else.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(in crate::node) fn drop_arriving(&self, vm_id: &str) -> Result<()> {
        match self.has_mark(&self.folder(vm_id)?, ARRIVING, &self.unfinished)? {
            true => self.remove(vm_id),
            false => Ok(()),
        }
    }

    /// The disk of a VM is about to be copied away by that migration; or `None`: by none.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(in crate::node) fn mark_leaving(&self, vm_id: &str, migration: Option<&str>) -> Result<()> {
        let folder = self.folder(vm_id)?;
        match migration {
            Some(migration) => self.write_mark(&folder, LEAVING, &self.leaving(migration)),
            None => remove_mark(&folder, LEAVING),
        }
    }

    /// The VM is gone by that migration: removes its disk, if that was what the migration copied.
    ///
    /// # Errors
    ///
    /// `io` naming the file.
    pub(in crate::node) fn drop_left(&self, vm_id: &str, migration: &str) -> Result<()> {
        if self.root.is_none() {
            return Ok(());
        }
        let text = self.leaving(migration);
        match self.has_mark(&self.folder(vm_id)?, LEAVING, &text)? {
            true => self.remove(vm_id),
            false => Ok(()),
        }
    }

    /// What a node that ended left in the middle of copying: a disk that came, or that went, is removed where its VM
    /// is not `here`.
    ///
    /// # Errors
    ///
    /// `io` where the folder cannot be read, or a rest not removed.
    pub(in crate::node) fn sweep(&self, here: impl Fn(&str) -> bool) -> Result<()> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        let entries = match std::fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(at(root))?,
        };
        for entry in entries {
            let path = entry.map_err(at(root))?.path();
            let Some(vm_id) = path.file_name().and_then(OsStr::to_str) else {
                continue;
            };
            let came = self.has_mark(&path, ARRIVING, &self.unfinished)?;
            let goes = self.has_mark(&path, LEAVING, &self.leaving(""))?;
            match here(vm_id) {
                // What leaves is settled with its migration.
                true if came => self.keep_arriving(vm_id)?,
                false if came || goes => self.remove(vm_id)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn remove(&self, vm_id: &str) -> Result<()> {
        self.begin_remove(vm_id)?;
        self.drop_unfinished(vm_id)
    }

    /// Names this node too: others may share the folder.
    fn leaving(&self, migration: &str) -> String {
        format!("{}{migration}", self.unfinished)
    }

    fn write_mark(&self, folder: &Path, mark: &str, text: &str) -> Result<()> {
        let path = folder.join(mark);
        let mut file = create(&path)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(at(&path))?;
        sync(folder)
    }

    /// Whether a folder has that mark, and it begins like that.
    fn has_mark(&self, folder: &Path, mark: &str, text: &str) -> Result<bool> {
        let path = folder.join(mark);
        match std::fs::read_to_string(&path) {
            Ok(found) => Ok(found.starts_with(text)),
            Err(error)
                if matches!(
                    error.kind(),
                    // What this node may not read is another's, where the folder is shared.
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::PermissionDenied
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(at(&path)(error)),
        }
    }
}

fn remove_mark(folder: &Path, mark: &str) -> Result<()> {
    let path = folder.join(mark);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(&path)(error)),
        Ok(()) => File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(at(folder)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn open(root: &Path, node: &str, vms: &[&str]) -> Disks {
        let vms: BTreeSet<String> = vms.iter().map(|&vm| vm.to_owned()).collect();
        Disks::open(Some(root.to_owned()), node, &vms).unwrap()
    }

    fn facts() -> DiskFacts {
        DiskFacts {
            id: "theirs".into(),
            size: 1 << 20,
        }
    }

    fn left(root: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(root).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_disk_that_came_stays_and_one_that_did_not_is_removed() {
        let all = tempfile::tempdir().unwrap();
        let disks = open(all.path(), "me", &[]);
        disks.check_room("vm", 4096).unwrap();
        disks.make_arriving("vm", &facts()).unwrap();
        assert_ne!(disks.facts("vm").unwrap().id, "theirs", "it is another");
        let error = disks.check_room("vm", 4096).unwrap_err().to_string();
        assert!(error.contains("leave `with_disks` off"), "{error}");
        disks.drop_arriving("vm").unwrap();
        assert!(left(all.path()).is_empty());
        disks.make_arriving("vm", &facts()).unwrap();
        disks.keep_arriving("vm").unwrap();
        disks.drop_arriving("vm").unwrap();
        assert_eq!(left(all.path()), ["vm"], "it is no longer arriving");
        let error = disks.check_room("other", u64::MAX).unwrap_err().to_string();
        assert!(error.contains("make room"), "{error}");
    }

    #[test]
    fn a_disk_goes_only_with_the_migration_that_copied_it() {
        let all = tempfile::tempdir().unwrap();
        let disks = open(all.path(), "me", &[]);
        disks.make("vm", 4096, None).unwrap();
        disks.finish("vm").unwrap();
        disks.drop_left("vm", "first").unwrap();
        disks.mark_leaving("vm", Some("first")).unwrap();
        disks.drop_left("vm", "second").unwrap();
        disks.mark_leaving("vm", None).unwrap();
        disks.drop_left("vm", "first").unwrap();
        assert_eq!(left(all.path()), ["vm"]);
        disks.mark_leaving("vm", Some("second")).unwrap();
        disks.drop_left("vm", "second").unwrap();
        assert!(left(all.path()).is_empty());
    }

    #[test]
    fn what_a_node_that_ended_left_goes_with_its_vm() {
        let all = tempfile::tempdir().unwrap();
        let disks = open(all.path(), "me", &[]);
        for vm in ["came", "did-not-come"] {
            disks.make_arriving(vm, &facts()).unwrap();
        }
        for vm in ["goes", "gone", "plain"] {
            disks.make(vm, 4096, None).unwrap();
            disks.finish(vm).unwrap();
        }
        disks.mark_leaving("goes", Some("one")).unwrap();
        disks.mark_leaving("gone", Some("two")).unwrap();
        let theirs = open(all.path(), "you", &[]);
        theirs.make_arriving("theirs", &facts()).unwrap();
        // Made, and not finished.
        disks.make("half", 4096, None).unwrap();
        let disks = open(all.path(), "me", &["came", "did-not-come", "goes"]);
        let here = |vm: &str| ["came", "goes"].contains(&vm);
        disks.sweep(here).unwrap();
        assert_eq!(left(all.path()), ["came", "goes", "plain", "theirs"]);
        assert!(!all.path().join("came").join(ARRIVING).exists());
        disks.drop_left("goes", "one").unwrap();
        assert_eq!(left(all.path()), ["came", "plain", "theirs"]);
    }
}

//! Who may write a disk: one node at a time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{DWCPError, Result};

/// How long after a refusal the lock is tried again. There is nothing to wait on: a lock that is given up
/// tells nobody.
const AGAIN: Duration = Duration::from_millis(2);

/// An exclusive lock on a file beside a disk, given up when dropped, or with the process.
///
/// It is on an open file of its own, which is never passed on: such a lock belongs to the open file and
/// not to the process (`flock(2)`), so that two nodes in one process exclude each other as well, and a disk
/// that is handed over by its descriptor takes no lock along. It is on another file than the disk, so that
/// a disk can be replaced while it is held.
#[derive(Debug)]
pub(crate) struct DiskLock {
    file: File,
    path: PathBuf,
}

impl DiskLock {
    /// Takes the lock, waiting no longer than `patience` for whoever has it.
    ///
    /// # Errors
    ///
    /// `unavailable` when somebody else had it all the time, `io` naming the file.
    pub(crate) fn take(path: &Path, patience: Duration) -> Result<DiskLock> {
        let failed =
            |error: &dyn std::fmt::Display| DWCPError::Io(format!("{}: {error}", path.display()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(&error))?;
        let deadline = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let path = path.to_owned();
                    return Ok(DiskLock { file, path });
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(AGAIN),
                Err(Errno::WOULDBLOCK) => {
                    return Err(DWCPError::Unavailable(format!(
                        "{}: another node, or process, has the disk",
                        path.display()
                    )));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
    }
}

impl Drop for DiskLock {
    fn drop(&mut self) {
        // Closing gives it up as well, unless a child process was forked meanwhile and still has it open.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(path = %self.path.display(), %error, "a disk's lock");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_it_in_one_process_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = DiskLock::take(&path, Duration::ZERO).unwrap();
        let error = DiskLock::take(&path, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, DWCPError::Unavailable(_)), "{error}");
        drop(first);
        DiskLock::take(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn whoever_waits_gets_it_when_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = DiskLock::take(&path, Duration::ZERO).unwrap();
        let waits = {
            let path = path.clone();
            std::thread::spawn(move || DiskLock::take(&path, Duration::from_secs(60)))
        };
        drop(first);
        waits.join().unwrap().unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = DiskLock::take(Path::new("/no/such/lock"), Duration::ZERO).unwrap_err();
        assert!(error.message().starts_with("/no/such/lock: "), "{error}");
    }
}

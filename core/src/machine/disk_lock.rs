//! A disk belongs to one VM at a time: a lock on its file, which follows the VM.
//!
//! An open file description lock (`F_OFD_SETLK`, see fcntl(2)) on the whole file. It excludes other opens
//! in this process as well as in others, and other hosts where the file system is shared; it ends with the
//! process that holds it; and QEMU, which locks parts of its images in the same way, respects it. A lock of
//! flock(2) does not meet those. The descriptor is opened for the lock alone and is never passed on: the
//! lock would follow it.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{DWCPError, Result};

/// How long to wait before a lock that was taken is tried again. Locks change hands in a migration's
/// pause, where every millisecond is seen.
const AGAIN: Duration = Duration::from_millis(1);

/// The lock on a disk. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct DiskLock {
    path: PathBuf,
    file: File,
}

impl DiskLock {
    /// Takes the lock on the file of a disk: for one VM alone, or, of a disk that is only read, for any
    /// number of readers. Tries for `patience` while somebody else has it; blocks that long.
    ///
    /// # Errors
    ///
    /// `unavailable` when somebody else has it, saying who where the system knows; `internal` when the
    /// file cannot be opened or its file system knows no locks.
    pub(crate) fn acquire(path: &Path, read_only: bool, patience: Duration) -> Result<Self> {
        let failed = |error: io::Error| {
            DWCPError::Internal(format!("disk `{}`: lock: {error}", path.display()))
        };
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        let kind = match read_only {
            true => libc::F_RDLCK,
            false => libc::F_WRLCK,
        };
        let deadline = Instant::now() + patience;
        while !set(&file, kind).map_err(failed)? {
            if Instant::now() >= deadline {
                return Err(DWCPError::Unavailable(format!(
                    "disk `{}`: {}",
                    path.display(),
                    holder(&file, kind)
                )));
            }
            std::thread::sleep(AGAIN.min(patience));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// The file that is locked.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Releases it, and tells when that failed: dropping it cannot.
    ///
    /// # Errors
    ///
    /// `internal` with what the system says.
    pub(crate) fn release(self) -> Result<()> {
        match set(&self.file, libc::F_UNLCK) {
            Ok(_) => Ok(()),
            Err(error) => Err(DWCPError::Internal(format!(
                "disk `{}`: unlock: {error}",
                self.path.display()
            ))),
        }
    }
}

/// Sets or releases the lock; whether nobody stood in the way.
fn set(file: &File, kind: libc::c_int) -> io::Result<bool> {
    let mut lock = whole(kind);
    match control(file, libc::F_OFD_SETLK, &mut lock) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Who has a lock that stands in the way, in words.
fn holder(file: &File, kind: libc::c_int) -> String {
    let mut lock = whole(kind);
    let found = control(file, libc::F_OFD_GETLK, &mut lock);
    match lock.l_pid {
        process if found.is_ok() && process > 0 => format!("process {process} has it locked"),
        // Locks like ours belong to a descriptor and not to a process; those of other hosts to nobody
        // that is known here.
        _ => "another VM, or another program or host, has it locked".into(),
    }
}

/// A lock of that kind on a whole file, however long it gets.
fn whole(kind: libc::c_int) -> libc::flock {
    // SAFETY: flock is a plain C struct, for which all zeros is valid: from the start, to the end, no
    // process, which these locks demand.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    // The constants are 0 to 2, in a type wider than the field.
    #[allow(clippy::cast_possible_truncation)]
    {
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
    }
    lock
}

fn control(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: both commands that are used read a flock and may write it; `lock` is one, and borrowed for
    // the call. The descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn disk() -> tempfile::NamedTempFile {
        tempfile::NamedTempFile::new().unwrap()
    }

    fn acquire(disk: &tempfile::NamedTempFile, read_only: bool) -> Result<DiskLock> {
        DiskLock::acquire(disk.path(), read_only, NOW)
    }

    #[test]
    fn one_writer_or_any_number_of_readers() {
        let disk = disk();
        let writer = acquire(&disk, false).unwrap();
        assert_eq!(writer.path(), disk.path());
        for read_only in [false, true] {
            let error = acquire(&disk, read_only).unwrap_err();
            assert!(matches!(&error, DWCPError::Unavailable(_)), "{error}");
            assert!(error.to_string().contains("has it locked"), "{error}");
        }
        writer.release().unwrap();
        let readers = [acquire(&disk, true).unwrap(), acquire(&disk, true).unwrap()];
        assert!(acquire(&disk, false).is_err());
        drop(readers);
        acquire(&disk, false).unwrap();
    }

    #[test]
    fn opening_and_closing_the_file_elsewhere_keeps_the_lock() {
        // A classic lock of fcntl would end with the first descriptor that the process closes.
        let disk = disk();
        let _lock = acquire(&disk, false).unwrap();
        drop(File::open(disk.path()).unwrap());
        assert!(acquire(&disk, false).is_err());
    }

    #[test]
    fn a_lock_that_is_released_in_time_is_taken() {
        let disk = disk();
        let held = acquire(&disk, false).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope
                .spawn(|| DiskLock::acquire(disk.path(), false, Duration::from_secs(60)).unwrap());
            held.release().unwrap();
            waiter.join().unwrap();
        });
    }

    #[test]
    fn a_file_that_is_not_there_is_said() {
        let error = DiskLock::acquire(Path::new("/nowhere/disk.raw"), true, NOW).unwrap_err();
        assert!(error.to_string().contains("/nowhere/disk.raw"), "{error}");
    }

    /// Runs this test again in a process of its own, where it locks and waits.
    #[test]
    fn another_process_is_excluded_and_a_classic_lock_is_told() {
        const WHAT: &str = "DWCP_TEST_DISK_LOCK";
        if let Ok(what) = std::env::var(WHAT) {
            let (kind, path) = what.split_once(' ').unwrap();
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let command = match kind {
                "classic" => libc::F_SETLK,
                _ => libc::F_OFD_SETLK,
            };
            control(&file, command, &mut whole(libc::F_WRLCK)).unwrap();
            println!("locked");
            std::io::stdin().read_line(&mut String::new()).unwrap();
            return;
        }
        for kind in ["classic", "ofd"] {
            let disk = disk();
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("machine::disk_lock::tests::another_process_is_excluded_and_a_classic_lock_is_told")
                .env(WHAT, format!("{kind} {}", disk.path().display()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(output.any(|line| line.unwrap().contains("locked")));
            let error = acquire(&disk, false).unwrap_err().to_string();
            let wanted = match kind {
                "classic" => format!("process {} has it locked", child.id()),
                _ => "another VM, or another program or host, has it locked".into(),
            };
            assert!(error.contains(&wanted), "{error}");
            child.stdin.take().unwrap().write_all(b"\n").unwrap();
            assert!(child.wait().unwrap().success());
            acquire(&disk, false).unwrap();
        }
    }
}

//! Which CPUs of the host a vCPU's thread runs on.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use crate::error::{DWCPError, Result};
use crate::model::limits::HOST_CPUS_MAX;

/// A set of host CPUs with room for all that Linux can number; `cpu_set_t` ends at 1,024.
type CpuSet = [u64; (HOST_CPUS_MAX / 64) as usize];

/// Checks that this process may use the host CPUs of a pinning.
///
/// # Errors
///
/// `invalid_config` naming the first that it may not use, and those that it may.
pub(crate) fn check_pinning(pinning: &[u32]) -> Result<()> {
    if pinning.is_empty() {
        return Ok(());
    }
    let usable = usable()
        .map_err(|error| DWCPError::Internal(format!("the host CPUs of this process: {error}")))?;
    match pinning.iter().find(|cpu| !usable.contains(cpu)) {
        None => Ok(()),
        Some(cpu) => Err(DWCPError::Config(format!(
            "cpu_pinning: this node may not use host CPU {cpu}, only {}",
            ranges(&usable)
        ))),
    }
}

/// The host CPUs that this process may use, in order: those of its first thread, as `taskset` and
/// control groups set them, whatever the thread that asks was bound to.
fn usable() -> io::Result<Vec<u32>> {
    let mut set: CpuSet = [0; _];
    // SAFETY: the kernel writes at most the `size_of` bytes that `set` has, which is aligned for
    // `cpu_set_t`; the number of the process is that of its first thread.
    let status = unsafe {
        libc::sched_getaffinity(libc::getpid(), size_of::<CpuSet>(), set.as_mut_ptr().cast())
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let has = |cpu: &u32| set[(cpu / 64) as usize] >> (cpu % 64) & 1 == 1;
    Ok((0..HOST_CPUS_MAX).filter(has).collect())
}

/// Lets a thread run on this host CPU only.
pub(super) fn pin<T>(thread: &JoinHandle<T>, cpu: u32) -> Result<()> {
    let mut set: CpuSet = [0; _];
    let Some(word) = set.get_mut((cpu / 64) as usize) else {
        return Err(DWCPError::Config(format!(
            "cpu_pinning: must be below {HOST_CPUS_MAX}, not {cpu}"
        )));
    };
    *word = 1 << (cpu % 64);
    // SAFETY: the thread has not been joined, so its handle is valid; the kernel reads the `size_of`
    // bytes that `set` has.
    let status = unsafe {
        libc::pthread_setaffinity_np(
            thread.as_pthread_t(),
            size_of::<CpuSet>(),
            set.as_ptr().cast(),
        )
    };
    match status {
        0 => Ok(()),
        error => Err(DWCPError::Config(format!(
            "cpu_pinning: host CPU {cpu} cannot be used: {}",
            io::Error::from_raw_os_error(error)
        ))),
    }
}

/// `0-3, 6`: sorted numbers, for messages.
fn ranges(sorted: &[u32]) -> String {
    let runs = sorted.chunk_by(|one, next| one + 1 == *next);
    let runs = runs.filter_map(|run| match run {
        [only] => Some(only.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
        [] => None,
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cpu_that_may_not_be_used_is_named_with_those_that_may() {
        let usable = usable().unwrap();
        assert_eq!(check_pinning(&usable), Ok(()));
        assert_eq!(check_pinning(&[]), Ok(()));
        let not = (0..).find(|cpu| !usable.contains(cpu)).unwrap();
        assert_eq!(
            check_pinning(&[usable[0], not, not + 1]),
            Err(DWCPError::Config(format!(
                "cpu_pinning: this node may not use host CPU {not}, only {}",
                ranges(&usable)
            )))
        );
    }

    #[test]
    fn numbers_are_told_as_ranges() {
        assert_eq!(ranges(&[0]), "0");
        assert_eq!(ranges(&[0, 1, 2, 3, 6, 8, 9]), "0-3, 6, 8-9");
    }

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let cpu = *usable().unwrap().last().unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            wait.recv().unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
            line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
        });
        pin(&thread, cpu).unwrap();
        let error = pin(&thread, HOST_CPUS_MAX - 1).unwrap_err().to_string();
        assert!(error.contains("host CPU 8191 cannot be used"), "{error}");
        assert!(pin(&thread, u32::MAX).is_err());
        go.send(()).unwrap();
        assert_eq!(thread.join().unwrap(), cpu.to_string());
    }
}

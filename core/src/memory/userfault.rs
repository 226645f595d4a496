//! userfaultfd: the kernel tells this process of a page that somebody needs, and lets whoever needs it wait.
//!
//! The calls that late memory takes, and no others. Numbers and structures: Linux
//! `include/uapi/linux/userfaultfd.h`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};

use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iowr_nr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const UFFDIO: u32 = 0xaa;
const UFFD_API: u64 = 0xaa;
/// Faults on pages of a memfd that it does not have.
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// Faults on pages that it has and the mapping has not.
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const MODE_MISSING: u64 = 1 << 0;
const MODE_MINOR: u64 = 1 << 2;
const EVENT_PAGEFAULT: u8 = 0x12;

/// Faults read in one call.
const FAULTS: usize = 64;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

/// Of `UFFDIO_CONTINUE` and `UFFDIO_ZEROPAGE`, which look alike.
#[repr(C)]
struct Resolve {
    range: Range,
    mode: u64,
    /// Bytes that were mapped, or an error below zero.
    done: i64,
}

/// `struct uffd_msg` of a page fault.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

ioctl_iowr_nr!(UFFDIO_API, UFFDIO, 0x3f, Api);
ioctl_iowr_nr!(UFFDIO_REGISTER, UFFDIO, 0x00, Register);
ioctl_ior_nr!(UFFDIO_UNREGISTER, UFFDIO, 0x01, Range);
ioctl_ior_nr!(UFFDIO_WAKE, UFFDIO, 0x02, Range);
ioctl_iowr_nr!(UFFDIO_ZEROPAGE, UFFDIO, 0x04, Resolve);
ioctl_iowr_nr!(UFFDIO_CONTINUE, UFFDIO, 0x07, Resolve);
// Of /dev/userfaultfd.
ioctl_io_nr!(USERFAULTFD_IOC_NEW, UFFDIO, 0x00);

/// A userfaultfd whose faults are those of shared memory: on pages that are missing, and on pages that are
/// there and not mapped. Closing it lets everybody go who waits.
#[derive(Debug)]
pub(super) struct Userfault {
    file: File,
}

impl Userfault {
    /// # Errors
    ///
    /// `PermissionDenied` where this process may not have one that also serves the kernel's own accesses, which
    /// KVM's are; `Unsupported` before Linux 5.14.
    pub(super) fn open() -> io::Result<Self> {
        let file = match by_call() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                by_device().map_err(|_| error)?
            }
            opened => opened?,
        };
        let mut api = Api {
            api: UFFD_API,
            features: FEATURE_MISSING_SHMEM | FEATURE_MINOR_SHMEM,
            ioctls: 0,
        };
        // SAFETY: `api` is the structure of this call, borrowed for it; the kernel writes no more than that.
        match check(unsafe { ioctl_with_mut_ref(&file, UFFDIO_API(), &mut api) }) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                Err(io::ErrorKind::Unsupported.into())
            }
            other => other.map(|()| Self { file }),
        }
    }

    /// From now on an access to a page of the range that is not mapped waits until it is resolved.
    ///
    /// The range has to be a mapping of shared memory of this process; who makes it so has to see to it that
    /// its faults are resolved.
    pub(super) fn register(&self, start: u64, len: u64) -> io::Result<()> {
        let mut register = Register {
            range: Range { start, len },
            mode: MODE_MISSING | MODE_MINOR,
            ioctls: 0,
        };
        // SAFETY: `register` is the structure of this call, borrowed for it. No memory is changed by it.
        check(unsafe { ioctl_with_mut_ref(&self.file, UFFDIO_REGISTER(), &mut register) })
    }

    /// Nobody waits for a page of the range any more.
    pub(super) fn unregister(&self, start: u64, len: u64) -> io::Result<()> {
        let range = Range { start, len };
        // SAFETY: `range` is the structure of this call, which only reads it. No memory is changed by it.
        check(unsafe { ioctl_with_ref(&self.file, UFFDIO_UNREGISTER(), &range) })
    }

    /// Maps the pages of a range that the memfd has, and lets go who waits for them. Those that are mapped
    /// already stay as they are.
    ///
    /// # Errors
    ///
    /// `NotFound` at the first page that the memfd has not.
    pub(super) fn map(&self, start: u64, len: u64) -> io::Result<()> {
        let end = start + len;
        let mut at = start;
        while at < end {
            at += self.resolve(UFFDIO_CONTINUE(), at, end - at)?;
        }
        Ok(())
    }

    /// The same for one page that the memfd has not: it gets one of zeros.
    pub(super) fn map_zero(&self, start: u64, page: u64) -> io::Result<()> {
        self.resolve(UFFDIO_ZEROPAGE(), start, page).map(drop)
    }

    /// Bytes that are done with, which is at least a page.
    fn resolve(&self, call: libc::c_ulong, start: u64, len: u64) -> io::Result<u64> {
        let mut resolve = Resolve {
            range: Range { start, len },
            mode: 0,
            done: 0,
        };
        // SAFETY: `resolve` is the structure of either call, borrowed for it. What is mapped is what the
        // memfd has, or zeros where it has nothing: no contents of this process change.
        let status = check(unsafe { ioctl_with_mut_ref(&self.file, call, &mut resolve) });
        match (status, u64::try_from(resolve.done)) {
            (_, Ok(done)) if done > 0 => Ok(done),
            (Err(e), _) if e.raw_os_error() == Some(libc::EEXIST) => {
                // Somebody else did; whoever came between the two is let go.
                let page = super::PAGE_SIZE.min(len);
                let range = Range { start, len: page };
                // SAFETY: `range` is the structure of this call, which only reads it.
                check(unsafe { ioctl_with_ref(&self.file, UFFDIO_WAKE(), &range) })?;
                Ok(page)
            }
            (Err(e), _) if e.raw_os_error() == Some(libc::EFAULT) => {
                Err(io::ErrorKind::NotFound.into())
            }
            // The address space is being changed by another thread.
            (Err(e), _) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(0),
            (Err(e), _) => Err(e),
            (Ok(()), _) => Ok(len),
        }
    }

    /// The addresses of faults that nobody has read yet, some of them; none when there are none. Does not wait.
    pub(super) fn read(&self, addresses: &mut Vec<u64>) -> io::Result<()> {
        let mut messages = [Message {
            event: 0,
            reserved: [0; 7],
            flags: 0,
            address: 0,
            thread: 0,
        }; FAULTS];
        let read = match (&self.file).read(messages.as_mut_bytes()) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            read => read?,
        };
        let whole = &messages[..read / size_of::<Message>()];
        let faults = whole.iter().filter(|m| m.event == EVENT_PAGEFAULT);
        addresses.extend(faults.map(|m| m.address));
        Ok(())
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn by_call() -> io::Result<File> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes flags and no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    owned(libc::c_int::try_from(fd).unwrap_or(-1))
}

/// Where the administrator lets others than root have one.
fn by_device() -> io::Result<File> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")?;
    // SAFETY: the call takes flags in place of a pointer.
    let fd = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            USERFAULTFD_IOC_NEW(),
            libc::O_CLOEXEC | libc::O_NONBLOCK,
        )
    };
    owned(fd)
}

fn owned(fd: libc::c_int) -> io::Result<File> {
    check(fd)?;
    // SAFETY: the call above made it, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

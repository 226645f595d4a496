//! KVM calls that `kvm-ioctls` does not have. Numbers and structures: Linux `include/uapi/linux/kvm.h`.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_device_attr, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
    kvm_dtable, kvm_segment, kvm_sregs2,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
// Encoded with the size of the header alone, which ends before the signal set.
ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, u32);
ioctl_ior_nr!(KVM_GET_SREGS2, KVMIO, 0xcc, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_SREGS2, KVMIO, 0xcd, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Reads the dirty log of a slot that has at most `words.len() * 64` pages.
pub(super) fn get_dirty_log(vm: &VmFd, slot: u32, words: &mut [u64]) -> io::Result<()> {
    let log = kvm_dirty_log {
        slot,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
            dirty_bitmap: words.as_mut_ptr().cast(),
        },
    };
    // SAFETY: `log` is the structure this call takes. KVM writes one bit a page of the slot, rounded
    // up to 64: the caller's slice holds that, and is borrowed mutably for the call.
    check(unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) })
}

/// Clears in the log the pages whose bits are set in `words`; see `DirtyLog::clear`.
pub(super) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    first_page: u64,
    num_pages: u32,
    words: &[u64],
) -> io::Result<()> {
    debug_assert!(words.len() as u64 * 64 >= u64::from(num_pages));
    let log = kvm_clear_dirty_log {
        slot,
        num_pages,
        first_page,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: words.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: `log` is the structure this call takes. KVM reads `num_pages` bits, rounded up to 64,
    // which `words` holds, and writes none of them.
    check(unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &log) })
}

/// Sets the mask of blocked signals that holds inside `KVM_RUN`. Bit n-1 stands for signal n.
pub(super) fn set_signal_mask(vcpu: &VcpuFd, blocked: u64) -> io::Result<()> {
    /// `struct kvm_signal_mask` with the kernel's 8-byte `sigset_t`.
    #[repr(C, packed)]
    struct SignalMask {
        len: u32,
        set: u64,
    }
    let mask = SignalMask {
        len: 8,
        set: blocked,
    };
    // SAFETY: KVM reads `len` and then `len` bytes, all within `mask`.
    check(unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) })
}

/// `struct kvm_sregs2`, in a form that can be saved as bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, IntoBytes, Immutable)]
pub(super) struct Sregs2 {
    /// cs, ds, es, fs, gs, ss, tr, ldt
    pub(super) segments: [kvm_segment; 8],
    /// gdt, idt
    pub(super) tables: [kvm_dtable; 2],
    pub(super) cr0: u64,
    pub(super) cr2: u64,
    pub(super) cr3: u64,
    pub(super) cr4: u64,
    pub(super) cr8: u64,
    pub(super) efer: u64,
    pub(super) apic_base: u64,
    pub(super) flags: u64,
    pub(super) pdptrs: [u64; 4],
}

const _: () = assert!(size_of::<Sregs2>() == size_of::<kvm_sregs2>());

pub(super) fn get_sregs2(vcpu: &VcpuFd) -> io::Result<Sregs2> {
    let mut sregs = Sregs2::default();
    // SAFETY: `Sregs2` has the layout of `kvm_sregs2`, which KVM fills in.
    check(unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_SREGS2(), &mut sregs) })?;
    Ok(sregs)
}

pub(super) fn set_sregs2(vcpu: &VcpuFd, sregs: &Sregs2) -> io::Result<()> {
    // SAFETY: `Sregs2` has the layout of `kvm_sregs2`, which KVM reads.
    check(unsafe { ioctl_with_ref(vcpu, KVM_SET_SREGS2(), sregs) })
}

/// What the guest's TSC is ahead of the host's, scaled, (modulo 2^64), where KVM says so.
pub(super) fn get_tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0u64;
    let attr = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw mut offset) as u64,
    };
    // SAFETY: KVM writes eight bytes at `attr.addr`, which is `offset`, and nobody else uses it meanwhile.
    check(unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attr) })?;
    Ok(offset)
}

/// Sets what the guest's TSC is ahead of the host's (modulo 2^64), where KVM lets it be set.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> io::Result<()> {
    let attr = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw const offset) as u64,
    };
    // SAFETY: KVM reads eight bytes at `attr.addr`, which is `offset`.
    check(unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attr) })
}

/// A mapping of a vCPU's `kvm_run`.
pub(super) fn map_run(vcpu: &VcpuFd, size: usize) -> io::Result<*mut kvm_bindings::kvm_run> {
    // SAFETY: a new shared mapping of the vCPU's descriptor, at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            vcpu.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(address.cast())
}

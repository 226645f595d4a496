//! A VM as KVM has it: memory slots, dirty log, interrupt controllers, clock.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use super::system::failed;
use super::{ioctl, state};
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Section, Vm};
use crate::memory::{DirtyLog, GuestRam};

pub(super) struct KvmVm {
    fd: Arc<VmFd>,
    /// The memory the slots point to; KVM must not outlive it.
    ram: Arc<GuestRam>,
    tsc_khz: u32,
}

impl KvmVm {
    pub(super) fn new(fd: Arc<VmFd>, ram: Arc<GuestRam>, tsc_khz: u32) -> Self {
        Self { fd, ram, tsc_khz }
    }
}

impl std::fmt::Debug for KvmVm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvmVm({})", self.fd.as_raw_fd())
    }
}

impl DirtyLog for KvmVm {
    fn set_logging(&self, on: bool) -> Result<()> {
        for slot in self.ram.slots() {
            let region = kvm_userspace_memory_region {
                slot: slot.index,
                guest_phys_addr: slot.gpa,
                memory_size: slot.size,
                userspace_addr: slot.host_address,
                flags: if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            };
            // SAFETY: the slot as it was created, over memory that `self.ram` keeps mapped; only its
            // flags change.
            unsafe { self.fd.set_user_memory_region(region) }
                .map_err(|e| failed("switching the dirty log", e))?;
        }
        Ok(())
    }

    fn read(&self, slot: u32, words: &mut [u64]) -> Result<()> {
        let Some(pages) = self.slot_pages(slot) else {
            return Err(DWCPError::Internal(format!("no memory slot {slot}")));
        };
        assert!(words.len() as u64 * 64 >= pages, "KVM writes a bit a page");
        ioctl::get_dirty_log(&self.fd, slot, words).map_err(|e| failed("KVM_GET_DIRTY_LOG", e))
    }

    fn clear(&self, slot: u32, first: u64, pages: u64, words: &[u64]) -> Result<()> {
        // The count is 32 bits wide: ranges come in chunks far smaller than that.
        let count = u32::try_from(pages).map_err(|e| failed("KVM_CLEAR_DIRTY_LOG", e))?;
        assert!(words.len() as u64 * 64 >= pages, "KVM reads a bit a page");
        ioctl::clear_dirty_log(&self.fd, slot, first, count, words)
            .map_err(|e| failed("KVM_CLEAR_DIRTY_LOG", e))
    }
}

impl KvmVm {
    fn slot_pages(&self, slot: u32) -> Option<u64> {
        let slot = self.ram.slots().find(|s| s.index == slot)?;
        Some(slot.pages().end - slot.pages().start)
    }
}

impl Vm for KvmVm {
    fn save(&self) -> Result<Vec<Section>> {
        state::save_vm(&self.fd)
    }

    fn load(&self, sections: &[Section]) -> Result<()> {
        state::load_vm(&self.fd, sections)
    }

    fn load_clock(&self, sections: &[Section]) -> Result<()> {
        state::load_clock(&self.fd, sections)
    }

    fn interrupt(&self, gsi: u32) -> Result<()> {
        self.fd
            .set_irq_line(gsi, true)
            .and_then(|()| self.fd.set_irq_line(gsi, false))
            .map_err(|e| failed("KVM_IRQ_LINE", e))
    }

    fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }
}

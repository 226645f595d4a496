//! The registers with which a vCPU begins.
//!
//! What a kernel expects of its processor besides those of its boot protocol is set as a BIOS
//! leaves it: memory types by default write-back, fast strings on, and the interrupt pins of the
//! first vCPU's local APIC wired.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, kvm_dtable, kvm_mp_state, kvm_regs,
    kvm_segment, kvm_sregs,
};
use kvm_ioctls::VcpuFd;

use super::state::{msr, set_msrs};
use super::system::failed;
use crate::error::Result;
use crate::hypervisor::Entry;

// Bits of control registers and EFER (Intel SDM volume 3A, 2.2.1 and 2.5).
const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

const RFLAGS_ALWAYS: u64 = 1 << 1;
const RFLAGS_IOPL_3: u64 = 3 << 12;

// Segment types (Intel SDM volume 3A, 3.4.5.1): code and data that have been accessed, and a task
// state in use, which every processor that runs guest code has to have.
const CODE: u8 = 11;
const DATA: u8 = 3;
const TASK_BUSY: u8 = 11;

/// IA32_MISC_ENABLE, and in it fast strings (Intel SDM volume 4, table 2-2).
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE: on, and memory that no range names is write-back (Intel SDM volume 3A, 12.11.2.1).
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
const WRITE_BACK: u64 = 1 << 11 | 6;

/// Local vector table of the local APIC: its pins LINT0 and LINT1 (Intel SDM volume 3A, 11.5.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Interrupts come from the 8259s, which a hardware-reduced platform does not have: nobody would initialise the
/// ones that KVM brings, and an edge of any line before or between kernels would be an interrupt of vector 0 to
/// 15, an exception to Linux. So it is masked, and a kernel that wants it unmasks it.
const DELIVERY_EXTERNAL_MASKED: u32 = 1 << 16 | 7 << 8;
/// Interrupts that are not to be masked.
const DELIVERY_NMI: u32 = 4 << 8;

/// Puts a vCPU at the entry of a guest.
pub(super) fn enter(fd: &VcpuFd, entry: &Entry) -> Result<()> {
    let mut sregs = fd.get_sregs().map_err(|e| failed("KVM_GET_SREGS", e))?;
    let regs = match *entry {
        Entry::User64 {
            entry,
            argument,
            page_table,
        } => {
            // Selectors point nowhere, for there is no descriptor table: nothing the guest does
            // loads a segment.
            set_segments(
                &mut sregs,
                segment(0x2b, CODE, 3, true),
                segment(0x33, DATA, 3, false),
            );
            sregs.gdt = kvm_dtable::default();
            sregs.idt = kvm_dtable::default();
            set_long_mode(&mut sregs, page_table);
            kvm_regs {
                rip: entry,
                rdi: argument,
                rflags: RFLAGS_IOPL_3 | RFLAGS_ALWAYS,
                ..Default::default()
            }
        }
        Entry::Kernel64 {
            entry,
            boot_params,
            stack,
            page_table,
            descriptors,
        } => {
            set_segments(
                &mut sregs,
                segment(0x10, CODE, 0, true),
                segment(0x18, DATA, 0, false),
            );
            sregs.gdt = kvm_dtable {
                base: descriptors,
                limit: 4 * 8 - 1,
                ..Default::default()
            };
            sregs.idt = kvm_dtable::default();
            set_long_mode(&mut sregs, page_table);
            as_a_bios_leaves_it(fd)?;
            wire_interrupt_pins(fd)?;
            kvm_regs {
                rip: entry,
                rsi: boot_params,
                rsp: stack,
                rbp: stack,
                rflags: RFLAGS_ALWAYS,
                ..Default::default()
            }
        }
        Entry::Pvh { entry, start_info } => {
            set_segments(
                &mut sregs,
                segment(0x10, CODE, 0, false),
                segment(0x18, DATA, 0, false),
            );
            sregs.tr = kvm_segment {
                limit: 0x67,
                type_: TASK_BUSY,
                present: 1,
                ..Default::default()
            };
            sregs.gdt = kvm_dtable::default();
            sregs.idt = kvm_dtable::default();
            (sregs.cr0, sregs.cr4, sregs.efer) = (CR0_PE | CR0_ET, 0, 0);
            as_a_bios_leaves_it(fd)?;
            wire_interrupt_pins(fd)?;
            kvm_regs {
                rip: u64::from(entry),
                rbx: start_info,
                rflags: RFLAGS_ALWAYS,
                ..Default::default()
            }
        }
        Entry::WaitForStartup => {
            as_a_bios_leaves_it(fd)?;
            return set_mp_state(fd, KVM_MP_STATE_UNINITIALIZED);
        }
    };
    fd.set_sregs(&sregs)
        .map_err(|e| failed("KVM_SET_SREGS", e))?;
    fd.set_regs(&regs).map_err(|e| failed("KVM_SET_REGS", e))?;
    // All but the first vCPU would wait for a start-up interrupt.
    set_mp_state(fd, KVM_MP_STATE_RUNNABLE)
}

/// A flat segment.
fn segment(selector: u16, kind: u8, ring: u8, long: bool) -> kvm_segment {
    kvm_segment {
        selector,
        base: 0,
        limit: 0xffff_ffff,
        type_: kind,
        present: 1,
        dpl: ring,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

fn set_segments(sregs: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
}

fn set_long_mode(sregs: &mut kvm_sregs, page_table: u64) {
    sregs.cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE;
    sregs.cr3 = page_table;
    sregs.cr4 = CR4_OSXMMEXCPT | CR4_OSFXSR | CR4_PAE;
    sregs.efer = EFER_NXE | EFER_LMA | EFER_LME;
}

fn set_mp_state(fd: &VcpuFd, mp_state: u32) -> Result<()> {
    fd.set_mp_state(kvm_mp_state { mp_state })
        .map_err(|e| failed("KVM_SET_MP_STATE", e))
}

fn as_a_bios_leaves_it(fd: &VcpuFd) -> Result<()> {
    let registers = [
        msr(MSR_MISC_ENABLE, FAST_STRINGS),
        msr(MSR_MTRR_DEFAULT, WRITE_BACK),
    ];
    set_msrs(fd, &registers)
}

fn wire_interrupt_pins(fd: &VcpuFd) -> Result<()> {
    let mut lapic = fd.get_lapic().map_err(|e| failed("KVM_GET_LAPIC", e))?;
    for (register, delivery) in [
        (LVT_LINT0, DELIVERY_EXTERNAL_MASKED),
        (LVT_LINT1, DELIVERY_NMI),
    ] {
        for (byte, value) in lapic.regs[register..]
            .iter_mut()
            .zip(delivery.to_le_bytes())
        {
            *byte = value.cast_signed();
        }
    }
    fd.set_lapic(&lapic).map_err(|e| failed("KVM_SET_LAPIC", e))
}

//! KVM's structures as saved sections, and back, in the order that KVM wants them.
//!
//! KVM's structures are saved as they are (they are kernel ABI and carry no pointers); `zerocopy`
//! proves that they have no padding and that every bit pattern is a value.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs,
    Xsave, kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::ioctl::{self, Sregs2};
use super::system::{HostLimits, failed};
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Kind, Reader, Section, Writer, sections_of};

// Registers that need a place of their own in the order. Names: Intel SDM volume 4, and Linux
// `arch/x86/include/uapi/asm/kvm_para.h`.
const MSR_TSC: u32 = 0x10;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Paravirtual clocks, asynchronous page faults, steal time, end of interrupt: setting one makes KVM
/// write to guest memory.
const MSRS_THAT_WRITE_MEMORY: [u32; 9] = [
    0x11,
    0x12,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d02,
    0x4b56_4d03,
    0x4b56_4d04,
    0x4b56_4d06,
    0x4b56_4d07,
];
/// Registers of one call: `KVM_MAX_MSR_ENTRIES` of the kernel.
const MSRS_PER_CALL: usize = 256;

/// What `load_vcpu` leaves for the moment at which the guest may run.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    msrs: Vec<kvm_msr_entry>,
    events: Option<kvm_vcpu_events>,
    tsc: Option<SavedTsc>,
}

/// A vCPU's time-stamp counter when it was saved.
#[derive(Clone, Copy, Debug)]
struct SavedTsc {
    khz: u32,
    /// The guest's counter, and the wall clock at that moment in nanoseconds since the epoch.
    value: u64,
    realtime: u64,
    deadline: u64,
}

fn bytes_of<T: IntoBytes + Immutable>(kind: Kind, instance: u32, value: &T) -> Section {
    Section::new(kind, instance, value.as_bytes())
}

fn value_of<T: FromBytes>(sections: &[Section], kind: Kind, instance: u32) -> Result<T> {
    let body = body_of(sections, kind, instance)?;
    T::read_from_bytes(body).map_err(|_| {
        refused(
            kind,
            instance,
            &format!("{} bytes, where {} belong", body.len(), size_of::<T>()),
        )
    })
}

fn body_of(sections: &[Section], kind: Kind, instance: u32) -> Result<&[u8]> {
    let mut found = sections_of(sections, kind, instance);
    match (found.next(), found.next()) {
        (Some(body), None) => Ok(body),
        (None, _) => Err(refused(kind, instance, "it is missing")),
        _ => Err(refused(kind, instance, "it is there twice")),
    }
}

fn refused(kind: Kind, instance: u32, why: &str) -> DWCPError {
    DWCPError::Migration(format!(
        "machine state refused: section {kind:?}[{instance}]: {why}"
    ))
}

/// Wall clock in nanoseconds since the epoch.
fn realtime_now() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

// ---- a vCPU ----

pub(super) fn save_vcpu(fd: &VcpuFd, index: u32, limits: &HostLimits) -> Result<Vec<Section>> {
    let mut out = Vec::with_capacity(12);
    // First, for reading it makes KVM settle pending INIT and SIPI.
    let mp_state = fd
        .get_mp_state()
        .map_err(|e| failed("KVM_GET_MP_STATE", e))?;
    out.push(bytes_of(Kind::MpState, index, &mp_state));
    let regs = fd.get_regs().map_err(|e| failed("KVM_GET_REGS", e))?;
    out.push(bytes_of(Kind::Regs, index, &regs));
    if limits.has_sregs2 {
        let sregs = ioctl::get_sregs2(fd).map_err(|e| failed("KVM_GET_SREGS2", e))?;
        out.push(bytes_of(Kind::Sregs, index, &sregs));
    } else {
        let sregs = fd.get_sregs().map_err(|e| failed("KVM_GET_SREGS", e))?;
        out.push(bytes_of(Kind::Sregs, index, &sregs));
    }
    out.push(save_xsave(fd, index, limits)?);
    if limits.has_xcrs {
        let xcrs = fd.get_xcrs().map_err(|e| failed("KVM_GET_XCRS", e))?;
        out.push(bytes_of(Kind::Xcrs, index, &xcrs));
    }
    if limits.has_debug_regs {
        let debug = fd
            .get_debug_regs()
            .map_err(|e| failed("KVM_GET_DEBUGREGS", e))?;
        out.push(bytes_of(Kind::DebugRegs, index, &debug));
    }
    let lapic = fd.get_lapic().map_err(|e| failed("KVM_GET_LAPIC", e))?;
    out.push(bytes_of(Kind::Lapic, index, &lapic));
    let msrs = get_msrs(fd, &limits.msrs)?;
    out.push(save_tsc(fd, index, &msrs, &lapic)?);
    out.push(save_msrs(index, &msrs));
    let events = fd
        .get_vcpu_events()
        .map_err(|e| failed("KVM_GET_VCPU_EVENTS", e))?;
    out.push(bytes_of(Kind::VcpuEvents, index, &events));
    Ok(out)
}

/// Loads all but what `resume_vcpu` sets.
pub(super) fn load_vcpu(
    fd: &VcpuFd,
    index: u32,
    limits: &HostLimits,
    sections: &[Section],
) -> Result<Deferred> {
    if limits.has_sregs2 && body_of(sections, Kind::Sregs, index)?.len() == size_of::<Sregs2>() {
        let sregs: Sregs2 = value_of(sections, Kind::Sregs, index)?;
        ioctl::set_sregs2(fd, &sregs).map_err(|e| failed("KVM_SET_SREGS2", e))?;
    } else {
        let sregs: kvm_sregs = value_of(sections, Kind::Sregs, index)?;
        fd.set_sregs(&sregs)
            .map_err(|e| failed("KVM_SET_SREGS", e))?;
    }
    let mp_state: kvm_mp_state = value_of(sections, Kind::MpState, index)?;
    fd.set_mp_state(mp_state)
        .map_err(|e| failed("KVM_SET_MP_STATE", e))?;
    let regs: kvm_regs = value_of(sections, Kind::Regs, index)?;
    fd.set_regs(&regs).map_err(|e| failed("KVM_SET_REGS", e))?;
    load_xsave(fd, index, limits, sections)?;
    if limits.has_xcrs {
        let xcrs: kvm_xcrs = value_of(sections, Kind::Xcrs, index)?;
        fd.set_xcrs(&xcrs).map_err(|e| failed("KVM_SET_XCRS", e))?;
    }
    if limits.has_debug_regs {
        let debug: kvm_debugregs = value_of(sections, Kind::DebugRegs, index)?;
        fd.set_debug_regs(&debug)
            .map_err(|e| failed("KVM_SET_DEBUGREGS", e))?;
    }
    let lapic: kvm_lapic_state = value_of(sections, Kind::Lapic, index)?;
    fd.set_lapic(&lapic)
        .map_err(|e| failed("KVM_SET_LAPIC", e))?;
    let msrs = load_msrs(sections, index)?;
    let (deferred, now): (Vec<_>, Vec<_>) = msrs
        .into_iter()
        .partition(|m| MSRS_THAT_WRITE_MEMORY.contains(&m.index));
    set_msrs(fd, &now)?;
    Ok(Deferred {
        msrs: deferred,
        events: Some(value_of(sections, Kind::VcpuEvents, index)?),
        tsc: Some(load_tsc(sections, index)?),
    })
}

/// Sets what was deferred; with nothing deferred, tells a guest that was paused that it was.
pub(super) fn resume_vcpu(fd: &VcpuFd, deferred: Deferred, offset: &TscOffset) -> Result<()> {
    if let Some(tsc) = deferred.tsc {
        set_tsc(fd, tsc, offset)?;
    }
    set_msrs(fd, &deferred.msrs)?;
    if let Some(tsc) = deferred.tsc
        && tsc.deadline != 0
    {
        set_msrs(fd, &[msr(MSR_TSC_DEADLINE, tsc.deadline)])?;
    }
    if let Some(events) = deferred.events {
        fd.set_vcpu_events(&events)
            .map_err(|e| failed("KVM_SET_VCPU_EVENTS", e))?;
    }
    match fd.kvmclock_ctrl() {
        // EINVAL: the guest uses no kvm-clock.
        Err(e) if e.errno() != libc::EINVAL => Err(failed("KVM_KVMCLOCK_CTRL", e)),
        _ => Ok(()),
    }
}

fn save_xsave(fd: &VcpuFd, index: u32, limits: &HostLimits) -> Result<Section> {
    let mut xsave = new_xsave(limits.xsave_size)?;
    if limits.xsave_size > size_of::<kvm_xsave>() {
        // SAFETY: `xsave` has room for the size that KVM_CAP_XSAVE2 gave for this host, and no
        // feature that would raise it is enabled afterwards.
        unsafe { fd.get_xsave2(&mut xsave) }.map_err(|e| failed("KVM_GET_XSAVE2", e))?;
    } else {
        // SAFETY: only the fixed part is replaced; the length of the variable part stays.
        unsafe { xsave.as_mut_fam_struct() }.xsave =
            fd.get_xsave().map_err(|e| failed("KVM_GET_XSAVE", e))?;
    }
    let mut body = xsave.as_fam_struct_ref().xsave.as_bytes().to_vec();
    body.extend_from_slice(xsave.as_slice().as_bytes());
    Ok(Section::new(Kind::Xsave, index, body))
}

fn load_xsave(fd: &VcpuFd, index: u32, limits: &HostLimits, sections: &[Section]) -> Result<()> {
    let body = body_of(sections, Kind::Xsave, index)?;
    let mut xsave = new_xsave(limits.xsave_size)?;
    let fixed = size_of::<kvm_xsave>();
    if body.len() != fixed + size_of_val(xsave.as_slice()) {
        return Err(refused(
            Kind::Xsave,
            index,
            "its size is not that of this host",
        ));
    }
    let (head, tail) = body.split_at(fixed);
    // SAFETY: only the fixed part is replaced; the length of the variable part stays.
    unsafe { xsave.as_mut_fam_struct() }.xsave = kvm_xsave::read_from_bytes(head)
        .map_err(|_| refused(Kind::Xsave, index, "its size is wrong"))?;
    xsave.as_mut_slice().as_mut_bytes().copy_from_slice(tail);
    // SAFETY: `xsave` has the size that KVM assumes on this host (KVM_CAP_XSAVE2).
    unsafe { fd.set_xsave2(&xsave) }.map_err(|e| failed("KVM_SET_XSAVE", e))
}

fn new_xsave(size: usize) -> Result<Xsave> {
    let extra = size.saturating_sub(size_of::<kvm_xsave>()).div_ceil(4);
    Xsave::new(extra).map_err(|e| failed("allocating XSAVE state", format!("{e:?}")))
}

// ---- model-specific registers ----

pub(super) fn msr(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

/// Reads the registers, leaving out those that cannot be read on this host.
fn get_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>> {
    let mut out = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let ask: Vec<_> = rest
            .iter()
            .take(MSRS_PER_CALL)
            .map(|&i| msr(i, 0))
            .collect();
        let mut msrs = msr_list(&ask)?;
        let read = fd
            .get_msrs(&mut msrs)
            .map_err(|e| failed("KVM_GET_MSRS", e))?;
        out.extend_from_slice(&msrs.as_slice()[..read]);
        // KVM stops at the first register that it cannot read: go on behind it.
        let done = if read < ask.len() { read + 1 } else { read };
        rest = &rest[done..];
    }
    Ok(out)
}

/// Writes the registers. One that KVM refuses is an error, unless it holds the value already.
pub(super) fn set_msrs(fd: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<()> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(MSRS_PER_CALL)];
        let set = fd
            .set_msrs(&msr_list(piece)?)
            .map_err(|e| failed("KVM_SET_MSRS", e))?;
        if set == piece.len() {
            rest = &rest[set..];
            continue;
        }
        let refused = piece[set];
        if get_msrs(fd, &[refused.index])?.first().map(|m| m.data) != Some(refused.data) {
            return Err(DWCPError::Migration(format!(
                "this host refuses register (MSR) {:#x} = {:#x}",
                refused.index, refused.data
            )));
        }
        rest = &rest[set + 1..];
    }
    Ok(())
}

fn msr_list(entries: &[kvm_msr_entry]) -> Result<Msrs> {
    Msrs::from_entries(entries).map_err(|e| failed("a list of MSRs", format!("{e:?}")))
}

fn save_msrs(index: u32, msrs: &[kvm_msr_entry]) -> Section {
    let mut out = Writer::default();
    for msr in msrs {
        if ![MSR_TSC, MSR_TSC_DEADLINE].contains(&msr.index) {
            out.u32(msr.index);
            out.u64(msr.data);
        }
    }
    Section::new(Kind::Msrs, index, out.0)
}

fn load_msrs(sections: &[Section], index: u32) -> Result<Vec<kvm_msr_entry>> {
    let body = body_of(sections, Kind::Msrs, index)?;
    let (entries, rest) = body.as_chunks::<12>();
    if !rest.is_empty() {
        return Err(refused(Kind::Msrs, index, "its length is wrong"));
    }
    entries
        .iter()
        .map(|entry| {
            let mut reader = Reader::new(entry);
            Ok(msr(reader.u32()?, reader.u64()?))
        })
        .collect()
}

// ---- time ----

/// LVT timer register of the local APIC, and in it the mode "TSC deadline" (Intel SDM 10.5.1).
const LVT_TIMER: usize = 0x320;
const TIMER_MODE: u8 = 0b110;
const TIMER_MODE_DEADLINE: u8 = 0b100;

fn save_tsc(
    fd: &VcpuFd,
    index: u32,
    msrs: &[kvm_msr_entry],
    lapic: &kvm_lapic_state,
) -> Result<Section> {
    let find = |index| msrs.iter().find(|m| m.index == index).map(|m| m.data);
    // Read once more, close to the wall clock it belongs to.
    let value = get_msrs(fd, &[MSR_TSC])?.first().map_or(0, |m| m.data);
    let realtime = realtime_now();
    let mut deadline = find(MSR_TSC_DEADLINE).unwrap_or(0);
    let mode = lapic.regs[LVT_TIMER + 2].cast_unsigned() & TIMER_MODE;
    if deadline == 0 && mode == TIMER_MODE_DEADLINE {
        // A timer that fired and was not delivered yet reads 0; it must fire again over there.
        deadline = value;
    }
    let mut out = Writer::default();
    out.u32(fd.get_tsc_khz().map_err(|e| failed("KVM_GET_TSC_KHZ", e))?);
    out.u64(value);
    out.u64(realtime);
    out.u64(deadline);
    Ok(Section::new(Kind::Tsc, index, out.0))
}

fn load_tsc(sections: &[Section], index: u32) -> Result<SavedTsc> {
    let tsc = |index| {
        let mut reader = Reader::new(body_of(sections, Kind::Tsc, index)?);
        let saved = SavedTsc {
            khz: reader.u32()?,
            value: reader.u64()?,
            realtime: reader.u64()?,
            deadline: reader.u64()?,
        };
        reader.finish()?;
        Ok::<_, DWCPError>(saved)
    };
    // Time is that of vCPU 0 for all of them: computed one by one, they would drift apart by what
    // passes between two computations.
    let (first, own) = (tsc(0)?, tsc(index)?);
    Ok(SavedTsc {
        deadline: own.deadline,
        ..first
    })
}

/// What the guest's counter is ahead of the host's, the same for all vCPUs of a VM: computed by each for
/// itself, it would differ by what passes between two readings of a clock.
#[derive(Debug, Default)]
pub(super) struct TscOffset(Mutex<Option<u64>>);

impl TscOffset {
    /// A state is loaded: the vCPU that resumes first computes it anew.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Advances the guest's counter by the wall time that passed since it was saved.
fn set_tsc(fd: &VcpuFd, saved: SavedTsc, shared: &TscOffset) -> Result<()> {
    let khz = fd.get_tsc_khz().map_err(|e| failed("KVM_GET_TSC_KHZ", e))?;
    if khz != saved.khz {
        // The fit check let this pass only where there is scaling.
        fd.set_tsc_khz(saved.khz)
            .map_err(|e| failed("KVM_SET_TSC_KHZ", e))?;
    }
    let mut shared = shared.lock();
    if let Some(offset) = *shared {
        return ioctl::set_tsc_offset(fd, offset).map_err(|e| failed("KVM_VCPU_TSC_OFFSET", e));
    }
    let counts = get_msrs(fd, &[MSR_TSC])?.first().map_or(0, |m| m.data);
    let passed = u128::from(realtime_now().saturating_sub(saved.realtime));
    let ticks = passed * u128::from(saved.khz) / 1_000_000;
    let value = saved
        .value
        .wrapping_add(u64::try_from(ticks).unwrap_or(u64::MAX));
    // From what it counts and what it should: right at every frequency, for KVM scales before it adds.
    if let Ok(present) = ioctl::get_tsc_offset(fd) {
        let offset = present.wrapping_add(value.wrapping_sub(counts));
        if ioctl::set_tsc_offset(fd, offset).is_ok() {
            *shared = Some(offset);
            return Ok(());
        }
    }
    set_msrs(fd, &[msr(MSR_TSC, value)])
}

/// Lets all vCPUs of a new VM count the same. KVM does so by itself only for those that it makes within
/// a second of each other.
pub(super) fn share_tsc_offset(first: &VcpuFd, other: &VcpuFd) -> Result<()> {
    match ioctl::get_tsc_offset(first) {
        Ok(offset) => {
            ioctl::set_tsc_offset(other, offset).map_err(|e| failed("KVM_VCPU_TSC_OFFSET", e))
        }
        // Older kernels have no such attribute.
        Err(_) => Ok(()),
    }
}

// ---- the VM ----

const IRQ_CHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

pub(super) fn save_vm(fd: &VmFd) -> Result<Vec<Section>> {
    let mut out = Vec::with_capacity(5);
    for chip_id in IRQ_CHIPS {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        fd.get_irqchip(&mut chip)
            .map_err(|e| failed("KVM_GET_IRQCHIP", e))?;
        out.push(bytes_of(Kind::IrqChip, chip_id, &chip));
    }
    let pit = fd.get_pit2().map_err(|e| failed("KVM_GET_PIT2", e))?;
    out.push(bytes_of(Kind::Pit, 0, &pit));
    let mut clock = fd.get_clock().map_err(|e| failed("KVM_GET_CLOCK", e))?;
    if clock.flags & KVM_CLOCK_REALTIME == 0 {
        // Older kernels, and VMs none of whose vCPUs ran yet: the pair made here is as good to
        // within the time between the two readings.
        clock.realtime = realtime_now();
    }
    out.push(bytes_of(Kind::Clock, 0, &clock));
    Ok(out)
}

pub(super) fn load_vm(fd: &VmFd, sections: &[Section]) -> Result<()> {
    for chip_id in IRQ_CHIPS {
        let chip: kvm_irqchip = value_of(sections, Kind::IrqChip, chip_id)?;
        if chip.chip_id != chip_id {
            return Err(refused(
                Kind::IrqChip,
                chip_id,
                "it belongs to another chip",
            ));
        }
        fd.set_irqchip(&chip)
            .map_err(|e| failed("KVM_SET_IRQCHIP", e))?;
    }
    let pit: kvm_pit_state2 = value_of(sections, Kind::Pit, 0)?;
    fd.set_pit2(&pit).map_err(|e| failed("KVM_SET_PIT2", e))
}

/// Sets the guest's clock to the saved one plus the wall time that passed since.
pub(super) fn load_clock(fd: &VmFd, sections: &[Section]) -> Result<()> {
    let saved: kvm_clock_data = value_of(sections, Kind::Clock, 0)?;
    let knows_realtime = fd.check_extension_int(Cap::AdjustClock).cast_unsigned();
    let clock = if knows_realtime & KVM_CLOCK_REALTIME != 0 {
        // KVM adds what passed, at the very moment at which it sets the clock.
        kvm_clock_data {
            clock: saved.clock,
            realtime: saved.realtime,
            flags: KVM_CLOCK_REALTIME,
            ..Default::default()
        }
    } else {
        let passed = realtime_now().saturating_sub(saved.realtime);
        kvm_clock_data {
            clock: saved.clock.saturating_add(passed),
            ..Default::default()
        }
    };
    fd.set_clock(&clock).map_err(|e| failed("KVM_SET_CLOCK", e))
}

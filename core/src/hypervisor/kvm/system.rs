//! `/dev/kvm`: what this host can do, and the making of VMs.

use std::ffi::c_ulong;
use std::ops::RangeInclusive;
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_PMU_CAPABILITY, KVM_CAP_SREGS2,
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MAX_CPUID_ENTRIES,
    KVM_PIT_SPEAKER_DUMMY, KVM_PMU_CAP_DISABLE, Msrs, kvm_enable_cap, kvm_msr_entry,
    kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, VmFd};

use super::vcpu::KvmVcpu;
use super::vm::KvmVm;
use super::{cpuid, state};
use crate::error::{DWCPError, Result};
use crate::hypervisor::{HostFacts, Hypervisor, NewVm, Vcpu};
use crate::memory::GuestRam;

/// Three pages that KVM needs on Intel processors, and one for the identity map: in the range that
/// the layout keeps free of RAM. Part of the saved format.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// What every VM relies on; without one of these a host is of no use.
const REQUIRED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
];

/// Registers of Hyper-V (Linux `include/hyperv/hvgdk.h`).
const HYPER_V_MSRS: RangeInclusive<u32> = 0x4000_0000..=0x4000_01ff;

/// What a vCPU needs to know of the host; the same for all of them.
#[derive(Debug)]
pub(super) struct HostLimits {
    /// Size of a vCPU's `kvm_run`.
    pub(super) run_size: usize,
    /// Bytes of a vCPU's extended state (KVM_CAP_XSAVE2); 4,096 where KVM does not say.
    pub(super) xsave_size: usize,
    pub(super) has_sregs2: bool,
    pub(super) has_debug_regs: bool,
    pub(super) has_xcrs: bool,
    /// Registers that a vCPU's state consists of.
    pub(super) msrs: Vec<u32>,
}

/// The KVM of this host.
#[derive(Debug)]
pub(crate) struct Kvm {
    kvm: kvm_ioctls::Kvm,
    facts: HostFacts,
    limits: Arc<HostLimits>,
}

impl Kvm {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    ///
    /// `unsupported` that says why VMs cannot run here, and what to do about it.
    pub(crate) fn open() -> Result<Self> {
        let kvm = kvm_ioctls::Kvm::new().map_err(|e| {
            DWCPError::Unsupported(format!(
                "cannot open /dev/kvm: {e}; virtual machines need KVM and access to it \
                 (see the group of /dev/kvm), or choose the simulated back end"
            ))
        })?;
        let version = kvm.get_api_version();
        if version != 12 {
            return Err(DWCPError::Unsupported(format!(
                "KVM API version {version}, where 12 is the only one known"
            )));
        }
        if let Some((_, name)) = REQUIRED.iter().find(|(c, _)| !kvm.check_extension(*c)) {
            return Err(DWCPError::Unsupported(format!(
                "this host's KVM lacks {name}"
            )));
        }
        let xsave_size = usize::try_from(kvm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let limits = HostLimits {
            run_size: kvm
                .get_vcpu_mmap_size()
                .map_err(|e| failed("vCPU mapping", e))?,
            xsave_size: xsave_size.max(4096),
            has_sregs2: kvm.check_extension_raw(c_ulong::from(KVM_CAP_SREGS2)) > 0,
            has_debug_regs: kvm.check_extension(Cap::Debugregs),
            has_xcrs: kvm.check_extension(Cap::Xcrs),
            msrs: state_msrs(&kvm)?,
        };
        let facts = host_facts(&kvm, limits.xsave_size)?;
        Ok(Self {
            kvm,
            facts,
            limits: Arc::new(limits),
        })
    }
}

impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn facts(&self) -> &HostFacts {
        &self.facts
    }

    fn create_vm(&self, ram: &Arc<GuestRam>, cpus: u32, guest: &HostFacts) -> Result<NewVm> {
        let fd = self
            .kvm
            .create_vm()
            .map_err(|e| failed("creating a VM", e))?;
        prepare(&fd)?;
        for slot in ram.slots() {
            let region = kvm_userspace_memory_region {
                slot: slot.index,
                guest_phys_addr: slot.gpa,
                memory_size: slot.size,
                userspace_addr: slot.host_address,
                flags: 0,
            };
            // SAFETY: the range is a part of `ram`, which `KvmVm` keeps mapped as long as the VM
            // exists; slots of one layout do not overlap.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(|e| failed("mapping guest memory", e))?;
        }
        let fd = Arc::new(fd);
        let mut fds = Vec::new();
        let mut tsc_khz = 0;
        for index in 0..cpus {
            let vcpu = fd
                .create_vcpu(u64::from(index))
                .map_err(|e| failed("creating a vCPU", e))?;
            let cpuid = cpuid::for_vcpu(&guest.cpuid, index, cpus)?;
            vcpu.set_cpuid2(&cpuid)
                .map_err(|e| failed("setting a vCPU's CPUID", e))?;
            tsc_khz = vcpu
                .get_tsc_khz()
                .map_err(|e| failed("the TSC's frequency", e))?;
            if let Some(first) = fds.first() {
                state::share_tsc_offset(first, &vcpu)?;
            }
            fds.push(vcpu);
        }
        let tsc_offset = Arc::new(state::TscOffset::default());
        let mut vcpus: Vec<Box<dyn Vcpu>> = Vec::new();
        for (index, vcpu) in (0..).zip(fds) {
            vcpus.push(Box::new(KvmVcpu::new(
                vcpu,
                Arc::clone(&fd),
                index,
                Arc::clone(&self.limits),
                Arc::clone(&tsc_offset),
            )?));
        }
        let vm = Arc::new(KvmVm::new(fd, Arc::clone(ram), tsc_khz));
        Ok(NewVm { vm, vcpus })
    }
}

/// What has to be set before vCPUs exist.
fn prepare(fd: &VmFd) -> Result<()> {
    fd.set_tss_address(TSS_ADDRESS)
        .map_err(|e| failed("KVM_SET_TSS_ADDR", e))?;
    fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
        .map_err(|e| failed("KVM_SET_IDENTITY_MAP_ADDR", e))?;
    fd.create_irq_chip()
        .map_err(|e| failed("KVM_CREATE_IRQCHIP", e))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    fd.create_pit2(pit)
        .map_err(|e| failed("KVM_CREATE_PIT2", e))?;
    disable_counters(fd);
    // Clearing by hand, so that a page is write-protected when we take it and not when the log is
    // read; and a log that starts full, so that starting it write-protects nothing at once.
    let has = fd.check_extension_raw(c_ulong::from(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
    if has as u32 & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE == 0 {
        return Err(DWCPError::Unsupported(
            "this host's KVM lacks KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (Linux 5.1)".into(),
        ));
    }
    let wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    let capability = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        args: [u64::from(has as u32 & wanted), 0, 0, 0],
        ..Default::default()
    };
    fd.enable_cap(&capability)
        .map_err(|e| failed("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", e))
}

/// Takes the performance counters away, which are those of one model of processor: guests are not told
/// of them, and some use them without being told. Older kernels cannot, and only lose the difference.
fn disable_counters(fd: &VmFd) {
    let has = fd.check_extension_raw(c_ulong::from(KVM_CAP_PMU_CAPABILITY));
    if has > 0 && has as u32 & KVM_PMU_CAP_DISABLE != 0 {
        let capability = kvm_enable_cap {
            cap: KVM_CAP_PMU_CAPABILITY,
            args: [u64::from(KVM_PMU_CAP_DISABLE), 0, 0, 0],
            ..Default::default()
        };
        if let Err(error) = fd.enable_cap(&capability) {
            tracing::debug!(%error, "performance counters stay on");
        }
    }
}

/// The registers to save: what KVM lists, less what cannot be read here.
fn state_msrs(kvm: &kvm_ioctls::Kvm) -> Result<Vec<u32>> {
    let list = kvm
        .get_msr_index_list()
        .map_err(|e| failed("the list of MSRs", e))?;
    let all = list.as_slice().iter().copied();
    // Guests are not told that we speak Hyper-V, so they never set one of its registers.
    Ok(all.filter(|index| !HYPER_V_MSRS.contains(index)).collect())
}

fn host_facts(kvm: &kvm_ioctls::Kvm, xsave_size: usize) -> Result<HostFacts> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| failed("KVM_GET_SUPPORTED_CPUID", e))?;
    let mut features = Vec::new();
    if let Ok(list) = kvm.get_msr_feature_index_list() {
        for &index in list.as_slice() {
            let entry = kvm_msr_entry {
                index,
                ..Default::default()
            };
            let mut msrs = Msrs::from_entries(&[entry])
                .map_err(|e| DWCPError::Internal(format!("a list of one MSR: {e:?}")))?;
            // One at a time: a register that this host lacks must not hide those behind it.
            if matches!(kvm.get_msrs(&mut msrs), Ok(1)) {
                features.push((index, msrs.as_slice()[0].data));
            }
        }
    }
    let (vm, tsc_khz) = (kvm.create_vm(), 0);
    let tsc_khz = vm
        .and_then(|vm| vm.create_vcpu(0))
        .and_then(|vcpu| vcpu.get_tsc_khz())
        .unwrap_or(tsc_khz);
    Ok(HostFacts {
        backend: "kvm".into(),
        cpuid: cpuid::offered(
            supported.as_slice(),
            kvm.check_extension(Cap::TscDeadlineTimer),
        ),
        feature_msrs: features,
        xsave_size: xsave_size as u64,
        tsc_khz,
        tsc_scaling: kvm.check_extension(Cap::TscControl),
    })
}

pub(super) fn failed(what: &str, cause: impl std::fmt::Display) -> DWCPError {
    DWCPError::Internal(format!("KVM: {what} failed: {cause}"))
}

//! What a guest sees of its processor.
//!
//! Everything comes from `KVM_GET_SUPPORTED_CPUID`, never from executing `cpuid` here: only KVM knows
//! what it can give to a guest.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::system::failed;
use crate::error::Result;
use crate::hypervisor::CpuidLeaf;

/// CPUID 8000_0007H:EDX[8], invariant TSC. A guest that sees it trusts the TSC for the time of day and
/// looks at no other clock, so it would miss what a migration tells it; QEMU hides it likewise.
const INVARIANT_TSC: u32 = 1 << 8;

/// CPUID 1:ECX[31], a hypervisor is there: without it guests do not look for KVM's own leaves, and so
/// for its clock. KVM leaves it to us to say.
const HYPERVISOR: u32 = 1 << 31;

/// CPUID 1:ECX[24], the local APIC's timer takes deadlines. KVM never reports it here, for it depends on
/// where the APIC is emulated: ours is in the kernel (Linux `Documentation/virt/kvm/api.rst`, 4.46).
const TSC_DEADLINE: u32 = 1 << 24;

/// The leaves that guests of this host get, from those KVM supports; `tsc_deadline` says whether it has
/// that timer.
pub(super) fn offered(supported: &[kvm_cpuid_entry2], tsc_deadline: bool) -> Vec<CpuidLeaf> {
    let ours = if tsc_deadline {
        HYPERVISOR | TSC_DEADLINE
    } else {
        HYPERVISOR
    };
    supported
        .iter()
        .map(|e| CpuidLeaf {
            function: e.function,
            index: (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(e.index),
            registers: match e.function {
                // The APIC number of whichever host CPU answered; each vCPU gets its own.
                1 => [e.eax, e.ebx & 0x00ff_ffff, e.ecx | ours, e.edx],
                0x8000_001e => [0, e.ebx, e.ecx, e.edx],
                0xb | 0x1f => [e.eax, e.ebx, e.ecx, 0],
                0x8000_0007 => [e.eax, e.ebx, e.ecx, e.edx & !INVARIANT_TSC],
                _ => [e.eax, e.ebx, e.ecx, e.edx],
            },
        })
        .collect()
}

/// The leaves for one vCPU.
pub(super) fn for_vcpu(leaves: &[CpuidLeaf], vcpu: u32) -> Result<CpuId> {
    let entries: Vec<_> = leaves
        .iter()
        .map(|leaf| {
            let [mut eax, mut ebx, ecx, mut edx] = leaf.registers;
            match leaf.function {
                1 => ebx |= vcpu << 24,
                0xb | 0x1f => edx = vcpu,
                0x8000_001e => eax = vcpu,
                _ => {}
            }
            kvm_cpuid_entry2 {
                function: leaf.function,
                index: leaf.index.unwrap_or(0),
                flags: if leaf.index.is_some() {
                    KVM_CPUID_FLAG_SIGNIFCANT_INDEX
                } else {
                    0
                },
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            }
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|e| failed("a CPUID table", format!("{e:?}")))
}

//! What a guest sees of its processor.
//!
//! Everything comes from `KVM_GET_SUPPORTED_CPUID`, never from executing `cpuid` here: only KVM knows
//! what it can give to a guest. Of that, guests are not offered what they would lose by moving to
//! another host, nor what the saved state has no place for.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::system::failed;
use crate::error::Result;
use crate::hypervisor::CpuidLeaf;

/// CPUID 8000_0007H:EDX[8], invariant TSC. A guest that sees it trusts the TSC for the time of day and
/// looks at no other clock, so it would miss what a migration tells it; QEMU hides it likewise.
const INVARIANT_TSC: u32 = 1 << 8;

/// CPUID 1:ECX: the deadline mode of the local APIC's timer. KVM says by a capability that it has it,
/// because that depends on who emulates the APIC: here KVM itself.
const TSC_DEADLINE: u32 = 1 << 24;
/// CPUID 1:ECX: a hypervisor is there, whose leaves begin at 4000_0000H.
const HYPERVISOR: u32 = 1 << 31;
/// CPUID 1:ECX: virtualization of Intel's kind. The state of nested guests is not saved.
const VMX: u32 = 1 << 5;
/// CPUID 8000_0001H:ECX: the same of AMD's kind.
const SVM: u32 = 1 << 2;
/// CPUID 1:ECX: what the performance counters can do. They are not offered, for they are those of one
/// model of processor.
const PDCM: u32 = 1 << 15;
/// CPUID 8000_0001H:ECX: AMD's counters of the core, of the north bridge, and of the last cache.
const AMD_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;
/// CPUID 1:EDX: EBX[23:16] says how many processors are in the package.
const MULTI_PROCESSOR: u32 = 1 << 28;

/// Leaves about what is not offered: performance counters (Intel's, AMD's), nested virtualization.
const LEFT_OUT: [u32; 3] = [0xa, 0x8000_000a, 0x8000_0022];

/// The leaves that guests of this host get, from those KVM supports.
pub(super) fn offered(supported: &[kvm_cpuid_entry2], tsc_deadline: bool) -> Vec<CpuidLeaf> {
    let kept = supported.iter().filter(|e| !LEFT_OUT.contains(&e.function));
    let mut out: Vec<_> = kept
        .map(|e| CpuidLeaf {
            function: e.function,
            index: (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(e.index),
            registers: match e.function {
                // The APIC number of whichever host CPU answered; each vCPU gets its own.
                1 => {
                    let deadline = if tsc_deadline { TSC_DEADLINE } else { 0 };
                    let ecx = e.ecx & !(VMX | PDCM) | HYPERVISOR | deadline;
                    [e.eax, e.ebx & 0x0000_ffff, ecx, e.edx & !MULTI_PROCESSOR]
                }
                0xb | 0x1f => [e.eax, e.ebx, e.ecx, 0],
                0x8000_0001 => [e.eax, e.ebx, e.ecx & !(SVM | AMD_COUNTERS), e.edx],
                0x8000_0007 => [e.eax, e.ebx, e.ecx, e.edx & !INVARIANT_TSC],
                _ => [e.eax, e.ebx, e.ecx, e.edx],
            },
        })
        .collect();
    for function in [0xb, 0x1f] {
        // Newer kernels have threads there and leave it to us whether there are cores.
        let has = |index| {
            let mut all = out.iter();
            all.any(|leaf: &CpuidLeaf| (leaf.function, leaf.index) == (function, Some(index)))
        };
        if has(0) && !has(1) {
            out.push(CpuidLeaf {
                function,
                index: Some(1),
                registers: [0; 4],
            });
        }
    }
    out
}

/// The leaves for one vCPU of so many. Guests see one package of cores that have one thread each,
/// whatever the host has.
pub(super) fn for_vcpu(leaves: &[CpuidLeaf], vcpu: u32, cpus: u32) -> Result<CpuId> {
    let entries: Vec<_> = leaves
        .iter()
        .map(|leaf| {
            let [eax, ebx, ecx, edx] = with_topology(leaf, vcpu, cpus);
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

/// A leaf with what depends on the vCPU and their number (Intel SDM volume 2A, CPUID; AMD APM volume
/// 3, appendix E).
fn with_topology(leaf: &CpuidLeaf, vcpu: u32, cpus: u32) -> [u32; 4] {
    let [eax, ebx, ecx, edx] = leaf.registers;
    // Bits of an APIC number that tell the cores of a package apart.
    let bits = u32::BITS - (cpus - 1).leading_zeros();
    // Of a cache: shared by all when it is of the third level, else by nobody.
    let sharing = if eax >> 5 & 7 >= 3 { cpus - 1 } else { 0 };
    match (leaf.function, leaf.index.unwrap_or(0)) {
        (1, _) => {
            let several = if cpus > 1 { MULTI_PROCESSOR } else { 0 };
            let ebx = ebx & 0xffff | cpus.min(255) << 16 | vcpu << 24;
            [eax, ebx, ecx, edx | several]
        }
        (4, _) if eax & 0x1f != 0 => {
            let cores = ((1 << bits) - 1u32).min(63);
            [eax & 0x3fff | sharing << 14 | cores << 26, ebx, ecx, edx]
        }
        // Levels: threads (there is one), cores, no more.
        (0xb | 0x1f, 0) => [0, 1, 1 << 8, vcpu],
        (0xb | 0x1f, 1) => [bits, cpus, 2 << 8 | 1, vcpu],
        (0xb | 0x1f, level) => [0, 0, level & 0xff, vcpu],
        (0x8000_0008, _) => {
            // Bits 15 to 12: those of the number; 7 to 0: cores but one.
            [eax, ebx, ecx & !0xf0ff | bits << 12 | (cpus - 1), edx]
        }
        (0x8000_001d, _) if eax & 0x1f != 0 => [eax & !0x03ff_c000 | sharing << 14, ebx, ecx, edx],
        // The number, one thread in the core of that number, one node.
        (0x8000_001e, _) => [vcpu, vcpu & 0xff, 0, 0],
        _ => [eax, ebx, ecx, edx],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported(function: u32, index: Option<u32>, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 {
            function,
            index: index.unwrap_or(0),
            flags: index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    #[test]
    fn there_is_a_level_of_cores_wherever_there_is_one_of_threads() {
        let leaves = offered(&[supported(0xb, Some(0), [0; 4])], true);
        let levels: Vec<_> = leaves.iter().map(|leaf| leaf.index).collect();
        assert_eq!(levels, [Some(0), Some(1)]);
    }

    fn seen(leaf: kvm_cpuid_entry2, vcpu: u32, cpus: u32) -> [u32; 4] {
        let leaves = offered(&[leaf], true);
        let table = for_vcpu(&leaves, vcpu, cpus).unwrap();
        // A level that was added comes behind it.
        let entry = table.as_slice().first().unwrap();
        [entry.eax, entry.ebx, entry.ecx, entry.edx]
    }

    #[test]
    fn what_does_not_survive_a_move_is_not_offered() {
        let all = [u32::MAX; 4];
        let ecx = seen(supported(1, None, all), 0, 1)[2];
        assert_eq!(!ecx, VMX | PDCM);
        assert_eq!(
            !seen(supported(0x8000_0001, None, all), 0, 1)[2],
            SVM | AMD_COUNTERS
        );
        assert_eq!(
            !seen(supported(0x8000_0007, None, all), 0, 1)[3],
            INVARIANT_TSC
        );
        for function in LEFT_OUT {
            assert_eq!(offered(&[supported(function, None, all)], true), []);
        }
    }

    #[test]
    fn what_kvm_does_not_say_itself_is_there() {
        let none = supported(1, None, [0; 4]);
        assert_eq!(seen(none, 0, 1)[2], HYPERVISOR | TSC_DEADLINE);
        assert_eq!(offered(&[none], false)[0].registers[2], HYPERVISOR);
    }

    #[test]
    fn vcpus_are_the_cores_of_one_package() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7)] {
            let last = cpus - 1;
            let [_, ebx, _, edx] = seen(supported(1, None, [0, 0x5512_3456, 0, 0]), last, cpus);
            assert_eq!(ebx, last << 24 | cpus << 16 | 0x3456);
            assert_eq!(edx & MULTI_PROCESSOR != 0, cpus > 1);
            let cores = seen(supported(0xb, Some(1), [5, 9, 0, 7]), last, cpus);
            assert_eq!(cores, [bits, cpus, 0x201, last]);
            assert_eq!(
                seen(supported(0xb, Some(0), [1; 4]), last, cpus),
                [0, 1, 0x100, last]
            );
            let amd = seen(
                supported(0x8000_0008, None, [0x3030, 1, 0x700f, 0]),
                last,
                cpus,
            );
            assert_eq!(amd[2], bits << 12 | last);
            let third = seen(supported(4, Some(3), [0x63 | 3 << 14, 0, 0, 0]), last, cpus)[0];
            assert_eq!((third >> 14 & 0xfff, third & 0x3fff), (last, 0x63));
            let first = seen(
                supported(0x8000_001d, Some(0), [0x21 | 1 << 14, 0, 0, 0]),
                last,
                cpus,
            );
            assert_eq!(first[0], 0x21, "nobody shares it");
        }
    }
}

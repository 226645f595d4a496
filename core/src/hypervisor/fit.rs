//! Whether a host can take over a VM from another: decided before anything moves.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::model::Misfit;

/// One CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CpuidLeaf {
    /// EAX of the query.
    pub(crate) function: u32,
    /// ECX of the query, where it matters.
    pub(crate) index: Option<u32>,
    /// EAX, EBX, ECX, EDX of the answer.
    pub(crate) registers: [u32; 4],
}

/// What a VM sees of a host, or what a host can show to a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostFacts {
    /// `kvm` or `sim`.
    pub(crate) backend: String,
    /// CPUID as guests get it.
    pub(crate) cpuid: Vec<CpuidLeaf>,
    /// Feature registers (MSR number, value).
    pub(crate) feature_msrs: Vec<(u32, u64)>,
    /// Bytes of a vCPU's extended state.
    pub(crate) xsave_size: u64,
    /// Frequency of the time-stamp counter in kHz.
    pub(crate) tsc_khz: u32,
    /// Whether guests can be given another frequency than the host's.
    pub(crate) tsc_scaling: bool,
}

/// Tolerance between two time-stamp counters taken for equal, in parts per million: what KVM itself
/// tolerates before it scales (`tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

/// How a register of a CPUID leaf is compared.
#[derive(Clone, Copy)]
enum Rule {
    /// Each bit is a feature: the host needs those the guest has.
    Bits,
    /// Numbers or names that say which processor it is, or that KVM computes for each vCPU.
    Any,
    /// A number of which the host needs at least as much.
    AtLeast { mask: u32, name: &'static str },
}

/// CPUID leaves whose bits are features (Intel SDM volume 2A, AMD APM volume 3, Linux
/// `Documentation/virt/kvm/x86/cpuid.rst`). What is not listed describes, and need not agree.
fn rule(leaf: &CpuidLeaf, register: usize) -> Rule {
    const EAX: usize = 0;
    const EBX: usize = 1;
    match (leaf.function, leaf.index.unwrap_or(0), register) {
        (1, _, 2 | 3) => Rule::Bits,
        (7, 0, EAX) => Rule::Any,
        (7, _, _) | (0xd, 1, EAX) => Rule::Bits,
        (0xd, 0, EAX | 3) => Rule::Bits,
        (0x4000_0001, _, EAX) => Rule::Bits,
        (0x8000_0001, _, 2 | 3) => Rule::Bits,
        (0x8000_0007, _, 3) => Rule::Bits,
        (0x8000_0008, _, EAX) => Rule::AtLeast {
            mask: 0xff,
            name: "physical address bits",
        },
        (0x8000_0008, _, EBX) => Rule::Bits,
        (0x8000_000a, _, 3) | (0x8000_0021, _, EAX) => Rule::Bits,
        _ => Rule::Any,
    }
}

const REGISTERS: [&str; 4] = ["eax", "ebx", "ecx", "edx"];

/// Bits of CPUID that change while a vCPU runs and so mean nothing here: OSXSAVE and OSPKE mirror CR4.
fn ignored(leaf: &CpuidLeaf, register: usize) -> u32 {
    match (leaf.function, register) {
        (1, 2) => 1 << 27,
        (7, 2) => 1 << 4,
        _ => 0,
    }
}

/// Names of feature bits that users know, for the message.
fn bit_name(function: u32, index: u32, register: usize, bit: u32) -> Option<&'static str> {
    Some(match (function, index, register, bit) {
        (1, _, 2, 0) => "SSE3",
        (1, _, 2, 9) => "SSSE3",
        (1, _, 2, 12) => "FMA",
        (1, _, 2, 13) => "CMPXCHG16B",
        (1, _, 2, 19) => "SSE4.1",
        (1, _, 2, 20) => "SSE4.2",
        (1, _, 2, 21) => "x2APIC",
        (1, _, 2, 22) => "MOVBE",
        (1, _, 2, 23) => "POPCNT",
        (1, _, 2, 24) => "TSC deadline timer",
        (1, _, 2, 25) => "AES",
        (1, _, 2, 26) => "XSAVE",
        (1, _, 2, 28) => "AVX",
        (1, _, 2, 29) => "F16C",
        (1, _, 2, 30) => "RDRAND",
        (7, 0, 1, 3) => "BMI1",
        (7, 0, 1, 5) => "AVX2",
        (7, 0, 1, 8) => "BMI2",
        (7, 0, 1, 16) => "AVX-512F",
        (7, 0, 1, 17) => "AVX-512DQ",
        (7, 0, 1, 18) => "RDSEED",
        (7, 0, 1, 19) => "ADX",
        (7, 0, 1, 28) => "AVX-512CD",
        (7, 0, 1, 29) => "SHA",
        (7, 0, 1, 30) => "AVX-512BW",
        (7, 0, 1, 31) => "AVX-512VL",
        (7, 0, 2, 8) => "GFNI",
        (7, 0, 2, 9) => "VAES",
        (7, 0, 3, 24) => "AMX-TILE",
        (0x8000_0001, _, 2, 5) => "LZCNT",
        (0x8000_0001, _, 2, 6) => "SSE4A",
        (0x8000_0001, _, 3, 26) => "1 GiB pages",
        (0x8000_0001, _, 3, 27) => "RDTSCP",
        _ => return None,
    })
}

fn misfit(kind: &str, name: String, detail: String) -> Misfit {
    Misfit {
        kind: kind.into(),
        name,
        detail,
    }
}

/// What keeps `host` from running a VM that relies on `guest`; nothing means that it can.
pub(crate) fn misfits(guest: &HostFacts, host: &HostFacts) -> Vec<Misfit> {
    if guest.backend != host.backend {
        return vec![misfit(
            "backend",
            "backend".into(),
            format!(
                "the VM runs on {}, this node on {}",
                guest.backend, host.backend
            ),
        )];
    }
    let mut out = Vec::new();
    for leaf in &guest.cpuid {
        cpuid_misfits(leaf, &host.cpuid, &mut out);
    }
    for &(index, value) in &guest.feature_msrs {
        msr_misfit(index, value, host, &mut out);
    }
    if guest.xsave_size > host.xsave_size {
        out.push(misfit(
            "xsave",
            "extended state".into(),
            format!(
                "{} bytes a vCPU, this host has {}",
                guest.xsave_size, host.xsave_size
            ),
        ));
    }
    let apart = u64::from(guest.tsc_khz.abs_diff(host.tsc_khz));
    if apart * 1_000_000 > u64::from(guest.tsc_khz) * TSC_TOLERANCE_PPM && !host.tsc_scaling {
        out.push(misfit(
            "tsc",
            "TSC frequency".into(),
            format!(
                "{} kHz, this host has {} kHz and cannot scale it",
                guest.tsc_khz, host.tsc_khz
            ),
        ));
    }
    out
}

fn cpuid_misfits(leaf: &CpuidLeaf, host: &[CpuidLeaf], out: &mut Vec<Misfit>) {
    let found = host
        .iter()
        .find(|h| (h.function, h.index) == (leaf.function, leaf.index));
    let has = found.map_or([0; 4], |h| h.registers);
    for (register, register_name) in REGISTERS.iter().enumerate() {
        let place = match leaf.index {
            Some(index) => format!("cpuid {:#x}.{index}:{register_name}", leaf.function),
            None => format!("cpuid {:#x}:{register_name}", leaf.function),
        };
        match rule(leaf, register) {
            Rule::Any => {}
            Rule::AtLeast { mask, name } => {
                let (wants, has) = (leaf.registers[register] & mask, has[register] & mask);
                if wants > has {
                    let detail = format!("{place}: {wants}, this host has {has}");
                    out.push(misfit("cpuid", name.into(), detail));
                }
            }
            Rule::Bits => {
                let lacks = leaf.registers[register] & !has[register] & !ignored(leaf, register);
                for bit in (0..32).filter(|b| lacks >> b & 1 == 1) {
                    let index = leaf.index.unwrap_or(0);
                    let name = bit_name(leaf.function, index, register, bit)
                        .map_or_else(|| format!("{place} bit {bit}"), Into::into);
                    let detail = format!("{place} bit {bit} is not offered by this host");
                    out.push(misfit("cpuid", name, detail));
                }
            }
        }
    }
}

/// Of the feature registers, those that are sets of bits are compared; the others describe.
fn msr_misfit(index: u32, value: u64, host: &HostFacts, out: &mut Vec<Misfit>) {
    const ARCH_CAPABILITIES: u32 = 0x10a;
    const PERF_CAPABILITIES: u32 = 0x345;
    if !matches!(index, ARCH_CAPABILITIES | PERF_CAPABILITIES) {
        return;
    }
    let has = host.feature_msrs.iter().find(|(i, _)| *i == index);
    let lacks = value & !has.map_or(0, |&(_, v)| v);
    if lacks != 0 {
        out.push(misfit(
            "msr",
            format!("feature register {index:#x}"),
            format!("bits {lacks:#x} are not offered by this host"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        let leaf = |function, index, registers| CpuidLeaf {
            function,
            index,
            registers,
        };
        HostFacts {
            backend: "kvm".into(),
            cpuid: vec![
                leaf(0, None, [0x16, 1, 2, 3]),
                leaf(1, None, [0x806f8, 0, 1 << 25 | 1 << 28 | 1 << 27, 0xf]),
                leaf(7, Some(0), [2, 1 << 5, 0, 0]),
                leaf(0x8000_0008, None, [0x3030, 0, 0, 0]),
            ],
            feature_msrs: vec![(0x10a, 0b101), (0x8b, 1)],
            xsave_size: 4096,
            tsc_khz: 2_000_000,
            tsc_scaling: false,
        }
    }

    fn names(guest: &HostFacts, host: &HostFacts) -> Vec<String> {
        misfits(guest, host).into_iter().map(|m| m.name).collect()
    }

    #[test]
    fn a_host_fits_itself_and_more_is_no_misfit() {
        assert_eq!(misfits(&host(), &host()), []);
        let mut more = host();
        more.cpuid[1].registers[3] |= 0xff00;
        more.cpuid[0].registers = [9; 4];
        more.cpuid[3].registers[0] += 4;
        more.feature_msrs = vec![(0x10a, 0xff)];
        more.xsave_size = 8192;
        assert_eq!(misfits(&host(), &more), []);
    }

    type Change = fn(&mut HostFacts);

    #[test]
    fn each_misfit_is_named() {
        let table: [(&str, Change); 9] = [
            ("backend", |h| h.backend = "sim".into()),
            ("AES", |h| h.cpuid[1].registers[2] &= !(1 << 25)),
            ("AVX", |h| h.cpuid[1].registers[2] &= !(1 << 28)),
            ("AVX2", |h| h.cpuid.retain(|l| l.function != 7)),
            ("cpuid 0x1:edx bit 0", |h| h.cpuid[1].registers[3] &= !1),
            ("physical address bits", |h| h.cpuid[3].registers[0] -= 1),
            ("feature register 0x10a", |h| h.feature_msrs[0].1 = 1),
            ("extended state", |h| h.xsave_size = 2048),
            ("TSC frequency", |h| h.tsc_khz += 1_000),
        ];
        for (name, change) in table {
            let mut lesser = host();
            change(&mut lesser);
            assert_eq!(names(&host(), &lesser), [name]);
        }
    }

    #[test]
    fn a_frequency_within_tolerance_or_scaling_fits() {
        let mut other = host();
        other.tsc_khz += 499;
        assert_eq!(misfits(&host(), &other), []);
        other.tsc_khz = 3_000_000;
        other.tsc_scaling = true;
        assert_eq!(misfits(&host(), &other), []);
    }

    #[test]
    fn bits_that_mirror_control_registers_are_ignored() {
        let mut other = host();
        other.cpuid[1].registers[2] &= !(1 << 27);
        assert_eq!(misfits(&host(), &other), []);
    }
}

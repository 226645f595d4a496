//! Kernels of a few instructions, run by machines on whatever KVM there is.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::{BootFile, End, Hooks, Image, KernelImage, Machine, MachineConfig};
use crate::hypervisor::{Hypervisor, Kvm, Sim, decode, encode};
use crate::memory::{Backing, GuestRam};

/// Where the code is.
const CODE: u64 = 0x10_0000;

/// An ELF kernel with that code, started by its PVH entry if `pvh`.
fn elf(code: &[u8], pvh: bool) -> Vec<u8> {
    let mut out = vec![0; 0x200];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(0x10, &[2, 0, 62, 0, 1]);
    put(0x18, &CODE.to_le_bytes());
    put(0x20, &64u64.to_le_bytes());
    put(0x36, &[56, 0, 1 + u8::from(pvh), 0]);
    let len = code.len() as u64;
    for (at, kind, offset, gpa, len) in [(64, 1u32, 0x180u64, CODE, len), (120, 4, 0x140, 0, 20)] {
        put(at, &kind.to_le_bytes());
        for (field, value) in [(0x08, offset), (0x18, gpa), (0x20, len), (0x28, len)] {
            put(at + field, &value.to_le_bytes());
        }
    }
    put(0x140, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(0x14c, b"Xen\0");
    put(0x150, &(CODE as u32).to_le_bytes());
    put(0x180, code);
    out
}

/// `mov edx, port; out dx, al`, with 32-bit operands in either mode.
fn out(port: u16) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0xba, low, high, 0, 0, 0xee]
}

/// Code that prints what it finds of its boot information, writes the power port, and spins.
fn code(pvh: bool, power: u8) -> Vec<u8> {
    // The first byte of the start info, at EBX; the first of the header's signature, at RSI + 0x202.
    let load: &[u8] = if pvh {
        &[0x8a, 0x03]
    } else {
        &[0x8a, 0x86, 0x02, 0x02, 0, 0]
    };
    let spin = &[0xeb, 0xfe][..];
    [load, &out(0x3f8), &[0xb0, power], &out(0x600), spin].concat()
}

fn machine(hypervisor: &dyn Hypervisor, cpus: u32, kernel: Vec<u8>) -> Machine {
    let kernel = BootFile::from_bytes("kernel", kernel);
    let config = MachineConfig {
        name: "tiny".into(),
        cpus,
        cpu_pinning: Vec::new(),
        cpu_quota: 0,
        image: Image::Kernel(KernelImage::new(kernel, None, None).unwrap()),
        guest: hypervisor.facts().clone(),
        disk: None,
    };
    let hooks = Hooks {
        on_end: Box::new(|| {}),
        on_news: Box::new(|_| {}),
    };
    let ram = GuestRam::allocate(4 << 20, Backing::Memfd).unwrap();
    Machine::new(hypervisor, ram, config, hooks).unwrap()
}

fn wait_ended(machine: &Machine) -> End {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(end) = machine.ended() {
            return end;
        }
        assert!(Instant::now() < deadline, "it goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn kvm() -> Option<Kvm> {
    Kvm::open()
        .inspect_err(|error| crate::test_support::skipped("machine::tiny on KVM", error))
        .ok()
}

#[test]
fn a_kernel_finds_its_boot_information_and_powers_off() {
    let Some(kvm) = kvm() else { return };
    for (pvh, printed) in [(false, b"H"), (true, b"x")] {
        // The second vCPU waits for a start-up that never comes.
        for cpus in [1, 2] {
            let machine = machine(&kvm, cpus, elf(&code(pvh, 0x34), pvh));
            machine.boot().unwrap();
            machine.resume().unwrap();
            assert_eq!(wait_ended(&machine), End::PoweredOff);
            assert_eq!(machine.console().kept(), printed);
        }
    }
}

#[test]
fn a_kernel_that_resets_itself_begins_anew_in_its_machine() {
    let Some(kvm) = kvm() else { return };
    for pvh in [false, true] {
        let machine = machine(&kvm, 2, elf(&code(pvh, 0x01), pvh));
        machine.boot().unwrap();
        machine.resume().unwrap();
        for times in 1..4 {
            assert_eq!(wait_ended(&machine), End::Reset);
            assert_eq!(machine.console().kept().len(), times);
            machine.reset().unwrap();
        }
    }
}

#[test]
fn a_kernel_that_panics_has_crashed_before_it_reboots() {
    let Some(kvm) = kvm() else { return };
    for pvh in [false, true] {
        // It asks what is understood, tells of all that, and would reset itself.
        let tell = [&out(0x505)[..5], &[0xec, 0xee]].concat();
        let kernel = elf(&[&tell[..], &code(pvh, 0x01)].concat(), pvh);
        let machine = machine(&kvm, 2, kernel);
        machine.boot().unwrap();
        machine.resume().unwrap();
        let crashed = End::Crashed("its kernel panicked".into());
        assert_eq!(wait_ended(&machine), crashed);
        machine.pause();
        machine.resume().unwrap();
        assert_eq!(machine.ended(), Some(crashed.clone()), "it ended for good");
        assert_eq!(machine.console().kept(), b"", "it did not go on");
        // A reset begins anew, as after any end.
        machine.reset().unwrap();
        assert_eq!(wait_ended(&machine), crashed);
    }
}

#[test]
fn an_edge_before_a_kernel_is_ready_is_no_exception_to_it() {
    let Some(kvm) = kvm() else { return };
    for pvh in [false, true] {
        // It allows interrupts, without having said where they go, and powers off.
        let code = [&[0xfb, 0x90, 0x90, 0x90], &code(pvh, 0x34)[..]].concat();
        let machine = machine(&kvm, 1, elf(&code, pvh));
        machine.boot().unwrap();
        machine.press_power_button().unwrap();
        machine.resume().unwrap();
        assert_eq!(wait_ended(&machine), End::PoweredOff);
    }
}

#[test]
fn what_a_guest_asked_for_travels_with_it() {
    let Some(kvm) = kvm() else { return };
    for (value, end) in [(0x34, End::PoweredOff), (0x01, End::Reset)] {
        let kernel = elf(&code(false, value), false);
        let source = machine(&kvm, 2, kernel.clone());
        source.boot().unwrap();
        source.resume().unwrap();
        assert_eq!(wait_ended(&source), end);
        source.pause();
        let state = encode(&source.save().unwrap());
        let target = machine(&kvm, 2, kernel);
        target.load(decode(&state).unwrap()).unwrap();
        assert_eq!(target.ended(), None);
        target.resume().unwrap();
        assert_eq!(target.ended(), Some(end));
        assert_eq!(target.usage().exits, 0, "it never ran");
    }
}

#[test]
fn the_simulated_back_end_says_that_it_runs_no_kernels() {
    let machine = machine(&Sim::new(), 1, elf(&code(false, 0), false));
    let error = machine.boot().unwrap_err().to_string();
    assert!(error.contains("kernels need KVM"), "{error}");
}

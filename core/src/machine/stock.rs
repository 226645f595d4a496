//! Stock Linux kernels, run by machines as they are. Needs a KVM that runs ring 0 at its own speed, a
//! kernel and an initial RAM disk, so it is built only when asked for:
//!
//! ```sh
//! cargo rustc -p dwcp --lib --profile test -- --cfg stock_kernel
//! DWCP_TEST_KERNEL=… DWCP_TEST_INITRD=… dwcp-… machine::stock --test-threads=1 --nocapture
//! ```
//!
//! `DWCP_TEST_VMLINUX` may name the same kernel as an ELF file. The guest prints `GUEST-UP`, with the
//! number of its processors behind `cpus=`, and then runs a shell on its console.
#![forbid(unsafe_code)]

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{BootFile, End, Hooks, Image, KernelImage, Machine, MachineConfig};
use crate::hypervisor::{Hypervisor, Kvm, decode, encode};
use crate::memory::{Backing, GuestRam};

const MEMORY: u64 = 384 << 20;
const CMDLINE: &str = "console=ttyS0 panic=-1 quiet";

fn file(what: &'static str, variable: &str) -> BootFile {
    let path = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names no file"));
    BootFile::new(what, File::open(path).unwrap()).unwrap()
}

/// A machine with a stock guest, and how far its console has been read.
struct Guest {
    machine: Machine,
    seen: AtomicU64,
}

impl Guest {
    fn new(hypervisor: &dyn Hypervisor, cpus: u32, kernel: &str) -> Self {
        Self::with_memory(hypervisor, cpus, kernel, MEMORY)
    }

    fn with_memory(hypervisor: &dyn Hypervisor, cpus: u32, kernel: &str, memory: u64) -> Self {
        let kernel = file("kernel", kernel);
        let initrd = file("initrd", "DWCP_TEST_INITRD");
        let cmdline = std::env::var("DWCP_TEST_CMDLINE").unwrap_or_else(|_| CMDLINE.into());
        let image = KernelImage::new(kernel, Some(initrd), Some(&cmdline)).unwrap();
        let config = MachineConfig {
            name: "stock".into(),
            cpus,
            cpu_pinning: Vec::new(),
            cpu_quota: 0,
            image: Image::Kernel(image),
            guest: hypervisor.facts().clone(),
        };
        let hooks = Hooks {
            on_end: Box::new(|| {}),
            on_news: Box::new(|_| {}),
        };
        let ram = GuestRam::allocate(memory, Backing::Memfd).unwrap();
        Self {
            machine: Machine::new(hypervisor, ram, config, hooks).unwrap(),
            seen: AtomicU64::new(0),
        }
    }

    fn booted(hypervisor: &dyn Hypervisor, cpus: u32, kernel: &str) -> Self {
        let guest = Self::new(hypervisor, cpus, kernel);
        guest.machine.boot().unwrap();
        guest.machine.resume().unwrap();
        guest.wait_up(cpus);
        guest
    }

    fn wait_up(&self, cpus: u32) {
        let began = Instant::now();
        let text = self.wait_for("GUEST-UP");
        assert!(text.contains(&format!("cpus={cpus} ")), "{text}");
        self.wait_for("# ");
        eprintln!("up with {cpus} vCPUs after {:?}", began.elapsed());
    }

    /// Waits until the guest has printed the text, since the last time; what it printed up to the
    /// end of the line.
    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut shown = usize::try_from(self.seen.load(Ordering::Relaxed)).unwrap();
        loop {
            let all = String::from_utf8_lossy(&self.machine.console().kept()).into_owned();
            let seen = usize::try_from(self.seen.load(Ordering::Relaxed)).unwrap();
            let new = all.get(seen..).unwrap_or_default();
            eprint!("{}", all.get(shown..).unwrap_or_default());
            shown = all.len();
            if let Some(at) = new.find(text) {
                let end = new[at..].find('\n').map_or(new.len(), |end| at + end);
                // What is told twice in a line is found once.
                let next = seen + at + text.len();
                self.seen.store(next as u64, Ordering::Relaxed);
                return new[..end].to_owned();
            }
            assert!(
                self.machine.ended().is_none() && Instant::now() < deadline,
                "no `{text}`, ended {:?}, console:\n{all}",
                self.machine.ended()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types a command, as fast as the guest's serial port takes it.
    fn run(&self, command: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let line = format!("{command}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            assert!(Instant::now() < deadline, "{command}");
            rest = &rest[self.machine.type_in(rest)..];
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_ended(&self) -> End {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(end) = self.machine.ended() {
                return end;
            }
            assert!(
                Instant::now() < deadline,
                "it goes on:\n{}",
                String::from_utf8_lossy(&self.machine.console().kept())
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A sign of life that says that its processors, timers and memory work.
    fn check_alive(&self, cpus: u32) {
        for cpu in 0..cpus {
            self.run(&format!(
                "taskset -c {cpu} sleep 0.2; echo on-$((40+{cpu}))"
            ));
            self.wait_for(&format!("on-{}", 40 + cpu));
            self.wait_for("# ");
        }
    }
}

#[test]
fn a_guest_comes_up_and_powers_off() {
    let kvm = Kvm::open().unwrap();
    for cpus in [1, 4] {
        let guest = Guest::booted(&kvm, cpus, "DWCP_TEST_KERNEL");
        guest.run("dmesg | grep -v BIOS-e820 | tail -n 400");
        guest.check_alive(cpus);
        guest.run("poweroff -f");
        assert_eq!(guest.wait_ended(), End::PoweredOff);
        eprintln!(
            "{}",
            String::from_utf8_lossy(&guest.machine.console().kept())
        );
    }
}

#[test]
fn a_guest_that_reboots_comes_up_again_in_its_machine() {
    let kvm = Kvm::open().unwrap();
    for cpus in [1, 4] {
        let guest = Guest::booted(&kvm, cpus, "DWCP_TEST_KERNEL");
        for _ in 0..2 {
            guest.run("reboot -f");
            assert_eq!(guest.wait_ended(), End::Reset);
            guest.machine.reset().unwrap();
            guest.wait_up(cpus);
        }
        // A reset from outside, in the middle of its work.
        guest.run("while :; do :; done");
        guest.machine.reset().unwrap();
        guest.wait_up(cpus);
        guest.check_alive(cpus);
    }
}

#[test]
fn a_guest_hears_the_power_button() {
    let kvm = Kvm::open().unwrap();
    let guest = Guest::booted(&kvm, 1, "DWCP_TEST_KERNEL");
    guest.run("head -c 24 /dev/input/event0 >/tmp/key; echo pressed-$((40+2))");
    // What is pressed before the guest listens is not heard.
    let pressing = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while pressing.load(Ordering::Relaxed) {
                guest.machine.press_power_button().unwrap();
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        guest.wait_for("pressed-42");
        pressing.store(false, Ordering::Relaxed);
    });
    guest.run("poweroff -f");
    assert_eq!(guest.wait_ended(), End::PoweredOff);
}

#[test]
fn a_guest_goes_on_in_another_machine() {
    let kvm = Kvm::open().unwrap();
    for cpus in [1, 4] {
        let source = Guest::booted(&kvm, cpus, "DWCP_TEST_KERNEL");
        source.check_alive(cpus);
        source.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
        source.wait_for("kvm-clock");
        source.wait_for("# ");
        source.machine.pause();
        let state = encode(&source.machine.save().unwrap());
        let target = Guest::new(&kvm, cpus, "DWCP_TEST_KERNEL");
        copy(&source.machine, &target.machine);
        target.machine.load(decode(&state).unwrap()).unwrap();
        target.seen.store(
            target.machine.console().kept().len() as u64,
            Ordering::Relaxed,
        );
        drop(source);
        target.machine.resume().unwrap();
        target.check_alive(cpus);
        target.run("echo bad-$(dmesg | grep -ci 'unstable\\|lockup\\|stall')");
        target.wait_for("bad-0");
        target.run("reboot -f");
        assert_eq!(target.wait_ended(), End::Reset);
        target.machine.reset().unwrap();
        target.wait_up(cpus);
    }
}

fn copy(source: &Machine, target: &Machine) {
    let mut piece = vec![0; 1 << 20];
    for at in (0..MEMORY).step_by(piece.len()) {
        source.ram().read(at, &mut piece).unwrap();
        target.ram().write(at, &piece).unwrap();
    }
}

#[test]
fn a_guest_that_crashes_the_processor_has_failed() {
    let kvm = Kvm::open().unwrap();
    let guest = Guest::booted(&kvm, 1, "DWCP_TEST_KERNEL");
    guest.machine.pause();
    // Nothing is left to handle anything.
    let zeros = vec![0; 1 << 20];
    for at in (0..MEMORY).step_by(zeros.len()) {
        guest.machine.ram().write(at, &zeros).unwrap();
    }
    guest.machine.resume().unwrap();
    assert!(matches!(
        guest.wait_ended(),
        End::Crashed(_) | End::Failed(_)
    ));
}

#[test]
fn the_pvh_entry_comes_up() {
    if std::env::var_os("DWCP_TEST_VMLINUX").is_none() {
        return crate::test_support::skipped("machine::stock on PVH", &"no DWCP_TEST_VMLINUX");
    }
    let kvm = Kvm::open().unwrap();
    for cpus in [1, 2] {
        let guest = Guest::booted(&kvm, cpus, "DWCP_TEST_VMLINUX");
        guest.run("reboot -f");
        assert_eq!(guest.wait_ended(), End::Reset);
        guest.machine.reset().unwrap();
        guest.wait_up(cpus);
        guest.run("poweroff -f");
        assert_eq!(guest.wait_ended(), End::PoweredOff);
    }
}

//! What every back end must do, as functions over the trait, run for each of them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Entry, Exit, Hypervisor, Kvm, NewVm, Sim, Vcpu, decode, encode};
use crate::guest::{
    Block, Doorbell, PORT_COMMAND, PORT_DOORBELL, PORT_SERIAL, PORT_WAIT, PulseOptions, TEXTS,
    load, words,
};
use crate::memory::{Backing, GuestRam, Harvester};

const MEMORY: u64 = 32 << 20;

fn back_ends() -> Vec<Arc<dyn Hypervisor>> {
    let mut all: Vec<Arc<dyn Hypervisor>> = vec![Arc::new(Sim::new())];
    match Kvm::open() {
        Ok(kvm) => all.push(Arc::new(kvm)),
        Err(error) => crate::test_support::skipped("hypervisor::conformance on KVM", &error),
    }
    all
}

/// One vCPU with the built-in guest, driven by the test's own thread.
struct Driven {
    ram: Arc<GuestRam>,
    vm: NewVm,
    /// What the guest is told at its next beat.
    command: u32,
    printed: Vec<u8>,
}

impl Driven {
    fn new(hypervisor: &dyn Hypervisor, ram: Arc<GuestRam>) -> Self {
        let vm = hypervisor.create_vm(&ram, 1, hypervisor.facts()).unwrap();
        Self {
            ram,
            vm,
            command: 0,
            printed: Vec::new(),
        }
    }

    fn booted(hypervisor: &dyn Hypervisor, annotations: &[(&str, &str)]) -> Self {
        let ram = GuestRam::allocate(MEMORY, Backing::Memfd).unwrap();
        let mut driven = Self::new(hypervisor, ram);
        let pairs = annotations.iter();
        let annotations: BTreeMap<_, _> = pairs
            .map(|(k, v)| (format!("dwcp.pulse/{k}"), (*v).to_owned()))
            .collect();
        let options = PulseOptions::new(MEMORY, &annotations).unwrap();
        let tsc_khz = driven.vm.vm.tsc_khz();
        let loaded = load(&driven.ram, 1, tsc_khz, &options).unwrap();
        let entry = Entry::User64 {
            entry: loaded.entry,
            argument: Block(0).address(),
            page_table: loaded.page_table,
        };
        driven.vcpu().attach().unwrap();
        driven.vcpu().enter(&entry).unwrap();
        driven
    }

    fn vcpu(&mut self) -> &mut dyn Vcpu {
        self.vm.vcpus[0].as_mut()
    }

    fn word(&self, at: usize) -> u64 {
        self.ram
            .read_words::<1>(Block(0).address() + at as u64)
            .unwrap()[0]
    }

    /// Runs until the guest rings for that reason.
    fn run_until(&mut self, wanted: Doorbell) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "the guest never rang {wanted:?}");
            let command = self.command.to_le_bytes();
            let vcpu = self.vcpu();
            match vcpu.run().unwrap() {
                Exit::PortOut {
                    port: PORT_DOORBELL,
                    width: 4,
                } => {
                    let value = u32::from_le_bytes(vcpu.data().try_into().unwrap());
                    let why = Doorbell::from_value(value).unwrap();
                    if why == wanted {
                        return;
                    }
                    assert_ne!(
                        why,
                        Doorbell::Fault,
                        "page {:#x}",
                        self.word(words::FIRST_FAULT)
                    );
                }
                Exit::PortIn {
                    port: PORT_COMMAND,
                    width: 4,
                } => vcpu.data().copy_from_slice(&command),
                Exit::PortOut {
                    port: PORT_SERIAL, ..
                } => {
                    let byte = vcpu.data()[0];
                    self.printed.push(byte);
                }
                // Not waiting only makes the guest look at the clock more often.
                Exit::PortOut {
                    port: PORT_WAIT, ..
                }
                | Exit::Interrupted => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn finish(&mut self) {
        let more = self.vcpu().finish().unwrap();
        assert_eq!(more, None, "the guest's accesses take one step");
    }
}

#[test]
fn the_guest_fills_beats_and_checks() {
    for hypervisor in back_ends() {
        let mut driven = Driven::booted(&*hypervisor, &[("beat-hz", "100")]);
        driven.run_until(Doorbell::Beat);
        driven.run_until(Doorbell::Filled);
        assert_eq!(driven.word(words::FILLED), MEMORY / 2 / 4096);
        driven.run_until(Doorbell::Beat);
        assert_eq!(String::from_utf8_lossy(&driven.printed), TEXTS.concat());
        driven.command = 7;
        driven.run_until(Doorbell::Checked);
        assert_eq!(driven.word(words::CHECKED), 7);
        assert_eq!(driven.word(words::FAULTS), 0);
        driven.command = u32::MAX;
        driven.run_until(Doorbell::Off);
    }
}

#[test]
fn a_page_that_changed_behind_the_guest_is_found() {
    for hypervisor in back_ends() {
        let mut driven = Driven::booted(&*hypervisor, &[("working-set", "0")]);
        driven.run_until(Doorbell::Filled);
        let page = (4 << 20) / 4096 + 1000;
        driven.ram.write(page * 4096 + 4088, &[0; 8]).unwrap();
        driven.command = 1;
        driven.run_until(Doorbell::Fault);
        assert_eq!(driven.word(words::FIRST_FAULT), page);
        driven.run_until(Doorbell::Checked);
        assert_eq!(driven.word(words::FAULTS), 1);
    }
}

#[test]
fn an_old_copy_of_a_written_page_is_found() {
    for hypervisor in back_ends() {
        let options = [
            ("fill", "1048576"),
            ("working-set", "65536"),
            ("dirty-pages-per-second", "0"),
        ];
        let mut driven = Driven::booted(&*hypervisor, &options);
        driven.run_until(Doorbell::Filled);
        driven.run_until(Doorbell::Beat);
        let page = (4 << 20) / 4096 + 3;
        let mut old = [0; 4096];
        driven.ram.read(page * 4096, &mut old).unwrap();
        driven.run_until(Doorbell::Beat);
        driven.ram.write(page * 4096, &old).unwrap();
        driven.run_until(Doorbell::Fault);
        assert_eq!(driven.word(words::FIRST_FAULT), page);
    }
}

#[test]
fn the_dirty_log_has_what_the_guest_wrote() {
    for hypervisor in back_ends() {
        let options = [
            ("working-set", "1048576"),
            ("dirty-pages-per-second", "0"),
            ("beat-hz", "100"),
        ];
        let mut driven = Driven::booted(&*hypervisor, &options);
        driven.run_until(Doorbell::Filled);
        let log = Arc::clone(&driven.vm.vm) as Arc<dyn crate::memory::DirtyLog>;
        let harvester = Harvester::new(Arc::clone(&driven.ram), log);
        let consumer = harvester.subscribe().unwrap();
        let all = consumer.harvest().unwrap();
        assert_eq!(all.pages.count(), MEMORY / 4096);
        consumer.clear(&all.logged, &(0..MEMORY / 4096)).unwrap();
        consumer.harvest().unwrap();
        for _ in 0..10 {
            driven.run_until(Doorbell::Beat);
        }
        let some = consumer.harvest().unwrap();
        let first = (4 << 20) / 4096;
        assert!(
            (first..first + 256).all(|p| some.pages.contains(p)),
            "{}",
            hypervisor.name()
        );
        assert!(
            some.pages.count() < 256 + 16,
            "{} pages",
            some.pages.count()
        );
    }
}

#[test]
fn a_kick_ends_a_run_and_is_not_lost() {
    for hypervisor in back_ends() {
        let options = [
            ("spin", "true"),
            ("beat-hz", "1"),
            ("working-set", "0"),
            ("fill", "0"),
        ];
        let mut driven = Driven::booted(&*hypervisor, &options);
        driven.run_until(Doorbell::Beat);
        let kick = driven.vcpu().kick();
        for before in [true, false] {
            kick.rearm();
            let other = Arc::clone(&kick);
            let thread = std::thread::spawn(move || {
                if !before {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other.kick();
            });
            if before {
                thread.join().unwrap();
                assert_eq!(driven.vcpu().run().unwrap(), Exit::Interrupted);
            } else {
                // Beats may come first; the kick ends the run all the same.
                while driven.vcpu().run().unwrap() != Exit::Interrupted {}
                thread.join().unwrap();
            }
        }
    }
}

#[test]
fn saved_state_loads_and_saves_the_same() {
    for hypervisor in back_ends() {
        let mut source = Driven::booted(&*hypervisor, &[("beat-hz", "100")]);
        source.run_until(Doorbell::Filled);
        source.run_until(Doorbell::Beat);
        source.finish();
        let mut saved = source.vcpu().save().unwrap();
        saved.extend(source.vm.vm.save().unwrap());
        let bytes = encode(&saved);

        let mut target = Driven::new(&*hypervisor, Arc::clone(&source.ram));
        let loaded = decode(&bytes).unwrap();
        target.vcpu().attach().unwrap();
        target.vcpu().load(&loaded).unwrap();
        target.vm.vm.load(&loaded).unwrap();
        target.vm.vm.load_clock(&loaded).unwrap();
        target.vcpu().resume().unwrap();
        let mut again = target.vcpu().save().unwrap();
        again.extend(target.vm.vm.save().unwrap());

        let timeless = |sections: &[super::Section]| {
            let kept = sections.iter().filter(|s| {
                // The clocks go on, and the PIT notes when its count was loaded.
                !matches!(
                    s.kind,
                    super::Kind::Clock | super::Kind::Tsc | super::Kind::Pit
                )
            });
            kept.cloned().collect::<Vec<_>>()
        };
        for (a, b) in timeless(&saved).iter().zip(&timeless(&again)) {
            assert_eq!(a.body, b.body, "{a:?} and {b:?} on {}", hypervisor.name());
        }
        assert_eq!(saved.len(), again.len());

        // And the guest goes on in the new VM, with its memory right.
        target.command = 3;
        target.run_until(Doorbell::Checked);
        assert_eq!(target.word(words::FAULTS), 0);
    }
}

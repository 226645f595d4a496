//! Snapshots of machines, without a node: taken, damaged, read back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::error::Result;
use crate::hypervisor::{Hypervisor, Kvm, Sim};
use crate::machine::Machine;
use crate::machine::{Hooks, Image, MachineConfig};
use crate::memory::{Backing, GuestRam, PAGE_SIZE};
use crate::model::{VM, VMConfig, VMState, new_uuid};

const MEMORY_SIZE: u64 = 32 << 20;
/// Where the built-in guest writes nothing when it fills no memory.
const FREE: u64 = 16 << 20;

fn back_ends() -> Vec<Arc<dyn Hypervisor>> {
    let mut all: Vec<Arc<dyn Hypervisor>> = vec![Arc::new(Sim::new())];
    match Kvm::open() {
        Ok(kvm) => all.push(Arc::new(kvm)),
        Err(error) => crate::test_support::skipped("snapshots on KVM", &error),
    }
    all
}

/// A source with memory and without a disk.
fn of(machine: Option<&Machine>) -> Source<'_> {
    Source {
        machine,
        memory: machine.is_some(),
        disk: None,
    }
}

fn machine_of(hypervisor: &dyn Hypervisor, memory: u64, options: &[(&str, &str)]) -> Machine {
    let annotations: BTreeMap<_, _> = options
        .iter()
        .map(|(k, v)| (format!("dwcp.pulse/{k}"), (*v).to_owned()))
        .collect();
    let config = MachineConfig {
        name: "test".into(),
        cpus: 2,
        cpu_pinning: Vec::new(),
        cpu_quota: 0,
        image: Image::find("dwcp/pulse", memory, &annotations).unwrap(),
        guest: hypervisor.facts().clone(),
        disk: None,
    };
    let hooks = Hooks {
        on_end: Box::new(|| {}),
        on_news: Box::new(|_| {}),
    };
    let ram = GuestRam::allocate(memory, Backing::Memfd).unwrap();
    Machine::new(hypervisor, ram, config, hooks).unwrap()
}

const OPTIONS: &[(&str, &str)] = &[("beat-hz", "1000"), ("fill", "4194304")];

/// A machine whose guest has filled its memory and runs.
fn running(hypervisor: &dyn Hypervisor) -> Machine {
    let machine = machine_of(hypervisor, MEMORY_SIZE, OPTIONS);
    machine.boot().unwrap();
    machine.resume().unwrap();
    wait("filling", || report(&machine).pages_filled == 1024);
    wait("writing", || report(&machine).pages_written > 10);
    machine
}

fn report(machine: &Machine) -> crate::model::GuestReport {
    machine.pulse().unwrap().report("")
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::yield_now();
    }
}

/// Whether the guest goes on.
fn goes_on(machine: &Machine) {
    let beats = report(machine).beats;
    wait("beats", || report(machine).beats > beats + 3);
}

fn manifest(state: VMState, memory: u64) -> Manifest {
    let config = VMConfig::builder().name("web").memory(memory).cpus(2);
    let mut vm = VM::new("vm-1", "node-01", config.build().unwrap());
    vm.state = state;
    Manifest::new(new_uuid(), "before".into(), String::new(), &vm)
}

fn always() -> Result<()> {
    Ok(())
}

/// A place for snapshots.
struct Place {
    dir: TempDir,
    root: Root,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        Place { dir, root }
    }

    fn path(&self, id: &str, file: &str) -> PathBuf {
        self.dir.path().join("snapshots").join(id).join(file)
    }

    /// Takes a snapshot; its id.
    fn take(&self, machine: &Machine, state: VMState) -> String {
        let manifest = manifest(state, machine.ram().size());
        let taken = capture(&self.root, manifest, &of(Some(machine)), &always);
        taken.unwrap().manifest.id
    }

    /// Reads a snapshot into a fresh machine.
    fn load(&self, hypervisor: &dyn Hypervisor, id: &str) -> Result<Machine> {
        let mut opened = Opened::new(&self.root, id)?;
        opened.guest(hypervisor.facts())?;
        let machine = machine_of(hypervisor, MEMORY_SIZE, OPTIONS);
        opened.fill(&machine, &always)?;
        Ok(machine)
    }

    /// Names of all there is.
    fn names(&self) -> Vec<String> {
        let all = fs::read_dir(self.dir.path().join("snapshots")).unwrap();
        all.map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

fn refused<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(DWCPError::Snapshot(text)) => text,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_is_what_it_was() {
    for hypervisor in back_ends() {
        let place = Place::new();
        let source = running(&*hypervisor);
        source.pause();
        let (digest, then) = (source.ram().digest(), report(&source));
        let paused = place.take(&source, VMState::Paused);
        assert_eq!(source.ram().digest(), digest, "a paused guest stays so");
        source.resume().unwrap();
        let live = place.take(&source, VMState::Running);
        goes_on(&source);

        let target = place.load(&*hypervisor, &paused).unwrap();
        assert_eq!(target.ram().digest(), digest);
        let now = report(&target);
        assert_eq!(
            (now.beats, now.pages_written, now.laps),
            (then.beats, then.pages_written, then.laps)
        );
        drop(source);
        for target in [target, place.load(&*hypervisor, &live).unwrap()] {
            target.resume().unwrap();
            goes_on(&target);
            let number = target.pulse().unwrap().ask_check();
            let pulse = Arc::clone(target.pulse().unwrap());
            wait("the check", || {
                let mut check = std::pin::pin!(pulse.wait_checked(number));
                let waker = std::task::Waker::noop();
                let mut context = std::task::Context::from_waker(waker);
                check.as_mut().poll(&mut context).is_ready()
            });
            assert_eq!(report(&target).faults, 0);
        }
    }
}

#[test]
fn a_snapshot_of_one_that_was_restored_and_has_not_run() {
    for hypervisor in back_ends() {
        let place = Place::new();
        let source = running(&*hypervisor);
        let first = place.take(&source, VMState::Running);
        drop(source);
        let loaded = place.load(&*hypervisor, &first).unwrap();
        let second = place.take(&loaded, VMState::Paused);
        let again = place.load(&*hypervisor, &second).unwrap();
        assert_eq!(loaded.ram().digest(), again.ram().digest());
        again.resume().unwrap();
        goes_on(&again);
        assert_eq!(report(&again).faults, 0);
    }
}

#[test]
fn every_damage_is_refused_by_the_name_of_the_file() {
    let sim = Sim::new();
    let place = Place::new();
    let source = running(&sim);
    let id = place.take(&source, VMState::Running);
    place.load(&sim, &id).unwrap();
    for file in [MANIFEST, STATE, INDEX, MEMORY] {
        let path = place.path(&id, file);
        let good = fs::read(&path).unwrap();
        let says = |what: &str| {
            let error = refused(place.load(&sim, &id).map(drop));
            let begin = format!("{id}: {file}: ");
            assert!(error.starts_with(&begin), "{what}: {error}");
        };
        // In memory, a byte of a page that the guest has filled.
        let middle = match file {
            MEMORY => good.iter().rposition(|&byte| byte != 0).unwrap(),
            _ => good.len() / 2,
        };
        let ends = if file == MEMORY {
            middle
        } else {
            good.len() - 1
        };
        for at in [middle, ends] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            says("flipped");
        }
        for length in [0, 1, good.len() / 2, good.len() - 1] {
            fs::write(&path, &good[..length]).unwrap();
            says("truncated");
        }
        fs::write(&path, [good.as_slice(), &[0]].concat()).unwrap();
        says("longer");
        fs::remove_file(&path).unwrap();
        says("removed");
        fs::create_dir(&path).unwrap();
        says("a directory");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, &good).unwrap();
    }
    place.load(&sim, &id).unwrap();
    goes_on(&source);
}

#[test]
fn files_of_another_snapshot_are_refused() {
    let sim = Sim::new();
    let place = Place::new();
    let source = running(&sim);
    let one = place.take(&source, VMState::Running);
    goes_on(&source);
    let other = place.take(&source, VMState::Running);
    for file in [MANIFEST, STATE, INDEX, MEMORY] {
        let path = place.path(&one, file);
        let good = fs::read(&path).unwrap();
        fs::copy(place.path(&other, file), &path).unwrap();
        let error = refused(place.load(&sim, &one).map(drop));
        assert!(error.starts_with(&format!("{one}: {file}: ")), "{error}");
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn another_host_and_another_machine_are_refused() {
    let sim = Sim::new();
    let place = Place::new();
    let id = place.take(&running(&sim), VMState::Running);
    let mut host = sim.facts().clone();
    host.backend = "kvm".into();
    let opened = Opened::new(&place.root, &id).unwrap();
    let error = refused(opened.guest(&host));
    assert!(error.contains("runs on sim, this node on kvm"), "{error}");
    let mut opened = Opened::new(&place.root, &id).unwrap();
    let smaller = machine_of(&sim, MEMORY_SIZE / 2, &[]);
    let error = refused(opened.fill(&smaller, &always));
    assert!(error.contains("for a machine of"), "{error}");
}

#[test]
fn whatever_fails_the_guest_goes_on_and_nothing_stays() {
    for hypervisor in back_ends() {
        let place = Place::new();
        let source = running(&*hypervisor);
        for step in [
            Step::Stage,
            Step::Memory,
            Step::State,
            Step::Index,
            Step::Manifest,
            Step::Sync,
            Step::Rename,
        ] {
            *place.root.fault.lock().unwrap() = Some(step);
            let manifest = manifest(VMState::Running, MEMORY_SIZE);
            let failed = capture(&place.root, manifest, &of(Some(&source)), &always).unwrap_err();
            assert!(failed.stands.is_none(), "{step:?}");
            let error = refused::<()>(Err(failed.error));
            assert!(error.contains("No space left"), "{step:?}: {error}");
            assert_eq!(*place.root.fault.lock().unwrap(), None, "{step:?}");
            goes_on(&source);
            if step != Step::Stage {
                assert_eq!(place.names(), [""; 0], "{step:?}");
            }
        }
        let stop = || Err(DWCPError::Cancelled("enough".into()));
        let taken = manifest(VMState::Running, MEMORY_SIZE);
        let failed = capture(&place.root, taken, &of(Some(&source)), &stop).unwrap_err();
        assert_eq!(failed.error, DWCPError::Cancelled("enough".into()));
        goes_on(&source);
        assert_eq!(place.names(), [""; 0]);
        let id = place.take(&source, VMState::Running);
        assert_eq!(place.names(), [id]);
    }
}

#[test]
fn a_guest_that_has_ended_is_not_taken() {
    let sim = Sim::new();
    let place = Place::new();
    let source = running(&sim);
    source.pulse().unwrap().ask_off();
    wait("the end", || source.ended().is_some());
    let taken = manifest(VMState::Running, MEMORY_SIZE);
    let failed = capture(&place.root, taken, &of(Some(&source)), &always).unwrap_err();
    let error = failed.error;
    assert!(matches!(error, DWCPError::InvalidOperation(_)), "{error}");
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn only_data_takes_disk() {
    let sim = Sim::new();
    let place = Place::new();
    let size = 1 << 30;
    let machine = machine_of(&sim, size, &[("fill", "0")]);
    machine.boot().unwrap();
    // Zeros that somebody wrote are no data either.
    machine.ram().write(FREE, &vec![0; 4 << 20]).unwrap();
    machine.ram().write(size - PAGE_SIZE, &[7]).unwrap();
    let before = machine.ram().resident().unwrap();
    let taken = manifest(VMState::Paused, size);
    let taken = capture(&place.root, taken, &of(Some(&machine)), &always).unwrap();
    assert_eq!(
        machine.ram().resident().unwrap(),
        before,
        "holes stay holes"
    );
    let image = fs::metadata(place.path(&taken.manifest.id, MEMORY)).unwrap();
    assert_eq!(image.len(), size);
    assert!(image.blocks() * 512 < 1 << 20, "{}", image.blocks());
    assert!(taken.size < 2 << 20, "{}", taken.size);

    let mut opened = Opened::new(&place.root, &taken.manifest.id).unwrap();
    let target = machine_of(&sim, size, &[("fill", "0")]);
    opened.fill(&target, &always).unwrap();
    assert!(target.ram().resident().unwrap() < 4 << 20);
    let mut byte = [0];
    target.ram().read(size - PAGE_SIZE, &mut byte).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn a_snapshot_without_a_machine_is_its_manifest() {
    let place = Place::new();
    let taken = manifest(VMState::Stopped, MEMORY_SIZE);
    let id = capture(&place.root, taken, &of(None), &always)
        .unwrap()
        .manifest
        .id;
    let files = fs::read_dir(place.path(&id, "")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, [MANIFEST]);
    let mut opened = Opened::new(&place.root, &id).unwrap();
    assert!(!opened.manifest().has_memory());
    let sim = Sim::new();
    assert_eq!(opened.guest(sim.facts()).unwrap(), None);
    let machine = machine_of(&sim, MEMORY_SIZE, &[]);
    refused(opened.fill(&machine, &always));
}

#[test]
fn a_scan_finds_the_whole_names_the_damaged_and_removes_rests() {
    let sim = Sim::new();
    let place = Place::new();
    assert!(place.root.scan().unwrap().is_empty(), "nothing there yet");
    let machine = machine_of(&sim, MEMORY_SIZE, &[("fill", "0")]);
    let (good, bad) = (
        place.take(&machine, VMState::Paused),
        place.take(&machine, VMState::Paused),
    );
    let manifest = place.path(&bad, MANIFEST);
    let file = fs::OpenOptions::new().write(true).open(manifest).unwrap();
    file.write_all_at(b"x", 9).unwrap();
    for rest in [".new-1", ".gone-2"] {
        fs::create_dir(place.path(rest, "")).unwrap();
        fs::write(place.path(rest, MEMORY), "rest").unwrap();
    }
    // Somebody else's.
    fs::write(place.dir.path().join("snapshots/README"), "").unwrap();
    fs::create_dir(place.path("lost+found", "")).unwrap();
    let mut found = place.root.scan().unwrap();
    found.sort_by_key(|one| matches!(one, Found::Damaged { .. }));
    match found.as_slice() {
        [Found::Whole(manifest, size), Found::Damaged { id, why }] => {
            assert_eq!((&manifest.id, id), (&good, &bad));
            assert!(*size > 0);
            assert!(why.contains("snapshot.json: it is damaged"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    let mut names = place.names();
    names.sort();
    let mut expected = vec![good.clone(), bad, "lost+found".into(), "README".into()];
    expected.sort();
    assert_eq!(names, expected);

    place.root.remove(&good).unwrap();
    assert!(!place.root.is_there(&good));
    place.root.remove(&good).unwrap();
    assert_eq!(place.root.scan().unwrap().len(), 1);
}

#[test]
fn files_are_the_owners_alone() {
    let place = Place::new();
    let sim = Sim::new();
    let machine = machine_of(&sim, MEMORY_SIZE, &[("fill", "0")]);
    let id = place.take(&machine, VMState::Paused);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(place.dir.path().join("snapshots")), 0o700);
    assert_eq!(mode(place.path(&id, "")), 0o700);
    for file in [MANIFEST, STATE, INDEX, MEMORY] {
        assert_eq!(mode(place.path(&id, file)), 0o600, "{file}");
    }
}

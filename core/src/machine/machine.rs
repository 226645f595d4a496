//! One VM, from power-on to its end.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::boot::{Hardware, Image};
use super::console::Console;
use super::devices::{Bus, Devices, DiskUsage, News, Pulse};
use super::vcpu::{Common, Control, End, Throttle, VcpuHandle};
use crate::error::{DWCPError, Result};
use crate::hypervisor::{
    HostFacts, Hypervisor, Kind, NewVm, Reader, Section, Vm, Writer, sections_of,
};
use crate::memory::{DirtyLog, GuestRam, Harvester};
use crate::storage::{DiskLock, Written};

/// What a machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct MachineConfig {
    /// Name of its threads.
    pub(crate) name: String,
    /// vCPUs.
    pub(crate) cpus: u32,
    /// Host CPU for each vCPU in turn, from the start again where they are fewer; none: any.
    pub(crate) cpu_pinning: Vec<u32>,
    /// What its vCPUs together may use, in percent of one host CPU; 0: all they can.
    pub(crate) cpu_quota: u32,
    /// What it runs.
    pub(crate) image: Image,
    /// What its guest sees of the host it was first started on.
    pub(crate) guest: HostFacts,
    /// Its disk, where it has one.
    pub(crate) disk: Option<DiskConfig>,
}

/// A machine's disk.
#[derive(Clone, Debug)]
pub(crate) struct DiskConfig {
    /// Its file.
    pub(crate) path: PathBuf,
    /// Who has locked this file may write the disk.
    pub(crate) lock: PathBuf,
    /// Names it to the guest; 20 bytes count.
    pub(crate) serial: String,
    /// Requests in a second; 0: any number.
    pub(crate) iops_limit: u64,
    /// Threads that do them; 0: as many as seem right.
    pub(crate) io_threads: u32,
}

/// Called from the machine's threads when something happens; must not block.
pub(crate) struct Hooks {
    /// The guest came to an end; [`Machine::ended`] says how.
    pub(crate) on_end: Box<dyn Fn() + Send + Sync>,
    /// The built-in guest says something.
    pub(crate) on_news: Box<dyn Fn(News) + Send + Sync>,
}

/// What a machine has used since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time of all vCPU threads.
    pub(crate) cpu_time: Duration,
    /// Exits of all vCPUs.
    pub(crate) exits: u64,
    /// Bytes of host memory the guest's RAM takes now.
    pub(crate) resident: u64,
    /// Bytes of its RAM that the guest says its programs could still get, if it says that.
    pub(crate) available: Option<u64>,
    /// What it read and wrote of its disk.
    pub(crate) disk: DiskUsage,
}

/// A VM with its memory, devices and vCPU threads. Dropping it ends it, and joins its threads.
///
/// `boot` or `load` once, then `resume`, `pause` as often as wanted, in any order: pausing a paused
/// machine and resuming a running one are no errors and change nothing. Reading figures never
/// stops the guest.
pub(crate) struct Machine {
    config: MachineConfig,
    ram: Arc<GuestRam>,
    vm: Arc<dyn Vm>,
    devices: Arc<Devices>,
    pulse: Option<Arc<Pulse>>,
    console: Console,
    control: Arc<Control>,
    vcpus: Vec<VcpuHandle>,
    harvester: Arc<Harvester>,
    /// State after power-on, for a reset.
    power_on: Vec<Section>,
    /// That its disk is this machine's to write, while it is.
    disk_lock: Mutex<Option<DiskLock>>,
    /// Held while the vCPUs are being started or stopped.
    stage: Mutex<Stage>,
}

/// Where in its life a machine is.
#[derive(Debug, Default)]
struct Stage {
    running: bool,
    /// A loaded state of which the clock has to be set when the vCPUs first run.
    loaded: Option<Vec<Section>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Machine({})", self.config.name)
    }
}

impl Machine {
    /// Makes a machine over `ram`: all that can be made before it runs. Its vCPUs are parked.
    pub(crate) fn new(
        hypervisor: &dyn Hypervisor,
        ram: Arc<GuestRam>,
        config: MachineConfig,
        hooks: Hooks,
    ) -> Result<Self> {
        let NewVm { vm, mut vcpus } = hypervisor.create_vm(&ram, config.cpus, &config.guest)?;
        let mut power_on = vm.save()?;
        for vcpu in &mut vcpus {
            power_on.extend(vcpu.save()?);
        }
        let console = Console::default();
        let pulse = match config.image {
            Image::Pulse(_) => Some(Arc::new(Pulse::new(
                Arc::clone(&ram),
                config.cpus,
                hooks.on_news,
            ))),
            Image::Kernel(_) => None,
        };
        let drivers = matches!(config.image, Image::Kernel(_));
        let bus = Bus::new(&config.name, config.disk.as_ref(), drivers, &ram, &vm)?;
        let devices = Arc::new(Devices::new(
            Arc::clone(&vm),
            console.clone(),
            pulse.clone(),
            bus,
        ));
        let control = Arc::new(Control::new(hooks.on_end));
        let log = Arc::clone(&vm) as Arc<dyn DirtyLog>;
        let mut machine = Self {
            harvester: Harvester::new(Arc::clone(&ram), log),
            config,
            ram,
            vm,
            devices,
            pulse,
            console,
            control,
            vcpus: Vec::new(),
            power_on,
            disk_lock: Mutex::default(),
            stage: Mutex::default(),
        };
        let quota = Arc::new(Throttle::default());
        // As much as they could use at most bounds nothing.
        if machine.config.cpu_quota < 100 * machine.config.cpus {
            quota.set(machine.config.cpu_quota);
        }
        let common = Common {
            name: &machine.config.name,
            control: &machine.control,
            devices: &machine.devices,
            tsc_khz: machine.vm.tsc_khz(),
            quota: &quota,
        };
        let mut pinning = machine.config.cpu_pinning.iter().cycle();
        for (index, vcpu) in (0..).zip(vcpus) {
            // When one cannot be started, dropping the machine ends those that were.
            let vcpu = VcpuHandle::start(index, vcpu, &common)?;
            let pinned = pinning.next().map_or(Ok(()), |cpu| vcpu.pin(*cpu));
            machine.vcpus.push(vcpu);
            pinned?;
        }
        Ok(machine)
    }

    /// Loads the image and puts the vCPUs at its entry.
    pub(crate) fn boot(&self) -> Result<()> {
        let hardware = Hardware {
            cpus: self.config.cpus,
            tsc_khz: self.vm.tsc_khz(),
            virtio: &self.devices.virtio(),
        };
        let entries = self.config.image.load(&self.ram, &hardware)?;
        for (vcpu, entry) in self.vcpus.iter().zip(&entries) {
            vcpu.lock().enter(entry)?;
        }
        Ok(())
    }

    /// Takes the lock of its disk, if it has one and has not locked it, waiting no longer than `patience`
    /// for whoever has it.
    ///
    /// # Errors
    ///
    /// Those of [`DiskLock::take`].
    pub(crate) fn lock_disk(&self, patience: Duration) -> Result<()> {
        let mut lock = self.disk_lock();
        if let (None, Some(disk)) = (&*lock, &self.config.disk) {
            *lock = Some(DiskLock::take(&disk.lock, patience)?);
        }
        Ok(())
    }

    /// Takes the lock of a disk that another node had, and sees what that wrote.
    ///
    /// # Errors
    ///
    /// Those of [`lock_disk`](Self::lock_disk), and of a disk that cannot be opened again.
    pub(crate) fn take_over_disk(&self, patience: Duration) -> Result<()> {
        self.lock_disk(patience)?;
        self.devices.bus().reopen()
    }

    /// Gives the lock of its disk up: another machine may write it from now on.
    pub(crate) fn unlock_disk(&self) {
        debug_assert!(!self.stage().running);
        drop(self.disk_lock().take());
    }

    /// Takes the place of `old` at the disk that both have, whose lock stays where nobody else gets it.
    pub(crate) fn take_disk_from(&self, old: &Machine) {
        let lock = old.disk_lock().take();
        *self.disk_lock() = lock;
    }

    /// Lets the vCPUs run. The disk has to be locked.
    pub(crate) fn resume(&self) -> Result<()> {
        self.resume_if(|| Ok(()))
    }

    /// The same, unless `go` refuses it, which is asked when all was done that touches the guest's memory.
    pub(crate) fn resume_if(&self, go: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut stage = self.stage();
        if stage.running {
            return Ok(());
        }
        if self.config.disk.is_some() && self.disk_lock().is_none() {
            return Err(DWCPError::Internal(
                "a machine whose disk is not locked was to run".into(),
            ));
        }
        self.control.wait_parked();
        if let Some(sections) = stage.loaded.take() {
            self.vm.load_clock(&sections)?;
        }
        for vcpu in &self.vcpus {
            vcpu.lock().resume()?;
        }
        go()?;
        // It came from elsewhere in the moment between what it asked for and what was done about it.
        if self.control.ended().is_none()
            && let Some(end) = self.devices.pending_end()
        {
            self.control.end(end);
        }
        self.devices.bus().resume();
        stage.running = true;
        self.control.run();
        Ok(())
    }

    /// Presses the power button: asks the guest to power off, which it may do, or not.
    pub(crate) fn press_power_button(&self) -> Result<()> {
        self.devices.press_power_button()
    }

    /// Keeps the vCPUs from running for so many percent of the time, of those below 100; 0: they run as ever.
    /// It holds until it is changed, over pauses too. Returns at once.
    pub(crate) fn hold_back(&self, percent: u8) {
        let left = match percent {
            0 => 0,
            percent => 100 - u32::from(percent.min(99)),
        };
        for vcpu in &self.vcpus {
            vcpu.hold_to(left);
        }
    }

    /// Waits until all vCPUs run, and says since when; `None` when they do not.
    pub(crate) fn wait_running(&self) -> Option<Instant> {
        self.control.wait_running()
    }

    /// Begins to measure how long vCPUs stand still although the guest has something to do.
    pub(crate) fn measure_stalls(&self) {
        for vcpu in &self.vcpus {
            vcpu.stalls().start();
        }
    }

    /// Ends the measure of [`measure_stalls`](Self::measure_stalls).
    pub(crate) fn stop_measuring(&self) {
        for vcpu in &self.vcpus {
            vcpu.stalls().stop();
        }
    }

    /// How long all vCPUs stood still since the measure began, and the longest time of one, which
    /// is as long as a guest noticed nothing of the world.
    pub(crate) fn stalls(&self) -> (Duration, Duration) {
        let (mut total, mut longest) = (Duration::ZERO, Duration::ZERO);
        for vcpu in &self.vcpus {
            let (all, one) = vcpu.stalls().read();
            total += all;
            longest = longest.max(one);
        }
        (total, longest)
    }

    /// Stops the vCPUs; returns when none is in the guest and no device is at work.
    pub(crate) fn pause(&self) {
        let mut stage = self.stage();
        self.control.park(|| self.kick());
        self.control.wait_parked();
        self.devices.bus().pause();
        stage.running = false;
    }

    /// Tells the vCPUs to stop, and does not wait until they have: [`pause`](Self::pause) does. None goes back into
    /// the guest from wherever in the kernel it is.
    pub(crate) fn ask_to_pause(&self) {
        self.control.park(|| self.kick());
    }

    /// Makes durable what the guest wrote to its disk. Blocks.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(crate) fn flush_disk(&self) -> Result<()> {
        self.devices.bus().flush()
    }

    /// Its disk's file, to be copied, and what the guest changes of it from now on, for as long as that is kept;
    /// `None` where it has no disk.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(crate) fn follow_disk(&self) -> Result<Option<(Arc<File>, Arc<Written>)>> {
        self.devices.bus().follow_disk()
    }

    /// Its disk's file, which is filled before the guest runs.
    pub(crate) fn disk_file(&self) -> Option<Arc<File>> {
        self.devices.bus().disk_file()
    }

    /// Writes to its disk as the guest would.
    #[cfg(test)]
    pub(crate) fn write_disk(&self, offset: u64, bytes: &[u8]) {
        self.devices.bus().disk().write_as_guest(offset, bytes);
    }

    /// How many follow what the guest changes of its disk.
    #[cfg(test)]
    pub(crate) fn disk_followers(&self) -> usize {
        self.devices.bus().disk().followers()
    }

    /// Discards a part of its disk as the guest would.
    #[cfg(test)]
    pub(crate) fn discard_disk(&self, range: &std::ops::Range<u64>) {
        self.devices.bus().disk().discard_as_guest(range);
    }

    /// Starts the guest anew, as a reset button does; a paused machine stays paused.
    pub(crate) fn reset(&self) -> Result<()> {
        let was_running = {
            let mut stage = self.stage();
            let was_running = stage.running;
            self.control.park(|| self.kick());
            self.control.wait_parked();
            self.devices.bus().pause();
            stage.running = false;
            stage.loaded = None;
            self.vm.load(&self.power_on)?;
            for vcpu in &self.vcpus {
                vcpu.lock().load(&self.power_on)?;
            }
            self.devices.reset();
            self.boot()?;
            self.control.clear_end();
            was_running
        };
        if was_running { self.resume() } else { Ok(()) }
    }

    /// Saves the state of a paused machine: all but its memory.
    pub(crate) fn save(&self) -> Result<Vec<Section>> {
        let stage = self.stage();
        debug_assert!(!stage.running);
        // Devices first: they may still raise interrupts, which the interrupt controllers, saved
        // last, must not lose.
        let mut out = vec![self.header()];
        out.extend(self.devices.save());
        for vcpu in &self.vcpus {
            out.extend(vcpu.lock().save()?);
        }
        out.extend(self.vm.save()?);
        if let Some(loaded) = &stage.loaded {
            put_back_deferred(&mut out, loaded);
        }
        Ok(out)
    }

    /// Loads a saved state into a machine that has not run. Writes no guest memory.
    pub(crate) fn load(&self, sections: Vec<Section>) -> Result<()> {
        let header = self.header();
        if sections_of(&sections, Kind::Machine, 0).next() != Some(&header.body) {
            let wants = sections_of(&sections, Kind::Machine, 0).next();
            return Err(DWCPError::Migration(format!(
                "machine state refused: it is of {}, this is {}",
                wants
                    .and_then(describe)
                    .unwrap_or_else(|| "no known machine".into()),
                describe(&header.body).unwrap_or_default(),
            )));
        }
        let mut stage = self.stage();
        for vcpu in &self.vcpus {
            vcpu.lock().load(&sections)?;
        }
        self.vm.load(&sections)?;
        self.devices.load(&sections)?;
        stage.loaded = Some(sections);
        Ok(())
    }

    /// What a state is of: back end, vCPUs, memory.
    fn header(&self) -> Section {
        let mut out = Writer::default();
        out.u32(self.config.cpus);
        out.u64(self.ram.size());
        out.bytes(self.config.guest.backend.as_bytes());
        Section::new(Kind::Machine, 0, out.0)
    }

    /// Why the guest came to an end, if it did.
    pub(crate) fn ended(&self) -> Option<End> {
        self.control.ended()
    }

    pub(crate) fn config(&self) -> &MachineConfig {
        &self.config
    }

    pub(crate) fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The record of its changed pages.
    pub(crate) fn harvester(&self) -> &Arc<Harvester> {
        &self.harvester
    }

    /// What its serial port prints.
    pub(crate) fn console(&self) -> &Console {
        &self.console
    }

    /// Types on its serial port; how many bytes were taken.
    pub(crate) fn type_in(&self, bytes: &[u8]) -> usize {
        self.devices.type_in(bytes)
    }

    /// The built-in guest's side, where that is what it runs.
    pub(crate) fn pulse(&self) -> Option<&Arc<Pulse>> {
        self.pulse.as_ref()
    }

    /// Asks the guest to lend so many bytes of its memory: it does as far as it can, and when. False: this
    /// machine has no balloon.
    pub(crate) fn borrow_memory(&self, bytes: u64) -> bool {
        self.devices.bus().borrow_memory(bytes)
    }

    /// Asks the guest to say how much memory it uses, which [`usage`](Self::usage) tells from then on.
    pub(crate) fn ask_memory(&self) {
        // Whoever asks does not wait for a page of the queue.
        if !self.ram.is_late() {
            self.devices.bus().ask_memory();
        }
    }

    /// What it used so far. Does not stop the guest.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            available: self.devices.bus().available_memory(),
            cpu_time: self.vcpus.iter().map(VcpuHandle::cpu_time).sum(),
            exits: self.vcpus.iter().map(VcpuHandle::exits).sum(),
            resident: self.ram.resident().unwrap_or(0),
            disk: self.devices.bus().disk_usage(),
        }
    }

    fn kick(&self) {
        for vcpu in &self.vcpus {
            vcpu.kick();
        }
    }

    fn disk_lock(&self) -> MutexGuard<'_, Option<DiskLock>> {
        self.disk_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.control.quit(|| self.kick());
        for vcpu in &mut self.vcpus {
            vcpu.join();
        }
        self.console.close();
    }
}

/// A loaded machine that has not run since is saved as it was loaded where loading puts off to the
/// first run what belongs to time and what writes guest memory: the live registers do not have it yet.
fn put_back_deferred(saved: &mut [Section], loaded: &[Section]) {
    for section in saved {
        if matches!(
            section.kind,
            Kind::Msrs | Kind::Tsc | Kind::VcpuEvents | Kind::Clock
        ) && let Some(body) = sections_of(loaded, section.kind, section.instance).next()
        {
            body.clone_into(&mut section.body);
        }
    }
}

/// A header in words.
fn describe(body: &[u8]) -> Option<String> {
    let mut reader = Reader::new(body);
    let (cpus, memory) = (reader.u32().ok()?, reader.u64().ok()?);
    let backend = reader.bytes(body.len() - 12).ok()?;
    let backend = String::from_utf8_lossy(backend);
    Some(format!("{cpus} vCPUs, {memory} bytes, {backend}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use super::*;
    use crate::hypervisor::{Kvm, Sim, decode, encode};
    use crate::memory::Backing;

    const MEMORY: u64 = 32 << 20;

    fn back_ends() -> Vec<Arc<dyn Hypervisor>> {
        let mut all: Vec<Arc<dyn Hypervisor>> = vec![Arc::new(Sim::new())];
        match Kvm::open() {
            Ok(kvm) => all.push(Arc::new(kvm)),
            Err(error) => crate::test_support::skipped("machine on KVM", &error),
        }
        all
    }

    fn machine(hypervisor: &dyn Hypervisor, cpus: u32, annotations: &[(&str, &str)]) -> Machine {
        bounded(hypervisor, cpus, annotations, 0)
    }

    fn bounded(
        hypervisor: &dyn Hypervisor,
        cpus: u32,
        annotations: &[(&str, &str)],
        cpu_quota: u32,
    ) -> Machine {
        let annotations: BTreeMap<_, _> = annotations
            .iter()
            .map(|(k, v)| (format!("dwcp.pulse/{k}"), (*v).to_owned()))
            .collect();
        let config = MachineConfig {
            name: "test".into(),
            cpus,
            cpu_pinning: Vec::new(),
            cpu_quota,
            image: Image::find("dwcp/pulse", MEMORY, &annotations).unwrap(),
            guest: hypervisor.facts().clone(),
            disk: None,
        };
        let hooks = Hooks {
            on_end: Box::new(|| {}),
            on_news: Box::new(|_| {}),
        };
        let ram = GuestRam::allocate(MEMORY, Backing::Memfd).unwrap();
        Machine::new(hypervisor, ram, config, hooks).unwrap()
    }

    fn wait(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "{what} did not come");
            std::thread::yield_now();
        }
    }

    fn beats(machine: &Machine) -> u64 {
        machine.pulse().unwrap().report("").beats
    }

    #[test]
    fn pause_stops_the_guest_and_resume_goes_on() {
        for hypervisor in back_ends() {
            for cpus in [1, 4] {
                let machine = machine(
                    &*hypervisor,
                    cpus,
                    &[("beat-hz", "1000"), ("fill", "1048576")],
                );
                machine.boot().unwrap();
                machine.pause(); // of a machine that never ran
                machine.resume().unwrap();
                machine.resume().unwrap();
                wait("a beat", || beats(&machine) > 3);
                machine.pause();
                machine.pause();
                let (at, digest) = (beats(&machine), machine.ram().digest());
                std::thread::sleep(Duration::from_millis(20));
                assert_eq!((at, digest), (beats(&machine), machine.ram().digest()));
                machine.resume().unwrap();
                wait("a beat after the pause", || beats(&machine) > at + 3);
                assert!(machine.usage().exits > 0);
            }
        }
    }

    /// A guest that never rests by itself and has nothing else to do.
    const SPINS: [(&str, &str); 3] = [("fill", "0"), ("spin", "true"), ("beat-hz", "1000")];

    #[test]
    fn a_quota_bounds_the_time_of_all_vcpus() {
        for hypervisor in back_ends() {
            for (cpus, percent) in [(1, 20), (2, 20), (2, 60)] {
                let machine = bounded(&*hypervisor, cpus, &SPINS, percent);
                machine.boot().unwrap();
                machine.resume().unwrap();
                let began = Instant::now();
                let mut last = (Duration::ZERO, Duration::ZERO);
                while last.0 < Duration::from_secs(1) {
                    std::thread::sleep(Duration::from_millis(20));
                    // In this order, what was used is not more than what had passed for it.
                    let used = machine.usage().cpu_time;
                    last = (began.elapsed(), used);
                }
                let (passed, used) = last;
                let share = passed * percent / 100;
                // Beyond its share: what it had saved up, and the last runs. Half: a host that is
                // busy otherwise gives less, one that gives next to nothing shows a mistake.
                let most = share + Duration::from_millis(25);
                assert!(
                    used <= most,
                    "{cpus} vCPUs, {percent} %: {used:?} in {passed:?}"
                );
                let least = share / 8;
                assert!(
                    used >= least,
                    "{cpus} vCPUs, {percent} %: {used:?} in {passed:?}"
                );
            }
        }
    }

    #[test]
    fn vcpus_are_held_back_and_let_go_of_while_they_run() {
        for hypervisor in back_ends() {
            let machine = bounded(&*hypervisor, 1, &SPINS, 0);
            machine.boot().unwrap();
            machine.resume().unwrap();
            // In the same time as before: on a busy host both are little.
            let used = |time| {
                let before = machine.usage().cpu_time;
                std::thread::sleep(time);
                machine.usage().cpu_time - before
            };
            let time = Duration::from_millis(500);
            machine.hold_back(95);
            let held = used(time);
            assert!(held < time / 5, "{held:?}");
            machine.hold_back(0);
            let end = Instant::now() + Duration::from_secs(30);
            while used(time) < held * 3 {
                assert!(Instant::now() < end, "it is not let go of");
            }
        }
    }

    #[test]
    fn a_quota_holds_up_no_pause() {
        for hypervisor in back_ends() {
            let machine = bounded(&*hypervisor, 2, &SPINS, 1);
            machine.boot().unwrap();
            let rest = Duration::from_millis(100);
            let mut shortest = Duration::MAX;
            for _ in 0..20 {
                machine.resume().unwrap();
                machine.wait_running().unwrap();
                std::thread::sleep(Duration::from_millis(5));
                let began = Instant::now();
                machine.pause();
                shortest = shortest.min(began.elapsed());
            }
            // Its vCPUs rest nearly all the time, for 100 ms and more.
            assert!(shortest < rest / 4, "{shortest:?}");
        }
    }

    #[test]
    fn vcpus_run_where_they_are_pinned() {
        let allowed = |name: &str| {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let of = |what: &str, dir: &std::path::Path| {
                std::fs::read_to_string(dir.join(what)).unwrap_or_default()
            };
            let mut found: Vec<(String, String)> = tasks
                .map(|task| task.unwrap().path())
                .filter(|task| of("comm", task).starts_with(name))
                .map(|task| {
                    let status = of("status", &task);
                    let mut lines = status.lines();
                    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
                    let name = of("comm", &task).trim_end().to_owned();
                    (name, list.unwrap_or_default().to_owned())
                })
                .collect();
            found.sort();
            found
        };
        // What a thread that is not pinned takes over from the one that makes it.
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mut lines = status.lines();
        let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
        let all = list.unwrap().to_owned();
        let sim = Sim::new();
        let config = |name: &str, cpu_pinning| MachineConfig {
            name: name.into(),
            cpus: 3,
            cpu_pinning,
            cpu_quota: 0,
            image: Image::find("dwcp/pulse", MEMORY, &BTreeMap::new()).unwrap(),
            guest: sim.facts().clone(),
            disk: None,
        };
        let make = |config| {
            let hooks = Hooks {
                on_end: Box::new(|| {}),
                on_news: Box::new(|_| {}),
            };
            let ram = GuestRam::allocate(MEMORY, Backing::Memfd).unwrap();
            Machine::new(&sim, ram, config, hooks)
        };
        let free = make(config("free", Vec::new())).unwrap();
        // A thread gives itself its name when it begins.
        wait("the threads", || allowed("free/").len() == 3);
        assert!(allowed("free/").iter().all(|(_, list)| *list == all));
        drop(free);
        let last = all.split(['-', ',']).next_back().unwrap();
        let first = all.split(['-', ',']).next().unwrap();
        let number = |text: &str| text.parse().unwrap();
        let pinned = make(config("pinned", vec![number(first), number(last)])).unwrap();
        let expected = [
            ("pinned/vcpu0", first),
            ("pinned/vcpu1", last),
            ("pinned/vcpu2", first),
        ];
        let expected = expected.map(|(name, list)| (name.to_owned(), list.to_owned()));
        wait("the threads", || allowed("pinned/").len() == 3);
        assert_eq!(allowed("pinned/"), expected);
        drop(pinned);
        let error = make(config("none", vec![8191])).unwrap_err().to_string();
        assert!(error.contains("host CPU 8191 cannot be used"), "{error}");
        assert_eq!(allowed("none/"), [], "its threads ended");
    }

    #[test]
    fn a_saved_machine_goes_on_in_another() {
        for hypervisor in back_ends() {
            let options = [
                ("beat-hz", "1000"),
                ("fill", "1048576"),
                ("dirty-pages-per-second", "0"),
            ];
            let source = machine(&*hypervisor, 2, &options);
            source.boot().unwrap();
            source.resume().unwrap();
            wait("filling", || {
                source.pulse().unwrap().report("").pages_filled == 256
            });
            wait("writing", || source.pulse().unwrap().pages_written() > 1000);
            source.pause();
            let state = encode(&source.save().unwrap());
            let target = machine(&*hypervisor, 2, &options);
            let mut bytes = vec![0; MEMORY as usize];
            source.ram().read(0, &mut bytes).unwrap();
            target.ram().write(0, &bytes).unwrap();
            target.load(decode(&state).unwrap()).unwrap();
            assert_eq!(
                source.ram().digest(),
                target.ram().digest(),
                "loading writes no memory"
            );
            let before = target.pulse().unwrap().report("");
            drop(source);
            target.resume().unwrap();
            wait("beats", || beats(&target) > before.beats + 2);
            let pulse = target.pulse().unwrap();
            let number = pulse.ask_check();
            wait("the check", || {
                let check = pulse.wait_checked(number);
                let mut check = std::pin::pin!(check);
                let waker = std::task::Waker::noop();
                check
                    .as_mut()
                    .poll(&mut std::task::Context::from_waker(waker))
                    .is_ready()
            });
            let after = pulse.report("");
            assert_eq!(after.faults, 0, "{after:?}");
            assert!(after.pages_written > before.pages_written);
        }
    }

    #[test]
    fn a_loaded_machine_that_has_not_run_is_saved_as_it_was_loaded() {
        for hypervisor in back_ends() {
            let source = machine(&*hypervisor, 2, &[("beat-hz", "1000")]);
            source.boot().unwrap();
            source.resume().unwrap();
            wait("beats", || beats(&source) > 3);
            source.pause();
            let first = source.save().unwrap();
            let target = machine(&*hypervisor, 2, &[("beat-hz", "1000")]);
            target.load(first.clone()).unwrap();
            let second = target.save().unwrap();
            // What runs on by itself, and what is told in wall-clock time anew, may differ.
            let same = |sections: &[Section]| {
                let kept = sections.iter().filter(|section| {
                    matches!(
                        section.kind,
                        Kind::Regs
                            | Kind::Sregs
                            | Kind::Msrs
                            | Kind::Tsc
                            | Kind::VcpuEvents
                            | Kind::Clock
                            | Kind::SimVcpu
                    )
                });
                kept.cloned().collect::<Vec<_>>()
            };
            let (first, second) = (same(&first), same(&second));
            assert_eq!(first.len(), second.len());
            for (one, other) in first.iter().zip(&second) {
                assert_eq!(one, other);
            }
        }
    }

    #[test]
    fn reset_starts_anew_and_off_ends() {
        for hypervisor in back_ends() {
            let machine = machine(&*hypervisor, 1, &[("beat-hz", "1000"), ("fill", "1048576")]);
            machine.boot().unwrap();
            machine.resume().unwrap();
            wait("beats", || beats(&machine) > 50);
            machine.reset().unwrap();
            wait("a beat", || beats(&machine) > 0);
            machine.pulse().unwrap().ask_off();
            wait("the end", || machine.ended().is_some());
            assert_eq!(machine.ended(), Some(End::PoweredOff));
            let at = beats(&machine);
            machine.resume().unwrap();
            machine.pause();
            assert_eq!(at, beats(&machine), "an ended guest does not run");
        }
    }

    #[test]
    fn a_state_of_another_machine_is_refused() {
        let sim = Sim::new();
        let two = machine(&sim, 2, &[]);
        let one = machine(&sim, 1, &[]);
        let error = one.load(two.save().unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("2 vCPUs") && error.contains("this is 1 vCPUs"),
            "{error}"
        );
    }

    #[test]
    fn a_crash_is_told_with_its_reason() {
        let Ok(kvm) = Kvm::open() else {
            return crate::test_support::skipped("machine::a_crash_is_told", &"no KVM");
        };
        let machine = machine(&kvm, 1, &[("fill", "1048576")]);
        machine.boot().unwrap();
        // ud2 at the entry: no handler, so a triple fault, or what this KVM makes of it.
        machine.ram().write(0x8000, &[0x0f, 0x0b]).unwrap();
        machine.resume().unwrap();
        wait("the end", || machine.ended().is_some());
        match machine.ended().unwrap() {
            End::Crashed(why) | End::Failed(why) => assert!(!why.is_empty()),
            end => panic!("it did not end itself: {end:?}"),
        }
    }

    #[test]
    fn many_machines_end_without_a_trace() {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let sim = Sim::new();
        drop(machine(&sim, 4, &[]));
        let before = threads();
        for _ in 0..20 {
            let machine = machine(&sim, 4, &[("fill", "0"), ("spin", "true")]);
            machine.boot().unwrap();
            machine.resume().unwrap();
        }
        // Other tests run beside this one: theirs may have come and gone, 80 of ours may not stay.
        assert!(
            threads() < before + 40,
            "{} threads, {before} before",
            threads()
        );
    }
}

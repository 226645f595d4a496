//! Two hosts that do what nodes do for a migration, and record it.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use super::super::converge::Throttle;
use super::super::faults::Faults;
use super::super::link::{self, Greeting};
use super::super::whereabouts::{self, Answer, Whereabouts};
use super::super::*;
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Hypervisor, Kvm, Sim, misfits};
use crate::machine::{DiskConfig, Hooks, Image, Machine, MachineConfig};
use crate::memory::{Backing, GuestRam};
use crate::model::{
    GuestReport, MigrationOptions, MigrationStatus, SameHost, VM, VMConfig, new_uuid,
};
use crate::transport::tests::{Authority, LONG};
use crate::transport::{Address, Blocking, Listener, ServerTls};
use crate::wire::frame::FrameType;

/// Signs the certificates of all hosts here.
pub(super) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("authority"));

/// What runs the machines, and whether what goes between them is encrypted.
pub(super) struct BackEnd {
    hypervisor: Arc<dyn Hypervisor>,
    tls: bool,
}

impl BackEnd {
    pub(super) fn encrypted(mut self) -> Self {
        self.tls = true;
        self
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.tls
    }
}

impl Deref for BackEnd {
    type Target = dyn Hypervisor;

    fn deref(&self) -> &Self::Target {
        &*self.hypervisor
    }
}

pub(super) fn sim() -> BackEnd {
    BackEnd {
        hypervisor: Arc::new(Sim::new()),
        tls: false,
    }
}

pub(super) fn back_ends() -> Vec<BackEnd> {
    let mut all = vec![sim(), sim().encrypted()];
    match Kvm::open() {
        Ok(kvm) => all.push(BackEnd {
            hypervisor: Arc::new(kvm),
            tls: false,
        }),
        Err(error) => crate::test_support::skipped("migration on KVM", &error),
    }
    all
}

/// The VM all tests here move, with some of the built-in guest's annotations.
pub(super) fn vm(memory: u64, cpus: u32, annotations: &[(&str, &str)]) -> VM {
    let annotations = annotations
        .iter()
        .map(|(k, v)| (format!("dwcp.pulse/{k}"), *v));
    let config = VMConfig::builder()
        .name("traveller")
        .memory(memory)
        .cpus(cpus)
        .annotations(annotations)
        .build()
        .unwrap();
    VM::new(new_uuid(), "a", config)
}

/// A VM's machine, over memory that was handed over or fresh one of that kind.
pub(super) fn machine(
    hypervisor: &dyn Hypervisor,
    vm: &VM,
    handed: Option<Arc<GuestRam>>,
    backing: Backing,
) -> Result<Arc<Machine>> {
    machine_with(hypervisor, vm, handed, backing, None)
}

/// The same, with that disk.
fn machine_with(
    hypervisor: &dyn Hypervisor,
    vm: &VM,
    handed: Option<Arc<GuestRam>>,
    backing: Backing,
    disk: Option<DiskConfig>,
) -> Result<Arc<Machine>> {
    let config = &vm.config;
    let config = MachineConfig {
        name: config.name.clone(),
        cpus: config.cpus,
        cpu_pinning: Vec::new(),
        cpu_quota: 0,
        image: Image::find(&config.image, config.memory, &config.annotations)?,
        guest: hypervisor.facts().clone(),
        disk,
    };
    let hooks = Hooks {
        on_end: Box::new(|| {}),
        on_news: Box::new(|_| {}),
    };
    let ram = match handed {
        Some(ram) => ram,
        None => GuestRam::allocate(vm.config.memory, backing)?,
    };
    Ok(Arc::new(Machine::new(hypervisor, ram, config, hooks)?))
}

/// One side: what a node would hold.
pub(super) struct Host {
    hypervisor: Arc<dyn Hypervisor>,
    pub(super) machine: Mutex<Option<Arc<Machine>>>,
    pub(super) records: Mutex<Vec<String>>,
    pub(super) outcome: Mutex<Option<String>>,
    incoming: Mutex<Option<Arc<Incoming>>>,
    /// The thread of what came in last has ended.
    over: AtomicBool,
    verdict: Mutex<Option<Verdict>>,
    uuid: String,
    /// How others reach it.
    pub(super) dial: Dial,
    /// The key that it asks of peers.
    key: Option<String>,
    /// Why connections to it came to nothing.
    pub(super) refused: Mutex<Vec<String>>,
    pub(super) faults: Mutex<Faults>,
    /// Where its disks are.
    folder: tempfile::TempDir,
}

impl Host {
    pub(super) fn new(back_end: &BackEnd) -> Arc<Self> {
        let tls = back_end
            .tls
            .then(|| AUTHORITY.sign(&["127.0.0.1"]).server(None));
        Self::with(back_end, tls, None)
    }

    /// One that does not wait long for others.
    pub(super) fn impatient(back_end: &BackEnd, silence: Duration) -> Arc<Self> {
        Self::open(back_end, None, None, Patience::new(silence))
    }

    pub(super) fn with(back_end: &BackEnd, tls: Option<ServerTls>, key: Option<&str>) -> Arc<Self> {
        Self::open(back_end, tls, key, Patience::default())
    }

    fn open(
        back_end: &BackEnd,
        tls: Option<ServerTls>,
        key: Option<&str>,
        patience: Patience,
    ) -> Arc<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let encrypted = tls.is_some();
        let any = Address::parse("127.0.0.1:0", 0).unwrap();
        let listener = runtime.block_on(Listener::bind(&any, tls)).unwrap();
        let host = Arc::new(Self {
            hypervisor: Arc::clone(&back_end.hypervisor),
            machine: Mutex::default(),
            records: Mutex::default(),
            outcome: Mutex::default(),
            incoming: Mutex::default(),
            over: AtomicBool::default(),
            verdict: Mutex::default(),
            uuid: new_uuid(),
            dial: Dial {
                address: listener.local_address().clone(),
                tls: encrypted.then(|| Arc::new(AUTHORITY.client())),
                credential: key.map(str::to_owned),
                patience,
            },
            key: key.map(str::to_owned),
            refused: Mutex::default(),
            faults: Mutex::default(),
            folder: tempfile::tempdir().unwrap(),
        });
        let weak = Arc::downgrade(&host);
        std::thread::spawn(move || {
            loop {
                let pending = runtime.block_on(listener.accept()).unwrap();
                let Some(host) = weak.upgrade() else { return };
                let stream = runtime.block_on(pending.handshake(LONG));
                let greeted = stream.and_then(|stream| {
                    let stream = runtime.block_on(async { stream.into_blocking() });
                    host.greet(stream?)
                });
                if let Err(error) = greeted {
                    host.refused.lock().unwrap().push(error.to_string());
                }
            }
        });
        host
    }

    fn greet(self: &Arc<Self>, mut stream: Blocking) -> Result<()> {
        let Some(mut frame) = link::read_frame(&mut stream)? else {
            return Ok(());
        };
        if let Some(key) = &self.key {
            if frame.frame_type != FrameType::Auth {
                return Err(DWCPError::Authentication("it did not say who it is".into()));
            }
            let request: serde_json::Value = serde_json::from_slice(&frame.payload)?;
            assert_eq!(request["features"], serde_json::json!(["x3.1"]));
            let success = request["api_key"] == **key;
            let answer = serde_json::json!({ "success": success, "message": "key unknown" });
            link::write_frame(&mut stream, FrameType::Vm, serde_json::to_vec(&answer)?)?;
            match link::read_frame(&mut stream)? {
                Some(next) => frame = next,
                None => return Ok(()),
            }
        }
        match Greeting::parse(&frame)? {
            Greeting::Control(first) if !is_offer(&first) => self.asked(*first, stream),
            Greeting::Control(first) => {
                self.over.store(false, Ordering::SeqCst);
                *self.verdict.lock().unwrap() = None;
                let arriving = Arriving {
                    first: *first,
                    stream,
                    node_uuid: self.uuid.clone(),
                    host: Arc::clone(self) as Arc<dyn DestinationHost>,
                    patience: self.dial.patience,
                    faults: self.faults.lock().unwrap().clone(),
                };
                // Whoever finds it over finds it here.
                let mut incoming = self.incoming.lock().unwrap();
                *incoming = Some(Arc::new(Incoming::start(arriving)?));
                Ok(())
            }
            Greeting::Whereabouts(question) => {
                // It has seen the epoch of all migrations here.
                let vms = question.vms.into_iter().map(|vm_id| Whereabouts {
                    vm_id,
                    epoch: 1,
                    ..Whereabouts::default()
                });
                let known = Answer {
                    node_uuid: self.uuid.clone(),
                    vms: vms.collect(),
                };
                whereabouts::answer(&mut stream, &known)
            }
            Greeting::Probe(_) => Err(DWCPError::Unsupported("no node plans here".into())),
            Greeting::Bulk(request) => {
                let incoming = self.incoming.lock().unwrap().clone();
                let incoming =
                    incoming.ok_or_else(|| DWCPError::NotFound("no migration".into()))?;
                incoming.attach(&request, stream, accept_channel)
            }
        }
    }

    /// A source that lost its control connection asks about what it offered before.
    fn asked(self: &Arc<Self>, first: Envelope, stream: Blocking) -> Result<()> {
        let incoming = self.incoming.lock().unwrap().clone();
        match incoming.filter(|_| !self.over.load(Ordering::SeqCst)) {
            // Should its thread end now, the connection is closed, and the source asks again.
            Some(incoming) => incoming.adopt(stream, first),
            None => {
                let host = Arc::clone(self);
                std::thread::spawn(move || {
                    let verdict = host.verdict.lock().unwrap().clone();
                    let (uuid, patience) = (&host.uuid, host.dial.patience);
                    let persist = |verdict: &Verdict| DestinationHost::persist(&*host, verdict);
                    let meet = |epoch| host.meet(epoch);
                    let verdict = verdict.as_ref();
                    let answered =
                        answer_about(first, stream, uuid, verdict, patience, persist, meet);
                    if let Err(error) = answered {
                        host.refused.lock().unwrap().push(error.to_string());
                    }
                });
            }
        }
        Ok(())
    }

    /// A VM that runs here.
    pub(super) fn boot(self: &Arc<Self>, vm: &VM) {
        self.boot_over(vm, Backing::Memfd);
    }

    /// The same, over memory of that kind.
    pub(super) fn boot_over(self: &Arc<Self>, vm: &VM, backing: Backing) {
        let disk = (vm.config.disk > 0).then(|| self.make_disk(vm).unwrap());
        let machine = machine_with(&*self.hypervisor, vm, None, backing, disk).unwrap();
        machine.lock_disk(Duration::ZERO).unwrap();
        machine.boot().unwrap();
        machine.resume().unwrap();
        *self.machine.lock().unwrap() = Some(machine);
    }

    /// Where the disk of a VM is.
    pub(super) fn disk(&self, vm: &VM) -> PathBuf {
        self.folder.path().join(&vm.id)
    }

    /// Makes the disk of a VM, all holes.
    fn make_disk(&self, vm: &VM) -> Result<DiskConfig> {
        let path = self.disk(vm);
        std::fs::File::create_new(&path)?.set_len(vm.config.disk)?;
        Ok(DiskConfig {
            lock: path.with_extension("lock"),
            path,
            serial: vm.id.clone(),
            iops_limit: 0,
            io_threads: 0,
        })
    }

    pub(super) fn machine(&self) -> Arc<Machine> {
        self.machine
            .lock()
            .unwrap()
            .clone()
            .expect("a machine here")
    }

    pub(super) fn has_machine(&self) -> bool {
        self.machine.lock().unwrap().is_some()
    }

    /// Whether a migration has come in since the last one was settled.
    pub(super) fn is_asked(&self) -> bool {
        self.incoming.lock().unwrap().is_some()
    }

    /// Whether some of the memory of what came in last is still to come.
    pub(super) fn is_awaiting(&self) -> bool {
        let incoming = self.incoming.lock().unwrap().clone();
        incoming.is_some_and(|incoming| incoming.is_awaiting())
    }

    /// Waits for the end of the last migration that came in.
    pub(super) fn settle(&self) {
        let incoming = self.incoming.lock().unwrap().take();
        if let Some(incoming) = incoming {
            incoming.join();
        }
    }
}

impl DestinationHost for Host {
    fn admit(&self, _epoch: u64, offer: &Offer) -> Result<Option<Arc<Machine>>, Vec<String>> {
        if offer.is_stopped() {
            return Ok(None);
        }
        let bad = misfits(&offer.guest, self.hypervisor.facts());
        if !bad.is_empty() {
            return Err(bad.iter().map(ToString::to_string).collect());
        }
        let handed = take_memory(offer).map_err(|why| vec![format!("same_host: {why}")])?;
        let one = |error: DWCPError| vec![error.to_string()];
        let disk = offer.disk_copied.map(|_| self.make_disk(&offer.vm));
        let disk = disk.transpose().map_err(one)?;
        let machine = machine_with(&*self.hypervisor, &offer.vm, handed, Backing::Memfd, disk)
            .map_err(one)?;
        *self.machine.lock().unwrap() = Some(Arc::clone(&machine));
        Ok(Some(machine))
    }
    fn persist(&self, verdict: &Verdict) -> Result<()> {
        self.records.lock().unwrap().push(format!("{verdict:?}"));
        *self.verdict.lock().unwrap() = Some(verdict.clone());
        Ok(())
    }
    fn started(&self) {}
    fn discard(&self) {
        let machine = self.machine.lock().unwrap().take();
        if let Some(disk) = machine.and_then(|own| own.config().disk.clone()) {
            std::fs::remove_file(disk.path).unwrap();
        }
    }
    fn memory_lost(&self, reason: &str) {
        drop(self.machine.lock().unwrap().take());
        *self.outcome.lock().unwrap() = Some(format!("memory lost: {reason}"));
    }
    fn meet(&self, _epoch: u64) -> Option<u64> {
        if let Some(machine) = &*self.machine.lock().unwrap() {
            machine.pause();
        }
        None
    }
    fn finished(&self, outcome: &DestinationOutcome) {
        *self.outcome.lock().unwrap() = Some(format!("{outcome:?}"));
    }
    fn over(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
    fn source_address(&self, _source_node: &str) -> Option<Dial> {
        None
    }
}

/// The source's side of a host.
struct AsSource(Arc<Host>);

impl SourceHost for AsSource {
    fn persist(&self, record: &Record) -> Result<()> {
        self.0.records.lock().unwrap().push(format!("{record:?}"));
        Ok(())
    }
    fn release(&self) {
        let machine = self.0.machine.lock().unwrap().take();
        if let Some(disk) = machine.and_then(|own| own.config().disk.clone()) {
            std::fs::remove_file(disk.path).unwrap();
        }
    }
    fn finished(&self, outcome: &SourceOutcome) {
        *self.0.outcome.lock().unwrap() = Some(format!("{outcome:?}"));
    }
}

/// A migration of the VM at `from`, begun.
pub(super) struct Migration {
    pub(super) outgoing: Outgoing,
    pub(super) progress: Arc<Progress>,
}

/// Both hosts are this one, and most tests are about copying.
pub(super) fn options() -> MigrationOptions {
    MigrationOptions {
        same_host: SameHost::Never,
        encrypt_transport: false,
        verify_checksum: false,
        compression: false,
        parallel: 2,
        max_downtime: 5_000,
        ..MigrationOptions::default()
    }
}

pub(super) fn begin(
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
    faults: Faults,
) -> Migration {
    begin_by(to.dial.clone(), vm, from, to, options, faults)
}

/// The same, reaching the destination in another way than it says.
pub(super) fn begin_by(
    dial: Dial,
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
    faults: Faults,
) -> Migration {
    start(leaving(dial, vm, from, to, options, faults))
}

/// The same, of a VM that is paused, and arrives so.
pub(super) fn begin_paused(
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
    faults: Faults,
) -> Migration {
    let running = leaving(to.dial.clone(), vm, from, to, options, faults);
    let (guest, disk) = (running.offer.guest.clone(), running.offer.disk.clone());
    let copied = running.offer.disk_copied;
    start(Leaving {
        offer: Offer::new(vm.clone(), guest, running.offer.channels, false)
            .with(None, disk)
            .with_copied_disk(copied),
        ..running
    })
}

/// The same, or why it does not begin.
pub(super) fn try_begin(
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
) -> Result<Outgoing> {
    let faults = Faults::default();
    Outgoing::start(leaving(to.dial.clone(), vm, from, to, options, faults))
}

/// The same, with something that can slow the guest down.
pub(super) fn begin_braked(
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
    faults: Faults,
    throttle: Arc<dyn Throttle>,
) -> Migration {
    start(Leaving {
        throttle: Some(throttle),
        ..leaving(to.dial.clone(), vm, from, to, options, faults)
    })
}

/// A migration of a VM that is stopped, begun.
pub(super) fn begin_stopped(
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    faults: Faults,
) -> Migration {
    let offer = Offer::of_stopped(vm.clone(), from.hypervisor.facts().clone());
    let options = MigrationOptions {
        offline: true,
        ..options()
    };
    start(without_machine(
        to.dial.clone(),
        offer,
        from,
        to,
        options,
        faults,
    ))
}

fn leaving(
    dial: Dial,
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
    faults: Faults,
) -> Leaving {
    let machine = from.machine();
    let guest = machine.config().guest.clone();
    let offer =
        Offer::new(vm.clone(), guest, options.channels(), true).allow_post_copy(options.post_copy);
    let disk = machine.disk_file().filter(|_| options.with_disks);
    let disk = disk.map(|file| DiskFacts {
        id: vm.id.clone(),
        size: file.metadata().unwrap().len(),
    });
    let copied = disk.as_ref().map(|_| 0);
    let offer = offer.with(None, disk).with_copied_disk(copied);
    Leaving {
        machine: Some(machine),
        ..without_machine(dial, offer, from, to, options, faults)
    }
}

fn without_machine(
    dial: Dial,
    offer: Offer,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
    faults: Faults,
) -> Leaving {
    *to.faults.lock().unwrap() = faults.clone();
    Leaving {
        session: new_uuid(),
        epoch: 1,
        offer,
        machine: None,
        options,
        dial,
        node_uuid: from.uuid.clone(),
        node_name: "a".into(),
        progress: Arc::new(Progress::new(MigrationStatus::default())),
        host: Arc::new(AsSource(Arc::clone(from))),
        throttle: None,
        faults,
    }
}

fn start(leaving: Leaving) -> Migration {
    let progress = Arc::clone(&leaving.progress);
    Migration {
        outgoing: Outgoing::start(leaving).unwrap(),
        progress,
    }
}

impl Migration {
    /// Its status once it is over.
    pub(super) fn end(self) -> MigrationStatus {
        self.outgoing.join();
        self.progress.status()
    }
}

/// A whole migration.
pub(super) fn migrate(
    vm: &VM,
    from: &Arc<Host>,
    to: &Arc<Host>,
    options: MigrationOptions,
) -> MigrationStatus {
    let status = begin(vm, from, to, options, Faults::default()).end();
    to.settle();
    status
}

pub(super) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::yield_now();
    }
}

pub(super) fn wait_filled(machine: &Machine, vm: &VM) {
    let pages = vm
        .config
        .annotations
        .get("dwcp.pulse/fill")
        .map_or(vm.config.memory / 2, |f| f.parse().unwrap())
        / 4096;
    wait("the filling", || {
        machine.pulse().unwrap().report("").pages_filled >= pages
    });
}

/// Has the guest check all its memory.
pub(super) fn verify(machine: &Machine) -> GuestReport {
    let pulse = machine.pulse().unwrap();
    let number = pulse.ask_check();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), pulse.wait_checked(number))
            .await
            .expect("the guest's check ends");
    });
    pulse.report("")
}

/// All phases in which a failure leaves the guest at the source: those before the grant, the grant's
/// own writing, and the locking, upon which the destination refuses.
pub(super) const UNDONE: [Phase; 10] = [
    Phase::Build,
    Phase::Attach,
    Phase::Copy,
    Phase::Receive,
    Phase::Pause,
    Phase::Save,
    Phase::SendState,
    Phase::Load,
    Phase::Persist,
    Phase::Lock,
];

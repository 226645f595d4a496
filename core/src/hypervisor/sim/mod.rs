//! The simulated back end: no KVM, no guest code.
//!
//! A vCPU here is a thread that does to guest memory what the built-in guest's program does, at the
//! same pace, with the same stamps and checks, and rings the same ports. All above this layer
//! (machine, migration, node) is the same code as with KVM, so tests and work on the SDKs need no
//! KVM. It says `sim` wherever a back end is named.
#![forbid(unsafe_code)]

mod log;
mod program;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::log::SimLog;
use self::program::Program;
use super::{
    CpuidLeaf, Entry, Exit, HostFacts, Hypervisor, Kick, Kind, NewVm, Reader, Section, Vcpu, Vm,
    Writer, sections_of,
};
use crate::error::{DWCPError, Result};
use crate::memory::{DirtyLog, GuestRam};

/// Ticks of a simulated TSC are nanoseconds.
const TSC_KHZ: u32 = 1_000_000;

/// The simulated back end.
#[derive(Debug)]
pub(crate) struct Sim {
    facts: HostFacts,
}

impl Sim {
    pub(crate) fn new() -> Self {
        Self::with_cpuid(Vec::new())
    }

    /// A host that offers these CPUID leaves, for testing what happens when two hosts differ.
    pub(crate) fn with_cpuid(cpuid: Vec<CpuidLeaf>) -> Self {
        Self {
            facts: HostFacts {
                backend: "sim".into(),
                cpuid,
                tsc_khz: TSC_KHZ,
                ..HostFacts::default()
            },
        }
    }
}

impl Hypervisor for Sim {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn facts(&self) -> &HostFacts {
        &self.facts
    }

    fn create_vm(&self, ram: &Arc<GuestRam>, cpus: u32, _guest: &HostFacts) -> Result<NewVm> {
        let log = Arc::new(SimLog::new(ram));
        let vcpus = (0..cpus).map(|index| {
            Box::new(SimVcpu {
                index,
                ram: Arc::clone(ram),
                log: Arc::clone(&log),
                kick: Arc::new(SimKick(AtomicBool::new(false))),
                program: Program::default(),
                limit: None,
                data: [0; 4],
            }) as Box<dyn Vcpu>
        });
        Ok(NewVm {
            vcpus: vcpus.collect(),
            vm: Arc::new(SimVm { log }),
        })
    }
}

struct SimVm {
    log: Arc<SimLog>,
}

impl DirtyLog for SimVm {
    fn set_logging(&self, on: bool) -> Result<()> {
        self.log.set_logging(on)
    }
    fn read(&self, slot: u32, words: &mut [u64]) -> Result<()> {
        self.log.read(slot, words)
    }
    fn clear(&self, slot: u32, first: u64, pages: u64, words: &[u64]) -> Result<()> {
        self.log.clear(slot, first, pages, words)
    }
}

impl Vm for SimVm {
    fn save(&self) -> Result<Vec<Section>> {
        Ok(Vec::new())
    }
    fn load(&self, _sections: &[Section]) -> Result<()> {
        Ok(())
    }
    fn load_clock(&self, _sections: &[Section]) -> Result<()> {
        Ok(())
    }
    fn interrupt(&self, _gsi: u32) -> Result<()> {
        Ok(()) // nobody takes interrupts here
    }
    fn tsc_khz(&self) -> u32 {
        TSC_KHZ
    }
}

struct SimKick(AtomicBool);

impl Kick for SimKick {
    fn kick(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
    fn rearm(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

struct SimVcpu {
    index: u32,
    ram: Arc<GuestRam>,
    log: Arc<SimLog>,
    kick: Arc<SimKick>,
    program: Program,
    /// Longest time of a run, where that was asked for.
    limit: Option<Duration>,
    data: [u8; 4],
}

/// Nanoseconds since the epoch: the counter that simulated guests read, on every host.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or(Duration::ZERO).as_nanos()).unwrap_or(u64::MAX)
}

impl Vcpu for SimVcpu {
    fn attach(&mut self) -> Result<()> {
        Ok(())
    }

    fn detach(&mut self) {}

    fn enter(&mut self, entry: &Entry) -> Result<()> {
        let Entry::User64 { argument, .. } = *entry else {
            return Err(DWCPError::Unsupported(
                "the simulated back end runs the built-in guest `dwcp/pulse` only; kernels need KVM"
                    .into(),
            ));
        };
        self.program = Program::start(&self.ram, argument, now())?;
        Ok(())
    }

    fn run(&mut self) -> Result<Exit> {
        let end = self.limit.map(|limit| Instant::now() + limit);
        loop {
            if self.kick.0.load(Ordering::SeqCst) || end.is_some_and(|end| Instant::now() >= end) {
                return Ok(Exit::Interrupted);
            }
            let answer = u32::from_le_bytes(self.data);
            match self.program.step(&self.ram, &self.log, now(), answer)? {
                program::Step::Again => {}
                program::Step::Out(port, value) => {
                    self.data = value.to_le_bytes();
                    return Ok(Exit::PortOut { port, width: 4 });
                }
                program::Step::In(port) => return Ok(Exit::PortIn { port, width: 4 }),
            }
        }
    }

    fn limit_run(&mut self, limit: Option<Duration>) -> bool {
        self.limit = limit;
        limit.is_some()
    }

    fn finish(&mut self) -> Result<Option<Exit>> {
        // An answer that was given is kept in `data`, and saved.
        Ok(None)
    }

    fn data(&mut self) -> &mut [u8] {
        &mut self.data
    }

    fn kick(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kick) as Arc<dyn Kick>
    }

    fn save(&mut self) -> Result<Vec<Section>> {
        let mut out = Writer::default();
        out.bytes(&self.data);
        self.program.save(&mut out);
        Ok(vec![Section::new(Kind::SimVcpu, self.index, out.0)])
    }

    fn load(&mut self, sections: &[Section]) -> Result<()> {
        let body = sections_of(sections, Kind::SimVcpu, self.index)
            .next()
            .ok_or_else(|| {
                DWCPError::Migration(format!(
                    "machine state refused: no section SimVcpu[{}]",
                    self.index
                ))
            })?;
        let mut reader = Reader::new(body);
        self.data = reader.u32()?.to_le_bytes();
        self.program = Program::load(&mut reader)?;
        reader.finish()
    }

    fn resume(&mut self) -> Result<()> {
        Ok(())
    }
}

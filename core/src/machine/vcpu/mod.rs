//! vCPU threads.
//!
//! `thread` makes them, `control` starts, parks and ends all vCPUs of a machine, `clock` reads the
//! CPU time they used, `stall` measures how long they stood still. The loop below runs one vCPU.
#![allow(unsafe_code)]

mod clock;
mod control;
mod stall;
mod thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::clock::CpuClock;
pub(super) use self::control::Control;
pub(crate) use self::control::End;
use self::stall::{StallMeter, StallReader};
pub(crate) use self::thread::{Work, spawn, work_as};
use super::devices::{Devices, Then};
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Exit, Kick, Vcpu};

/// One vCPU and its thread.
pub(super) struct VcpuHandle {
    vcpu: Arc<Mutex<Box<dyn Vcpu>>>,
    kick: Arc<dyn Kick>,
    exits: Arc<AtomicU64>,
    stalls: Arc<StallMeter>,
    clock: CpuClock,
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    /// Makes the thread, parked. `ticks` is how long a tick of the guest's counter takes, as
    /// [`Runner::wait`] needs it.
    pub(super) fn start(
        name: &str,
        index: u32,
        vcpu: Box<dyn Vcpu>,
        control: &Arc<Control>,
        devices: &Arc<Devices>,
        tsc_khz: u32,
    ) -> Result<Self> {
        let kick = vcpu.kick();
        let vcpu = Arc::new(Mutex::new(vcpu));
        let exits = Arc::new(AtomicU64::new(0));
        let stalls = Arc::new(StallMeter::default());
        let runner = Runner {
            index,
            vcpu: Arc::clone(&vcpu),
            kick: Arc::clone(&kick),
            control: Arc::clone(control),
            devices: Arc::clone(devices),
            exits: Arc::clone(&exits),
            stalls: Arc::clone(&stalls),
            tsc_khz,
        };
        control.add();
        let thread = spawn(&format!("{name}/vcpu{index}"), move || runner.live());
        let thread = match thread {
            Ok(thread) => thread,
            Err(error) => {
                control.remove();
                return Err(DWCPError::ResourceLimit(format!(
                    "a vCPU's thread: {error}"
                )));
            }
        };
        Ok(Self {
            vcpu,
            kick,
            exits,
            stalls,
            clock: CpuClock::of(&thread),
            thread: Some(thread),
        })
    }

    /// The vCPU itself. Waits until its thread has parked.
    pub(super) fn lock(&self) -> MutexGuard<'_, Box<dyn Vcpu>> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it leave guest code.
    pub(super) fn kick(&self) {
        self.kick.kick();
    }

    /// Exits so far.
    pub(super) fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    /// How long it waits for a processor, while that is measured.
    pub(in crate::machine) fn stalls(&self) -> &StallMeter {
        &self.stalls
    }

    /// CPU time its thread used so far.
    pub(super) fn cpu_time(&self) -> Duration {
        self.clock.read()
    }

    /// Waits for the end of its thread, which has been told to.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a vCPU's thread panicked");
        }
    }
}

/// What a vCPU's thread works with.
struct Runner {
    index: u32,
    vcpu: Arc<Mutex<Box<dyn Vcpu>>>,
    kick: Arc<dyn Kick>,
    control: Arc<Control>,
    devices: Arc<Devices>,
    exits: Arc<AtomicU64>,
    stalls: Arc<StallMeter>,
    tsc_khz: u32,
}

impl Runner {
    /// The thread: run when told to, park when told to, until the end.
    fn live(self) {
        let mut stalls = StallReader::default();
        let attached = self.lock().attach();
        if let Err(error) = attached {
            self.control.end(End::Failed(error.to_string()));
        }
        while self.control.wait_for_run() {
            let mut vcpu = self.lock();
            if let Err(error) = self.run(vcpu.as_mut(), &mut stalls) {
                self.control.end(End::Failed(error.to_string()));
            }
            drop(vcpu);
        }
        self.lock().detach();
    }

    /// Runs guest code until the vCPU is to park.
    fn run(&self, vcpu: &mut dyn Vcpu, stalls: &mut StallReader) -> Result<()> {
        loop {
            // In this order: a kick that comes after the rearming ends the run below, one that came
            // before it is seen in what is wanted.
            self.kick.rearm();
            if !self.control.wants_run() {
                break;
            }
            stalls.entering(&self.stalls, vcpu);
            let exit = vcpu.run()?;
            self.exits.fetch_add(1, Ordering::Relaxed);
            stalls.exited(&self.stalls);
            self.handle(vcpu, exit, stalls)?;
        }
        // What the last exit began has to end before the vCPU can be saved; that may take more steps.
        while let Some(exit) = vcpu.finish()? {
            self.handle(vcpu, exit, stalls)?;
        }
        Ok(())
    }

    fn handle(&self, vcpu: &mut dyn Vcpu, exit: Exit, stalls: &mut StallReader) -> Result<()> {
        let then = match exit {
            Exit::PortOut { port, width } => {
                self.devices.port_out(self.index, port, width, vcpu.data())
            }
            Exit::PortIn { port, width } => {
                self.devices.port_in(self.index, port, width, vcpu.data())
            }
            Exit::MmioWrite { gpa } => self.devices.mmio_write(gpa, vcpu.data()),
            Exit::MmioRead { gpa } => self.devices.mmio_read(gpa, vcpu.data()),
            Exit::Interrupted => Then::Continue,
            Exit::Halted => Then::Wait(u32::MAX),
            Exit::TripleFault => Then::End(End::Crashed("triple fault".into())),
            Exit::Failed(why) => Then::End(End::Failed(why)),
        };
        match then {
            Then::Continue => {}
            Then::Wait(ticks) => {
                let nanos = u64::from(ticks) * 1_000_000 / u64::from(self.tsc_khz.max(1));
                let time = Duration::from_nanos(nanos);
                stalls.asked(time);
                self.control.sleep(time);
            }
            Then::End(end) => self.control.end(end),
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Vcpu>> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

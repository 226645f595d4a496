//! vCPU threads.
//!
//! `thread` makes them, `affinity` says on which CPUs of the host they run, `control` starts, parks and
//! ends all vCPUs of a machine, `clock` reads the CPU time they used, `throttle` bounds it, `stall`
//! measures how long they stood still. The loop below runs one vCPU.
#![allow(unsafe_code)]

mod affinity;
mod clock;
mod control;
mod stall;
mod thread;
mod throttle;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use self::affinity::check_pinning;
use self::clock::CpuClock;
pub(super) use self::control::Control;
pub(crate) use self::control::End;
use self::stall::{StallMeter, StallReader};
pub(crate) use self::thread::{Work, spawn, work_as};
use self::throttle::Pace;
pub(super) use self::throttle::Throttle;
use super::devices::{Devices, Then};
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Exit, Kick, Vcpu};

/// One vCPU and its thread.
pub(super) struct VcpuHandle {
    vcpu: Arc<Mutex<Box<dyn Vcpu>>>,
    kick: Arc<dyn Kick>,
    exits: Arc<AtomicU64>,
    stalls: Arc<StallMeter>,
    brake: Arc<Throttle>,
    clock: CpuClock,
    thread: Option<JoinHandle<()>>,
}

/// What the vCPUs of a machine have in common.
pub(super) struct Common<'a> {
    /// Names their threads.
    pub(super) name: &'a str,
    pub(super) control: &'a Arc<Control>,
    pub(super) devices: &'a Arc<Devices>,
    /// Of the guest's counter, in which it says how long it sleeps.
    pub(super) tsc_khz: u32,
    /// What all of them together may use.
    pub(super) quota: &'a Arc<Throttle>,
}

impl VcpuHandle {
    /// Makes the thread, parked.
    pub(super) fn start(index: u32, vcpu: Box<dyn Vcpu>, common: &Common<'_>) -> Result<Self> {
        let Common { name, control, .. } = *common;
        let kick = vcpu.kick();
        let vcpu = Arc::new(Mutex::new(vcpu));
        let exits = Arc::new(AtomicU64::new(0));
        let stalls = Arc::new(StallMeter::default());
        let brake = Arc::new(Throttle::default());
        let runner = Runner {
            index,
            vcpu: Arc::clone(&vcpu),
            kick: Arc::clone(&kick),
            control: Arc::clone(control),
            devices: Arc::clone(common.devices),
            exits: Arc::clone(&exits),
            stalls: Arc::clone(&stalls),
            quota: Arc::clone(common.quota),
            brake: Arc::clone(&brake),
            tsc_khz: common.tsc_khz,
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
            brake,
            clock: CpuClock::of(&thread),
            thread: Some(thread),
        })
    }

    /// Lets its thread run on that host CPU only.
    ///
    /// # Errors
    ///
    /// `invalid_config` where this process may not use it.
    pub(super) fn pin(&self, cpu: u32) -> Result<()> {
        match &self.thread {
            Some(thread) => affinity::pin(thread, cpu),
            None => Ok(()), // it has ended
        }
    }

    /// Leaves it so many percent of one processor's time from now on; 0: as much as it wants.
    pub(super) fn hold_to(&self, percent: u32) {
        self.brake.set(percent);
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
    quota: Arc<Throttle>,
    brake: Arc<Throttle>,
    tsc_khz: u32,
}

/// What bounds a vCPU's time: what its VM is allowed, and what a migration leaves it.
struct Paces {
    quota: Pace,
    brake: Pace,
}

impl Runner {
    /// The thread: run when told to, park when told to, until the end.
    fn live(self) {
        let mut stalls = StallReader::default();
        let mut paces = Paces {
            quota: Pace::new(Arc::clone(&self.quota)),
            brake: Pace::new(Arc::clone(&self.brake)),
        };
        let attached = self.lock().attach();
        if let Err(error) = attached {
            self.control.end(End::Failed(error.to_string()));
        }
        while self.control.wait_for_run() {
            let mut vcpu = self.lock();
            if let Err(error) = self.run(vcpu.as_mut(), &mut stalls, &mut paces) {
                self.control.end(End::Failed(error.to_string()));
            }
            drop(vcpu);
        }
        self.lock().detach();
    }

    /// Runs guest code until the vCPU is to park, as much of it as it may.
    fn run(&self, vcpu: &mut dyn Vcpu, stalls: &mut StallReader, paces: &mut Paces) -> Result<()> {
        loop {
            // In this order: a kick that comes after the rearming ends the run below, one that came
            // before it is seen in what is wanted.
            self.kick.rearm();
            if !self.control.wants_run() {
                break;
            }
            // Its owner wants the first; of the second the migration is to blame, and its report says so.
            let (asked, held) = (paces.quota.due(), paces.brake.due());
            if let Some(rest) = asked {
                stalls.asked(rest);
            }
            if let Some(rest) = asked.max(held) {
                self.control.sleep(rest);
                continue;
            }
            let limits = [paces.quota.limit(), paces.brake.limit()];
            stalls.entering(&self.stalls, vcpu, limits.into_iter().flatten().min());
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
            Exit::MmioRead { gpa } => {
                self.devices.bus().read(gpa, vcpu.data());
                Then::Continue
            }
            Exit::MmioWrite { gpa } => {
                self.devices.bus().write(gpa, vcpu.data());
                Then::Continue
            }
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

//! What runs guest code: a small interface and its two back ends.
//!
//! `kvm` is the real one. `sim` needs no KVM: its vCPUs are threads that do to guest memory what the
//! built-in guest would do, for tests and for work on hosts without KVM; it names itself wherever it
//! shows. `saved` is the form in which either saves its state, `fit` decides whether one host can
//! take over a VM from another.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::memory::{DirtyLog, GuestRam};

#[cfg(test)]
mod conformance;
mod fit;
mod kvm;
mod saved;
mod sim;

pub(crate) use fit::{CpuidLeaf, HostFacts, misfits};
pub(crate) use kvm::Kvm;
pub(crate) use saved::{Kind, Reader, Section, Writer, decode, encode, sections_of};
pub(crate) use sim::Sim;

/// A back end: something that makes VMs.
pub(crate) trait Hypervisor: Send + Sync + fmt::Debug {
    /// `kvm` or `sim`, as it shows in reports.
    fn name(&self) -> &'static str;
    /// What a VM on this host may rely on, for the fit check.
    fn facts(&self) -> &HostFacts;
    /// Makes a VM with `cpus` vCPUs over `ram` that sees what `guest` says: this host's facts for a
    /// new VM, those of its first host for one that moves in. Nothing runs yet.
    fn create_vm(&self, ram: &Arc<GuestRam>, cpus: u32, guest: &HostFacts) -> Result<NewVm>;
}

/// A VM and its vCPUs, which go to a thread each.
pub(crate) struct NewVm {
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) vcpus: Vec<Box<dyn Vcpu>>,
}

/// A VM as a whole: its dirty log and what its vCPUs share.
///
/// Saving and loading are for a VM whose vCPUs are all parked.
pub(crate) trait Vm: DirtyLog {
    /// Saves interrupt controllers, timers and the clock.
    fn save(&self) -> Result<Vec<Section>>;
    /// Loads what [`save`](Self::save) saved, all but the clock. Before any vCPU ran.
    fn load(&self, sections: &[Section]) -> Result<()>;
    /// Sets the guest's clock from the saved one, advanced by the wall time that passed since; the
    /// last thing before the vCPUs run.
    fn load_clock(&self, sections: &[Section]) -> Result<()>;
    /// Sends the edge of interrupt line `gsi`.
    fn interrupt(&self, gsi: u32) -> Result<()>;
    /// The frequency of the guest's TSC in kHz.
    fn tsc_khz(&self) -> u32;
}

/// One vCPU. It belongs to one thread at a time; only its [`Kick`] is used from others.
pub(crate) trait Vcpu: Send {
    /// Binds the vCPU to the calling thread, and blocks there the signal that a [`Kick`] may send.
    fn attach(&mut self) -> Result<()>;
    /// Undoes [`attach`](Self::attach), before the thread ends.
    fn detach(&mut self);
    /// Puts the vCPU at the entry of a guest that was loaded into its memory.
    fn enter(&mut self, entry: &Entry) -> Result<()>;
    /// Runs guest code until something has to be done outside. Returns [`Exit::Interrupted`] at the
    /// latest soon after a [`Kick`].
    fn run(&mut self) -> Result<Exit>;
    /// Limits the time of each [`run`](Self::run) from now on, after which it returns
    /// [`Exit::Interrupted`]. For the vCPU's own thread. False: it cannot.
    fn limit_run(&mut self, limit: Option<Duration>) -> bool;
    /// Completes the access that the last exit reported, without running guest code. Returns an exit
    /// if that takes another step from outside, `None` when the vCPU may be saved.
    fn finish(&mut self) -> Result<Option<Exit>>;
    /// The bytes of the access that the last exit reported: to be read after a write, to be filled in
    /// after a read.
    fn data(&mut self) -> &mut [u8];
    /// What makes it leave guest code.
    fn kick(&self) -> Arc<dyn Kick>;
    /// Saves its registers and all that belongs to it. It is parked, and finished.
    fn save(&mut self) -> Result<Vec<Section>>;
    /// Loads what [`save`](Self::save) saved, but for what writes guest memory when set; see
    /// [`resume`](Self::resume). It has not run yet.
    fn load(&mut self, sections: &[Section]) -> Result<()>;
    /// Sets what a load had to leave out (the registers of paravirtual clocks, whose setting writes
    /// guest memory, and armed timers), and tells the guest that it was stopped on purpose.
    fn resume(&mut self) -> Result<()>;
}

/// Makes a vCPU leave guest code, from any thread.
pub(crate) trait Kick: Send + Sync {
    /// The vCPU's current or next [`Vcpu::run`] returns soon. Never lost, however the two race, if
    /// the vCPU's thread calls [`rearm`](Self::rearm) first and then looks for why it was kicked,
    /// before each run.
    fn kick(&self);
    /// Forgets kicks that came before.
    fn rearm(&self);
}

/// Why a vCPU left guest code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Reads an I/O port; [`Vcpu::data`] is to be filled in. `width` bytes a time, the length of the
    /// data tells how many times.
    PortIn { port: u16, width: u8 },
    /// Wrote [`Vcpu::data`] to an I/O port.
    PortOut { port: u16, width: u8 },
    /// Reads memory that is no RAM.
    MmioRead { gpa: u64 },
    /// Wrote memory that is no RAM.
    MmioWrite { gpa: u64 },
    /// Kicked, or some other reason to look around.
    Interrupted,
    /// Halted with nobody who could wake it.
    Halted,
    /// Triple fault: the guest cannot go on.
    TripleFault,
    /// The hypervisor cannot go on; the text says why, with instruction bytes where they are known.
    Failed(String),
}

/// Where a vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 64-bit code in ring 3 with paging on and I/O ports allowed: runs at full speed on every KVM.
    User64 {
        /// Address of the first instruction.
        entry: u64,
        /// Goes to RDI.
        argument: u64,
        /// Guest physical address of the top page table.
        page_table: u64,
    },
    /// 64-bit code in ring 0, as Linux's 64-bit boot protocol wants it: memory mapped one to one,
    /// interrupts off, flat segments 0x10 and 0x18.
    Kernel64 {
        /// Address of the first instruction.
        entry: u64,
        /// Address of the boot parameters; goes to RSI.
        boot_params: u64,
        /// Goes to RSP.
        stack: u64,
        /// Guest physical address of the top page table.
        page_table: u64,
        /// Address of the descriptor table, with four entries.
        descriptors: u64,
    },
    /// 32-bit code in ring 0 without paging, as the PVH boot protocol wants it.
    Pvh {
        /// Address of the first instruction.
        entry: u32,
        /// Address of the start info; goes to EBX.
        start_info: u64,
    },
    /// Nowhere until another vCPU starts it, by INIT and SIPI through the local APICs.
    WaitForStartup,
}

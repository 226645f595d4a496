//! A vCPU as KVM has it.

use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_INTERNAL_ERROR_EMULATION};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::alarm::Alarm;
use super::entry;
use super::kick::Kicker;
use super::state;
use super::system::{HostLimits, failed};
use crate::error::Result;
use crate::hypervisor::{Entry, Exit, Kick, Section, Vcpu};

/// Set in `emulation_failure.flags` when the instruction's bytes are there.
const HAS_INSTRUCTION_BYTES: u64 = 1;

pub(super) struct KvmVcpu {
    fd: VcpuFd,
    /// Kept so that the VM lives as long as any of its vCPUs.
    _vm: Arc<VmFd>,
    index: u32,
    kicker: Arc<Kicker>,
    limits: Arc<HostLimits>,
    /// Shared by all vCPUs of the VM.
    tsc_offset: Arc<state::TscOffset>,
    /// What a load left for `resume`.
    deferred: state::Deferred,
    /// Ends each run after that time, where that was asked for.
    alarm: Option<(Alarm, Duration)>,
    /// The last exit was an access that one more KVM_RUN completes.
    unfinished: bool,
}

impl KvmVcpu {
    pub(super) fn new(
        fd: VcpuFd,
        vm: Arc<VmFd>,
        index: u32,
        limits: Arc<HostLimits>,
        tsc_offset: Arc<state::TscOffset>,
    ) -> Result<Self> {
        let kicker = Kicker::new(&fd, limits.run_size).map_err(|e| failed("mapping a vCPU", e))?;
        Ok(Self {
            fd,
            _vm: vm,
            index,
            kicker: Arc::new(kicker),
            limits,
            tsc_offset,
            deferred: state::Deferred::default(),
            alarm: None,
            unfinished: false,
        })
    }

    /// What KVM said about an internal error.
    fn internal_error(&mut self) -> String {
        let run = self.fd.get_kvm_run();
        debug_assert_eq!(run.exit_reason, KVM_EXIT_INTERNAL_ERROR);
        // SAFETY: the exit reason says that this member of the union is the valid one; all its bit
        // patterns are values.
        let error = unsafe { run.__bindgen_anon_1.internal };
        let words = &error.data[..error.data.len().min(error.ndata as usize)];
        let mut text = format!("KVM internal error {}", error.suberror);
        if error.suberror == KVM_INTERNAL_ERROR_EMULATION {
            text.push_str(" (cannot emulate an instruction)");
            if words
                .first()
                .is_some_and(|f| f & HAS_INSTRUCTION_BYTES != 0)
                && words.len() >= 3
            {
                let bytes: Vec<u8> = words[1..3].iter().flat_map(|w| w.to_le_bytes()).collect();
                let len = usize::from(bytes[0]).min(15);
                text.push_str(&format!(", bytes {:02x?}", &bytes[1..1 + len]));
            }
        } else if !words.is_empty() {
            text.push_str(&format!(", data {words:x?}"));
        }
        if let Ok(regs) = self.fd.get_regs() {
            text.push_str(&format!(", at {:#x}", regs.rip));
        }
        text
    }

    /// One KVM_RUN.
    fn step(&mut self) -> Result<Exit> {
        self.unfinished = false;
        let exit = match self.fd.run() {
            Ok(VcpuExit::IoIn(port, _)) => Exit::PortIn { port, width: 0 },
            Ok(VcpuExit::IoOut(port, _)) => Exit::PortOut { port, width: 0 },
            Ok(VcpuExit::MmioRead(gpa, _)) => Exit::MmioRead { gpa },
            Ok(VcpuExit::MmioWrite(gpa, _)) => Exit::MmioWrite { gpa },
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Exit::Interrupted,
            Ok(VcpuExit::Hlt) => Exit::Halted,
            Ok(VcpuExit::Shutdown) => Exit::TripleFault,
            Ok(VcpuExit::FailEntry(reason, cpu)) => Exit::Failed(format!(
                "KVM cannot enter the guest: reason {reason:#x}, CPU {cpu}"
            )),
            Ok(VcpuExit::InternalError) => Exit::Failed(self.internal_error()),
            Ok(other) => Exit::Failed(format!("KVM exit that is not handled: {other:?}")),
            Err(e) if e.errno() == libc::EINTR => {
                self.kicker.consume();
                Exit::Interrupted
            }
            Err(e) if e.errno() == libc::EAGAIN => Exit::Interrupted,
            Err(e) => Exit::Failed(format!("KVM_RUN: {e}")),
        };
        self.unfinished = matches!(
            exit,
            Exit::PortIn { .. }
                | Exit::PortOut { .. }
                | Exit::MmioRead { .. }
                | Exit::MmioWrite { .. }
        );
        let width = self.port_width();
        Ok(match exit {
            Exit::PortIn { port, .. } => Exit::PortIn { port, width },
            Exit::PortOut { port, .. } => Exit::PortOut { port, width },
            other => other,
        })
    }

    /// Bytes of one access, if the last exit was one to a port.
    fn port_width(&mut self) -> u8 {
        let run = self.fd.get_kvm_run();
        if run.exit_reason != KVM_EXIT_IO {
            return 0;
        }
        // SAFETY: the exit reason says that this member of the union is the valid one.
        unsafe { run.__bindgen_anon_1.io }.size
    }
}

impl Vcpu for KvmVcpu {
    fn attach(&mut self) -> Result<()> {
        self.kicker
            .attach(&self.fd)
            .map_err(|e| failed("KVM_SET_SIGNAL_MASK", e))
    }

    fn detach(&mut self) {
        self.alarm = None;
        self.kicker.detach();
    }

    fn enter(&mut self, entry: &Entry) -> Result<()> {
        entry::enter(&self.fd, entry)
    }

    fn run(&mut self) -> Result<Exit> {
        if let Some((alarm, after)) = &self.alarm {
            alarm.set(*after);
        }
        self.step()
    }

    fn limit_run(&mut self, limit: Option<Duration>) -> bool {
        self.alarm = limit.and_then(|limit| {
            let alarm = match self.alarm.take() {
                Some((alarm, _)) => alarm,
                None => Alarm::new().ok()?,
            };
            Some((alarm, limit))
        });
        self.alarm.is_some()
    }

    fn finish(&mut self) -> Result<Option<Exit>> {
        if !self.unfinished {
            return Ok(None);
        }
        self.kicker.set_immediate_exit(true);
        match self.step()? {
            Exit::Interrupted => Ok(None),
            exit => Ok(Some(exit)),
        }
    }

    fn data(&mut self) -> &mut [u8] {
        let run = self.fd.get_kvm_run();
        let base = std::ptr::from_mut(run).cast::<u8>();
        match run.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: the exit reason says that this member of the union is the valid one.
                let io = unsafe { run.__bindgen_anon_1.io };
                let (offset, len) = (io.data_offset, u64::from(io.count) * u64::from(io.size));
                assert!(
                    offset + len <= self.limits.run_size as u64,
                    "KVM's own mapping"
                );
                #[allow(clippy::cast_possible_truncation)] // less than the mapping's size
                let (offset, len) = (offset as usize, len as usize);
                // SAFETY: within the mapping, as just checked; borrowed from `self`, which owns the
                // mapping, and KVM touches it only inside KVM_RUN, which needs `&mut self`.
                unsafe { std::slice::from_raw_parts_mut(base.add(offset), len) }
            }
            kvm_bindings::KVM_EXIT_MMIO => {
                // SAFETY: the exit reason says that this member of the union is the valid one.
                let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
                let len = mmio.data.len().min(mmio.len as usize);
                &mut mmio.data[..len]
            }
            _ => &mut [],
        }
    }

    fn kick(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicker) as Arc<dyn Kick>
    }

    fn save(&mut self) -> Result<Vec<Section>> {
        debug_assert!(!self.unfinished);
        state::save_vcpu(&self.fd, self.index, &self.limits)
    }

    fn load(&mut self, sections: &[Section]) -> Result<()> {
        self.tsc_offset.forget();
        self.deferred = state::load_vcpu(&self.fd, self.index, &self.limits, sections)?;
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        let deferred = std::mem::take(&mut self.deferred);
        state::resume_vcpu(&self.fd, deferred, &self.tsc_offset)
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.kicker.detach();
    }
}

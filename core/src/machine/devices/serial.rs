//! The first serial port: a 16550A at its usual ports, GSI 4.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial, SerialState};

use super::super::console::Console;
use super::{map, saved};
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Kind, Section, Vm};
use crate::model::limits::CONSOLE_WRITE_MAX;

pub(super) const PORTS: Range<u16> = map::SERIAL_PORTS;

/// Version of the section's body.
const VERSION: u16 = 1;

/// Most bytes that are typed and wait for the guest to read them. The port itself has room for 64.
const TYPED_MAX: usize = CONSOLE_WRITE_MAX;

pub(super) struct SerialPort {
    vm: Arc<dyn Vm>,
    console: Console,
    port: Mutex<Port>,
}

struct Port {
    serial: Serial<Interrupt, NoEvents, Console>,
    /// Typed, and not in the port yet.
    typed: VecDeque<u8>,
}

impl Port {
    /// Moves what is typed into the port, as much as it has room for.
    fn feed(&mut self) {
        let room = self.serial.fifo_capacity().min(self.typed.len());
        let bytes: Vec<u8> = self.typed.iter().take(room).copied().collect();
        // Fails only when full, which `room` excludes; and, with nothing taken, in loopback mode.
        let taken = match bytes.is_empty() {
            true => 0,
            false => self.serial.enqueue_raw_bytes(&bytes).unwrap_or(0),
        };
        self.typed.drain(..taken);
    }
}

/// Its interrupt line.
struct Interrupt(Arc<dyn Vm>);

impl Trigger for Interrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        if let Err(error) = self.0.interrupt(map::SERIAL_GSI) {
            // The guest polls, or hangs on its console: its own affair, but worth a line.
            tracing::warn!(%error, "the serial port's interrupt was not delivered");
        }
        Ok(())
    }
}

impl SerialPort {
    pub(super) fn new(vm: Arc<dyn Vm>, console: Console) -> Self {
        let serial = Serial::new(Interrupt(Arc::clone(&vm)), console.clone());
        Self {
            vm,
            console,
            port: Mutex::new(Port {
                serial,
                typed: VecDeque::new(),
            }),
        }
    }

    pub(super) fn write(&self, offset: u16, value: u8) {
        // Neither the interrupt nor the console can fail.
        let mut port = self.lock();
        let _ = port.serial.write(register(offset), value);
        port.feed();
    }

    pub(super) fn read(&self, offset: u16) -> u8 {
        let mut port = self.lock();
        let value = port.serial.read(register(offset));
        port.feed();
        value
    }

    /// Types: the guest reads it when it likes. How many bytes were taken: all, as long as no more than
    /// [`TYPED_MAX`] wait.
    pub(super) fn type_in(&self, bytes: &[u8]) -> usize {
        let mut port = self.lock();
        let room = TYPED_MAX.saturating_sub(port.typed.len()).min(bytes.len());
        port.typed.extend(&bytes[..room]);
        port.feed();
        room
    }

    pub(super) fn reset(&self) {
        let mut port = self.lock();
        port.serial = Serial::new(Interrupt(Arc::clone(&self.vm)), self.console.clone());
        port.typed.clear();
    }

    pub(super) fn save(&self) -> Section {
        let port = self.lock();
        let state = port.serial.state();
        let mut out = saved::body(VERSION);
        for register in [
            state.baud_divisor_low,
            state.baud_divisor_high,
            state.interrupt_enable,
            state.interrupt_identification,
            state.line_control,
            state.line_status,
            state.modem_control,
            state.modem_status,
            state.scratch,
        ] {
            out.u8(register);
        }
        out.u32(u32::try_from(state.in_buffer.len()).unwrap_or(u32::MAX));
        out.bytes(&state.in_buffer);
        out.u32(u32::try_from(port.typed.len()).unwrap_or(u32::MAX));
        let (front, back) = port.typed.as_slices();
        out.bytes(front);
        out.bytes(back);
        let kept = self.console.kept();
        out.u32(u32::try_from(kept.len()).unwrap_or(u32::MAX));
        out.bytes(&kept);
        Section::new(Kind::Serial, 0, out.0)
    }

    pub(super) fn load(&self, sections: &[Section]) -> Result<()> {
        let mut reader = saved::body_of(sections, Kind::Serial, 0, VERSION)?;
        let mut state = SerialState {
            baud_divisor_low: reader.u8()?,
            baud_divisor_high: reader.u8()?,
            interrupt_enable: reader.u8()?,
            interrupt_identification: reader.u8()?,
            line_control: reader.u8()?,
            line_status: reader.u8()?,
            modem_control: reader.u8()?,
            modem_status: reader.u8()?,
            scratch: reader.u8()?,
            in_buffer: Vec::new(),
        };
        let len = reader.u32()? as usize;
        state.in_buffer = reader.bytes(len)?.to_vec();
        let len = reader.u32()? as usize;
        let typed: VecDeque<u8> = reader.bytes(len)?.iter().copied().collect();
        if typed.len() > TYPED_MAX {
            return Err(refused("too much is typed and not read"));
        }
        let len = reader.u32()? as usize;
        let kept = reader.bytes(len)?;
        reader.finish()?;
        let interrupt = Interrupt(Arc::clone(&self.vm));
        let serial = Serial::from_state(&state, interrupt, NoEvents, self.console.clone())
            .map_err(|e| refused(&e.to_string()))?;
        *self.lock() = Port { serial, typed };
        self.console.print(kept);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port's eight registers.
fn register(offset: u16) -> u8 {
    (offset & 7) as u8
}

fn refused(why: &str) -> DWCPError {
    saved::refused(&format!("the serial port: {why}"))
}

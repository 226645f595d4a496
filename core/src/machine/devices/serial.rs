//! The first serial port: a 16550A at its usual ports, GSI 4.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial, SerialState};

use super::super::console::Console;
use super::map;
use crate::error::{DWCPError, Result};
use crate::hypervisor::{Kind, Reader, Section, Vm, Writer, sections_of};

pub(super) const PORTS: Range<u16> = map::SERIAL_PORTS;

type Port = Serial<Interrupt, NoEvents, Console>;

pub(super) struct SerialPort {
    vm: Arc<dyn Vm>,
    console: Console,
    port: Mutex<Port>,
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
        let port = Serial::new(Interrupt(Arc::clone(&vm)), console.clone());
        Self {
            vm,
            console,
            port: Mutex::new(port),
        }
    }

    pub(super) fn write(&self, offset: u16, value: u8) {
        // Neither the interrupt nor the console can fail.
        let _ = self.lock().write(register(offset), value);
    }

    pub(super) fn read(&self, offset: u16) -> u8 {
        self.lock().read(register(offset))
    }

    /// Puts bytes into the receive buffer, as many as it takes.
    pub(super) fn type_in(&self, bytes: &[u8]) -> usize {
        let mut port = self.lock();
        let room = port.fifo_capacity().min(bytes.len());
        // Fails only when full, which `room` excludes; what was taken is what counts.
        port.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }

    pub(super) fn reset(&self) {
        *self.lock() = Serial::new(Interrupt(Arc::clone(&self.vm)), self.console.clone());
    }

    pub(super) fn save(&self) -> Section {
        let state = self.lock().state();
        let mut out = Writer::default();
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
        let kept = self.console.kept();
        out.u32(u32::try_from(kept.len()).unwrap_or(u32::MAX));
        out.bytes(&kept);
        Section::new(Kind::Serial, 0, out.0)
    }

    pub(super) fn load(&self, sections: &[Section]) -> Result<()> {
        let body = sections_of(sections, Kind::Serial, 0).next();
        let body = body.ok_or_else(|| refused("it is missing"))?;
        let mut reader = Reader::new(body);
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
        let kept = reader.bytes(len)?;
        reader.finish()?;
        let interrupt = Interrupt(Arc::clone(&self.vm));
        *self.lock() = Serial::from_state(&state, interrupt, NoEvents, self.console.clone())
            .map_err(|e| refused(&e.to_string()))?;
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
    DWCPError::Migration(format!("machine state refused: the serial port: {why}"))
}

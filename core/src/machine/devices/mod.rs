//! What a guest reaches by I/O ports and by memory that is no RAM.
//!
//! `map` says where everything is, `bus` finds what is reached by memory. Each device has a file of its
//! own, with what it does on an access, and how it is `saved` and
//! loaded. A device never blocks, and never fails on what a guest does: an access that means
//! nothing reads as ones and writes nowhere.
#![forbid(unsafe_code)]

mod bus;
pub(super) mod map;
mod panic;
pub(super) mod power;
mod pulse;
mod saved;
mod serial;
mod virtio;

use std::sync::Arc;

pub(super) use self::bus::{Bus, DiskUsage};
use self::power::Power;
pub(crate) use self::pulse::{News, Pulse};
use self::serial::SerialPort;
#[cfg(fuzzing)]
pub(crate) use self::virtio::{fuzz_balloon, fuzz_block, fuzz_registers, fuzz_rng};
use super::console::Console;
use super::vcpu::End;
use crate::error::Result;
use crate::hypervisor::{Section, Vm};

/// What a vCPU does after an access.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Go on.
    Continue,
    /// Nothing for so many ticks of the guest's counter.
    Wait(u32),
    /// The guest has come to its end.
    End(End),
}

/// The devices of a machine.
pub(crate) struct Devices {
    vm: Arc<dyn Vm>,
    serial: SerialPort,
    power: Power,
    pulse: Option<Arc<Pulse>>,
    bus: Bus,
}

impl Devices {
    /// The serial port prints to `console`; `pulse` is there for the built-in guest only.
    pub(super) fn new(
        vm: Arc<dyn Vm>,
        console: Console,
        pulse: Option<Arc<Pulse>>,
        bus: Bus,
    ) -> Self {
        Self {
            serial: SerialPort::new(Arc::clone(&vm), console),
            power: Power::new(),
            vm,
            pulse,
            bus,
        }
    }

    /// What is reached in memory.
    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// A vCPU wrote `data` to a port, `width` bytes a time.
    pub(super) fn port_out(&self, vcpu: u32, port: u16, width: u8, data: &[u8]) -> Then {
        if serial::PORTS.contains(&port) {
            for bytes in data.chunks(usize::from(width.max(1))) {
                self.serial.write(port - serial::PORTS.start, bytes[0]);
            }
            return Then::Continue;
        }
        if let (map::POWER_PORT, 1, &[value]) = (port, width, data) {
            return self.power.write(value);
        }
        if let (map::PANIC_PORT, 1, &[value]) = (port, width, data) {
            return panic::write(value);
        }
        match (&self.pulse, <[u8; 4]>::try_from(data)) {
            (Some(pulse), Ok(value)) => pulse.write(vcpu, port, u32::from_le_bytes(value)),
            _ => Then::Continue,
        }
    }

    /// A vCPU reads a port into `data`, `width` bytes a time.
    pub(super) fn port_in(&self, _vcpu: u32, port: u16, width: u8, data: &mut [u8]) -> Then {
        data.fill(0xff);
        if serial::PORTS.contains(&port) {
            for bytes in data.chunks_mut(usize::from(width.max(1))) {
                bytes[0] = self.serial.read(port - serial::PORTS.start);
            }
        } else if let (map::POWER_PORT, 1, [value]) = (port, width, &mut *data) {
            *value = self.power.read();
        } else if let (map::PANIC_PORT, 1, [value]) = (port, width, &mut *data) {
            *value = panic::read();
        } else if let (Some(pulse), Ok(value)) = (&self.pulse, <&mut [u8; 4]>::try_from(data)) {
            *value = pulse.read(port).to_le_bytes();
        }
        Then::Continue
    }

    /// Numbers of the virtio-mmio devices that are there.
    pub(super) fn virtio(&self) -> Vec<u32> {
        self.bus.virtio()
    }

    /// Presses the power button.
    pub(super) fn press_power_button(&self) -> Result<()> {
        self.vm.interrupt(map::POWER_BUTTON_GSI)
    }

    /// How the guest ended itself, if it did and was not reset since.
    pub(super) fn pending_end(&self) -> Option<End> {
        self.power.pending()
    }

    /// Types on the serial port; how many bytes were taken.
    pub(super) fn type_in(&self, bytes: &[u8]) -> usize {
        self.serial.type_in(bytes)
    }

    /// Saves all devices of a machine whose vCPUs are parked.
    pub(super) fn save(&self) -> Vec<Section> {
        // These may still raise interrupts of the others, which are saved after them.
        let mut out = self.bus.save();
        out.extend([self.serial.save(), self.power.save()]);
        out.extend(self.pulse.iter().map(|p| p.save()));
        out
    }

    /// Loads what [`save`](Self::save) saved.
    pub(super) fn load(&self, sections: &[Section]) -> Result<()> {
        self.serial.load(sections)?;
        self.power.load(sections)?;
        if let Some(pulse) = &self.pulse {
            pulse.load(sections)?;
        }
        self.bus.load(sections)
    }

    /// Puts all devices into the state after power-on.
    pub(super) fn reset(&self) {
        self.serial.reset();
        self.bus.reset();
        self.power.reset();
        if let Some(pulse) = &self.pulse {
            pulse.reset();
        }
    }
}

//! The power port: how a guest powers off and starts anew, and the button that asks it to.
//!
//! One byte register is what ACPI calls sleep control, sleep status and reset register (ACPI 6.5,
//! 4.8.3.6 and 4.8.3.7). The button is an interrupt line and no state: the guest's ACPI tables say
//! what it means.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU8, Ordering};

use super::super::vcpu::End;
use super::{Then, saved};
use crate::error::Result;
use crate::hypervisor::{Kind, Section};

/// Written to the port: start anew. The FADT says so to the guest.
pub(in crate::machine) const RESET: u8 = 0x01;
/// The sleep type of "soft off" in the DSDT's `\_S5`.
pub(in crate::machine) const SLEEP_TYPE_OFF: u8 = 5;

/// Bit 5 of sleep control: enter the sleep type of bits 2 to 4.
const SLEEP_ENABLE: u8 = 1 << 5;
const OFF: u8 = SLEEP_ENABLE | SLEEP_TYPE_OFF << 2;

/// Version of the section's body.
const VERSION: u16 = 1;

/// What the guest asked for and did not get yet. The numbers are part of the saved format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Asked {
    Nothing = 0,
    Off = 1,
    Reset = 2,
}

impl Asked {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Nothing, Self::Off, Self::Reset]
            .into_iter()
            .find(|&asked| asked as u8 == number)
    }
}

/// The device.
pub(super) struct Power {
    asked: AtomicU8,
}

impl Power {
    pub(super) fn new() -> Self {
        Self {
            asked: AtomicU8::new(Asked::Nothing as u8),
        }
    }

    /// The guest wrote the register.
    pub(super) fn write(&self, value: u8) -> Then {
        let asked = match value {
            OFF => Asked::Off,
            RESET => Asked::Reset,
            // Among them the bit that clears the wake status, before the guest sleeps.
            _ => return Then::Continue,
        };
        self.asked.store(asked as u8, Ordering::SeqCst);
        self.pending().map_or(Then::Continue, Then::End)
    }

    /// The guest reads the register: it never slept, so it was not woken.
    pub(super) fn read(&self) -> u8 {
        0
    }

    /// What the guest asked for, until the machine is reset: it travels with a machine that moves
    /// before it is done.
    pub(super) fn pending(&self) -> Option<End> {
        match Asked::from_number(self.asked.load(Ordering::SeqCst))? {
            Asked::Nothing => None,
            Asked::Off => Some(End::PoweredOff),
            Asked::Reset => Some(End::Reset),
        }
    }

    pub(super) fn reset(&self) {
        self.asked.store(Asked::Nothing as u8, Ordering::SeqCst);
    }

    pub(super) fn save(&self) -> Section {
        let mut out = saved::body(VERSION);
        out.u8(self.asked.load(Ordering::SeqCst));
        Section::new(Kind::Power, 0, out.0)
    }

    /// A state without the section is of a machine that had no power port.
    pub(super) fn load(&self, sections: &[Section]) -> Result<()> {
        self.reset();
        let Some(mut reader) = saved::find(sections, Kind::Power, 0, VERSION)? else {
            return Ok(());
        };
        let number = reader.u8()?;
        reader.finish()?;
        let asked = Asked::from_number(number).ok_or_else(|| {
            saved::refused(&format!("request {number} of Power is not known here"))
        })?;
        self.asked.store(asked as u8, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1, "off" asked for.
    const SAMPLE: [u8; 3] = [1, 0, 1];

    fn section(body: &[u8]) -> [Section; 1] {
        [Section::new(Kind::Power, 0, body)]
    }

    #[test]
    fn only_two_values_mean_something() {
        let power = Power::new();
        // 0x80 clears the wake status; the others are sleep states that are not there.
        for value in [0, 2, 0x80, 0x14, 0x20, 0x34 | 0x80, 0xff] {
            assert_eq!(power.write(value), Then::Continue, "{value:#x}");
            assert_eq!(power.pending(), None);
        }
        assert_eq!(power.write(0x34), Then::End(End::PoweredOff));
        assert_eq!(power.write(RESET), Then::End(End::Reset));
        assert_eq!(power.pending(), Some(End::Reset));
        power.reset();
        assert_eq!((power.pending(), power.read()), (None, 0));
    }

    #[test]
    fn what_was_asked_for_is_saved_and_the_old_sample_loads() {
        let power = Power::new();
        power.write(OFF);
        assert_eq!(power.save().body, SAMPLE);
        let other = Power::new();
        other.load(&section(&SAMPLE)).unwrap();
        assert_eq!(other.pending(), Some(End::PoweredOff));
        other.load(&[]).unwrap();
        assert_eq!(other.pending(), None);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (body, why) in [
            (&[2, 0, 0][..], "version 2"),
            (&[1, 0, 3], "request 3"),
            (&[1, 0], "truncated"),
            (&[1, 0, 0, 0], "1 bytes are left over"),
        ] {
            let error = Power::new().load(&section(body)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

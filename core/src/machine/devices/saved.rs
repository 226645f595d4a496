//! How all devices are saved: a section that begins with the version of its form.
#![forbid(unsafe_code)]

use crate::error::{DWCPError, Result};
use crate::hypervisor::{Kind, Reader, Section, Writer, sections_of};

/// The start of a section's body.
pub(super) fn body(version: u16) -> Writer {
    let mut out = Writer::default();
    out.u16(version);
    out
}

/// The rest of a section's body.
///
/// # Errors
///
/// `migration`, naming a section that is missing, or has another version than `version`.
pub(super) fn body_of(
    sections: &[Section],
    kind: Kind,
    instance: u32,
    version: u16,
) -> Result<Reader<'_>> {
    find(sections, kind, instance, version)?
        .ok_or_else(|| refused(&format!("{kind:?} of device {instance} is missing")))
}

/// The same, where a state may be of a machine without the device.
pub(super) fn find(
    sections: &[Section],
    kind: Kind,
    instance: u32,
    version: u16,
) -> Result<Option<Reader<'_>>> {
    let Some(body) = sections_of(sections, kind, instance).next() else {
        return Ok(None);
    };
    let mut reader = Reader::new(body);
    match reader.u16()? {
        known if known == version => Ok(Some(reader)),
        other => Err(refused(&format!(
            "version {other} of {kind:?} is not known here"
        ))),
    }
}

pub(super) fn refused(why: &str) -> DWCPError {
    DWCPError::Migration(format!("machine state refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::pulse::Pulse;
    use super::super::serial::SerialPort;
    use super::*;
    use crate::hypervisor::{Hypervisor, Sim};
    use crate::machine::console::Console;
    use crate::memory::{Backing, GuestRam};

    /// The divisor of the baud rate, five registers, status (all sent), modem (ready) and scratch; "in" that waits
    /// in the port, "typed" that waits for it, "out" that was printed.
    const SERIAL: &[u8] = b"\x01\0\x0c\0\x01\xc1\x03\x61\x0b\xb0\x07\
        \x02\0\0\0in\x05\0\0\0typed\x03\0\0\0out";
    /// Check 7 was asked for, 2 of 4 blocks are filled, no beat yet, a gap of 3 ns.
    const PULSE: &[u8] = b"\x01\0\x07\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";

    fn serial() -> SerialPort {
        let sim = Sim::new();
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        let vm = sim.create_vm(&ram, 1, sim.facts()).unwrap().vm;
        SerialPort::new(vm, Console::default())
    }

    fn pulse() -> Pulse {
        let ram = GuestRam::allocate(1 << 20, Backing::Memfd).unwrap();
        Pulse::new(ram, 1, Box::new(|_| {}))
    }

    /// Holds the sample of a version against what is saved today, and refuses all others.
    fn hold(
        kind: Kind,
        sample: &[u8],
        load: impl Fn(&[Section]) -> Result<()>,
        save: impl Fn() -> Section,
    ) {
        let section = |body: &[u8]| [Section::new(kind, 0, body)];
        load(&section(sample)).unwrap();
        assert_eq!(save().body, sample, "it needs another version");
        for (change, words) in [
            (
                &(|body: &mut Vec<u8>| body[0] = 9) as &dyn Fn(&mut Vec<u8>),
                "version 9 of",
            ),
            (&|body| body.push(0), "1 bytes are left over"),
            (&|body| body.truncate(body.len() - 1), "truncated"),
        ] {
            let mut body = sample.to_vec();
            change(&mut body);
            let error = load(&section(&body)).unwrap_err().to_string();
            assert!(error.contains("machine state refused"), "{error}");
            assert!(error.contains(words), "{error}");
        }
        let error = load(&[]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{kind:?} of device 0 is missing")),
            "{error}"
        );
    }

    #[test]
    fn a_serial_port_of_version_1_is_loaded() {
        let port = serial();
        hold(
            Kind::Serial,
            SERIAL,
            |sections| port.load(sections),
            || port.save(),
        );
    }

    #[test]
    fn the_built_in_guests_ports_of_version_1_are_loaded() {
        let pulse = pulse();
        hold(
            Kind::Pulse,
            PULSE,
            |sections| pulse.load(sections),
            || pulse.save(),
        );
    }
}

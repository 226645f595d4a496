//! The table of devices: what cannot be found by looking for it.
#![forbid(unsafe_code)]

use acpi_tables::Aml;
use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, Package,
    Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::super::super::devices::{map, power};

/// From this revision on integers in the table have 64 bits.
const REVISION: u8 = 2;
/// What a control-method power button is notified of: it was pressed (ACPI 6.5, table 5.163).
const PRESSED: u8 = 0x80;

/// The table, with the virtio-mmio devices of those numbers.
pub(super) fn table(virtio: &[u32]) -> Sdt {
    let mut devices = Vec::new();
    serial(&mut devices);
    power_button(&mut devices);
    panic_port(&mut devices);
    for &index in virtio {
        virtio_mmio(index, &mut devices);
    }
    let mut body = Scope::raw(Path::new("\\_SB_"), devices);
    // Soft off, by the port of the FADT. There are no other sleep states.
    let off = power::SLEEP_TYPE_OFF;
    Name::new("\\_S5_".into(), &Package::new(vec![&off, &off, &0u8, &0u8])).to_aml_bytes(&mut body);
    super::table(*b"DSDT", REVISION, &body)
}

/// An interrupt that is an edge from low to high and nobody else's.
fn interrupt(gsi: u32) -> Interrupt {
    let (consumer, edge, active_low, shared) = (true, true, false, false);
    Interrupt::new(consumer, edge, active_low, shared, gsi)
}

/// COM1, a 16550A.
fn serial(out: &mut Vec<u8>) {
    let ports = map::SERIAL_PORTS;
    // Eight of them.
    let count = u8::try_from(ports.len()).unwrap_or(u8::MAX);
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(ports.start, ports.start, 0, count),
                    &interrupt(map::SERIAL_GSI),
                ]),
            ),
        ],
    )
    .to_aml_bytes(out);
}

/// The power button, and the device whose interrupt means that it was pressed (a "generic event
/// device": the only kind of event that hardware-reduced ACPI has).
fn power_button(out: &mut Vec<u8>) {
    Device::new(
        "PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &0u8),
        ],
    )
    .to_aml_bytes(out);
    Device::new(
        "GED0".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&interrupt(map::POWER_BUTTON_GSI)]),
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&If::new(
                    &Equal::new(&Arg(0), &map::POWER_BUTTON_GSI),
                    vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &PRESSED)],
                )],
            ),
        ],
    )
    .to_aml_bytes(out);
}

/// The port by which a kernel says that it has panicked, as Linux's driver looks for it.
fn panic_port(out: &mut Vec<u8>) {
    Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_UID".into(), &0u8),
            // There, enabled, working.
            &Name::new("_STA".into(), &0x0fu8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(map::PANIC_PORT, map::PANIC_PORT, 1, 1)]),
            ),
        ],
    )
    .to_aml_bytes(out);
}

/// A virtio-mmio device, as Linux's driver looks for it. Its DMA is coherent.
fn virtio_mmio(index: u32, out: &mut Vec<u8>) {
    // Below 4 GiB, by the map.
    let base = u32::try_from(map::virtio_base(index)).unwrap_or(u32::MAX);
    let size = u32::try_from(map::VIRTIO_SIZE).unwrap_or(u32::MAX);
    Device::new(
        Path::new(&format!("V{index:03}")),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &1u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, base, size),
                    &interrupt(map::virtio_gsi(index)),
                ]),
            ),
        ],
    )
    .to_aml_bytes(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(table: &Sdt, bytes: &[u8]) -> bool {
        table
            .as_slice()
            .windows(bytes.len())
            .any(|part| part == bytes)
    }

    #[test]
    fn it_has_the_devices_that_are_there_and_no_others() {
        let table = table(&[0, 17]);
        for name in [
            b"COM1", b"PWRB", b"GED0", b"_EVT", b"PEVT", b"V000", b"V017", b"_S5_",
        ] {
            assert!(holds(&table, name), "{}", String::from_utf8_lossy(name));
        }
        assert!(!holds(&table, b"V001"));
        // Fixed memory, writable, at the base of device 17; then its interrupt: consumer, edge.
        let base = 0xd001_1000u32.to_le_bytes();
        let memory = [&[0x86, 9, 0, 1][..], &base, &0x1000u32.to_le_bytes()].concat();
        let interrupt = [0x89, 6, 0, 0b0011, 1, 23, 0, 0, 0];
        assert!(holds(&table, &[&memory[..], &interrupt].concat()));
    }

    #[test]
    fn the_panic_port_is_one_byte_where_the_driver_expects_it() {
        let table = table(&[]);
        assert!(holds(&table, b"\x0dQEMU0001\0"));
        // Decodes 16 bits; from 0x505 to 0x505, in steps of 1, 1 byte.
        assert!(holds(&table, &[0x47, 1, 5, 5, 5, 5, 1, 1]));
    }

    #[test]
    fn soft_off_is_sleep_type_5() {
        // A package of four: 5, 5, 0, 0, each a byte.
        let package = [0x12, 0x08, 4, 0x0a, 5, 0x0a, 5, 0, 0];
        let table = table(&[]);
        let found = holds(&table, &package)
            || holds(&table, &[0x12, 0x0a, 4, 0x0a, 5, 0x0a, 5, 0x0a, 0, 0x0a, 0]);
        assert!(found, "{:x?}", table.as_slice());
    }
}

//! The tables of fixed form: FADT and MADT.
#![forbid(unsafe_code)]

use acpi_tables::Aml;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;

use super::super::super::devices::{map, power};
use super::{OEM, OEM_REVISION, OEM_TABLE, table};

/// IA-PC boot architecture flags (ACPI 6.5, table 5.11): there is no VGA, and no CMOS clock. The bit of
/// the keyboard controller is not set: there is none either.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 5;
/// The revision that this form of the MADT came with.
const MADT_REVISION: u8 = 5;
/// Number of the I/O APIC. KVM's has 0.
const IO_APIC_ID: u8 = 0;

/// The fixed table: no fixed hardware but the power port.
pub(super) fn fadt(dsdt: u64) -> FADT {
    let port = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(map::POWER_PORT),
    );
    let mut fadt = [
        Flags::HwReducedAcpi,
        Flags::ResetRegSup,
        // Neither button is fixed hardware: the power button is a device, a sleep button is not there.
        Flags::PwrButton,
        Flags::SlpButton,
        Flags::FixRtc,
        Flags::Headless,
        // `wbinvd` does what it should.
        Flags::Wbinvd,
    ]
    .into_iter()
    .fold(
        FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION),
        FADTBuilder::flag,
    )
    .dsdt_64(dsdt);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port;
    fadt.reset_value = power::RESET;
    fadt.sleep_control_reg = port;
    fadt.sleep_status_reg = port;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"KVMKVMKV").into();
    fadt.finalize()
}

/// The processors, the I/O APIC, and which line the serial port has.
pub(super) fn madt(cpus: u32) -> Sdt {
    let mut body = Vec::new();
    body.extend_from_slice(&map::LOCAL_APIC.to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes()); // flags: no 8259 that has to be masked
    for index in 0..cpus {
        // At most 128 vCPUs: numbers of one byte do.
        let id = u8::try_from(index).unwrap_or(u8::MAX);
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(IO_APIC_ID, map::IO_APIC, 0).to_aml_bytes(&mut body);
    // ISA's line 4 is the same here, told so that nobody has to assume it: edge, active high.
    body.extend_from_slice(&[2, 10, 0, 4]);
    body.extend_from_slice(&map::SERIAL_GSI.to_le_bytes());
    body.extend_from_slice(&0b0101u16.to_le_bytes());
    table(*b"APIC", MADT_REVISION, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fadt_names_the_power_port_three_times() {
        let mut bytes = Vec::new();
        fadt(0xe_1000).to_aml_bytes(&mut bytes);
        assert_eq!((bytes.len(), bytes[8]), (276, 6));
        let port = [1, 8, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0];
        for at in [116, 244, 256] {
            assert_eq!(bytes[at..at + 12], port, "at {at}");
        }
        assert_eq!(bytes[128], 1, "the reset value");
        assert_eq!(bytes[109..111], [0b10_0100, 0]);
        let flags = u32::from_le_bytes(bytes[112..116].try_into().unwrap());
        assert_eq!(
            flags & (1 << 20 | 1 << 10 | 1 << 4),
            1 << 20 | 1 << 10 | 1 << 4
        );
    }

    #[test]
    fn the_madt_has_an_entry_for_each_processor() {
        let madt = madt(3);
        let entries = &madt.as_slice()[44..];
        assert_eq!(entries[..8], [0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(entries[16..24], [0, 8, 2, 2, 1, 0, 0, 0]);
        assert_eq!(entries[24..36], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        assert_eq!(entries[36..], [2, 10, 0, 4, 4, 0, 0, 0, 5, 0]);
    }
}

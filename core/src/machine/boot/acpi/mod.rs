//! The ACPI tables: which processors, interrupt controllers and devices there are, and how to power
//! off (ACPI 6.5, of the hardware-reduced kind).
//!
//! `fixed` has the tables of fixed form, `dsdt` the devices. They are made anew at each boot, and the
//! guest owns the copy in its memory.
#![forbid(unsafe_code)]

mod dsdt;
mod fixed;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::{Hardware, low};
use crate::error::{DWCPError, Result};
use crate::memory::GuestRam;

const OEM: [u8; 6] = *b"DWCP  ";
const OEM_TABLE: [u8; 8] = *b"DWCP    ";
const OEM_REVISION: u32 = 1;

/// Tables begin at multiples of this.
const ALIGNMENT: u64 = 16;

/// Writes the root pointer at its place and the tables behind it.
pub(super) fn write(ram: &GuestRam, hardware: &Hardware<'_>) -> Result<()> {
    let mut at = low::ACPI + Rsdp::len() as u64;
    let mut put = |table: &dyn Aml| {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let address = at.next_multiple_of(ALIGNMENT);
        at = address + bytes.len() as u64;
        if at > low::RESET_VECTOR {
            return Err(DWCPError::Internal(
                "the ACPI tables do not fit below the reset vector".into(),
            ));
        }
        ram.write(address, &bytes)?;
        Ok(address)
    };
    let dsdt = put(&dsdt::table(hardware.virtio))?;
    let fadt = put(&fixed::fadt(dsdt))?;
    let madt = put(&fixed::madt(hardware.cpus))?;
    let mut root = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    root.add_entry(fadt);
    root.add_entry(madt);
    let root = put(&root)?;
    let mut pointer = Vec::new();
    Rsdp::new(OEM, root).to_aml_bytes(&mut pointer);
    ram.write(low::ACPI, &pointer)
}

/// A table of that signature and revision around `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, 36, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(body);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    fn bytes(ram: &GuestRam, gpa: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        ram.read(gpa, &mut out).unwrap();
        out
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// A table as a guest finds it, its checksum checked.
    fn table_at(ram: &GuestRam, gpa: u64) -> Vec<u8> {
        let len = u32::from_le_bytes(bytes(ram, gpa + 4, 4).try_into().unwrap());
        let table = bytes(ram, gpa, len as usize);
        assert_eq!(sum(&table), 0, "{:?}", &table[..4]);
        assert_eq!(table[10..16], OEM);
        table
    }

    fn pointer(table: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(table[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_guest_finds_all_tables_and_their_checksums_are_right() {
        let ram = GuestRam::allocate(2 << 20, Backing::Memfd).unwrap();
        let most: Vec<u32> = (0..crate::machine::devices::map::VIRTIO_MAX).collect();
        for (cpus, virtio) in [(1, &most[..0]), (128, &most[..])] {
            let hardware = Hardware {
                cpus,
                tsc_khz: 0,
                virtio,
            };
            write(&ram, &hardware).unwrap();
            let root = bytes(&ram, low::ACPI, 36);
            assert_eq!(root[..8], *b"RSD PTR ");
            assert_eq!((sum(&root[..20]), sum(&root), root[15]), (0, 0, 2));
            let root = table_at(&ram, pointer(&root, 24));
            assert_eq!((&root[..4], root.len()), (&b"XSDT"[..], 36 + 16));
            let fadt = table_at(&ram, pointer(&root, 36));
            assert_eq!(fadt[..4], *b"FACP");
            let madt = table_at(&ram, pointer(&root, 44));
            assert_eq!(madt[..4], *b"APIC");
            let dsdt = table_at(&ram, pointer(&fadt, 140));
            assert_eq!(dsdt[..4], *b"DSDT");
            assert!(pointer(&fadt, 140) >= low::ACPI);
        }
    }
}

//! Where devices are, as a guest sees it.
//!
//! Part of the saved format: a VM keeps its map wherever it moves, and what a guest was told at its
//! boot stays true. Ranges for what is not there yet are kept free from the start, so that it can
//! come later without another map.
#![forbid(unsafe_code)]

use std::ops::Range;

/// COM1.
pub(in crate::machine) const SERIAL_PORTS: Range<u16> = 0x3f8..0x400;
/// Its interrupt line.
pub(in crate::machine) const SERIAL_GSI: u32 = 4;

/// The port by which a kernel says that it has panicked, where its driver's authors put it.
pub(in crate::machine) const PANIC_PORT: u16 = 0x505;

/// The port of sleep control, sleep status and reset (ACPI 6.5, 4.8.3.7 and 4.8.3.6), one byte wide.
pub(in crate::machine) const POWER_PORT: u16 = 0x600;
/// The interrupt line of the power button.
pub(in crate::machine) const POWER_BUTTON_GSI: u32 = 5;

/// Base of the first virtio-mmio device; the others follow.
const VIRTIO_BASE: u64 = 0xd000_0000;
/// Bytes of each.
pub(in crate::machine) const VIRTIO_SIZE: u64 = 0x1000;
/// The interrupt line of the first; the others follow.
const VIRTIO_GSI: u32 = 6;
/// Most of them: one for each interrupt line up to the I/O APIC's last, 23.
pub(in crate::machine) const VIRTIO_MAX: u32 = 18;

/// Where virtio-mmio device `index` is.
pub(in crate::machine) fn virtio_base(index: u32) -> u64 {
    VIRTIO_BASE + u64::from(index) * VIRTIO_SIZE
}

/// The interrupt line of virtio-mmio device `index`.
pub(in crate::machine) fn virtio_gsi(index: u32) -> u32 {
    VIRTIO_GSI + index
}

/// Kept for the configuration space of PCI Express (ECAM).
pub(in crate::machine) const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;

/// The I/O APIC, as KVM has it.
pub(in crate::machine) const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs.
pub(in crate::machine) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Pages that KVM needs for itself on some processors (`KVM_SET_TSS_ADDR`,
/// `KVM_SET_IDENTITY_MAP_ADDR`): nothing of the guest's may be there.
pub(in crate::machine) const KVM_PAGES: Range<u64> = 0xfffb_c000..0xfffc_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_have_room_and_lines_of_their_own() {
        assert_eq!(virtio_gsi(VIRTIO_MAX - 1), 23);
        assert!(virtio_base(VIRTIO_MAX) <= ECAM.start);
        assert!(POWER_BUTTON_GSI < virtio_gsi(0) && SERIAL_GSI < POWER_BUTTON_GSI);
        assert!(ECAM.end <= u64::from(IO_APIC) && u64::from(LOCAL_APIC) < KVM_PAGES.start);
    }
}

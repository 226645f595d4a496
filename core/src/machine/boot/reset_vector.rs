//! What is found where a BIOS begins.
//!
//! A kernel that knows no other way to start anew goes back to real mode and jumps there: Linux does when
//! ACPI is of the hardware-reduced kind and there is no EFI firmware to ask
//! (`arch/x86/kernel/reboot.c`), although the tables name a reset register.
#![forbid(unsafe_code)]

use super::low;
use crate::error::Result;
use crate::machine::devices::{map, power};
use crate::memory::GuestRam;

const _: () = assert!(low::RESET_VECTOR + 16 == low::HIGH);

/// Writes 16-bit code that asks the power port for a reset, and waits for it.
pub(super) fn write(ram: &GuestRam) -> Result<()> {
    let [low, high] = map::POWER_PORT.to_le_bytes();
    let code = [
        0xba,
        low,
        high, // mov dx, POWER_PORT
        0xb0,
        power::RESET, // mov al, RESET
        0xee,         // out dx, al
        0xfa,         // cli
        0xf4,         // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ];
    ram.write(low::RESET_VECTOR, &code)
}

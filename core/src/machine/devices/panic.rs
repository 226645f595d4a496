//! The panic port: how a guest's kernel says that it has panicked (QEMU `docs/specs/pvpanic.rst`).
//!
//! One byte register: reading says which events are understood here, writing tells of one. A kernel writes it
//! before it reboots, halts or spins, whatever its command line says of panics. The port has no state: whoever
//! told of a panic has come to its end, and is neither saved nor moved any more.
#![forbid(unsafe_code)]

use super::super::vcpu::End;
use super::Then;

/// The kernel has panicked. The other events there are, of a crash kernel that goes on (bit 1) and of a
/// power-off (bit 2), are not announced: the one is no end, and the other the power port tells of.
const PANICKED: u8 = 1 << 0;

/// A vCPU wrote the port.
pub(super) fn write(value: u8) -> Then {
    if value & PANICKED == 0 {
        return Then::Continue;
    }
    Then::End(End::Crashed("its kernel panicked".into()))
}

/// A vCPU reads the port.
pub(super) fn read() -> u8 {
    PANICKED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_announced_means_something() {
        assert_eq!(read(), PANICKED);
        for value in [0, 2, 4, 0x80, 0xfe] {
            assert_eq!(write(value), Then::Continue, "{value:#x}");
        }
        for value in [1, 3, 0xff] {
            let Then::End(End::Crashed(why)) = write(value) else {
                panic!("{value:#x} is no end");
            };
            assert!(why.contains("panicked"), "{why}");
        }
    }
}

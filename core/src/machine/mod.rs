//! One running VM: vCPU threads, devices, boot, saving and loading.
//!
//! `machine` is the whole, `vcpu` its threads and their pausing, `devices` what the guest reaches by
//! ports, `disk_lock` keeps a disk for one VM, `console` what its serial port prints, `boot` brings an
//! image into memory. Made by `node`, moved by `migration`.

mod boot;
mod console;
mod devices;
#[allow(dead_code, reason = "the node takes these locks with the next change")]
mod disk_lock;
#[expect(
    clippy::module_inception,
    reason = "the machine itself, beside its parts"
)]
mod machine;
mod vcpu;

pub(crate) use boot::Image;
pub(crate) use console::Console;
pub(crate) use devices::News;
#[cfg(fuzzing)]
pub(crate) use devices::{fuzz_balloon, fuzz_block, fuzz_registers, fuzz_rng};
#[allow(unused_imports, reason = "as above")]
pub(crate) use disk_lock::DiskLock;
pub(crate) use machine::{Hooks, Machine, MachineConfig};
pub(crate) use vcpu::{End, Work, spawn, work_as};

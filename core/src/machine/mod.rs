//! One running VM: vCPU threads, devices, boot, saving and loading.
//!
//! `machine` is the whole, `vcpu` its threads and their pausing, `devices` what the guest reaches by
//! ports, `console` what its serial port prints, `boot` brings an image into memory. Made by
//! `node`, moved by `migration`.

mod boot;
mod console;
mod devices;
#[expect(
    clippy::module_inception,
    reason = "the machine itself, beside its parts"
)]
mod machine;
#[cfg(test)]
mod tiny;
mod vcpu;

pub(crate) use boot::Image;
#[cfg(fuzzing)]
pub(crate) use boot::fuzz_kernel;
pub(crate) use boot::{BootFile, KernelImage, with_words};
pub(crate) use console::Console;
pub(crate) use devices::News;
#[cfg(fuzzing)]
pub(crate) use devices::{fuzz_balloon, fuzz_block, fuzz_registers, fuzz_rng};
pub(crate) use machine::{DiskConfig, Hooks, Machine, MachineConfig};
pub(crate) use vcpu::{End, Work, check_pinning, spawn, work_as};

//! One running VM: vCPU threads, devices, boot, saving and loading.
//!
//! `machine` is the whole, `vcpu` its threads and their pausing, `devices` what the guest reaches by
//! ports, `console` what its serial port prints, `boot` brings an image into memory. Made by
//! `node`, moved by `migration`.

#[cfg_attr(
    not(test),
    allow(dead_code, reason = "nodes know no images but the built-in one yet")
)]
mod boot;
mod console;
mod devices;
#[expect(
    clippy::module_inception,
    reason = "the machine itself, beside its parts"
)]
mod machine;
#[cfg(all(test, stock_kernel))]
mod stock;
mod vcpu;

pub(crate) use boot::Image;
#[cfg(fuzzing)]
pub(crate) use boot::fuzz_kernel;
#[allow(
    unused_imports,
    reason = "nodes know no images but the built-in one yet"
)]
pub(crate) use boot::{BootFile, KernelImage};
pub(crate) use console::Console;
pub(crate) use devices::News;
pub(crate) use machine::{Hooks, Machine, MachineConfig};
pub(crate) use vcpu::{End, Work, spawn, work_as};

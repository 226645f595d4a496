//! The back end on KVM.
//!
//! `system` opens `/dev/kvm` and knows what the host can do, `vm` and `vcpu` own the descriptors,
//! `entry` sets the registers with which guest code begins,
//! `state` turns KVM's structures into saved sections and back, `cpuid` makes what a guest sees of
//! its processor, `ioctl` has the calls that the `kvm-ioctls` crate lacks.
#![allow(unsafe_code)]

mod alarm;
mod cpuid;
mod entry;
mod ioctl;
mod kick;
mod state;
mod system;
mod vcpu;
mod vm;

pub(crate) use system::Kvm;

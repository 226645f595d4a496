//! Images: what VMs boot.

use serde::{Deserialize, Serialize};

use super::timestamp::Timestamp;

/// An image in the store of a node: a kernel, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Image {
    /// Its name, which VMs name in [`VMConfig::image`](crate::VMConfig::image).
    pub name: String,
    /// SHA-256 over all that it is made of, in hex: images with the same digest boot the same, on
    /// whatever node.
    pub digest: String,
    /// The kernel's command line.
    pub cmdline: String,
    /// Bytes of the kernel's file.
    pub kernel: u64,
    /// Bytes of the initial RAM disk, 0 where it has none.
    pub initrd: u64,
    /// Bytes of the root disk of which each VM gets a copy, 0 where it has none.
    pub disk: u64,
    /// When it was imported here.
    pub created_at: Timestamp,
}

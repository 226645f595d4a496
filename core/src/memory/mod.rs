//! Guest memory: how it is laid out, what backs it, which of its pages changed.
//!
//! `layout` knows guest physical addresses, `mapping` owns the host memory, `ram` is one VM's
//! memory (both together), `bitmap` and `dirty` track changed pages, `transfer` moves pages between
//! memory and a socket without a copy in between, `splice` from a socket into the file behind memory, `file` between memory and a file, `scatter` a guest's
//! buffers between memory and its disk, `late` is memory whose pages arrive while its guest runs (by
//! `userfault`), `handed` memory that goes from one process of this host to another, `scan` finds pages of zeros,
//! `huge` knows whether there are huge pages.
//!
//! Everything here counts in *RAM offsets*: the distance from the start of RAM, without the hole
//! that devices leave below 4 GiB. Only `layout` turns them into guest physical addresses.
#![allow(unsafe_code)]

mod bitmap;
mod dirty;
mod file;
mod handed;
mod huge;
mod late;
mod layout;
mod mapping;
mod ram;
mod scan;
mod scatter;
mod splice;
mod transfer;
mod userfault;

pub(crate) use bitmap::PageBitmap;
pub(crate) use dirty::{Consumer, DirtyLog, Harvest, Harvester};
pub(crate) use file::{read_pages, sum_pages, write_pages};
pub(crate) use huge::has_huge_pages;
pub(crate) use late::{LateRam, Part};
pub(crate) use layout::{Layout, PAGE_BYTES, PAGE_SIZE, PageRange};
pub(crate) use mapping::Backing;
pub(crate) use ram::GuestRam;
pub(crate) use scatter::{GuestPiece, gather, scatter};
pub(crate) use splice::Splice;
pub(crate) use transfer::{receive_pages, send_pages};

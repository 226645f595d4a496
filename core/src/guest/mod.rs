//! `dwcp/pulse`, the guest that comes with the library.
//!
//! It runs in ring 3 from its first instruction, so it runs at full speed on every KVM, a software
//! one included. It fills memory with words that do not compress, dirties a working set at a set
//! rate, beats, and checks what it owns: a page that was lost or came from another moment is found
//! and reported with its address. It is what the project's migrations are measured with, and what
//! confirms, from the inside, that memory arrived whole.
//!
//! `options` is what it is asked to do, `layout` is what guest and host agree on, `program` is the
//! guest's code, `load` puts it into a VM's memory.
#![allow(unsafe_code)]

mod layout;
mod load;
mod options;
mod program;

pub(crate) use layout::{
    BLOCKS, Block, COMMAND_OFF, Doorbell, GOLDEN, PORT_COMMAND, PORT_DOORBELL, PORT_SERIAL,
    PORT_WAIT, STAMP, TEXTS, words,
};
pub(crate) use load::load;
pub(crate) use options::PulseOptions;

//! The C ABI: `include/dwcp.h` is made from this crate, comments included, so what C programs need to
//! know stands at the items; the rules for all of them stand in `cbindgen.toml`, at the top of the header.
//!
//! `args` takes what C passes and `give` hands results back; every function goes through its `guard`.
//! `document` is what the API's types are in C, `request` one constructor for each method of the API,
//! `client`, `stream` and `node` run them: blocking, or `reply` says where the end is told, to a
//! callback or to a queue (`cq`).
#![allow(unsafe_code, reason = "a home of unsafe code: what C passes")]
#![allow(non_camel_case_types, reason = "the names of the header")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the header says once what holds for all functions"
)]
#![allow(unreachable_pub, reason = "what the header has is public")]

mod args;
mod client;
mod cq;
mod document;
mod error;
mod give;
mod node;
mod reply;
mod request;
mod stream;
mod version;

#[cfg(test)]
mod tests;

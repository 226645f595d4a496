//! What the library is.

use std::ffi::c_char;

/// The generation of this header. A library of another generation must not be used with it: compare with
/// `dwcp_abi_version()` at start.
pub const DWCP_ABI_VERSION: u32 = 1;

/// The generation of the header that the library was made for.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_abi_version() -> u32 {
    DWCP_ABI_VERSION
}

/// The version of the library, such as "3.0.0". Not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

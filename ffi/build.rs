//! Writes the header of the C ABI to the build directory; `include/dwcp.h` is the copy that users get,
//! and a test compares the two. Gives the shared library its SONAME.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a build that cannot go on ends"
)]

use std::path::PathBuf;
use std::{env, fs};

/// The number in the SONAME: `DWCP_ABI_VERSION`, which a test compares.
const ABI: &str = "1";

fn main() {
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=cbindgen.toml");
    let dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let config = cbindgen::Config::from_file(dir.join("cbindgen.toml")).expect("cbindgen.toml");
    let header = PathBuf::from(env::var("OUT_DIR").unwrap()).join("dwcp.h");
    let mut text = Vec::new();
    cbindgen::Builder::new()
        .with_crate(&dir)
        .with_config(config)
        .generate()
        .expect("the header")
        .write(&mut text);
    fs::write(&header, text).unwrap();
    println!("cargo:rustc-env=DWCP_HEADER={}", header.display());
    println!("cargo:rustc-env=DWCP_SONAME_ABI={ABI}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdwcp.so.{ABI}");
        // Its threads outlive every call: unloading it would pull the code from under them.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}

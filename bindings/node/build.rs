//! Lets the library be loaded by Node.js.

fn main() {
    napi_build::setup();
    // A worker thread that ends closes the library, whose own threads go on: it stays in memory.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

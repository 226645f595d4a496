//! The private native module of the Python package: `dwcp._dwcp`.
//!
//! `handles` are a client, a stream and a node; what they are asked for is a piece of `work`, which
//! `bridge` runs for an asyncio loop and `work::block` for a thread that waits. `build` makes the
//! package's own objects from what came of it, without JSON in between, and `rest` what of them is made later;
//! `registry` knows their classes.
//!
//! No thread of the runtime ever takes the interpreter's lock, so neither a busy interpreter nor its end
//! holds the runtime up, and the other way round.
#![forbid(unsafe_code)]

mod bridge;
mod build;
mod handles;
mod registry;
mod rest;
mod work;

use pyo3::prelude::*;

/// The private native module of the Python package.
#[pymodule]
fn _dwcp(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("version", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<bridge::Bridge>()?;
    module.add_class::<handles::Client>()?;
    module.add_class::<handles::Node>()?;
    module.add_class::<handles::Stream>()?;
    module.add_class::<rest::Rest>()?;
    module.add_class::<work::Work>()?;
    module.add_function(wrap_pyfunction!(work::block, module)?)?;
    module.add_function(wrap_pyfunction!(registry::register, module)?)?;
    module.add_function(wrap_pyfunction!(registry::codes, module)?)?;
    module.add_function(wrap_pyfunction!(registry::example_error, module)?)?;
    Ok(())
}

//! What the C ABI and the language packages share.
//!
//! `runtime` is the one Tokio runtime of the process, which survives a fork; `task` runs work on it
//! whose end is reported exactly once, whatever becomes of it; `queue` carries what ended to a host
//! language's own loop. `client`, `node` and `stream` are the handles, which take and give JSON as the
//! protocol has it (`dwcp::Action::from_json` and its like); `options` reads what they are made with,
//! `failure` is what an error is on the other side.
//!
//! Nothing here knows a language: the C ABI and each package say the same in their own idiom.

pub mod client;
pub mod failure;
pub mod node;
pub mod options;
pub mod queue;
pub mod runtime;
pub mod stream;
pub mod task;

pub use self::client::ClientHandle;
pub use self::failure::{Code, Failure, Result};
pub use self::node::NodeHandle;
pub use self::queue::Queue;
pub use self::stream::{Batch, StreamHandle};
pub use self::task::Operation;

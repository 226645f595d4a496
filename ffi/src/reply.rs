//! Where the end of an operation is told.

use std::ffi::c_void;
use std::sync::Arc;

use dwcp_bindings_support::task::{self, Started};
use dwcp_bindings_support::{Failure, Operation, Queue, Result};

use crate::args::handle;
use crate::cq::{Ended, Given, dwcp_callback, dwcp_cq};
use crate::error::{DWCP_OK, dwcp_error};
use crate::give::{Out, give, guard, quietly};

/// Where the end of an operation is told: to a callback, or to a queue. Fill it with
/// `dwcp_reply_to_init()` and set one of the two.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dwcp_reply_to {
    /// `sizeof(dwcp_reply_to)` as the caller's header has it.
    pub struct_size: usize,
    /// The queue, or NULL.
    pub cq: *const dwcp_cq,
    /// What the operation is called in its completion.
    pub tag: u64,
    /// The callback, or NULL.
    pub callback: dwcp_callback,
    /// What the callback is given.
    pub user_data: *mut c_void,
}

/// Sets the size and clears the rest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_reply_to_init(reply_to: *mut dwcp_reply_to, struct_size: usize) {
    if reply_to.is_null() || struct_size < size_of::<usize>() {
        return;
    }
    // SAFETY: the header has the caller pass a structure of that size, which begins with it.
    unsafe {
        reply_to.cast::<u8>().write_bytes(0, struct_size);
        reply_to.cast::<usize>().write(struct_size);
    }
}

/// An operation that is under way, by which it can be cancelled. Any thread may use it.
pub struct dwcp_op(Option<Operation>);

/// Asks for the end of an operation. It still ends once, as `DWCP_ERR_CANCELLED` or as it would have where
/// that was faster. May be repeated.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_op_cancel(op: Option<&dwcp_op>) {
    quietly((), || {
        if let Some(dwcp_op(Some(operation))) = op {
            operation.cancel();
        }
    });
}

/// Frees it; NULL is allowed. The operation goes on.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_op_free(op: Option<Box<dwcp_op>>) {
    quietly((), || drop(op));
}

/// A callback with what it is given.
struct Callback {
    function: unsafe extern "C" fn(*mut c_void, *const crate::cq::dwcp_completion),
    user_data: *mut c_void,
}

// SAFETY: the header says that the callback is called on another thread, with this pointer.
unsafe impl Send for Callback {}

impl Callback {
    fn call(self, ended: Ended) {
        let completion = ended.into_completion();
        // SAFETY: the caller gave a function of this type for just this call; the completion is there
        // until it returns.
        unsafe { (self.function)(self.user_data, &raw const completion) };
    }
}

enum Way {
    Queue(Arc<Queue<Ended>>),
    Callback(Callback),
}

impl dwcp_reply_to {
    fn way(&self) -> Result<Way> {
        if self.struct_size < size_of::<dwcp_reply_to>() {
            return Err(Failure::argument(
                "reply_to: struct_size is too small: use dwcp_reply_to_init()",
            ));
        }
        // SAFETY: the header has the caller pass a queue that is there, or NULL.
        let cq = unsafe { self.cq.as_ref() };
        match (cq, self.callback) {
            (Some(cq), None) => Ok(Way::Queue(Arc::clone(&cq.0))),
            (None, Some(function)) => Ok(Way::Callback(Callback {
                function,
                user_data: self.user_data,
            })),
            _ => Err(Failure::argument(
                "reply_to: either a queue or a callback, and not both",
            )),
        }
    }
}

/// Starts an operation. Where it returns `DWCP_OK` its end is told once; else never.
pub(crate) fn start<W>(
    reply_to: Option<&dwcp_reply_to>,
    op: Out<'_, dwcp_op>,
    error: Out<'_, dwcp_error>,
    work: impl FnOnce() -> Result<W>,
) -> i32
where
    W: Future<Output = Result<Given>> + Send + 'static,
{
    guard(error, || {
        let reply_to = handle(reply_to, "reply_to")?;
        let (tag, way) = (reply_to.tag, reply_to.way()?);
        let operation = match way {
            Way::Queue(queue) => {
                let ends = Arc::clone(&queue);
                let tell = move |result| ends.push(Ended { tag, result });
                match task::start(work()?, tell)? {
                    Started::Running(operation) => Some(operation),
                    Started::Ended(result) => {
                        queue.push(Ended { tag, result });
                        None
                    }
                }
            }
            // Not on this thread: the caller may hold what the callback waits for.
            Way::Callback(callback) => Some(task::spawn(work()?, move |result| {
                callback.call(Ended { tag, result });
            })?),
        };
        match op {
            Some(op) => give(op, dwcp_op(operation)),
            None => Ok(DWCP_OK),
        }
    })
}

//! Where the end of an operation is told.

use std::ffi::c_void;
use std::sync::Arc;

use dwcp_bindings_support::task::{self, Started};
use dwcp_bindings_support::{Failure, Operation, Queue, Result};

use crate::args::handle;
use crate::cq::{Ended, Given, dwcp_callback, dwcp_completion, dwcp_cq};
use crate::error::{DWCP_OK, DWCP_PENDING, dwcp_error};
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
    /// Where not NULL: an operation that has nothing to wait for ends here, during the call that starts it,
    /// and is told to nobody else; `*op` is NULL then. Of one that waits, the status here is `DWCP_PENDING`,
    /// and its end is told as above. Written where the call returns `DWCP_OK`.
    pub ended: *mut dwcp_completion,
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
        let (tag, way, ended) = (reply_to.tag, reply_to.way()?, reply_to.ended);
        let operation = match way {
            // Not on this thread, unless it is told here: the caller may hold what the callback waits for.
            Way::Callback(callback) if ended.is_null() => {
                let tell = move |result| callback.call(Ended { tag, result });
                Some(task::spawn(work()?, tell)?)
            }
            Way::Callback(callback) => {
                let tell = move |result| callback.call(Ended { tag, result });
                match task::start(work()?, tell)? {
                    Started::Running(operation) => Some(operation),
                    Started::Ended(result) => return Ok(end(ended, Ended { tag, result }, op)),
                }
            }
            Way::Queue(queue) => {
                let ends = Arc::clone(&queue);
                let tell = move |result| ends.push(Ended { tag, result });
                match task::start(work()?, tell)? {
                    Started::Running(operation) => Some(operation),
                    Started::Ended(result) if ended.is_null() => {
                        queue.push(Ended { tag, result });
                        None
                    }
                    Started::Ended(result) => return Ok(end(ended, Ended { tag, result }, op)),
                }
            }
        };
        if !ended.is_null() {
            // SAFETY: the header has the caller pass room for a completion, or NULL.
            unsafe { ended.write(dwcp_completion::without_result(tag, DWCP_PENDING)) };
        }
        match op {
            Some(op) => give(op, dwcp_op(operation)),
            None => Ok(DWCP_OK),
        }
    })
}

/// Tells the caller at once what an operation came to; there is nothing to cancel.
fn end(out: *mut dwcp_completion, ended: Ended, op: Out<'_, dwcp_op>) -> i32 {
    // SAFETY: the header has the caller pass room for a completion, and it is not NULL here.
    unsafe { out.write(ended.into_completion()) };
    if let Some(op) = op {
        op.write(None);
    }
    DWCP_OK
}

//! The completion queue: the way without callbacks, for event loops and for languages with their own
//! scheduler.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;

use dwcp_bindings_support::queue::Taken;
use dwcp_bindings_support::{Failure, Queue, Result};

use crate::args::{handle, timeout};
use crate::client::dwcp_client;
use crate::document::dwcp_document;
use crate::error::{DWCP_END, DWCP_ERR_TIMEOUT, DWCP_OK, dwcp_error};
use crate::give::{give, guard, quietly, wanted};
use crate::node::dwcp_node;
use crate::stream::dwcp_stream;

/// How something ended. Whoever receives it owns what the pointers lead to, and frees each of them; those
/// that the operation does not give are NULL.
#[repr(C)]
#[derive(Debug)]
pub struct dwcp_completion {
    /// What the caller named it by.
    pub tag: u64,
    /// `DWCP_OK`, one of `DWCP_ERR_*`, or for a stream `DWCP_END`.
    pub status: i32,
    /// What went wrong, where something did.
    pub error: *mut dwcp_error,
    /// What a call or a stream gave.
    pub document: *mut dwcp_document,
    /// What `dwcp_client_subscribe_async()` gave.
    pub stream: *mut dwcp_stream,
    /// What `dwcp_client_connect_async()` gave.
    pub client: *mut dwcp_client,
    /// What `dwcp_node_start_async()` gave.
    pub node: *mut dwcp_node,
}

impl dwcp_completion {
    pub(crate) fn without_result(tag: u64, status: i32) -> dwcp_completion {
        dwcp_completion {
            tag,
            status,
            error: std::ptr::null_mut(),
            document: std::ptr::null_mut(),
            stream: std::ptr::null_mut(),
            client: std::ptr::null_mut(),
            node: std::ptr::null_mut(),
        }
    }
}

/// What an operation gives.
pub(crate) enum Given {
    Nothing,
    End,
    Document(dwcp_document),
    Stream(dwcp_stream),
    Client(dwcp_client),
    Node(dwcp_node),
}

/// How something ended, while it is on this side.
pub(crate) struct Ended {
    pub(crate) tag: u64,
    pub(crate) result: Result<Given>,
}

impl Ended {
    /// Hands it over.
    pub(crate) fn into_completion(self) -> dwcp_completion {
        let mut completion = dwcp_completion::without_result(self.tag, DWCP_OK);
        match self.result {
            Ok(Given::Nothing) => {}
            Ok(Given::End) => completion.status = DWCP_END,
            Ok(Given::Document(given)) => completion.document = boxed(given),
            Ok(Given::Stream(given)) => completion.stream = boxed(given),
            Ok(Given::Client(given)) => completion.client = boxed(given),
            Ok(Given::Node(given)) => completion.node = boxed(given),
            Err(failure) => {
                let given = dwcp_error::new(&failure);
                completion.status = given.status();
                completion.error = boxed(given);
            }
        }
        completion
    }
}

fn boxed<T>(given: T) -> *mut T {
    Box::into_raw(Box::new(given))
}

/// A queue of what has ended. Any thread may use it; whoever takes a completion owns it. It holds what was
/// started with it and has not been taken.
pub struct dwcp_cq(pub(crate) Arc<Queue<Ended>>);

/// An empty queue.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_cq_new(
    out: Option<&mut MaybeUninit<Option<Box<dwcp_cq>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        let queue = Queue::new().map_err(|error| Failure::from(dwcp::DWCPError::from(error)))?;
        give(out, dwcp_cq(Arc::new(queue)))
    })
}

/// Takes up to `max` completions in the order in which they ended, and says in `count` how many; waits for
/// the first at most so long. `DWCP_OK` with at least one, `DWCP_ERR_TIMEOUT` without an error object,
/// `DWCP_END` when the queue was shut down and is empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_cq_next(
    cq: Option<&dwcp_cq>,
    timeout_ms: u64,
    out: *mut dwcp_completion,
    max: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> i32 {
    guard(None, || {
        let count = count.ok_or_else(|| Failure::argument("count: is NULL"))?;
        count.write(0);
        if out.is_null() || max == 0 {
            return Err(Failure::argument("out: no room for a completion"));
        }
        match handle(cq, "cq")?.0.take(max, timeout(timeout_ms)) {
            Taken::TimedOut => Ok(DWCP_ERR_TIMEOUT),
            Taken::Closed => Ok(DWCP_END),
            Taken::Items(items) => {
                count.write(items.len());
                for (index, ended) in items.into_iter().enumerate() {
                    // SAFETY: the header has the caller pass room for `max` completions, and no more are
                    // taken.
                    unsafe { out.add(index).write(ended.into_completion()) };
                }
                Ok(DWCP_OK)
            }
        }
    })
}

/// A descriptor that is readable while something can be taken, and once the queue was shut down: for
/// epoll and event loops. It may be so a little longer; then `dwcp_cq_next()` with no time says
/// `DWCP_ERR_TIMEOUT`. It belongs to the queue: neither read nor close it. -1 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_cq_fd(cq: Option<&dwcp_cq>) -> i32 {
    cq.map_or(-1, |cq| cq.0.fd())
}

/// Wakes all who wait, now and later: `dwcp_cq_next()` says `DWCP_END` once it is empty.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_cq_shutdown(cq: Option<&dwcp_cq>) {
    quietly((), || {
        if let Some(cq) = cq {
            cq.0.close();
        }
    });
}

/// Frees it, and what was not taken; NULL is allowed. Nobody may be waiting. What is under way goes on, and
/// its end is nobody's.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_cq_free(cq: Option<Box<dwcp_cq>>) {
    quietly((), || drop(cq));
}

/// Called with the end of an operation, once, on a thread of the library. It owns what the completion leads
/// to, though not the completion. It must not wait for the library: a blocking call is
/// `DWCP_ERR_INVALID_OPERATION` there. It must not throw or jump out.
pub type dwcp_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, completion: *const dwcp_completion)>;

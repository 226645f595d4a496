//! From the runtime to an asyncio loop.
//!
//! What ends is pushed on a queue whose descriptor the loop watches; the loop's own thread takes it from
//! there, a batch at a time, and tells whoever waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwcp_bindings_support::queue::Taken;
use dwcp_bindings_support::task::{self, Started};
use dwcp_bindings_support::{Operation, Queue, Result};
use pyo3::intern;
use pyo3::prelude::*;

use crate::registry::exception;
use crate::work::{End, Work};

/// A bridge to one asyncio loop. Only the thread of that loop may use it.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub(crate) struct Bridge {
    ended: Arc<Queue<(usize, Result<End>)>>,
    pending: Mutex<HashMap<usize, Pending>>,
}

/// Somebody who waits. The key is the address of the object; it stays his until his work has ended, for
/// until then the object is kept here.
struct Pending {
    waiter: Waiter,
    operation: Operation,
}

enum Waiter {
    /// An asyncio future.
    Future(Py<PyAny>),
    /// An object with a method `arrived(value, error)`.
    Sink(Py<PyAny>),
}

#[pymethods]
impl Bridge {
    #[new]
    fn new() -> PyResult<Bridge> {
        Ok(Bridge {
            ended: Arc::new(Queue::new()?),
            pending: Mutex::default(),
        })
    }

    /// Readable when there is something to drain.
    fn fileno(&self) -> i32 {
        self.ended.fd()
    }

    /// Does what was begun and waits, for an asyncio future.
    fn run(&self, py: Python<'_>, work: &Work, future: &Bound<'_, PyAny>) -> PyResult<()> {
        let tag = future.as_ptr() as usize;
        let ended = Arc::clone(&self.ended);
        let operation = task::spawn(work.take()?, move |end| ended.push((tag, end)))
            .map_err(|failure| exception(py, &failure))?;
        let waiter = Waiter::Future(future.clone().unbind());
        self.pending().insert(tag, Pending { waiter, operation });
        Ok(())
    }

    /// Does it, for an object whose method `arrived(value, error)` is called at the end; or gives the
    /// value at once, and `None` where there is something to wait for.
    fn pull<'py>(
        &self,
        py: Python<'py>,
        work: &Work,
        sink: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let tag = sink.as_ptr() as usize;
        let ended = Arc::clone(&self.ended);
        match task::start(work.take()?, move |end| ended.push((tag, end))) {
            Err(failure) | Ok(Started::Ended(Err(failure))) => Err(exception(py, &failure)),
            Ok(Started::Ended(Ok(end))) => end.into_object(py).map(Some),
            Ok(Started::Running(operation)) => {
                let waiter = Waiter::Sink(sink.clone().unbind());
                self.pending().insert(tag, Pending { waiter, operation });
                Ok(None)
            }
        }
    }

    /// Takes the work of that future back.
    fn cancel(&self, future: &Bound<'_, PyAny>) {
        if let Some(pending) = self.pending().get(&(future.as_ptr() as usize)) {
            pending.operation.cancel();
        }
    }

    /// Tells those whose work has ended.
    fn drain(&self, py: Python<'_>) {
        let Taken::Items(ended) = self.ended.take(usize::MAX, Some(Duration::ZERO)) else {
            return;
        };
        for (tag, end) in ended {
            let pending = self.pending().remove(&tag);
            if let Some(Pending { waiter, .. }) = pending
                && let Err(error) = tell(py, &waiter, end)
            {
                // Nobody waits for this error, and the others must hear of their ends.
                error.write_unraisable(py, None);
            }
        }
    }

    /// How many are waited for.
    fn in_flight(&self) -> usize {
        self.pending().len()
    }

    /// Takes all back, when the loop is closed and nobody can be told.
    fn close(&self) {
        let pending = std::mem::take(&mut *self.pending());
        for pending in pending.values() {
            pending.operation.cancel();
        }
    }
}

impl Bridge {
    fn pending(&self) -> MutexGuard<'_, HashMap<usize, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(py: Python<'_>, waiter: &Waiter, end: Result<End>) -> PyResult<()> {
    let value = match end {
        Ok(end) => end.into_object(py),
        Err(failure) => Err(exception(py, &failure)),
    };
    match waiter {
        Waiter::Future(future) => {
            let future = future.bind(py);
            // One that was cancelled needs no answer.
            if future.call_method0(intern!(py, "done"))?.is_truthy()? {
                return Ok(());
            }
            match value {
                Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
                Err(error) => {
                    future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?
                }
            };
        }
        Waiter::Sink(sink) => {
            let (value, error) = match value {
                Ok(value) => (Some(value), None),
                Err(error) => (None, Some(error.into_value(py))),
            };
            sink.bind(py)
                .call_method1(intern!(py, "arrived"), (value, error))?;
        }
    }
    Ok(())
}

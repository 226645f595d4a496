//! What is to be done, not yet begun; and waiting for it.

use std::pin::Pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwcp::Outcome;
use dwcp_bindings_support::task::{self, Begun, Started};
use dwcp_bindings_support::{Batch, ClientHandle, NodeHandle, Result, StreamHandle};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::registry::exception;
use crate::{build, handles};

/// How often a thread that waits looks for signals, such as the one of Ctrl-C.
const SIGNALS: Duration = Duration::from_millis(100);

/// What came of it.
pub(crate) enum End {
    Done,
    Outcome(Outcome),
    Batch(Batch),
    Client(ClientHandle),
    Stream(StreamHandle),
    Node(NodeHandle),
}

impl End {
    /// As an object of the package.
    pub(crate) fn into_object(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        Ok(match self {
            End::Done => py.None().into_bound(py),
            End::Outcome(outcome) => build::outcome(py, outcome)?,
            End::Batch(batch) => build::batch(py, batch)?,
            End::Client(client) => Bound::new(py, handles::Client(client))?.into_any(),
            End::Stream(stream) => Bound::new(py, handles::Stream(stream))?.into_any(),
            End::Node(node) => Bound::new(py, handles::Node(node))?.into_any(),
        })
    }
}

pub(crate) type Future = Pin<Box<dyn std::future::Future<Output = Result<End>> + Send>>;

/// Something to be done, once.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub(crate) struct Work(Mutex<Option<Future>>);

#[pymethods]
impl Work {
    /// Does what needs no waiting, and gives what came of it, or raises it; gives the work itself where there is
    /// something to wait for.
    fn begin<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        match task::begin(this.take()?) {
            Err(failure) | Ok(Begun::Ended(Err(failure))) => Err(exception(py, &failure)),
            Ok(Begun::Ended(Ok(end))) => end.into_object(py),
            Ok(Begun::Waits(rest)) => {
                *this.lock() = Some(rest);
                Ok(slf.clone().into_any())
            }
        }
    }
}

impl Work {
    pub(crate) fn new(
        work: impl std::future::Future<Output = Result<End>> + Send + 'static,
    ) -> Work {
        Work(Mutex::new(Some(Box::pin(work))))
    }

    /// What is to be done.
    pub(crate) fn take(&self) -> PyResult<Future> {
        let done = || PyRuntimeError::new_err("dwcp: the same work twice");
        self.lock().take().ok_or_else(done)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Future>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does it, and waits without the interpreter's lock. A signal handler that raises takes it back.
#[pyfunction]
pub(crate) fn block<'py>(py: Python<'py>, work: &Work) -> PyResult<Bound<'py, PyAny>> {
    let work = work.take()?;
    let (sender, ends) = mpsc::sync_channel(1);
    let started = task::start(work, move |end| {
        // Fails where nobody waits any more.
        let _ = sender.send(end);
    });
    let end = match started {
        Err(failure) => Err(failure),
        Ok(Started::Ended(end)) => end,
        Ok(Started::Running(operation)) => {
            let ends = Mutex::new(ends);
            loop {
                let waited = py.detach(|| {
                    let ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                    ends.recv_timeout(SIGNALS)
                });
                match waited {
                    Ok(end) => break end,
                    Err(RecvTimeoutError::Timeout) => {
                        if let Err(raised) = py.check_signals() {
                            operation.cancel();
                            return Err(raised);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(PyRuntimeError::new_err("dwcp: work without an end"));
                    }
                }
            }
        }
    };
    end.map_err(|failure| exception(py, &failure))?
        .into_object(py)
}

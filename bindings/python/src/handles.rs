//! A client, a stream and a node, as Python holds them.

use std::time::Duration;

use dwcp::{Action, DWCPError, Subscription};
use dwcp_bindings_support::options::{ClientOptions, NodeOptions};
use dwcp_bindings_support::{ClientHandle, Failure, NodeHandle, Result, StreamHandle};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::build;
use crate::registry::{exception, exception_of};
use crate::work::{End, Work};

/// A result as Python has it.
trait Raise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T, E: Into<Failure>> Raise<T> for Result<T, E> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| exception(py, &error.into()))
    }
}

/// A connected client.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub(crate) struct Client(pub(crate) ClientHandle);

#[pymethods]
impl Client {
    /// Connects by options in JSON.
    #[staticmethod]
    fn connect(py: Python<'_>, options: &[u8]) -> PyResult<Work> {
        let options = ClientOptions::from_json(options).or_raise(py)?;
        let work = async { Ok(End::Client(ClientHandle::connect(options).await?)) };
        Ok(Work::new(work))
    }

    /// Asks for something: the name of the method, and its fields in JSON.
    fn call(&self, py: Python<'_>, name: &str, fields: &[u8]) -> PyResult<Work> {
        self.ask(py, name, Action::from_json(name, fields))
    }

    /// The same, where the only field is an id.
    fn one(
        &self,
        py: Python<'_>,
        name: &str,
        field: &str,
        id: &Bound<'_, PyAny>,
    ) -> PyResult<Work> {
        let Ok(id) = id.cast::<PyString>() else {
            let error = Failure::argument(format!("{field}: must be text"));
            return Err(exception_of(py, &error, Some(name)));
        };
        let id = id.to_cow()?;
        if name == "get" {
            // The request that comes most often needs no JSON.
            let vm_id = id.into_owned();
            return self.ask(py, name, Ok(Action::Get { vm_id }));
        }
        let fields = serde_json::to_vec(&serde_json::json!({ field: id })).map_err(DWCPError::from);
        self.ask(py, name, Action::from_json(name, &fields.or_raise(py)?))
    }

    /// Opens a stream: its name, and its fields in JSON.
    fn subscribe(&self, py: Python<'_>, name: &str, fields: &[u8]) -> PyResult<Work> {
        let subscription = Subscription::from_json(name, fields)
            .map_err(|error| exception_of(py, &error.into(), Some(name)))?;
        let opened = self.0.subscribe(subscription).or_raise(py)?;
        Ok(Work::new(async { Ok(End::Stream(opened.await?)) }))
    }

    /// Ends its connections.
    fn close(&self, py: Python<'_>) -> PyResult<Work> {
        let closed = self.0.close().or_raise(py)?;
        Ok(Work::new(async {
            closed.await?;
            Ok(End::Done)
        }))
    }

    #[getter]
    fn is_connected(&self) -> bool {
        self.0.is_connected()
    }

    #[getter]
    fn is_authenticated(&self) -> bool {
        self.0.is_authenticated()
    }

    /// Its counters.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        build::object(py, &self.0.metrics().or_raise(py)?)
    }
}

impl Client {
    fn ask(&self, py: Python<'_>, name: &str, action: dwcp::Result<Action>) -> PyResult<Work> {
        let action = action.map_err(|error| exception_of(py, &error.into(), Some(name)))?;
        let answer = self.0.call(action).or_raise(py)?;
        Ok(Work::new(async { Ok(End::Outcome(answer.await?)) }))
    }
}

/// An open stream.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub(crate) struct Stream(pub(crate) StreamHandle);

#[pymethods]
impl Stream {
    /// Waits for the next item; what else is there comes with it, up to `max` in all. An empty list is
    /// the end.
    fn next(&self, py: Python<'_>, max: usize) -> PyResult<Work> {
        let next = self.0.next(max).or_raise(py)?;
        Ok(Work::new(async { Ok(End::Batch(next.await?)) }))
    }

    /// Ends it, at the node too.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.0.close().or_raise(py)
    }
}

/// A node in this process.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub(crate) struct Node(pub(crate) NodeHandle);

#[pymethods]
impl Node {
    /// Starts one by options in JSON.
    #[staticmethod]
    fn start(py: Python<'_>, options: &[u8]) -> PyResult<Work> {
        let options = NodeOptions::from_json(options).or_raise(py)?;
        Ok(Work::new(async {
            Ok(End::Node(NodeHandle::start(options).await?))
        }))
    }

    /// A client that calls it directly.
    fn client(&self, py: Python<'_>) -> PyResult<Client> {
        Ok(Client(self.0.client().or_raise(py)?))
    }

    /// Where its first listener is.
    fn address(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.0.address().or_raise(py)
    }

    /// Adds a peer.
    #[pyo3(signature = (name, address, credential=None))]
    fn add_peer(
        &self,
        py: Python<'_>,
        name: &str,
        address: &str,
        credential: Option<&str>,
    ) -> PyResult<()> {
        self.0.add_peer(name, address, credential).or_raise(py)
    }

    /// Takes and starts no VMs from now on.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        self.0.drain().or_raise(py)
    }

    /// Ends it; its guests get so many seconds to stop.
    fn shutdown(&self, py: Python<'_>, seconds: f64) -> PyResult<Work> {
        let timeout = Duration::try_from_secs_f64(seconds)
            .map_err(|error| Failure::argument(format!("timeout: {error}")));
        let ended = self.0.shutdown(timeout.or_raise(py)?).or_raise(py)?;
        Ok(Work::new(async {
            ended.await?;
            Ok(End::Done)
        }))
    }

    /// Names and roles of its keys.
    fn keys(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let keys = self.0.keys().or_raise(py)?;
        let keys = keys
            .into_iter()
            .map(|(name, role)| (name, role.to_string()));
        Ok(keys.collect())
    }

    /// Adds a key.
    fn add_key(&self, py: Python<'_>, name: String, key: String, role: &str) -> PyResult<Work> {
        let added = self.0.add_key(name, key, role).or_raise(py)?;
        Ok(Work::new(async {
            added.await?;
            Ok(End::Done)
        }))
    }

    /// Removes a key.
    fn remove_key(&self, py: Python<'_>, name: String) -> PyResult<Work> {
        let removed = self.0.remove_key(name).or_raise(py)?;
        Ok(Work::new(async {
            removed.await?;
            Ok(End::Done)
        }))
    }
}

//! A client, as JavaScript holds it.

#![allow(
    unsafe_code,
    reason = "the macros of napi-derive write the functions that Node.js calls"
)]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dwcp::model::duration;
use dwcp::{Action, DWCPError, Subscription};
use dwcp_bindings_support::failure::Code;
use dwcp_bindings_support::options::ClientOptions;
use dwcp_bindings_support::{ClientHandle, Result, StreamHandle, runtime, task};
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;

use crate::answer::{Answer, Payload, Thrown, throw};
use crate::bridge::Bridge;
use crate::stream::NativeStream;

/// A client that may not be connected.
#[napi]
pub struct NativeClient {
    /// What it connects with; `None` in the process of its node.
    options: Option<ClientOptions>,
    handle: Arc<Mutex<Option<ClientHandle>>>,
}

impl fmt::Debug for NativeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeClient")
            .field("handle", &self.current())
            .finish_non_exhaustive()
    }
}

#[napi]
impl NativeClient {
    /// A client with these options, not connected.
    #[napi(constructor)]
    pub fn new(options: String) -> Result<NativeClient, Thrown> {
        let options = task::guard(|| ClientOptions::from_json(options.as_bytes()));
        Ok(NativeClient {
            options: Some(options.map_err(|failure| throw(&failure))?),
            handle: Arc::default(),
        })
    }

    #[napi]
    pub fn connect(
        &self,
        bridge: &Bridge,
        tag: i64,
        timeout: Option<String>,
    ) -> Result<Option<Payload>, Thrown> {
        let (options, slot) = (self.options.clone(), Arc::clone(&self.handle));
        bridge.start(tag, ("connect", None), || {
            let limit = limit(timeout.as_deref())?;
            Ok(within(limit, async move {
                let Some(options) = options else {
                    let text = "the client of a node in this process ends with disconnect()";
                    return Err(DWCPError::InvalidOperation(text.into()).into());
                };
                let connected = ClientHandle::connect(options).await?;
                *lock(&slot) = Some(connected);
                Ok(Answer::done())
            }))
        })
    }

    /// Asks for something.
    #[napi]
    pub fn call(
        &self,
        bridge: &Bridge,
        tag: i64,
        method: String,
        fields: String,
        timeout: Option<String>,
    ) -> Result<Option<Payload>, Thrown> {
        let action = task::guard(|| Ok(Action::from_json(&method, fields.as_bytes())?));
        let action = action.map_err(|failure| throw(&failure))?;
        self.ask(bridge, tag, action, timeout.as_deref())
    }

    /// Types on a console.
    #[napi]
    pub fn write(
        &self,
        bridge: &Bridge,
        tag: i64,
        vm_id: String,
        data: Buffer,
        timeout: Option<String>,
    ) -> Result<Option<Payload>, Thrown> {
        let data = Bytes::copy_from_slice(&data);
        let action = Action::ConsoleWrite {
            vm_id,
            data,
            writer: None,
        };
        self.ask(bridge, tag, action, timeout.as_deref())
    }

    /// Opens a stream, into one that was not.
    #[napi]
    pub fn subscribe(
        &self,
        bridge: &Bridge,
        tag: i64,
        method: String,
        fields: String,
        stream: &NativeStream,
    ) -> Result<Option<Payload>, Thrown> {
        let asked = task::guard(|| Ok(Subscription::from_json(&method, fields.as_bytes())?));
        let subscription = asked.map_err(|failure| throw(&failure))?;
        let slot = stream.slot();
        let concerns = subscription.vm_id().map(str::to_owned);
        bridge.start(tag, (subscription.name(), concerns), || {
            let opening = self.connected()?.subscribe(subscription)?;
            Ok(async move {
                let opened: StreamHandle = opening.await?;
                slot.open(opened);
                Ok(Answer::done())
            })
        })
    }

    /// Ends the connection; whatever is under way ends with an error.
    #[napi]
    pub fn close(&self, bridge: &Bridge, tag: i64) -> Result<Option<Payload>, Thrown> {
        let handle = self.current();
        bridge.start(tag, ("disconnect", None), || {
            let closing = handle.map(|handle| handle.close()).transpose()?;
            Ok(async move {
                if let Some(closing) = closing {
                    closing.await?;
                }
                Ok(Answer::done())
            })
        })
    }

    #[napi]
    pub fn is_connected(&self) -> bool {
        self.current().is_some_and(|handle| handle.is_connected())
    }

    #[napi]
    pub fn is_authenticated(&self) -> bool {
        self.current()
            .is_some_and(|handle| handle.is_authenticated())
    }

    /// Its counters as JSON; empty before it was connected.
    #[napi]
    pub fn metrics(&self) -> Result<String, Thrown> {
        let read = || {
            let Some(handle) = self.current() else {
                return Ok(String::new());
            };
            let json = serde_json::to_vec(&handle.metrics()?)
                .map_err(|error| DWCPError::Serialization(error.to_string()))?;
            match Answer::json(&json)? {
                Answer::Text(text) => Ok(text),
                Answer::Bytes(_) => Ok(String::new()),
            }
        };
        task::guard(read).map_err(|failure| throw(&failure))
    }
}

impl NativeClient {
    /// One that is connected, because its node is in this process.
    pub(crate) fn of(handle: ClientHandle) -> NativeClient {
        NativeClient {
            options: None,
            handle: Arc::new(Mutex::new(Some(handle))),
        }
    }

    fn current(&self) -> Option<ClientHandle> {
        lock(&self.handle).clone()
    }

    fn connected(&self) -> Result<ClientHandle> {
        self.current().ok_or_else(|| {
            DWCPError::Connection("the client is not connected: connect() makes it so".into())
                .into()
        })
    }

    fn ask(
        &self,
        bridge: &Bridge,
        tag: i64,
        action: Action,
        timeout: Option<&str>,
    ) -> Result<Option<Payload>, Thrown> {
        let about = (action.name(), action.vm_id().map(str::to_owned));
        bridge.start(tag, about, || {
            let limit = limit(timeout)?;
            let asking = self.connected()?.call(action)?;
            Ok(within(
                limit,
                async move { Answer::outcome(&asking.await?) },
            ))
        })
    }
}

fn lock(slot: &Mutex<Option<ClientHandle>>) -> std::sync::MutexGuard<'_, Option<ClientHandle>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a caller waits; no time and the time 0 are no limit.
pub(crate) fn limit(timeout: Option<&str>) -> Result<Option<Duration>> {
    let Some(text) = timeout.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let limit = duration::parse(text)
        .map_err(|error| DWCPError::Config(format!("timeout: {}", error.message())))?;
    Ok(Some(limit).filter(|limit| !limit.is_zero()))
}

pub(crate) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match limit {
        Some(limit) => runtime::within(limit, work).await,
        None => work.await,
    }
}

/// The names of all codes, for the test that each has a class.
#[napi]
#[cfg_attr(test, allow(dead_code, reason = "only JavaScript calls it"))]
pub(crate) fn codes() -> Vec<&'static str> {
    Code::all().map(Code::name).collect()
}

/// The version of the library.
#[napi]
#[cfg_attr(test, allow(dead_code, reason = "only JavaScript calls it"))]
pub(crate) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

//! A node, as JavaScript holds it.

#![allow(
    unsafe_code,
    reason = "the macros of napi-derive write the functions that Node.js calls"
)]

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dwcp::DWCPError;
use dwcp_bindings_support::options::NodeOptions;
use dwcp_bindings_support::{NodeHandle, Result, task};
use napi_derive::napi;

use crate::answer::{Answer, Payload, Thrown, throw};
use crate::bridge::Bridge;
use crate::client::{NativeClient, limit};

/// A node, once it was started.
#[napi]
pub struct NativeNode(Arc<OnceLock<NodeHandle>>);

impl fmt::Debug for NativeNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NativeNode").field(&self.0.get()).finish()
    }
}

/// A key of a node, without its secret.
#[napi(object)]
#[derive(Debug)]
pub struct NativeKey {
    pub name: String,
    pub role: String,
}

#[napi]
impl NativeNode {
    #[napi(constructor)]
    #[allow(clippy::new_without_default, reason = "made by JavaScript only")]
    pub fn new() -> NativeNode {
        NativeNode(Arc::default())
    }

    #[napi]
    pub fn start(
        &self,
        bridge: &Bridge,
        tag: i64,
        options: String,
    ) -> Result<Option<Payload>, Thrown> {
        let slot = Arc::clone(&self.0);
        bridge.start(tag, ("node_start", None), || {
            let options = NodeOptions::from_json(options.as_bytes())?;
            Ok(async move {
                let node = NodeHandle::start(options).await?;
                // Started once: there is no other.
                let _ = slot.set(node);
                Ok(Answer::done())
            })
        })
    }

    /// A client that calls it directly.
    #[napi]
    pub fn client(&self) -> Result<NativeClient, Thrown> {
        self.with("client", |node| Ok(NativeClient::of(node.client()?)))
    }

    #[napi]
    pub fn address(&self) -> Result<Option<String>, Thrown> {
        self.with("address", NodeHandle::address)
    }

    #[napi]
    pub fn add_peer(
        &self,
        name: String,
        address: String,
        credential: Option<String>,
    ) -> Result<(), Thrown> {
        self.with("add_peer", |node| {
            node.add_peer(&name, &address, credential.as_deref())
        })
    }

    #[napi]
    pub fn drain(&self) -> Result<(), Thrown> {
        self.with("drain", NodeHandle::drain)
    }

    /// Ends it; its guests get that time to stop.
    #[napi]
    pub fn shutdown(
        &self,
        bridge: &Bridge,
        tag: i64,
        timeout: Option<String>,
    ) -> Result<Option<Payload>, Thrown> {
        bridge.start(tag, ("shutdown", None), || {
            let time = limit(timeout.as_deref())?.unwrap_or(Duration::ZERO);
            let ending = self.node()?.shutdown(time)?;
            Ok(async move {
                ending.await?;
                Ok(Answer::done())
            })
        })
    }

    #[napi]
    pub fn keys(&self) -> Result<Vec<NativeKey>, Thrown> {
        let keys = self.with("keys", NodeHandle::keys)?;
        let key = |(name, role): (String, dwcp::Role)| NativeKey {
            name,
            role: role.to_string(),
        };
        Ok(keys.into_iter().map(key).collect())
    }

    #[napi]
    pub fn add_key(
        &self,
        bridge: &Bridge,
        tag: i64,
        name: String,
        key: String,
        role: String,
    ) -> Result<Option<Payload>, Thrown> {
        bridge.start(tag, ("add_key", None), || {
            let adding = self.node()?.add_key(name, key, &role)?;
            Ok(async move {
                adding.await?;
                Ok(Answer::done())
            })
        })
    }

    #[napi]
    pub fn remove_key(
        &self,
        bridge: &Bridge,
        tag: i64,
        name: String,
    ) -> Result<Option<Payload>, Thrown> {
        bridge.start(tag, ("remove_key", None), || {
            let removing = self.node()?.remove_key(name)?;
            Ok(async move {
                removing.await?;
                Ok(Answer::done())
            })
        })
    }
}

impl NativeNode {
    fn node(&self) -> Result<&NodeHandle> {
        self.0
            .get()
            .ok_or_else(|| DWCPError::InvalidOperation("the node was not started".into()).into())
    }

    fn with<T>(
        &self,
        operation: &'static str,
        ask: impl FnOnce(&NodeHandle) -> Result<T>,
    ) -> Result<T, Thrown> {
        task::guard(|| ask(self.node()?)).map_err(|failure| {
            throw(&match failure.operation {
                Some(_) => failure,
                None => failure.about(operation, None),
            })
        })
    }
}

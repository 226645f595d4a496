//! Answering for VMs that moved away: the node they moved to is asked.
//!
//! This node has checked what the caller may do; it asks, as a node, on behalf of the least role that
//! may, which the other side grants to nodes up to operator. Connections are made when they are
//! first needed and shared by all callers.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};

use super::Shared;
use crate::action::{Action, Outcome, Role, Subscription};
use crate::client::{ItemSink, ItemStream, Service, forwarder};
use crate::error::{DWCPError, Result};

/// The connections to nodes that VMs moved to, by node and role.
#[derive(Debug, Default)]
pub(super) struct Forwarders(Mutex<HashMap<(String, Role), Arc<dyn Service>>>);

impl Forwarders {
    /// Closes them: a peer's address may have changed.
    pub(super) fn forget(&self, node: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(name, _), _| name != node);
    }

    pub(super) fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Shared {
    /// Asks the node that a VM moved to.
    ///
    /// # Errors
    ///
    /// That node's; `unavailable` naming it where it cannot be asked.
    pub(super) async fn forward(&self, node: &str, action: Action) -> Result<Outcome> {
        let role = action.required_role();
        let vm_id = action.vm_id().unwrap_or_default().to_owned();
        let there = self.forwarder(&vm_id, node, role)?;
        there
            .call(action)
            .await
            .map_err(|error| unreached(&vm_id, node, error))
    }

    /// Opens a stream at the node that a VM moved to.
    async fn forward_stream(&self, node: &str, subscription: Subscription) -> Result<ItemStream> {
        let role = subscription.required_role();
        let vm_id = subscription.vm_id().unwrap_or_default().to_owned();
        let there = self.forwarder(&vm_id, node, role)?;
        // Of a cursor of this node's store the other knows nothing: it begins with the present state.
        // One of another store was learnt over there.
        let subscription = match subscription {
            Subscription::Watch {
                vm_id,
                filters,
                store,
                ..
            } if store.as_ref().is_none_or(|store| *store == self.uuid) => Subscription::Watch {
                vm_id,
                filters,
                since: None,
                store: None,
            },
            other => other,
        };
        there
            .subscribe(subscription)
            .await
            .map_err(|error| unreached(&vm_id, node, error))
    }

    fn forwarder(&self, vm_id: &str, node: &str, role: Role) -> Result<Arc<dyn Service>> {
        // Nobody but an admin of that node decides what only an admin may.
        if !Role::Operator.allows(role) {
            return Err(DWCPError::PermissionDenied(format!(
                "VM {vm_id} moved to the node {node}; what only an admin may do is to be asked there"
            )));
        }
        let mut known = self
            .forwarders
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (node.to_owned(), role);
        if let Some(there) = known.get(&key) {
            return Ok(Arc::clone(there));
        }
        let dial = self
            .dial(node)
            .map_err(|error| unreached(vm_id, node, error))?;
        let _here = self.runtime.enter();
        let tls = dial.tls.as_deref().cloned();
        let there = forwarder(dial.address, tls, dial.credential, role)?;
        known.insert(key, Arc::clone(&there));
        Ok(there)
    }

    /// Opens a stream, here or where its VM moved to, and goes on there when it moves meanwhile.
    pub(super) async fn open_anywhere(
        self: &Arc<Self>,
        subscription: Subscription,
    ) -> Result<ItemStream> {
        let Some(vm_id) = subscription.vm_id().map(str::to_owned) else {
            return self.open(subscription).await;
        };
        let stream = match (self.registry.moved_to(&vm_id), &subscription) {
            (None, _) => self.open(subscription.clone()).await?,
            // Whoever was away while it moved hears first what happened here until then.
            (Some(node), Subscription::Watch { since: Some(_), .. }) => {
                match self.open(subscription.clone()).await {
                    Ok(stream) => stream,
                    Err(_) => return self.forward_stream(&node, subscription).await,
                }
            }
            (Some(node), _) => return self.forward_stream(&node, subscription).await,
        };
        if self.peers().is_empty() {
            return Ok(stream);
        }
        let (sink, relayed) = ItemStream::channel();
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            shared.relay(&vm_id, subscription, stream, sink).await;
        });
        Ok(relayed)
    }

    /// Moves items until the stream is over; where the VM moved, goes on with that node's.
    async fn relay(
        &self,
        vm_id: &str,
        subscription: Subscription,
        mut stream: ItemStream,
        sink: ItemSink,
    ) {
        let mut away = false;
        loop {
            let next = tokio::select! {
                next = poll_fn(|cx| stream.poll_next(cx)) => next,
                // Nobody listens any more.
                () = sink.closed() => return,
            };
            let moved = match next {
                Some(Ok(item)) => {
                    if sink.send(Ok(item)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Some(Err(error)) if away => {
                    let _ = sink.send(Err(error)).await;
                    return;
                }
                // A stream of figures, or of a console, ends with the machine: here that means only
                // that it is elsewhere.
                None if away => return,
                ended => match self.registry.moved_to(vm_id) {
                    Some(node) => node,
                    None => {
                        if let Some(Err(error)) = ended {
                            let _ = sink.send(Err(error)).await;
                        }
                        return;
                    }
                },
            };
            match self.forward_stream(&moved, subscription.clone()).await {
                Ok(there) => (stream, away) = (there, true),
                Err(error) => {
                    let _ = sink.send(Err(error)).await;
                    return;
                }
            }
        }
    }
}

/// An error that says where the VM is: by its text a client knows that it has to ask there.
fn unreached(vm_id: &str, node: &str, error: DWCPError) -> DWCPError {
    match error {
        DWCPError::Connection(why) | DWCPError::Authentication(why) | DWCPError::NotFound(why) => {
            DWCPError::Unavailable(format!(
                "VM {vm_id} moved to the node {node}, which cannot be asked from here: {why}"
            ))
        }
        other => other,
    }
}

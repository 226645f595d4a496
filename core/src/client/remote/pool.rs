//! The connections of a client: as many as `pool_size`, made when they are needed.
//!
//! A request goes to the connection that carries least. Where all carry something and there may be
//! more, one more is made meanwhile; where there is none, the request waits for it. Those who wait for
//! the same connection share its failure too, or a node that does not answer would take the time of
//! each of them, one after the other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::connection::Connection;
use super::retry::Failure;
use crate::client::counters::Counters;
use crate::client::service::BoxFuture;
use crate::error::{DWCPError, Result};
use crate::transport::Stream;
use crate::wire::session::ClientSessionConfig;

/// Makes a byte stream to the node, within a time.
pub(super) type Dial = Arc<dyn Fn(Duration) -> BoxFuture<Result<Stream>> + Send + Sync>;

/// How connections are made.
pub(super) struct Recipe {
    pub(super) dial: Dial,
    pub(super) session: ClientSessionConfig,
    pub(super) buffer_size: usize,
    pub(super) connect_timeout: Duration,
    pub(super) counters: Arc<Counters>,
    pub(super) runtime: Handle,
}

/// The connections of a client.
pub(super) struct Pool {
    recipe: Recipe,
    slots: Box<[Slot]>,
    /// Where to begin looking, so that equals take turns.
    next: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Default)]
struct Slot {
    current: Mutex<Option<Arc<Connection>>>,
    /// Held by whoever makes the connection.
    making: tokio::sync::Mutex<Attempt>,
    /// Attempts that have ended.
    attempts: AtomicUsize,
}

/// How the last attempt ended.
#[derive(Default)]
struct Attempt(Option<DWCPError>);

impl Slot {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> Option<Arc<Connection>> {
        self.current()
            .as_ref()
            .filter(|connection| connection.is_usable())
            .cloned()
    }
}

impl Pool {
    pub(super) fn new(recipe: Recipe, size: u32) -> Arc<Pool> {
        Arc::new(Pool {
            recipe,
            slots: (0..size).map(|_| Slot::default()).collect(),
            next: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// Whether a connection is open.
    pub(super) fn is_connected(&self) -> bool {
        self.slots.iter().any(|slot| slot.usable().is_some())
    }

    /// A connection that takes requests, made by `deadline` where there is none.
    ///
    /// # Errors
    ///
    /// Why there is none. Nothing was sent then.
    pub(super) async fn get(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Failure> {
        let size = self.slots.len();
        let begin = if size > 1 {
            self.next.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        };
        let mut best: Option<Arc<Connection>> = None;
        let mut empty = None;
        for index in (0..size).map(|offset| begin.wrapping_add(offset) % size) {
            match self.slots[index].usable() {
                None => empty = empty.or(Some(index)),
                Some(connection) => {
                    let load = connection.load();
                    if load == 0 {
                        return Ok(connection);
                    }
                    if best.as_ref().is_none_or(|best| load < best.load()) {
                        best = Some(connection);
                    }
                }
            }
        }
        match (best, empty) {
            (Some(connection), None) => Ok(connection),
            (Some(connection), Some(index)) => {
                self.make_meanwhile(index);
                Ok(connection)
            }
            (None, empty) => self
                .make(empty.unwrap_or_default(), deadline)
                .await
                .map_err(Failure::never),
        }
    }

    /// Makes the connection of a slot, unless somebody is at it. Who needs it next is told if it fails.
    fn make_meanwhile(self: &Arc<Self>, index: usize) {
        if self.slots[index].making.try_lock().is_err() {
            return;
        }
        let pool = Arc::clone(self);
        let deadline = Instant::now() + self.recipe.connect_timeout;
        self.recipe.runtime.spawn(async move {
            if let Err(error) = pool.make(index, deadline).await {
                tracing::debug!(%error, "no further connection to the node");
            }
        });
    }

    /// Makes the connection of a slot, or waits for whoever is at it.
    async fn make(&self, index: usize, deadline: Instant) -> Result<Arc<Connection>> {
        let slot = &self.slots[index];
        let seen = slot.attempts.load(Ordering::Acquire);
        let late = || {
            DWCPError::Timeout(
                "connecting took longer than a request may, with all its tries".into(),
            )
        };
        let making = tokio::time::timeout_at(deadline, slot.making.lock()).await;
        let mut last = making.map_err(|_| late())?;
        if let Some(connection) = slot.usable() {
            return Ok(connection);
        }
        if slot.attempts.load(Ordering::Acquire) != seen
            && let Some(error) = &last.0
        {
            return Err(error.clone());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        let made = self.connect(left.min(self.recipe.connect_timeout)).await;
        slot.attempts.fetch_add(1, Ordering::AcqRel);
        match made {
            Ok(connection) => {
                last.0 = None;
                *slot.current() = Some(Arc::clone(&connection));
                // Closed meanwhile: whoever closes looks at the slots once only.
                if self.closed.load(Ordering::Acquire) {
                    connection.close(CLOSED);
                }
                Ok(connection)
            }
            Err(error) => {
                self.recipe.counters.failed();
                last.0 = Some(error.clone());
                Err(error)
            }
        }
    }

    async fn connect(&self, timeout: Duration) -> Result<Arc<Connection>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let recipe = &self.recipe;
        let connect = async {
            let stream = (recipe.dial)(timeout).await?;
            let session = recipe.session.clone();
            let counters = Arc::clone(&recipe.counters);
            Connection::open(stream, session, recipe.buffer_size, counters).await
        };
        match tokio::time::timeout(timeout, connect).await {
            Ok(Ok(connection)) => {
                recipe.counters.connected();
                Ok(connection)
            }
            Ok(Err(DWCPError::Io(text))) => Err(DWCPError::Connection(text)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(DWCPError::Timeout(format!(
                "the node did not answer within {timeout:?}"
            ))),
        }
    }

    /// Ends all connections.
    pub(super) fn close(&self) -> Vec<Arc<Connection>> {
        self.closed.store(true, Ordering::Release);
        let connections: Vec<_> = self
            .slots
            .iter()
            .filter_map(|slot| slot.current().take())
            .collect();
        for connection in &connections {
            connection.close(CLOSED);
        }
        connections
    }

    /// Fails when it was closed.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        Ok(())
    }
}

const CLOSED: &str = "the client was closed";

fn closed() -> DWCPError {
    DWCPError::Connection(CLOSED.into())
}

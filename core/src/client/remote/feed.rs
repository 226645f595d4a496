//! A stream over one connection, from the session to the task that hands its items on.
//!
//! What a node may send ahead is bounded by the session's window, so the channel between the two ends
//! never fills with a node that keeps to it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::connection::{Connection, WINDOW};
use super::retry::Failure;
use crate::action::Item;
use crate::error::DWCPError;

/// Items that need no credit, and may come on top of the window: those of type `lost`, of which there
/// are few, since a node sends one for all that was lost.
const UNCREDITED: usize = 64;
/// Items taken before the session is told, so that not each takes the connection's lock.
const BATCH: u32 = WINDOW / 8;

/// Why a stream has no more items.
#[derive(Debug)]
pub(super) enum End {
    /// The node ended it; `draining`: while it was going away.
    Said {
        error: Option<DWCPError>,
        draining: bool,
    },
    /// The connection ended.
    Broken(DWCPError),
}

type Opened = Result<(), Failure>;

/// The end of a stream at its connection.
#[derive(Debug)]
pub(super) struct Route {
    opened: Option<oneshot::Sender<Opened>>,
    items: mpsc::Sender<Item>,
    end: oneshot::Sender<End>,
}

impl Route {
    /// A route, and what becomes known through it: whether the stream was opened, its items, its end.
    pub(super) fn new() -> (
        Route,
        oneshot::Receiver<Opened>,
        mpsc::Receiver<Item>,
        oneshot::Receiver<End>,
    ) {
        let (opened, is_open) = oneshot::channel();
        let (sender, items) = mpsc::channel(WINDOW as usize + UNCREDITED);
        let (end, ended) = oneshot::channel();
        let route = Route {
            opened: Some(opened),
            items: sender,
            end,
        };
        (route, is_open, items, ended)
    }

    // Who has dropped the other end needs to be told nothing, here and below.

    pub(super) fn opened(&mut self) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(()));
        }
    }

    pub(super) fn refuse(self, failure: Failure) {
        if let Some(opened) = self.opened {
            let _ = opened.send(Err(failure));
        }
    }

    pub(super) fn item(&self, item: Item) -> Result<(), mpsc::error::TrySendError<Item>> {
        self.items.try_send(item)
    }

    pub(super) fn end(self, end: End) {
        if let (Some(opened), End::Broken(error)) = (self.opened, &end) {
            let _ = opened.send(Err(Failure::perhaps(error.clone())));
        }
        let _ = self.end.send(end);
    }
}

/// The end of a stream at whoever reads it. Dropping it cancels the stream.
#[derive(Debug)]
pub(super) struct Feed {
    connection: Arc<Connection>,
    id: u64,
    items: mpsc::Receiver<Item>,
    end: Option<oneshot::Receiver<End>>,
    taken: u32,
}

impl Feed {
    pub(super) fn new(
        connection: &Arc<Connection>,
        id: u64,
        items: mpsc::Receiver<Item>,
        end: oneshot::Receiver<End>,
    ) -> Feed {
        connection.loaded();
        Feed {
            connection: Arc::clone(connection),
            id,
            items,
            end: Some(end),
            taken: 0,
        }
    }

    /// The connection's store, where the node names one.
    pub(super) fn store(&self) -> Option<String> {
        self.connection.store()
    }

    /// The next item, or the end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Item, End> {
        if self.taken > 0 && (self.taken >= BATCH || self.items.is_empty()) {
            self.connection.consumed(self.id, self.taken);
            self.taken = 0;
        }
        if let Some(item) = self.items.recv().await {
            self.taken += 1;
            return Ok(item);
        }
        let gone = || End::Broken(DWCPError::Connection("the stream has ended".into()));
        match &mut self.end {
            Some(end) => {
                let end = end.await.unwrap_or_else(|_| gone());
                self.end = None;
                Err(end)
            }
            None => Err(gone()),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.connection.unloaded(self.id, self.end.is_some());
    }
}

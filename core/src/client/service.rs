//! The seam between a client and what answers it.

use std::fmt;
use std::pin::Pin;
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::action::{Action, Item, Outcome, Subscription};
use crate::error::Result;

/// A future that owns all it needs.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Items between a producer and its consumer: enough that they need not take turns, and little
/// enough that a consumer who stops reading costs nothing.
const BUFFER: usize = 16;
/// The same of events where they are made: they are small and come in bursts, and waking each other takes longer than
/// making a few of them.
#[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
const EVENT_BUFFER: usize = 64;

/// The producing end of a stream. An error is the last thing it sends.
pub(crate) type ItemSink = mpsc::Sender<Result<Item>>;

/// Whatever answers a client: a node in this process, or a connection to one.
///
/// What it is handed has been validated. Dropping the future of a call that changes something does
/// not undo or halve it.
pub(crate) trait Service: Send + Sync + fmt::Debug {
    /// Answers a request.
    fn call(&self, action: Action) -> BoxFuture<Result<Outcome>>;
    /// Opens a stream.
    fn subscribe(&self, subscription: Subscription) -> BoxFuture<Result<ItemStream>>;
    /// Whether it still answers.
    fn is_open(&self) -> bool;
    /// Makes sure that it does, now rather than with the first request. In process it does.
    fn connect(&self) -> BoxFuture<Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// Gives back what it holds for its client: its connections, and with them all that is under
    /// way. In process there is nothing to give back.
    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

/// The consuming end of a stream: bounded; dropping it ends the producer.
#[derive(Debug)]
pub(crate) struct ItemStream(pub(super) mpsc::Receiver<Result<Item>>);

impl ItemStream {
    /// The next item; `None` at the end.
    #[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item>>> {
        self.0.poll_recv(cx)
    }

    /// Both ends of a new stream.
    pub(crate) fn channel() -> (ItemSink, ItemStream) {
        let (sink, items) = mpsc::channel(BUFFER);
        (sink, ItemStream(items))
    }

    /// Both ends of a new stream of a node's events.
    #[cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn events() -> (ItemSink, ItemStream) {
        let (sink, items) = mpsc::channel(EVENT_BUFFER);
        (sink, ItemStream(items))
    }
}

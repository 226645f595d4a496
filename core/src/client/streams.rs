//! What a node streams to a client.
//!
//! Every stream is bounded: who reads slowly gets later items later, and events that are no longer
//! kept by then are counted in one of type `lost`. Items are plain values; a stream that was ended
//! by an error says so in `error()`. Dropping a stream ends it at the node.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;

use super::Client;
use super::service::ItemStream;
use crate::action::{Action, Item, Outcome};
use crate::error::{DWCPError, Result};
use crate::model::{MigrationStatus, VMEvent, VMMetrics};

/// The items of any [`Subscription`](crate::Subscription).
#[derive(Debug)]
pub struct Items {
    items: ItemStream,
    client: Client,
    error: Option<DWCPError>,
    ended: bool,
}

impl Items {
    pub(super) fn new(items: ItemStream, client: Client) -> Items {
        Items {
            items,
            client,
            error: None,
            ended: false,
        }
    }

    /// The error that ended the stream, once it has ended; `None` for an end that belongs to it,
    /// such as that of a watch on a VM that was destroyed.
    #[must_use]
    pub fn error(&self) -> Option<DWCPError> {
        self.error.clone()
    }

    fn end(&mut self, error: Option<DWCPError>) {
        if error.is_some() {
            self.client.0.counters.failed();
        }
        self.ended = true;
        self.error = error;
        self.items.0.close();
    }
}

impl Stream for Items {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.items.0.poll_recv(cx)) {
            Some(Ok(item)) => {
                self.client.0.counters.answered();
                return Poll::Ready(Some(item));
            }
            Some(Err(error)) => self.end(Some(error)),
            None => self.end(None),
        }
        Poll::Ready(None)
    }
}

/// Declares a stream of one kind of item.
macro_rules! stream {
    ($(#[$doc:meta])* $vis:vis struct $name:ident of $item:ty: $variant:ident($value:ident) => $unpack:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        $vis struct $name(Items);

        impl $name {
            pub(super) fn new(items: Items) -> $name {
                $name(items)
            }

            /// The error that ended the stream, once it has ended; `None` for an end that belongs
            /// to it.
            #[must_use]
            $vis fn error(&self) -> Option<DWCPError> {
                self.0.error()
            }
        }

        impl Stream for $name {
            type Item = $item;

            fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<$item>> {
                match ready!(Pin::new(&mut self.0).poll_next(cx)) {
                    Some(Item::$variant($value)) => return Poll::Ready(Some($unpack)),
                    Some(_) => self.0.end(Some(DWCPError::Protocol(
                        "the stream has an item of another kind".into(),
                    ))),
                    None => {}
                }
                Poll::Ready(None)
            }
        }
    };
}

stream! {
    /// What happens to VMs: their present state first, then events in the order of `seq`. That of
    /// one VM ends after it was destroyed.
    pub struct Events of VMEvent: Event(event) => *event
}

stream! {
    /// Figures of a VM, one after each interval, until it stops.
    pub struct MetricsStream of VMMetrics: Metrics(metrics) => *metrics
}

stream! {
    /// How a migration goes, until it ends.
    pub struct MigrationProgress of MigrationStatus: Migration(status) => *status
}

stream! {
    /// What a VM prints on its console: first what is kept of it (the last 64 KiB), then what comes.
    /// It goes on over resets, and ends when the VM stops; of a VM that failed it is what is kept.
    struct Output of Bytes: Console(bytes) => bytes
}

/// The console of a VM, in both directions: a stream of what it prints, and
/// [`write`](Console::write).
///
/// What is kept of the output (the last 64 KiB) comes first. The stream goes on over resets, and
/// ends when the VM stops. Of a VM that failed since the node started, it is what is kept, until it is
/// started again.
#[derive(Debug)]
pub struct Console {
    output: Output,
    writer: ConsoleWriter,
}

impl Console {
    pub(super) fn new(items: Items, client: Client, vm_id: &str) -> Console {
        let vm_id = vm_id.to_owned();
        Console {
            output: Output::new(items),
            writer: ConsoleWriter { client, vm_id },
        }
    }

    /// Types on the console. See [`ConsoleWriter::write`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write(&self, bytes: &[u8]) -> Result<()> {
        self.writer.write(bytes).await
    }

    /// The input by itself, for a task that types while another reads.
    #[must_use]
    pub fn writer(&self) -> ConsoleWriter {
        self.writer.clone()
    }

    /// The error that ended the stream, once it has ended; `None` when the VM stopped.
    #[must_use]
    pub fn error(&self) -> Option<DWCPError> {
        self.output.error()
    }
}

impl Stream for Console {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Pin::new(&mut self.output).poll_next(cx)
    }
}

/// Types on the console of a VM.
#[derive(Debug, Clone)]
pub struct ConsoleWriter {
    client: Client,
    vm_id: String,
}

impl ConsoleWriter {
    /// Types on the console, at most 64 KiB at once.
    ///
    /// One client types at a time. The first that types while it has the console open keeps the others from it
    /// until it has closed all that it has open of this console; who has it not open types where nobody does.
    /// Clones of a [`Client`] are the same one.
    ///
    /// # Errors
    ///
    /// [`DWCPError::ResourceLimit`], saying how many bytes were taken, where the guest does not read
    /// as fast; [`DWCPError::InvalidOperation`] where the VM does not run, and, naming who it is, where
    /// another client types.
    pub async fn write(&self, bytes: &[u8]) -> Result<()> {
        let action = Action::ConsoleWrite {
            vm_id: self.vm_id.clone(),
            data: Bytes::copy_from_slice(bytes),
            writer: None,
        };
        match self.client.call(action).await? {
            Outcome::Done => Ok(()),
            other => Err(self.client.unexpected(&other)),
        }
    }
}

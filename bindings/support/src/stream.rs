//! A stream, pulled by another language: a batch of what is there, and no more is kept than what the
//! core keeps between two pulls.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dwcp::{DWCPError, Item, Items};
use futures::{FutureExt, StreamExt};
use tokio::sync::{Mutex, Notify};

use crate::failure::{Failure, Result};
use crate::runtime::Local;

/// Most bytes of a console in one batch, but for the last piece.
const BYTES_MAX: usize = 256 << 10;

/// A stream, of this process only. Cheap to clone; the clones are one.
#[derive(Clone)]
pub struct StreamHandle {
    local: Arc<Local<Arc<Open>>>,
    operation: &'static str,
    concerns: Option<String>,
}

struct Open {
    /// Taken when it is closed: that ends it at the node.
    items: Mutex<Option<Items>>,
    closing: Notify,
    /// Set before it is closed: whoever finds the items held then has nobody beside him.
    closed: AtomicBool,
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle")
            .field("operation", &self.operation)
            .field("concerns", &self.concerns)
            .finish_non_exhaustive()
    }
}

/// Items of a stream: none at its end, and only then.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch(pub Vec<Item>);

impl Batch {
    /// Whether the stream has ended.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.0.is_empty()
    }

    /// The items as a JSON array; what a console printed as it is.
    ///
    /// # Errors
    ///
    /// `serialization`, which no item is known to cause.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        if self.0.iter().any(|item| matches!(item, Item::Console(_))) {
            return self.0.iter().try_fold(Vec::new(), |mut all, item| {
                all.extend(item.to_json()?);
                Ok(all)
            });
        }
        let mut all = vec![b'['];
        for item in &self.0 {
            if all.len() > 1 {
                all.push(b',');
            }
            all.extend(item.to_json()?);
        }
        all.push(b']');
        Ok(all)
    }
}

impl StreamHandle {
    pub(crate) fn new(items: Items, operation: &'static str, concerns: Option<String>) -> Self {
        let open = Open {
            items: Mutex::new(Some(items)),
            closing: Notify::new(),
            closed: AtomicBool::new(false),
        };
        StreamHandle {
            local: Arc::new(Local::new(Arc::new(open))),
            operation,
            concerns,
        }
    }

    /// What it is a stream of: the name of the method.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// Waits for the next item, and takes with it what else is there, up to `max`. An empty batch is the
    /// end. One caller at a time. Taken back, it loses nothing.
    ///
    /// # Errors
    ///
    /// `forked`. The future's: what ended the stream, `invalid_operation` while another waits for the
    /// next.
    pub fn next(&self, max: usize) -> Result<impl Future<Output = Result<Batch>> + Send + use<>> {
        let open = Arc::clone(self.local.get()?);
        let this = self.clone();
        Ok(async move {
            let Ok(mut items) = open.items.try_lock() else {
                if open.closed.load(Ordering::Acquire) {
                    return Ok(Batch(Vec::new()));
                }
                let error = "one batch of a stream at a time, and another is waited for".into();
                return Err(this.about(DWCPError::InvalidOperation(error)));
            };
            let Some(stream) = items.as_mut() else {
                return Ok(Batch(Vec::new()));
            };
            let first = tokio::select! {
                biased;
                () = open.closing.notified() => None,
                first = stream.next() => match (first, stream.error()) {
                    (None, Some(error)) => return Err(this.about(error)),
                    (first, _) => first,
                },
            };
            let Some(first) = first else {
                *items = None;
                return Ok(Batch(Vec::new()));
            };
            let mut bytes = console_len(&first);
            let mut batch = vec![first];
            while batch.len() < max && bytes < BYTES_MAX {
                // An end that is seen here is seen again by whoever asks next.
                let Some(Some(item)) = stream.next().now_or_never() else {
                    break;
                };
                bytes += console_len(&item);
                batch.push(item);
            }
            Ok(Batch(batch))
        })
    }

    /// Ends it, at the node too; whoever waits for an item gets the end.
    ///
    /// # Errors
    ///
    /// `forked`.
    pub fn close(&self) -> Result<()> {
        let open = self.local.get()?;
        open.closed.store(true, Ordering::Release);
        if let Ok(mut items) = open.items.try_lock() {
            let _inside = crate::runtime::get()?.enter();
            *items = None;
        } else {
            // Whoever holds it waits, and takes this for the end.
            open.closing.notify_one();
        }
        Ok(())
    }

    fn about(&self, error: DWCPError) -> Failure {
        Failure::from(error).about(self.operation, self.concerns.as_deref())
    }
}

fn console_len(item: &Item) -> usize {
    match item {
        Item::Console(bytes) => bytes.len(),
        _ => 0,
    }
}

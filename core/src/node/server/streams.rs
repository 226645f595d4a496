//! The streams of one connection: a task for each takes items from the node and hands them to the
//! connection, a few at a time, so that a stream whose peer gives no credit holds only those.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::connection::Answer;
use crate::action::Item;
use crate::client::ItemStream;
use crate::error::DWCPError;
use crate::wire::session::{Id, ServerSession};

/// Items on their way from a stream's task to its connection, and held there for credit.
const AHEAD: usize = 16;

/// A stream, as its connection holds it.
#[derive(Debug)]
pub(super) struct Pump {
    task: AbortHandle,
    /// How many more items the task may take.
    room: Arc<Semaphore>,
    /// Items that the peer has given no credit for yet.
    held: VecDeque<Item>,
    /// How it ended, to be said behind what is held.
    end: Option<Option<DWCPError>>,
    /// A console, on which the peer may type.
    pub(super) types_on: Option<Typist>,
}

/// Who types on the console of which VM.
#[derive(Clone, Debug)]
pub(super) struct Typist {
    pub(super) vm_id: String,
    pub(super) writer: Option<String>,
}

impl Pump {
    /// Starts moving items of `stream`.
    pub(super) fn start(
        id: Id,
        mut stream: ItemStream,
        answers: mpsc::Sender<Box<Answer>>,
        types_on: Option<Typist>,
    ) -> Pump {
        let room = Arc::new(Semaphore::new(AHEAD));
        let own = Arc::clone(&room);
        let task = tokio::spawn(async move {
            loop {
                // It is closed never; the task is aborted instead.
                let Ok(permit) = own.acquire().await else {
                    return;
                };
                permit.forget();
                let next = poll_fn(|cx| stream.poll_next(cx)).await;
                let (answer, over) = match next {
                    Some(Ok(item)) => (Answer::Item(Arc::clone(&id), item), false),
                    Some(Err(error)) => (Answer::End(Arc::clone(&id), Some(error)), true),
                    None => (Answer::End(Arc::clone(&id), None), true),
                };
                if answers.send(Box::new(answer)).await.is_err() || over {
                    return;
                }
            }
        });
        Pump {
            task: task.abort_handle(),
            room,
            held: VecDeque::new(),
            end: None,
            types_on,
        }
    }

    /// An item came.
    pub(super) fn item(&mut self, item: Item) {
        self.held.push_back(item);
    }

    /// The stream came to its end.
    pub(super) fn over(&mut self, error: Option<DWCPError>) {
        self.end = Some(error);
    }

    /// Sends what may be sent. True: the stream is over, and that was said.
    pub(super) fn send(&mut self, id: &Id, session: &mut ServerSession) -> bool {
        while let Some(item) = self.held.front() {
            if !session.item(id, item) {
                // An item that cannot be written has ended it.
                return !session.is_live(id);
            }
            self.held.pop_front();
            self.room.add_permits(1);
        }
        match self.end.take() {
            Some(error) => {
                session.end(id, error.as_ref());
                true
            }
            None => false,
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

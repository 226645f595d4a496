//! Work for somebody who waits in another language: it ends exactly once, whatever becomes of it.
#![forbid(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use tokio::sync::Notify;

use crate::failure::{Failure, Result};
use crate::runtime;

/// An operation that is under way, by which it can be taken back.
#[derive(Clone)]
pub struct Operation(Arc<Notify>);

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Operation")
    }
}

impl Operation {
    /// Asks for its end. It still ends once: as `cancelled`, or as it would have where that was faster.
    pub fn cancel(&self) {
        self.0.notify_one();
    }
}

/// What came of starting something.
#[derive(Debug)]
pub enum Started<T> {
    /// It has ended already: there was nothing to wait for.
    Ended(Result<T>),
    /// It is under way, and its end will be delivered.
    Running(Operation),
}

/// Work that was begun, and waits for something.
pub type Waiting<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What came of beginning something.
pub enum Begun<T> {
    /// It has ended already: there was nothing to wait for.
    Ended(Result<T>),
    /// It waits, until [`spawn`] takes it on.
    Waits(Waiting<T>),
}

impl<T> fmt::Debug for Begun<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Begun::Ended(_) => "Ended",
            Begun::Waits(_) => "Waits",
        })
    }
}

/// Does what can be done without waiting: by the calling thread, which saves the way to another and back.
///
/// # Errors
///
/// Those of [`runtime::get`]; nothing was done then.
pub fn begin<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<Begun<T>> {
    let runtime = runtime::get()?;
    let mut work: Waiting<T> = Box::pin(caught(work));
    let _inside = runtime.enter();
    // Whoever polls it next brings a waker of his own.
    let polled = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    Ok(match polled {
        Poll::Ready(end) => Begun::Ended(end),
        Poll::Pending => Begun::Waits(work),
    })
}

/// Starts something. What can be done without waiting is done by the calling thread; the rest on the runtime, and then
/// `deliver` is called with its end: exactly once, also after it was cancelled or panicked.
///
/// # Errors
///
/// Those of [`runtime::get`]; nothing was done then, and nothing will be delivered.
pub fn start<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    deliver: impl FnOnce(Result<T>) + Send + 'static,
) -> Result<Started<T>> {
    Ok(match begin(work)? {
        Begun::Ended(end) => Started::Ended(end),
        Begun::Waits(work) => Started::Running(spawn(work, deliver)?),
    })
}

/// The same, all of it on the runtime: `deliver` is called there.
///
/// # Errors
///
/// As [`start`].
pub fn spawn<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    deliver: impl FnOnce(Result<T>) + Send + 'static,
) -> Result<Operation> {
    let cancel = Arc::new(Notify::new());
    let operation = Operation(Arc::clone(&cancel));
    let mut end = End(Some(deliver));
    runtime::get()?.spawn(async move {
        let result = tokio::select! {
            biased;
            () = cancel.notified() => Err(Failure::cancelled()),
            result = caught(work) => result,
        };
        end.deliver(result);
    });
    Ok(operation)
}

/// Delivers once, also when the task was dropped.
struct End<F>(Option<F>);

impl<F> End<F> {
    fn deliver<T>(&mut self, result: Result<T>)
    where
        F: FnOnce(Result<T>),
    {
        if let Some(deliver) = self.0.take() {
            deliver(result);
        }
    }
}

/// A panic of the work is its error.
async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(payload) => Err(Failure::panicked(&*payload)),
    }
}

/// Runs something that must not unwind into another language.
///
/// # Errors
///
/// Its own, and `internal` for a panic.
pub fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => Err(panicked(payload)),
    }
}

fn panicked(payload: Box<dyn Any + Send>) -> Failure {
    let failure = Failure::panicked(&*payload);
    // Dropping what it carries may panic as well, and that is more than anybody can be told.
    std::mem::forget(payload);
    failure
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// What `work` ends with, and that it ends once.
    fn end<T: Send + fmt::Debug + 'static>(
        work: impl Future<Output = Result<T>> + Send + 'static,
        then: impl FnOnce(&Operation),
    ) -> Result<T> {
        let (sender, ends) = mpsc::channel();
        match start(work, move |end| sender.send(end).unwrap()).unwrap() {
            Started::Ended(end) => end,
            Started::Running(operation) => {
                then(&operation);
                let end = ends.recv_timeout(Duration::from_secs(10)).unwrap();
                operation.cancel();
                // The task is over, and its sender with it.
                assert!(ends.recv_timeout(Duration::from_secs(10)).is_err());
                end
            }
        }
    }

    #[test]
    fn what_needs_no_waiting_ends_at_once() {
        let ended = start(async { Ok(7) }, |_: Result<i32>| unreachable!());
        assert!(matches!(ended, Ok(Started::Ended(Ok(7)))), "{ended:?}");
        let ended = start(async { panic!("text") }, |_: Result<()>| unreachable!());
        assert!(
            matches!(&ended, Ok(Started::Ended(Err(failure))) if failure.message.ends_with("text")),
            "{ended:?}"
        );
    }

    #[test]
    fn what_waits_ends_once() {
        let work = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(7)
        };
        assert_eq!(end(work, |_| {}), Ok(7));
        let work = async {
            tokio::task::yield_now().await;
            if true {
                panic!("text");
            }
            Ok(())
        };
        assert!(end(work, |_| {}).unwrap_err().message.ends_with("text"));
    }

    #[test]
    fn what_is_taken_back_is_cancelled() {
        let work = async {
            std::future::pending::<()>().await;
            Ok(())
        };
        assert_eq!(end(work, Operation::cancel), Err(Failure::cancelled()));
    }

    #[test]
    fn a_guard_keeps_a_panic_in() {
        assert_eq!(guard(|| Ok(7)), Ok(7));
        let failure = guard(|| -> Result<()> { panic!("text") }).unwrap_err();
        assert_eq!(failure.code.name(), "internal");
    }
}

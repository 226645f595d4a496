//! The way back to JavaScript: what has ended is kept here until its thread takes it, all at once.

#![allow(
    unsafe_code,
    reason = "the macros of napi-derive write the functions that Node.js calls"
)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use dwcp_bindings_support::task::{self, Started};
use dwcp_bindings_support::{Failure, Operation, Result};
use napi::Status;
use napi::bindgen_prelude::{Buffer, Either3, Function, Unknown};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::answer::{Answer, Payload, Thrown, failure_json, throw};

/// What wakes JavaScript. Weak: an idle library keeps no program alive, its pending promises do.
type Wake = ThreadsafeFunction<(), Unknown<'static>, (), Status, false, true>;

/// What an operation is called in errors: the method, and the id of what it concerns.
pub(crate) type About = (&'static str, Option<String>);

struct Ended {
    tag: i64,
    result: Result<Answer>,
}

/// Filled by any thread, emptied by that of JavaScript.
struct Completions {
    ended: Mutex<Vec<Ended>>,
    wake: Wake,
}

impl Completions {
    fn push(&self, ended: Ended) {
        let mut all = self.lock();
        let was_empty = all.is_empty();
        all.push(ended);
        drop(all);
        if was_empty {
            // It fails only where the thread of JavaScript has ended: nobody waits any more.
            let _ = self.wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One for each instance of the module: each worker thread has its own.
#[napi]
pub struct Bridge {
    completions: Arc<Completions>,
    /// What is under way. Only the thread of JavaScript comes here.
    running: RefCell<HashMap<i64, Operation>>,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.running.borrow().len();
        f.debug_struct("Bridge").field("running", &running).finish()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        for operation in self.running.get_mut().values() {
            operation.cancel();
        }
    }
}

#[napi]
impl Bridge {
    /// `wake` is called after something has ended, and takes it with `drain`.
    #[napi(constructor)]
    pub fn new(wake: Function<'_, (), Unknown<'static>>) -> napi::Result<Bridge> {
        let wake: Wake = wake
            .build_threadsafe_function::<()>()
            .weak::<true>()
            .build()?;
        let ended = Mutex::new(Vec::new());
        Ok(Bridge {
            completions: Arc::new(Completions { ended, wake }),
            running: RefCell::new(HashMap::new()),
        })
    }

    /// All that has ended: tag, whether it failed, and the answer or the error, one after the other.
    #[napi]
    pub fn drain(&self) -> Vec<Either3<i64, String, Buffer>> {
        let ended = std::mem::take(&mut *self.completions.lock());
        let mut running = self.running.borrow_mut();
        let mut all = Vec::with_capacity(ended.len() * 3);
        for Ended { tag, result } in ended {
            running.remove(&tag);
            all.push(Either3::A(tag));
            all.push(Either3::A(i64::from(result.is_err())));
            all.push(match result {
                Ok(Answer::Text(text)) => Either3::B(text),
                Ok(Answer::Bytes(bytes)) => Either3::C(bytes.into()),
                Err(failure) => Either3::B(failure_json(&failure)),
            });
        }
        all
    }

    /// Asks for the end of an operation. It still ends once.
    #[napi]
    pub fn cancel(&self, tag: i64) {
        if let Some(operation) = self.running.borrow().get(&tag) {
            operation.cancel();
        }
    }
}

// A block of its own: what is left out of one by `cfg` is registered with JavaScript all the same.
#[cfg(debug_assertions)]
#[napi]
impl Bridge {
    /// A task that panics, for the test that this is an error and not the end of the program.
    #[napi]
    pub fn panic(&self, tag: i64, late: bool) -> Result<Option<Payload>, Thrown> {
        self.start(tag, ("panic", None), || {
            Ok(async move {
                if late {
                    std::future::poll_fn(|context| {
                        context.waker().wake_by_ref();
                        if context.waker().will_wake(std::task::Waker::noop()) {
                            return std::task::Poll::Pending;
                        }
                        std::task::Poll::Ready(())
                    })
                    .await;
                }
                if true {
                    panic!("on purpose");
                }
                Ok(Answer::done())
            })
        })
    }
}

impl Bridge {
    /// Starts something. Gives its answer where there was nothing to wait for, else it comes with a later
    /// `drain`.
    pub(crate) fn start<W>(
        &self,
        tag: i64,
        about: About,
        work: impl FnOnce() -> Result<W>,
    ) -> Result<Option<Payload>, Thrown>
    where
        W: Future<Output = Result<Answer>> + Send + 'static,
    {
        let completions = Arc::clone(&self.completions);
        let (operation, concerns) = about;
        let later = concerns.clone();
        let tell = move |result: Result<Answer>| {
            let result = result.map_err(|failure| named(failure, operation, later.as_deref()));
            completions.push(Ended { tag, result });
        };
        let started = task::guard(|| task::start(work()?, tell));
        match started {
            Ok(Started::Running(running)) => {
                self.running.borrow_mut().insert(tag, running);
                Ok(None)
            }
            Ok(Started::Ended(Ok(answer))) => Ok(Some(answer.into_payload())),
            Ok(Started::Ended(Err(failure))) | Err(failure) => {
                Err(throw(&named(failure, operation, concerns.as_deref())))
            }
        }
    }
}

/// Says what was asked, where the error does not.
fn named(failure: Failure, operation: &'static str, concerns: Option<&str>) -> Failure {
    if failure.operation.is_some() {
        return failure;
    }
    failure.about(operation, concerns)
}

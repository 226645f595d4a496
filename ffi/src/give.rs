//! What goes back to C: a status, a result where it is `DWCP_OK`, an error where it is not.

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use dwcp_bindings_support::{Failure, Result, runtime, task};

use crate::error::{DWCP_OK, dwcp_error};

/// Where a result goes: a pointer that the caller owns from then on.
pub(crate) type Out<'a, T> = Option<&'a mut MaybeUninit<Option<Box<T>>>>;

/// Runs the body of a function: nothing unwinds into C, and an error is handed to whoever wants it.
pub(crate) fn guard(error: Out<'_, dwcp_error>, body: impl FnOnce() -> Result<i32>) -> i32 {
    let (status, given) = match task::guard(body) {
        Ok(status) => (status, None),
        Err(failure) => {
            let given = dwcp_error::new(&failure);
            (given.status(), Some(Box::new(given)))
        }
    };
    if let Some(error) = error {
        error.write(given);
    }
    status
}

/// The same for a function that says nothing of errors.
pub(crate) fn quietly<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

/// Checks that there is somewhere for the result, before anything is done.
pub(crate) fn wanted<'a, T>(
    out: Out<'a, T>,
    name: &str,
) -> Result<&'a mut MaybeUninit<Option<Box<T>>>> {
    out.ok_or_else(|| Failure::argument(format!("{name}: is NULL")))
}

/// Gives a result.
pub(crate) fn give<T>(out: &mut MaybeUninit<Option<Box<T>>>, result: T) -> Result<i32> {
    out.write(Some(Box::new(result)));
    Ok(DWCP_OK)
}

/// Waits for something, at most so long.
pub(crate) fn wait<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    runtime::block_on(async {
        match timeout {
            None => work.await,
            Some(timeout) => runtime::within(timeout, work).await,
        }
    })?
}

//! What C passes, and what goes back to it.

use std::ffi::{CStr, c_char};
use std::time::Duration;

use dwcp_bindings_support::{Failure, Result};

/// Waits without an end, where a time in milliseconds is asked for.
pub const DWCP_NO_TIMEOUT: u64 = u64::MAX;

/// Borrowed bytes. The library reads them during the call only; those that it gives are valid until what
/// they belong to is changed or freed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dwcp_bytes {
    /// The first of them; may be NULL where `len` is 0.
    pub data: *const u8,
    /// How many there are.
    pub len: usize,
}

impl dwcp_bytes {
    pub(crate) const EMPTY: dwcp_bytes = dwcp_bytes {
        data: std::ptr::null(),
        len: 0,
    };

    pub(crate) fn of(bytes: &[u8]) -> dwcp_bytes {
        dwcp_bytes {
            data: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// The bytes, while the call lasts that they were passed to.
    pub(crate) fn get<'a>(self, name: &str) -> Result<&'a [u8]> {
        if self.len == 0 {
            return Ok(&[]);
        }
        if self.data.is_null() {
            return Err(null(name));
        }
        if isize::try_from(self.len).is_err() {
            return Err(Failure::argument(format!("{name}: too long")));
        }
        // SAFETY: the header has the caller pass bytes that are there, all `len` of them, and that nobody
        // changes during the call; and what is returned is not kept beyond it.
        Ok(unsafe { std::slice::from_raw_parts(self.data, self.len) })
    }
}

/// Text that has to be there.
pub(crate) fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    optional_text(pointer, name)?.ok_or_else(|| null(name))
}

/// Text, or NULL for none.
pub(crate) fn optional_text<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the header has the caller pass text that ends with a NUL and that nobody changes during the
    // call; and what is returned is not kept beyond it.
    let text = unsafe { CStr::from_ptr(pointer) };
    let text = text.to_str();
    Ok(Some(text.map_err(|_| {
        Failure::argument(format!("{name}: is not UTF-8"))
    })?))
}

/// A handle that has to be there.
pub(crate) fn handle<'a, T>(handle: Option<&'a T>, name: &str) -> Result<&'a T> {
    handle.ok_or_else(|| null(name))
}

/// A time in milliseconds; `None` for no end.
pub(crate) fn timeout(millis: u64) -> Option<Duration> {
    (millis != DWCP_NO_TIMEOUT).then(|| Duration::from_millis(millis))
}

fn null(name: &str) -> Failure {
    Failure::argument(format!("{name}: is NULL"))
}

//! Statuses, and the error that says more than one of them.
#![allow(
    dead_code,
    reason = "the constants are for those who include the header"
)]

use std::ffi::{CString, c_char};

use dwcp_bindings_support::{Code, Failure};

use crate::give::quietly;

/// It is done.
pub const DWCP_OK: i32 = 0;
/// There is nothing more: the end of a stream, or of a queue that was shut down. Not an error.
pub const DWCP_END: i32 = -1;
/// It is under way, and its end will be told: see `dwcp_reply_to.ended`. Not an error.
pub const DWCP_PENDING: i32 = -2;

/// There is no connection, or it was lost; whether the request was executed is not known.
pub const DWCP_ERR_CONNECTION: i32 = 1;
/// The operating system refused a call on this side.
pub const DWCP_ERR_IO: i32 = 2;
/// A value could not be turned into JSON, or JSON into a value.
pub const DWCP_ERR_SERIALIZATION: i32 = 3;
/// What fits nowhere else, such as a code that only newer nodes know.
pub const DWCP_ERR_OTHER: i32 = 4;
/// The handle was made before fork(), by the parent process.
pub const DWCP_ERR_FORKED: i32 = 5;
/// The credential is missing, unknown or expired.
pub const DWCP_ERR_AUTH: i32 = 0x1000;
/// The peer sent what the protocol does not allow.
pub const DWCP_ERR_INVALID_MESSAGE: i32 = 0x1001;
/// No VM has this id.
pub const DWCP_ERR_VM_NOT_FOUND: i32 = 0x1002;
/// A named limit is reached.
pub const DWCP_ERR_RESOURCE_LIMIT: i32 = 0x1003;
/// A migration cannot start, or ended without moving the VM.
pub const DWCP_ERR_MIGRATION: i32 = 0x1004;
/// The VM or job is in a state in which this cannot be done.
pub const DWCP_ERR_INVALID_OPERATION: i32 = 0x1005;
/// The time allowed has passed.
pub const DWCP_ERR_TIMEOUT: i32 = 0x1006;
/// A snapshot cannot be taken, read or restored.
pub const DWCP_ERR_SNAPSHOT: i32 = 0x1007;
/// An argument or a field has a value that is never allowed.
pub const DWCP_ERR_INVALID_CONFIG: i32 = 0x1008;
/// The node cannot do what a field asks for.
pub const DWCP_ERR_UNSUPPORTED: i32 = 0x1009;
/// The name or id is taken.
pub const DWCP_ERR_ALREADY_EXISTS: i32 = 0x100a;
/// Something other than a VM is not known.
pub const DWCP_ERR_NOT_FOUND: i32 = 0x100b;
/// The node cannot take the request now; it was not executed.
pub const DWCP_ERR_UNAVAILABLE: i32 = 0x100c;
/// The caller took the request back.
pub const DWCP_ERR_CANCELLED: i32 = 0x100d;
/// The credential is good, but its role does not allow this.
pub const DWCP_ERR_PERMISSION_DENIED: i32 = 0x100e;
/// A defect of the library, or a failure of the node's host.
pub const DWCP_ERR_INTERNAL: i32 = 0x10ff;

/// An error. Whoever receives it frees it, with `dwcp_error_free()`. It never changes: any thread may
/// read it.
pub struct dwcp_error {
    code: Code,
    message: CString,
    name: CString,
    operation: Option<CString>,
    concerns: Option<CString>,
    retryable: bool,
}

impl dwcp_error {
    pub(crate) fn new(failure: &Failure) -> dwcp_error {
        dwcp_error {
            code: failure.code,
            message: c_text(&failure.message),
            name: c_text(failure.code.name()),
            operation: failure.operation.map(c_text),
            concerns: failure.concerns.as_deref().map(c_text),
            retryable: failure.retryable,
        }
    }

    pub(crate) fn status(&self) -> i32 {
        self.code.number()
    }
}

/// Text for C: it ends at the first NUL there, so one within is left out.
pub(crate) fn c_text(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().filter(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// What kind of error it is, one of `DWCP_ERR_*`; `DWCP_OK` for NULL. Newer libraries may have more: one
/// that is not known is best treated as `DWCP_ERR_INTERNAL`.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_error_code(error: Option<&dwcp_error>) -> i32 {
    error.map_or(DWCP_OK, dwcp_error::status)
}

/// The same as a word, such as "vm_not_found". Valid until the error is freed; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_error_name(error: Option<&dwcp_error>) -> *const c_char {
    error.map_or(c"ok".as_ptr(), |error| error.name.as_ptr())
}

/// What happened, for people. Valid until the error is freed; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_error_message(error: Option<&dwcp_error>) -> *const c_char {
    error.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Whether the same request may succeed later.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_error_retryable(error: Option<&dwcp_error>) -> bool {
    error.is_some_and(|error| error.retryable)
}

/// The method that failed, or NULL where it was none. Valid until the error is freed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_error_operation(error: Option<&dwcp_error>) -> *const c_char {
    let text = error.and_then(|error| error.operation.as_ref());
    text.map_or(std::ptr::null(), |text| text.as_ptr())
}

/// The id of the VM, migration or snapshot that it concerns, or NULL. Valid until the error is freed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_error_concerns(error: Option<&dwcp_error>) -> *const c_char {
    let text = error.and_then(|error| error.concerns.as_ref());
    text.map_or(std::ptr::null(), |text| text.as_ptr())
}

/// Frees it; NULL is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_error_free(error: Option<Box<dwcp_error>>) {
    quietly((), || drop(error));
}

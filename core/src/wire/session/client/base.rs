//! What a node of the base profile answers: errors are text, or objects that look like any other.

use serde_json::Value;

use crate::action::Outcome;
use crate::error::{DWCPError, Result};
use crate::wire::message::{AuthReply, Reply, decode_error, decode_outcome};

/// What every error in text begins with; the code follows.
const TEXT: &[u8] = b"DWCP error 0x";

/// The error that a reply is, if it is one: `DWCP error 0x1002 vm_not_found: …`, or an object with a
/// code and a name.
pub(super) fn error(payload: &[u8]) -> Option<DWCPError> {
    if let Some(text) = payload.strip_prefix(TEXT) {
        let text = String::from_utf8_lossy(text);
        let (code, rest) = text.split_at_checked(4)?;
        let message = rest.split_once(": ").map_or(rest, |(_, message)| message);
        let number = u32::from_str_radix(code, 16).ok()?;
        return Some(DWCPError::from_number(number, message));
    }
    let object: Value = serde_json::from_slice(payload).ok()?;
    let is_error = object.get("code").is_some_and(Value::is_u64)
        && object.get("name").is_some_and(Value::is_string)
        && object.get("message").is_some_and(Value::is_string);
    is_error.then(|| decode_error(payload))
}

/// Why a node of either profile did not let us in.
pub(super) fn refusal(reply: &AuthReply, payload: &[u8]) -> DWCPError {
    error(payload).unwrap_or_else(|| DWCPError::Authentication(reply.message.clone()))
}

/// The answer to a call.
pub(super) fn outcome(reply: Reply, payload: &[u8]) -> Result<Outcome> {
    if let Some(error) = error(payload) {
        return Err(error);
    }
    // The answer to create has its VM within.
    if matches!(reply, Reply::VM)
        && let Ok(mut object) = serde_json::from_slice::<Value>(payload)
        && let Some(vm) = object.get_mut("vm").map(Value::take)
    {
        return decode_outcome(reply, &serde_json::to_vec(&vm)?);
    }
    decode_outcome(reply, payload)
}

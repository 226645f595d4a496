//! Errors, as either profile writes them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::decode::operation;
use super::fields::Fields;
use crate::action::Action;
use crate::error::{DWCPError, ErrorCode};
use crate::wire::frame::FrameType;

/// Longest text of an error in bytes: it repeats what callers wrote only in part, so this cuts what
/// nobody foresaw.
const TEXT_MAX: usize = 4096;

/// What an error says on the wire.
#[derive(Debug, Serialize)]
struct Written<'a> {
    code: u32,
    name: &'static str,
    message: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
    details: Map<String, Value>,
}

/// What of it is read.
#[derive(Debug, Deserialize)]
struct Read {
    code: u32,
    #[serde(default)]
    message: String,
}

/// The code and the text of an error. What is local to this side was a failure of this side.
fn told(error: &DWCPError) -> (ErrorCode, String) {
    let (code, text) = match error.code() {
        Some(code) => (code, error.message().to_owned()),
        None => (ErrorCode::Internal, error.to_string()),
    };
    (code, cut(text))
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let mut ends = (0..=TEXT_MAX).rev();
        text.truncate(ends.find(|end| text.is_char_boundary(*end)).unwrap_or(0));
        text.push('…');
    }
    text
}

fn object(error: &DWCPError, request: Option<&str>) -> Vec<u8> {
    let (code, message) = told(error);
    let written = Written {
        code: code.number(),
        name: code.name(),
        message: &message,
        retryable: code.is_retryable(),
        request,
        details: Map::new(),
    };
    // Text and numbers can always be written.
    serde_json::to_vec(&written).unwrap_or_default()
}

/// Writes the payload of ERROR, or of an END with an error, about the request with this id.
pub(crate) fn encode_error(error: &DWCPError, request: &str) -> Vec<u8> {
    object(error, Some(request))
}

/// Reads the payload of ERROR. What cannot be read is `invalid_message`, for the reply is lost.
pub(crate) fn decode_error(payload: &[u8]) -> DWCPError {
    match serde_json::from_slice::<Read>(payload) {
        Ok(read) => DWCPError::from_number(read.code, cut(read.message)),
        Err(error) => DWCPError::Protocol(format!("the node sent an error that is none: {error}")),
    }
}

/// Writes an error for a client of the base profile: text that is no JSON where it parses the reply
/// (it would take an object for the reply), an object elsewhere. Without an action it is text; where
/// the request could not be read, [`encode_base_refusal`] knows better.
pub(crate) fn encode_base_error(error: &DWCPError, action: Option<&Action>) -> Vec<u8> {
    let parsed = action.is_none_or(|action| {
        matches!(
            action,
            Action::Create { .. }
                | Action::Get { .. }
                | Action::List { .. }
                | Action::Metrics { .. }
                | Action::Migrate { .. }
                | Action::MigrationStatus { .. }
                | Action::Snapshot { .. }
                | Action::ListSnapshots { .. }
        )
    });
    if parsed {
        text(error)
    } else {
        object(error, None)
    }
}

/// Writes the error of [`Request::decode`](super::Request::decode) for a client of the base profile,
/// in the form that its request makes it expect, as far as that can be told.
pub(crate) fn encode_base_refusal(
    error: &DWCPError,
    frame_type: FrameType,
    payload: &[u8],
) -> Vec<u8> {
    let known = || operation(frame_type, &Fields::read(payload).ok()?).ok();
    let parsed = match frame_type {
        FrameType::Metrics => true,
        FrameType::Vm => {
            known().is_none_or(|operation| matches!(operation.name, "create" | "get" | "list"))
        }
        FrameType::Migration => {
            known().is_none_or(|operation| matches!(operation.name, "migrate" | "status"))
        }
        FrameType::Snapshot => {
            known().is_none_or(|operation| matches!(operation.name, "create" | "list"))
        }
        _ => false,
    };
    if parsed {
        text(error)
    } else {
        object(error, None)
    }
}

fn text(error: &DWCPError) -> Vec<u8> {
    let (code, message) = told(error);
    format!("DWCP error {code}: {message}").into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_code_survives() {
        for &code in ErrorCode::ALL {
            let error = DWCPError::from_code(code, "web-1: \"quoted\"\n");
            assert_eq!(decode_error(&encode_error(&error, "7")), error);
        }
    }

    #[test]
    fn the_object_is_that_of_the_protocol() {
        let error = DWCPError::Timeout("30 s have passed".into());
        let value: Value = serde_json::from_slice(&encode_error(&error, "r1")).unwrap();
        assert_eq!(
            value,
            json!({
                "code": 0x1006, "name": "timeout", "message": "30 s have passed", "retryable": true,
                "request": "r1", "details": {},
            })
        );
    }

    #[test]
    fn what_has_no_code_is_internal() {
        let error = DWCPError::Io("disk on fire".into());
        let read = decode_error(&encode_error(&error, ""));
        assert_eq!(read, DWCPError::Internal("i/o: disk on fire".into()));
    }

    #[test]
    fn errors_of_newer_nodes_and_garbage_are_told() {
        let newer = decode_error(br#"{"code":4266,"name":"novel","message":"x","mood":"bad"}"#);
        assert_eq!(newer, DWCPError::Other("error 0x10aa: x".into()));
        for garbage in [&b""[..], b"DWCP error", b"{}", br#"{"code":-1}"#, b"\xff"] {
            let error = decode_error(garbage);
            assert!(matches!(error, DWCPError::Protocol(_)), "{error:?}");
        }
    }

    #[test]
    fn a_text_has_a_limit() {
        let error = DWCPError::Internal("é".repeat(TEXT_MAX));
        for payload in [encode_error(&error, ""), encode_base_error(&error, None)] {
            assert!(payload.len() < TEXT_MAX + 200, "{}", payload.len());
            assert!(String::from_utf8(payload).is_ok());
        }
        let long = format!(r#"{{"code":4097,"message":"{}"}}"#, "x".repeat(1 << 20));
        assert!(decode_error(long.as_bytes()).message().len() < TEXT_MAX + 4);
    }

    /// Whether a payload is the text that deployed clients cannot take for a reply.
    fn is_text(payload: &[u8]) -> bool {
        let text = std::str::from_utf8(payload).unwrap();
        match serde_json::from_str::<Value>(text) {
            Ok(value) => {
                assert_eq!(value["code"], 0x1002, "{text}");
                assert!(value.get("request").is_none(), "{text}");
                false
            }
            Err(_) => {
                assert_eq!(text, "DWCP error 0x1002 vm_not_found: 7");
                true
            }
        }
    }

    #[test]
    fn base_clients_get_the_form_they_cannot_misread() {
        let error = DWCPError::VMNotFound("7".into());
        let vm_id = || "7".to_owned();
        let get = Action::Get { vm_id: vm_id() };
        let start = Action::Start { vm_id: vm_id() };
        assert!(is_text(&encode_base_error(&error, Some(&get))));
        assert!(!is_text(&encode_base_error(&error, Some(&start))));
        assert!(is_text(&encode_base_error(&error, None)));
    }

    #[test]
    fn so_they_do_where_the_request_is_wrong() {
        let error = DWCPError::VMNotFound("7".into());
        for (frame_type, payload, text) in [
            (
                FrameType::Vm,
                r#"{"operation":16,"request":{"config":5}}"#,
                true,
            ),
            (FrameType::Vm, r#"{"operation":20,"vm_id":5}"#, true),
            (FrameType::Vm, r#"{"operation":18,"vm_id":5}"#, false),
            (FrameType::Vm, r#"{"operation":"destroy"}"#, false),
            (FrameType::Vm, r#"{"operation":99}"#, true),
            (FrameType::Vm, "garbage", true),
            (FrameType::Migration, r#"{"operation":"status"}"#, true),
            (FrameType::Migration, r#"{"target_node":5}"#, true),
            (FrameType::Migration, r#"{"operation":"cancel"}"#, false),
            (FrameType::Snapshot, r#"{"name":5}"#, true),
            (FrameType::Snapshot, r#"{"operation":"list"}"#, true),
            (FrameType::Snapshot, r#"{"operation":"delete"}"#, false),
            (FrameType::Snapshot, r#"{"operation":23}"#, false),
            (FrameType::Metrics, "garbage", true),
            (FrameType::Health, "garbage", false),
            (FrameType::Stream, "{}", false),
            (FrameType::Ok, "{}", false),
        ] {
            let refusal = encode_base_refusal(&error, frame_type, payload.as_bytes());
            assert_eq!(is_text(&refusal), text, "{frame_type:?} {payload}");
        }
    }
}

//! What an operation ends with, as JavaScript is told.
#![forbid(unsafe_code)]

use dwcp::{DWCPError, Item, Outcome};
use dwcp_bindings_support::{Batch, Failure, Result};
use napi::bindgen_prelude::{Buffer, Either};
use serde_json::json;

use crate::case::camel;
use crate::write;

/// An answer: JSON, or what a console printed. Empty where there is nothing to say: the operation is
/// done, or the stream has ended.
#[derive(Debug)]
pub(crate) enum Answer {
    Text(String),
    Bytes(Vec<u8>),
}

/// The same in JavaScript.
pub(crate) type Payload = Either<String, Buffer>;

/// An error whose code is the name of what failed, and whose text is JSON that `ts/errors.ts` reads.
pub(crate) type Thrown = napi::Error<&'static str>;

impl Answer {
    /// Nothing to say.
    pub(crate) const fn done() -> Answer {
        Answer::Text(String::new())
    }

    /// JSON as the protocol has it.
    pub(crate) fn json(json: &[u8]) -> Result<Answer> {
        Self::written(camel(json))
    }

    /// JSON as JavaScript has it.
    fn written(json: Vec<u8>) -> Result<Answer> {
        match String::from_utf8(json) {
            Ok(text) => Ok(Answer::Text(text)),
            Err(error) => Err(DWCPError::Serialization(error.to_string()).into()),
        }
    }

    pub(crate) fn outcome(outcome: &Outcome) -> Result<Answer> {
        match outcome {
            Outcome::Done => Ok(Answer::done()),
            Outcome::VM(vm) => Self::written(write::json(vm)?),
            Outcome::VMs(vms) => Self::written(write::json(vms)?),
            other => Answer::json(&other.to_json()?),
        }
    }

    pub(crate) fn batch(batch: &Batch) -> Result<Answer> {
        if batch.is_end() {
            return Ok(Answer::done());
        }
        if matches!(batch.0.first(), Some(Item::Event(_))) {
            // A stream has items of one kind.
            let events = batch.0.iter().filter_map(|item| match item {
                Item::Event(event) => Some(&**event),
                _ => None,
            });
            return Self::written(write::events(events)?);
        }
        let bytes = batch.to_json()?;
        if matches!(batch.0.first(), Some(Item::Console(_))) {
            return Ok(Answer::Bytes(bytes));
        }
        Answer::json(&bytes)
    }

    pub(crate) fn into_payload(self) -> Payload {
        match self {
            Answer::Text(text) => Either::A(text),
            Answer::Bytes(bytes) => Either::B(bytes.into()),
        }
    }
}

/// An error as JSON.
pub(crate) fn failure_json(failure: &Failure) -> String {
    json!({
        "code": failure.code.name(),
        "message": failure.message,
        "retryable": failure.retryable,
        "operation": failure.operation,
        "concerns": failure.concerns,
    })
    .to_string()
}

pub(crate) fn throw(failure: &Failure) -> Thrown {
    napi::Error::new(failure.code.name(), failure_json(failure))
}

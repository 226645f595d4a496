//! Requests and answers as JSON without frames, for front ends that carry them across a border of their
//! own: the C ABI, the language packages, a gateway.
//!
//! The forms are those of the extended profile, so there is one reader and one writer for all; only the
//! names are those of the clients' methods, which say by themselves what the wire says by frame type and
//! operation.

use super::fields::Fields;
use super::{Profile, Style, decode, encode_item, encode_outcome};
use crate::action::{Action, Item, Outcome, Subscription};
use crate::error::{DWCPError, Result};
use crate::model::names::unknown_word;
use crate::wire::frame::FrameType;

/// What the methods with one answer are called on the wire.
const METHODS: &[(&str, FrameType, &str)] = &[
    ("create", FrameType::Vm, "create"),
    ("start", FrameType::Vm, "start"),
    ("stop", FrameType::Vm, "stop"),
    ("destroy", FrameType::Vm, "destroy"),
    ("pause", FrameType::Vm, "pause"),
    ("resume", FrameType::Vm, "resume"),
    ("reset", FrameType::Vm, "reset"),
    ("update", FrameType::Vm, "update"),
    ("get", FrameType::Vm, "get"),
    ("list", FrameType::Vm, "list"),
    ("guest_report", FrameType::Vm, "guest_report"),
    ("verify", FrameType::Vm, "verify"),
    ("console", FrameType::Vm, "console_write"),
    ("get_metrics", FrameType::Metrics, "get"),
    ("migrate", FrameType::Migration, "migrate"),
    ("get_migration_status", FrameType::Migration, "status"),
    ("cancel_migration", FrameType::Migration, "cancel"),
    ("list_migrations", FrameType::Migration, "list"),
    ("plan_migration", FrameType::Migration, "plan"),
    ("resolve_migration", FrameType::Migration, "resolve"),
    ("snapshot", FrameType::Snapshot, "create"),
    ("list_snapshots", FrameType::Snapshot, "list"),
    ("restore_snapshot", FrameType::Snapshot, "restore"),
    ("delete_snapshot", FrameType::Snapshot, "delete"),
    ("import_image", FrameType::Config, "import_image"),
    ("list_images", FrameType::Config, "list_images"),
    ("remove_image", FrameType::Config, "remove_image"),
    ("health", FrameType::Health, "check"),
    ("node", FrameType::Config, "node"),
];

/// The streams, as the clients' methods and the wire call them.
const STREAMS: &[&str] = &["watch", "stream_metrics", "migration_progress", "console"];

impl Action {
    /// Reads a request from its [`name`](Action::name) and a JSON object of its fields, as a request of
    /// the protocol has them.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] for an unknown name, and for a field that is missing, unknown or of another
    /// type, naming it. Whether the values are allowed is for [`validate`](Action::validate) to say.
    ///
    /// # Examples
    ///
    /// ```
    /// use dwcp::Action;
    ///
    /// let action = Action::from_json("stop", br#"{"vm_id": "0", "force": true}"#)?;
    /// assert_eq!((action.name(), action.vm_id()), ("stop", Some("0")));
    /// # Ok::<(), dwcp::DWCPError>(())
    /// ```
    pub fn from_json(name: &str, fields: &[u8]) -> Result<Action> {
        let method = METHODS.iter().find(|(method, _, _)| *method == name);
        let Some(&(_, frame_type, operation)) = method else {
            let names: Vec<&str> = METHODS.iter().map(|(name, _, _)| *name).collect();
            return Err(unknown(name, &names));
        };
        read(fields, |fields| {
            decode::action(frame_type, operation, Profile::Extended, fields)
        })
    }
}

impl Subscription {
    /// Reads a request for a stream from its [`name`](Subscription::name) and a JSON object of its
    /// fields.
    ///
    /// # Errors
    ///
    /// As [`Action::from_json`].
    pub fn from_json(name: &str, fields: &[u8]) -> Result<Subscription> {
        if !STREAMS.contains(&name) {
            return Err(unknown(name, STREAMS));
        }
        read(fields, |fields| decode::subscription(name, fields))
    }
}

impl Outcome {
    /// The answer as JSON, as the protocol has it; `{}` where there is nothing to say.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Serialization`], which no outcome is known to cause.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        encode_outcome(self, Style::Extended)
    }
}

impl Item {
    /// The item as JSON, as the protocol has it; what a console printed as it is.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Serialization`], which no item is known to cause.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        encode_item(self)
    }
}

/// Takes all fields of an object. What a peer would be told of its message, this caller is told of its
/// arguments.
fn read<T>(fields: &[u8], take: impl FnOnce(&mut Fields) -> Result<T>) -> Result<T> {
    let all = |fields: &[u8]| {
        let mut fields = Fields::read(fields)?;
        let taken = take(&mut fields)?;
        fields.end()?;
        Ok(taken)
    };
    all(fields).map_err(|error| match error {
        DWCPError::Protocol(text) => DWCPError::Config(text),
        other => other,
    })
}

fn unknown(name: &str, names: &[&str]) -> DWCPError {
    DWCPError::Config(unknown_word("method", name, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(DWCPError::Config(text)) => text,
            other => panic!("expected an invalid config, got {other:?}"),
        }
    }

    #[test]
    fn mistakes_are_named() {
        let error = message(Action::from_json("strat", b"{}"));
        assert!(
            error.contains("\"strat\"") && error.contains("start"),
            "{error}"
        );
        let error = message(Subscription::from_json("get", b"{}"));
        assert!(error.contains("watch"), "{error}");
        for (fields, expected) in [
            (&b"{}"[..], "vm_id: missing"),
            (br#"{"vm_id": 7}"#, "vm_id: must be text"),
            (br#"{"vm_id": "7", "colour": 1}"#, "colour: unknown field"),
            (
                br#"{"vm_id": "7", "operation": "get"}"#,
                "operation: unknown field",
            ),
        ] {
            assert_eq!(message(Action::from_json("get", fields)), expected);
            assert_eq!(
                message(Subscription::from_json("console", fields)),
                expected
            );
        }
        assert!(message(Action::from_json("get", b"[]")).starts_with("payload:"));
    }

    #[test]
    fn answers_are_those_of_the_protocol() {
        assert_eq!(Outcome::Done.to_json().unwrap(), b"{}");
        assert_eq!(Outcome::VMs(Vec::new()).to_json().unwrap(), b"[]");
        let printed = Item::Console(bytes::Bytes::from_static(b"\xff\0"));
        assert_eq!(printed.to_json().unwrap(), b"\xff\0");
    }
}

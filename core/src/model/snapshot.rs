//! Snapshots.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::keyed;
use super::limits::TEXT_LEN_MAX;
use super::timestamp::Timestamp;
use super::validate::too_long;
use crate::error::{DWCPError, Result};

/// How to take a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotOptions {
    /// Keep memory and machine state, not only disks. Default true. Without them, as for a VM that was
    /// stopped, a restored VM is stopped.
    pub include_memory: bool,
    /// Text for people.
    pub description: String,
    /// Ask the guest to bring its file systems to rest first, where it can. Default true.
    pub quiesce: bool,
}

keyed! {
    SnapshotOptions as "a snapshot options object" {
        include_memory = "include_memory" | "includeMemory",
        description = "description",
        quiesce = "quiesce",
    }
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        SnapshotOptions {
            include_memory: true,
            description: String::new(),
            quiesce: true,
        }
    }
}

impl SnapshotOptions {
    /// Reads and validates what a user sent.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`], naming the field.
    pub fn from_value(value: Value) -> Result<SnapshotOptions> {
        let options = serde_json::from_value::<Option<SnapshotOptions>>(value)
            .map_err(|error| DWCPError::Config(error.to_string()))?
            .unwrap_or_default();
        options.validate()?;
        Ok(options)
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] where the description is longer than
    /// [`TEXT_LEN_MAX`](crate::model::limits::TEXT_LEN_MAX) bytes.
    pub fn validate(&self) -> Result<()> {
        if self.description.len() > TEXT_LEN_MAX {
            return too_long("description", TEXT_LEN_MAX);
        }
        Ok(())
    }
}

/// A snapshot of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Id, a UUID in text.
    pub id: String,
    /// The VM it is of.
    pub vm_id: String,
    /// Its name.
    pub name: String,
    /// Text for people.
    pub description: String,
    /// Bytes it takes on the node's disk.
    pub size: u64,
    /// When it was taken.
    pub created_at: Timestamp,
    /// The snapshot it builds on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The snapshots that build on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<String>,
    /// Whether it has memory and machine state. Extended profile.
    pub include_memory: bool,
    /// Whether the guest had brought its file systems to rest. Extended profile.
    pub quiesced: bool,
}

impl Snapshot {
    /// The JSON keys that only the extended profile carries.
    pub const EXTENDED_KEYS: &'static [&'static str] = &["include_memory", "quiesced"];
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_read_in_both_cases() {
        let default = SnapshotOptions::default();
        assert_eq!(
            serde_json::to_value(&default).unwrap(),
            json!({"include_memory": true, "description": "", "quiesce": true})
        );
        for value in [
            json!(null),
            json!({}),
            json!({"quiesce": null, "description": null}),
        ] {
            assert_eq!(SnapshotOptions::from_value(value), Ok(default.clone()));
        }
        for key in ["include_memory", "includeMemory"] {
            let options = SnapshotOptions::from_value(json!({key: false})).unwrap();
            assert_eq!(
                options,
                SnapshotOptions {
                    include_memory: false,
                    ..Default::default()
                }
            );
        }
    }

    #[test]
    fn errors_start_with_the_field() {
        for (value, field) in [
            (
                json!({"description": "x".repeat(TEXT_LEN_MAX + 1)}),
                "description",
            ),
            (json!({"quiesce": "yes"}), "quiesce"),
            (json!({"depth": 1}), "depth"),
        ] {
            let error = SnapshotOptions::from_value(value).unwrap_err();
            assert!(
                error.message().starts_with(&format!("{field}: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_snapshot_survives_json() {
        let snapshot = Snapshot {
            id: "s".into(),
            parent: Some("r".into()),
            children: vec!["t".into()],
            size: u64::MAX,
            ..Snapshot::default()
        };
        let value = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(value["size"], u64::MAX);
        assert_eq!(serde_json::from_value::<Snapshot>(value).unwrap(), snapshot);
        let bare = serde_json::to_value(Snapshot::default()).unwrap();
        assert!(bare.get("parent").is_none() && bare.get("children").is_none());
    }
}

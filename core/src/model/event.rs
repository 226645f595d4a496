//! What happens to VMs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::timestamp::Timestamp;
use super::vm::VM;

/// Declares the event types that have a word, and what to do with other words.
macro_rules! event_types {
    ($( $(#[$doc:meta])* $variant:ident = $word:literal, )+) => {
        /// What an event says.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
        #[non_exhaustive]
        pub enum VMEventType {
            $( $(#[$doc])* #[doc = concat!("\n\nWritten `\"", $word, "\"`.")] $variant, )+
            /// A type that this version does not know, in the node's words.
            Other(String),
        }

        impl VMEventType {
            /// The word that stands for this type in JSON and in text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self { $( VMEventType::$variant => $word, )+ VMEventType::Other(word) => word }
            }
        }

        impl From<&str> for VMEventType {
            fn from(word: &str) -> Self {
                match word { $( $word => VMEventType::$variant, )+ _ => VMEventType::Other(word.to_owned()) }
            }
        }

        #[cfg(test)]
        const KNOWN: &[VMEventType] = &[$( VMEventType::$variant, )+];
    };
}

event_types! {
    /// The present state: the first item of every watch.
    #[default]
    Current = "current",
    /// The VM was created.
    Created = "created",
    /// Its vCPUs are about to run.
    Starting = "starting",
    /// Its vCPUs run.
    Started = "started",
    /// It was asked to stop.
    Stopping = "stopping",
    /// It stopped.
    Stopped = "stopped",
    /// Its vCPUs are held.
    Paused = "paused",
    /// Its vCPUs run again.
    Resumed = "resumed",
    /// It was reset.
    Reset = "reset",
    /// Its labels or annotations changed.
    Updated = "updated",
    /// A migration of it began.
    Migrating = "migrating",
    /// It runs on another node now.
    Migrated = "migrated",
    /// A migration ended without moving it.
    MigrationFailed = "migration_failed",
    /// A snapshot of it was taken.
    SnapshotCreated = "snapshot_created",
    /// It is again what it was when a snapshot was taken.
    SnapshotRestored = "snapshot_restored",
    /// A snapshot of it was removed.
    SnapshotDeleted = "snapshot_deleted",
    /// It was ended by a failure.
    Failed = "failed",
    /// It was destroyed.
    Destroyed = "destroyed",
    /// The guest said something, such as a fault its own check found.
    Guest = "guest",
    /// Events between the last item and this one are no longer kept.
    Lost = "lost",
}

impl fmt::Display for VMEventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for VMEventType {
    type Err = std::convert::Infallible;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(word.into())
    }
}

impl Serialize for VMEventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for VMEventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Ok(word.as_ref().into())
    }
}

/// One item of a watch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VMEvent {
    /// Number of the event, rising for the life of the node's store and never used twice.
    pub seq: u64,
    /// What it says, `type` in JSON.
    #[serde(rename = "type")]
    pub event_type: VMEventType,
    /// The VM as it was then.
    pub vm: VM,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The same for people.
    pub message: String,
    /// With types `current` and `lost`: UUID of the store that `seq` is a number of, from this item of
    /// the stream on. When a VM moves, its watch goes on with the numbers of the node it moved to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// With type `lost`: what is missing. Its fields stand beside the others in JSON.
    #[serde(flatten)]
    pub lost: Option<LostEvents>,
}

/// What a watcher has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LostEvents {
    /// How many events were not delivered.
    pub count: u64,
    /// `seq` of the next event that will be.
    pub next: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_json() {
        for known in KNOWN
            .iter()
            .chain([&VMEventType::Other("teleported".into())])
        {
            let json = serde_json::to_string(known).unwrap();
            assert_eq!(json, format!("\"{known}\""));
            assert_eq!(serde_json::from_str::<VMEventType>(&json).unwrap(), *known);
        }
        assert_eq!(VMEventType::MigrationFailed.to_string(), "migration_failed");
    }

    #[test]
    fn what_was_lost_stands_beside_the_type() {
        let event: VMEvent =
            serde_json::from_str(r#"{"type":"lost","count":7,"next":40}"#).unwrap();
        assert_eq!(event.event_type, VMEventType::Lost);
        assert_eq!(event.lost, Some(LostEvents { count: 7, next: 40 }));
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((&json["count"], &json["next"]), (&7.into(), &40.into()));
    }

    #[test]
    fn an_event_that_lost_nothing_says_nothing_of_it() {
        let event = VMEvent {
            seq: 3,
            event_type: VMEventType::Started,
            ..VMEvent::default()
        };
        let json = serde_json::to_value(&event).unwrap();
        assert!(
            json.get("count").is_none() && json.get("lost").is_none(),
            "{json}"
        );
        assert_eq!(json["type"], "started");
        assert_eq!(serde_json::from_value::<VMEvent>(json).unwrap(), event);
    }
}

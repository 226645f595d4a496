//! `snapshot.json`: what a snapshot is of, and what its other files are.
//!
//! A JSON object whose last member is the checksum of the bytes before that member:
//!
//! ```text
//! {
//!   "format": 1,
//!   …
//!   "crc32c": "0123abcd"
//! }
//! ```
//!
//! Every version keeps that end and `format`; a version that is not known is refused by its number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{DWCPError, Result};
use crate::model::{Snapshot, Timestamp, VM, VMConfig, VMState};

/// Version of the file, and with it of the set of files.
const FORMAT: u64 = 1;
/// Longest file: labels, annotations and cloud-init twice, each byte escaped.
pub(super) const LONGEST: u64 = 16 << 20;

/// What a snapshot is of, and what its other files are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u64,
    pub(crate) id: String,
    /// The snapshot it builds on; none in this version.
    parent: Option<String>,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) created_at: Timestamp,
    /// Whether the guest had brought its file systems to rest.
    pub(crate) quiesced: bool,
    /// The VM.
    pub(crate) of: Of,
    /// Machine and memory; absent where they are not kept.
    pub(super) machine: Option<Files>,
    /// The disk; absent where the VM has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk: Option<DiskFile>,
}

/// The disk of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiskFile {
    pub(super) length: u64,
    /// See [`storage::sum`](crate::storage::sum).
    pub(super) sum: u32,
}

/// The VM a snapshot is of, as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Of {
    pub(crate) vm_id: String,
    /// Name of the node.
    pub(crate) node: String,
    /// What it did: running, paused or stopped.
    pub(crate) state: VMState,
    pub(crate) config: VMConfig,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The files of a snapshot that has memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Files {
    pub(super) state: Digest,
    pub(super) index: Digest,
    /// Length of the image, which is that of the VM's memory. The index has the sums of what it holds.
    pub(super) memory: u64,
}

/// Length and digest of a file. Not its CRC: the files end in one, so that of the whole file, with its
/// end, is the same for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Digest {
    pub(super) length: u64,
    /// SHA-256 in hexadecimal digits.
    pub(super) sha256: String,
}

impl Digest {
    pub(super) fn of(bytes: &[u8]) -> Digest {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(bytes);
        Digest {
            length: bytes.len() as u64,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// Whether it is that of `bytes`.
    ///
    /// # Errors
    ///
    /// `snapshot` with what differs.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<()> {
        let found = Digest::of(bytes);
        if found.length != self.length {
            return Err(DWCPError::Snapshot(format!(
                "it has {} bytes, where {} belong",
                found.length, self.length
            )));
        }
        if found.sha256 != self.sha256 {
            return Err(DWCPError::Snapshot(
                "its digest is not that in snapshot.json".into(),
            ));
        }
        Ok(())
    }
}

impl Manifest {
    /// That of a snapshot of `vm`, still without files.
    pub(crate) fn new(id: String, name: String, description: String, vm: &VM) -> Manifest {
        Manifest {
            format: FORMAT,
            id,
            parent: None,
            name,
            description,
            created_at: Timestamp::now(),
            quiesced: false,
            of: Of {
                vm_id: vm.id.clone(),
                node: vm.node.clone(),
                state: vm.state,
                config: vm.config.clone(),
                labels: vm.labels.clone(),
                annotations: vm.annotations.clone(),
            },
            machine: None,
            disk: None,
        }
    }

    /// Whether it has memory and machine state.
    pub(crate) fn has_memory(&self) -> bool {
        self.machine.is_some()
    }

    /// What users see of it; `size` is what its files take on disk.
    pub(crate) fn to_snapshot(&self, size: u64) -> Snapshot {
        Snapshot {
            id: self.id.clone(),
            vm_id: self.of.vm_id.clone(),
            name: self.name.clone(),
            description: self.description.clone(),
            size,
            created_at: self.created_at,
            parent: self.parent.clone(),
            include_memory: self.has_memory(),
            quiesced: self.quiesced,
            ..Snapshot::default()
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let text = serde_json::to_string_pretty(self)?;
        let Some(body) = text.strip_suffix("\n}") else {
            return Err(DWCPError::Internal("an object in JSON ends in }".into()));
        };
        Ok(format!("{body}{}", seal(body)).into_bytes())
    }

    /// # Errors
    ///
    /// `snapshot` with what is wrong, without the name of the file.
    pub(super) fn decode(bytes: &[u8]) -> Result<Manifest> {
        let wrong = |why: &str| Err(DWCPError::Snapshot(why.to_owned()));
        let Ok(text) = std::str::from_utf8(bytes) else {
            return wrong("it is damaged: it is no text");
        };
        let Some((body, end)) = text.rfind(SEAL).map(|at| text.split_at(at)) else {
            return wrong("it is damaged: it does not end in its checksum");
        };
        if end != seal(body) {
            return wrong("it is damaged: its checksum does not match");
        }
        let refused = |error: serde_json::Error| DWCPError::Snapshot(error.to_string());
        let mut value: Value = serde_json::from_str(text).map_err(refused)?;
        let format = value.get("format").and_then(Value::as_u64);
        if format != Some(FORMAT) {
            let format = format.map_or_else(|| "without a number".into(), |n| n.to_string());
            return wrong(&format!("format {format} is not known here"));
        }
        if let Value::Object(members) = &mut value {
            members.remove("crc32c");
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(refused)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(DWCPError::Snapshot(why));
        if let Some(parent) = &self.parent {
            return wrong(format!(
                "it builds on the snapshot {parent}, and this version reads none that do"
            ));
        }
        let state = self.of.state;
        let legal = match self.machine {
            Some(_) => matches!(state, VMState::Running | VMState::Paused),
            None => matches!(state, VMState::Running | VMState::Paused | VMState::Stopped),
        };
        if !legal {
            return wrong(format!("a snapshot of a VM that is {state}"));
        }
        if let Err(error) = self.of.config.validate() {
            return wrong(format!("config: {}", error.message()));
        }
        if self.disk.as_ref().map_or(0, |disk| disk.length) != self.of.config.disk {
            return wrong("its disk is not that of the VM".into());
        }
        if let Some(files) = &self.machine
            && files.memory != self.of.config.memory
        {
            return wrong(format!(
                "a memory of {} bytes, where the VM has {}",
                files.memory, self.of.config.memory
            ));
        }
        Ok(())
    }
}

/// What the last member begins with.
const SEAL: &str = ",\n  \"crc32c\": \"";

/// The end of a file that begins with `body`.
pub(super) fn seal(body: &str) -> String {
    format!("{SEAL}{:08x}\"\n}}\n", crc32c::crc32c(body.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let config = VMConfig::builder()
            .name("web")
            .memory(32 << 20)
            .label("env", "prod\",  \"crc32c\": \"")
            .build()
            .unwrap();
        let mut vm = VM::new("vm-1", "node-01", config);
        vm.state = VMState::Running;
        Manifest {
            machine: Some(Files {
                state: Digest::of(b"state"),
                index: Digest::of(b"index"),
                memory: 32 << 20,
            }),
            ..Manifest::new("s-1".into(), "before".into(), "the update".into(), &vm)
        }
    }

    /// With other text, and the checksum that belongs to it.
    fn edited(from: &str, to: &str) -> Vec<u8> {
        let text = String::from_utf8(sample().encode().unwrap()).unwrap();
        let body = &text[..text.rfind(SEAL).unwrap()];
        let body = body.replacen(from, to, 1);
        format!("{body}{}", seal(&body)).into_bytes()
    }

    #[test]
    fn it_survives_and_is_json() {
        let manifest = sample();
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            (&value["format"], &value["parent"], &value["of"]["state"]),
            (&1.into(), &Value::Null, &"running".into())
        );
        let snapshot = manifest.to_snapshot(4096);
        assert_eq!((snapshot.size, snapshot.include_memory), (4096, true));
    }

    #[test]
    fn every_byte_counts() {
        let bytes = sample().encode().unwrap();
        for at in 0..bytes.len() {
            for bit in [1, 0x20, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= bit;
                let error = Manifest::decode(&damaged).unwrap_err().to_string();
                assert!(error.contains("damaged"), "{at}: {error}");
            }
            assert!(Manifest::decode(&bytes[..at]).is_err());
        }
        let mut longer = bytes;
        longer.push(b'\n');
        assert!(Manifest::decode(&longer).is_err());
    }

    #[test]
    fn what_is_not_known_or_does_not_fit_is_refused() {
        for (from, to, says) in [
            ("\"format\": 1", "\"format\": 2", "format 2 is not known"),
            ("\"format\": 1", "\"format\": \"x\"", "format without"),
            ("\"format\": 1", "\"format\": 1, \"mood\": 1", "mood"),
            ("\"parent\": null", "\"parent\": \"s-0\"", "s-0"),
            ("\"running\"", "\"stopped\"", "that is stopped"),
            ("\"running\"", "\"migrating\"", "that is migrating"),
            (
                "\"memory\": 33554432",
                "\"memory\": 67108864",
                "where the VM",
            ),
            ("\"memory\": 33554432", "\"memory\": 1", "config: memory"),
        ] {
            let error = Manifest::decode(&edited(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}

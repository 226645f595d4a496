//! `state.bin`: all of a machine but its memory. Little-endian:
//!
//! ```text
//! magic "DWCPSNAP"  format u16  sections u16
//! per section: kind u16  version u16  length u64  body
//! CRC-32C of all before it u32
//! ```
//!
//! Kinds: 1, the machine's state as the hypervisor layer packs it, with versions of its own; 2, what
//! its guest sees of the host that it was first started on, in JSON. Both are there, once.

use crate::error::{DWCPError, Result};
use crate::hypervisor::{HostFacts, Reader, Section, Writer, decode, encode};

const MAGIC: &[u8; 8] = b"DWCPSNAP";
const FORMAT: u16 = 1;
/// Longest file: a VM of 128 vCPUs takes less than 2 MiB, where a vCPU has no more than the extended
/// state of today's processors.
pub(super) const LONGEST: u64 = 64 << 20;

const MACHINE: u16 = 1;
const GUEST: u16 = 2;
/// The only version of each kind there is so far.
const VERSION: u16 = 1;

/// What the file holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) machine: Vec<Section>,
    pub(super) guest: HostFacts,
}

impl State {
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let (machine, guest) = (encode(&self.machine), serde_json::to_vec(&self.guest)?);
        let mut out = Writer::default();
        out.bytes(MAGIC);
        out.u16(FORMAT);
        out.u16(2);
        for (kind, body) in [(MACHINE, machine), (GUEST, guest)] {
            out.u16(kind);
            out.u16(VERSION);
            out.u64(body.len() as u64);
            out.bytes(&body);
        }
        let crc = crc32c::crc32c(&out.0);
        out.u32(crc);
        Ok(out.0)
    }

    /// # Errors
    ///
    /// `snapshot` with what is wrong, without the name of the file.
    pub(super) fn decode(bytes: &[u8]) -> Result<State> {
        let Some((content, crc)) = bytes.split_last_chunk::<4>() else {
            return wrong("it is truncated");
        };
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return wrong("its checksum does not match");
        }
        let mut reader = Reader::new(content);
        if reader.bytes(MAGIC.len()).map_err(short)? != MAGIC {
            return wrong("it does not start as one");
        }
        let format = reader.u16().map_err(short)?;
        if format != FORMAT {
            return wrong(&format!("format {format} is not known here"));
        }
        let (mut machine, mut guest) = (None, None);
        for _ in 0..reader.u16().map_err(short)? {
            let (kind, version) = (reader.u16().map_err(short)?, reader.u16().map_err(short)?);
            let length = reader.u64().map_err(short)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let body = reader.bytes(length).map_err(short)?;
            if version != VERSION {
                return wrong(&format!(
                    "version {version} of section {kind} is not known here"
                ));
            }
            let again = match kind {
                MACHINE => machine.replace(decode(body)?).is_some(),
                GUEST => {
                    let facts = serde_json::from_slice(body);
                    let facts = facts
                        .map_err(|error| DWCPError::Snapshot(format!("section {kind}: {error}")))?;
                    guest.replace(facts).is_some()
                }
                _ => return wrong(&format!("section {kind} is not known here")),
            };
            if again {
                return wrong(&format!("section {kind} is there twice"));
            }
        }
        reader.finish().map_err(short)?;
        match (machine, guest) {
            (Some(machine), Some(guest)) => Ok(State { machine, guest }),
            _ => wrong("a section is missing"),
        }
    }
}

fn wrong<T>(why: &str) -> Result<T> {
    Err(DWCPError::Snapshot(why.to_owned()))
}

/// The reader ran out, or was not read to the end.
fn short(_: DWCPError) -> DWCPError {
    DWCPError::Snapshot("its length is not that of its sections".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hypervisor::Kind;

    fn sample() -> State {
        State {
            machine: vec![Section::new(Kind::Serial, 0, vec![1, 2, 3])],
            guest: HostFacts {
                backend: "sim".into(),
                ..HostFacts::default()
            },
        }
    }

    fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn round_trip() {
        let bytes = sample().encode().unwrap();
        assert_eq!(State::decode(&bytes).unwrap(), sample());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let good = sample().encode().unwrap();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            State::decode(&reseal(bytes)).unwrap_err().to_string()
        };
        for (at, value, says) in [
            (0, b'X', "does not start"),
            (8, 2, "format 2"),
            (10, 1, "its length"),
            (12, 9, "section 9 is not known"),
            (12, 2, "section 2: "),
            (14, 3, "version 3 of section 1"),
            (17, 0xff, "its length"),
            // Inside: the machine's own container.
            (24, b'X', "machine state refused"),
        ] {
            let error = with(at, value);
            assert!(error.contains(says), "{at}: {error}");
        }
        let mut damaged = good;
        damaged[30] ^= 1;
        let error = State::decode(&damaged).unwrap_err().to_string();
        assert!(error.contains("its checksum"), "{error}");
    }

    #[test]
    fn both_sections_belong() {
        let mut out = Writer::default();
        out.bytes(MAGIC);
        out.u16(FORMAT);
        out.u16(0);
        out.u32(0);
        let error = State::decode(&reseal(out.0)).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in 0usize..32) {
            let _ = State::decode(&bytes);
            let mut framed = sample().encode().unwrap()[..head].to_vec();
            framed.extend_from_slice(&bytes);
            framed.extend_from_slice(&[0; 4]);
            let _ = State::decode(&reseal(framed));
        }
    }
}

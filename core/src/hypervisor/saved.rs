//! The form in which the state of a machine is saved: a list of sections.
//!
//! A section has a kind, a version of its own, the number of the instance it belongs to (a vCPU, a
//! device) and a body. The whole is little-endian:
//!
//! ```text
//! magic "DWCPSTAT"  format u16  reserved u16  sections u32
//! per section: kind u16  version u16  instance u32  length u32  body
//! CRC-32C of all before it u32
//! ```
//!
//! A reader refuses what it does not know: another format, an unknown kind or version, bytes left
//! over. The bytes come from a peer or a disk, so every length is checked before it is used.
#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{DWCPError, Result};

const MAGIC: &[u8; 8] = b"DWCPSTAT";
/// Version of the container; each section has its own besides.
const FORMAT: u16 = 1;
/// A VM of 128 vCPUs has about 1,700 sections.
const MAX_SECTIONS: u32 = 1 << 16;

/// What a section holds. The numbers are part of the saved format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub(crate) enum Kind {
    /// Which back end saved, and for how many vCPUs.
    Machine = 1,
    MpState = 0x10,
    Regs = 0x11,
    Sregs = 0x12,
    Xsave = 0x13,
    Xcrs = 0x14,
    DebugRegs = 0x15,
    Lapic = 0x16,
    Msrs = 0x17,
    Tsc = 0x18,
    VcpuEvents = 0x19,
    Cpuid = 0x1a,
    IrqChip = 0x20,
    Pit = 0x21,
    Clock = 0x22,
    SimVcpu = 0x30,
    Serial = 0x40,
    Pulse = 0x41,
    Power = 0x42,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Machine,
        Self::MpState,
        Self::Regs,
        Self::Sregs,
        Self::Xsave,
        Self::Xcrs,
        Self::DebugRegs,
        Self::Lapic,
        Self::Msrs,
        Self::Tsc,
        Self::VcpuEvents,
        Self::Cpuid,
        Self::IrqChip,
        Self::Pit,
        Self::Clock,
        Self::SimVcpu,
        Self::Serial,
        Self::Pulse,
        Self::Power,
    ];

    /// The only version of each kind there is so far.
    const VERSION: u16 = 1;

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|&k| k as u16 == number)
    }
}

/// One section.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) kind: Kind,
    pub(crate) instance: u32,
    pub(crate) body: Vec<u8>,
}

impl Section {
    pub(crate) fn new(kind: Kind, instance: u32, body: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            instance,
            body: body.into(),
        }
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            instance,
            body,
        } = self;
        write!(f, "{kind:?}[{instance}]({} bytes)", body.len())
    }
}

/// The bodies of all sections of a kind and instance, in order.
pub(crate) fn sections_of(
    sections: &[Section],
    kind: Kind,
    instance: u32,
) -> impl Iterator<Item = &[u8]> {
    sections
        .iter()
        .filter(move |s| s.kind == kind && s.instance == instance)
        .map(|s| s.body.as_slice())
}

/// Packs sections.
pub(crate) fn encode(sections: &[Section]) -> Vec<u8> {
    let body: usize = sections.iter().map(|s| 12 + s.body.len()).sum();
    let mut out = Writer(Vec::with_capacity(body + 20));
    out.bytes(MAGIC);
    out.u16(FORMAT);
    out.u16(0);
    out.u32(length(sections.len()));
    for section in sections {
        out.u16(section.kind as u16);
        out.u16(Kind::VERSION);
        out.u32(section.instance);
        out.u32(length(section.body.len()));
        out.bytes(&section.body);
    }
    let crc = crc32c::crc32c(&out.0);
    out.u32(crc);
    out.0
}

/// Unpacks sections.
///
/// # Errors
///
/// `migration` naming what is wrong: a damaged or truncated state, an unknown format, kind or
/// version, bytes left over.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Section>> {
    let Some((content, crc)) = bytes.split_last_chunk::<4>() else {
        return Err(bad("it is truncated"));
    };
    if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
        return Err(bad("its checksum does not match"));
    }
    let mut reader = Reader::new(content);
    if reader.bytes(MAGIC.len())? != MAGIC {
        return Err(bad("it does not start as one"));
    }
    let format = reader.u16()?;
    if format != FORMAT {
        return Err(bad(&format!("format {format} is not known here")));
    }
    reader.u16()?;
    let count = reader.u32()?;
    if count > MAX_SECTIONS {
        return Err(bad(&format!("{count} sections are too many")));
    }
    let mut sections = Vec::new();
    for _ in 0..count {
        let number = reader.u16()?;
        let version = reader.u16()?;
        let instance = reader.u32()?;
        let len = reader.u32()? as usize;
        let body = reader.bytes(len)?;
        let kind = Kind::from_number(number)
            .ok_or_else(|| bad(&format!("section kind {number:#x} is not known here")))?;
        if version != Kind::VERSION {
            return Err(bad(&format!(
                "version {version} of section {kind:?} is not known here"
            )));
        }
        sections.push(Section::new(kind, instance, body));
    }
    reader.finish()?;
    Ok(sections)
}

fn bad(why: &str) -> DWCPError {
    DWCPError::Migration(format!("machine state refused: {why}"))
}

/// Saved state is far below 4 GiB: registers and device state, no memory.
#[allow(clippy::cast_possible_truncation)]
fn length(len: usize) -> u32 {
    debug_assert!(u32::try_from(len).is_ok());
    len as u32
}

/// Appends little-endian values.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
}

/// Takes little-endian values off a slice; running out is an error, and so is a rest.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| bad("it is truncated"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or_else(|| bad("it is truncated"))?;
        self.0 = rest;
        Ok(head)
    }

    /// The end has been reached.
    pub(crate) fn finish(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(bad(&format!("{} bytes are left over", self.0.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<Section> {
        vec![
            Section::new(Kind::Regs, 0, vec![1, 2, 3]),
            Section::new(Kind::Regs, 1, vec![]),
            Section::new(Kind::Serial, 0, vec![9; 100]),
        ]
    }

    /// Replaces the checksum by the right one, so that what lies behind it is reached.
    fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn round_trip() {
        assert_eq!(decode(&encode(&sample())).unwrap(), sample());
        assert_eq!(decode(&encode(&[])).unwrap(), []);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let good = encode(&sample());
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            decode(&reseal(bytes)).unwrap_err().to_string()
        };
        assert!(with(0, b'X').contains("does not start as one"));
        assert!(with(8, 7).contains("format 7"));
        assert!(with(16, 0xee).contains("kind 0xee"));
        assert!(with(18, 2).contains("version 2 of section Regs"));
        let mut more = good.clone();
        more.insert(good.len() - 4, 0);
        assert!(
            decode(&reseal(more))
                .unwrap_err()
                .to_string()
                .contains("1 bytes are left over")
        );
        let mut damaged = good;
        damaged[30] ^= 1;
        assert!(
            decode(&damaged)
                .unwrap_err()
                .to_string()
                .contains("checksum")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_allocate_without_bound(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let mut framed = MAGIC.to_vec();
            framed.extend_from_slice(&[1, 0, 0, 0]);
            framed.extend_from_slice(&bytes);
            framed.extend_from_slice(&[0; 4]);
            let _ = decode(&reseal(framed));
        }

        #[test]
        fn truncation_anywhere_is_an_error(cut in 0usize..140) {
            let good = encode(&sample());
            prop_assume!(cut < good.len());
            prop_assert!(decode(&good[..cut]).is_err());
            if cut >= 4 {
                prop_assert!(decode(&reseal(good[..cut].to_vec())).is_err());
            }
        }
    }
}

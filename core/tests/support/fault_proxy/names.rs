//! Finding messages in a stream, and what they are called.
//!
//! A frame of DWCP/3, big-endian: length u32 of what follows, version u8, type u8, timestamp u64,
//! length of the id u16, id, length of the payload u32, payload. A message of a bulk channel,
//! little-endian: magic u32, kind u8, flags u8, reserved u16, descriptors u32, checksum u32, length of
//! the payload u64, sequence u64; then the descriptors of 16 bytes, and the payload.

use std::io::{self, Read};

const AUTH: u8 = 0x01;
const MIGRATION: u8 = 0x04;
const OK: u8 = 0x10;
const PING: u8 = 0x16;
const PONG: u8 = 0x17;
const BULK_HEADER: usize = 32;
/// Longer than any message: something else than a hand-over is read.
const LONGEST: usize = 64 << 20;

/// A message with all its bytes.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) operation: String,
    /// The bulk channel that is asked for.
    pub(super) channel: Option<u32>,
    pub(super) bytes: Vec<u8>,
}

/// What reading came to.
#[derive(Debug)]
pub(super) enum Next {
    Message(Message),
    /// The stream ended, after these bytes of a message.
    End(Vec<u8>),
}

/// Reads the next frame; `bulk` is asked then whether a bulk channel was asked for by now.
pub(super) fn frame(stream: &mut impl Read, bulk: impl FnOnce() -> bool) -> io::Result<Next> {
    let mut bytes = Vec::new();
    if !more(stream, &mut bytes, 4)? {
        return Ok(Next::End(bytes));
    }
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    if !more(stream, &mut bytes, length)? {
        return Ok(Next::End(bytes));
    }
    let kind = bytes.get(5).copied().unwrap_or(0);
    let envelope = (kind == MIGRATION).then(|| envelope(&bytes)).flatten();
    let channel = envelope.as_ref().and_then(|envelope| envelope.channel);
    let operation = match kind {
        MIGRATION => envelope.map_or_else(|| "unreadable".to_owned(), |own| own.operation),
        OK if bulk() => "attached".to_owned(),
        AUTH => "auth".to_owned(),
        PING | PONG => "ping".to_owned(),
        other => format!("frame-{other}"),
    };
    Ok(Next::Message(Message {
        operation,
        channel,
        bytes,
    }))
}

/// Reads the next message of a bulk channel.
pub(super) fn bulk(stream: &mut impl Read) -> io::Result<Next> {
    let mut bytes = Vec::new();
    if !more(stream, &mut bytes, BULK_HEADER)? {
        return Ok(Next::End(bytes));
    }
    let runs = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
    let payload = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    let payload = usize::try_from(payload).unwrap_or(usize::MAX);
    let operation = match bytes[4] {
        1 => "pages",
        2 => "zeros",
        3 => "round_end",
        4 => "ack",
        5 => "state",
        6 => "packed",
        7 => "missing",
        8 => "want",
        9 => "disk",
        10 => "disk_zeros",
        _ => "unreadable",
    };
    if !more(stream, &mut bytes, (runs * 16).saturating_add(payload))? {
        return Ok(Next::End(bytes));
    }
    Ok(Next::Message(Message {
        operation: operation.to_owned(),
        channel: None,
        bytes,
    }))
}

/// Reads so many bytes more; false at the end of the stream.
fn more(stream: &mut impl Read, bytes: &mut Vec<u8>, count: usize) -> io::Result<bool> {
    if count > LONGEST {
        return Err(io::Error::other(format!("a message of {count} bytes")));
    }
    let read = stream.take(count as u64).read_to_end(bytes)?;
    Ok(read == count)
}

/// What a control connection or an attach says of itself.
#[derive(serde::Deserialize)]
struct Envelope {
    operation: String,
    channel: Option<u32>,
}

fn envelope(frame: &[u8]) -> Option<Envelope> {
    let id = usize::from(u16::from_be_bytes(frame.get(14..16)?.try_into().ok()?));
    let payload = frame.get(16 + id + 4..)?;
    // The nodes' own envelope has more.
    serde_json::from_slice(payload).ok()
}

//! The frame: what every request, reply and stream item of DWCP/3 travels in.
//!
//! Big-endian: `length u32` (bytes after this field), version `u8`, type `u8`, timestamp `u64`,
//! length of the id `u16`, id, length of the payload `u32`, payload.

use bytes::{BufMut, BytesMut};

use crate::error::{DWCPError, Result};

pub(crate) use reader::FrameReader;

mod reader;

/// The protocol's version.
const VERSION: u8 = 3;
/// The `length` of a frame with neither id nor payload.
const LENGTH_MIN: usize = 16;
/// Longest id in bytes. Base clients send a UUID of 36.
pub(crate) const ID_MAX: usize = 128;
/// Largest `length` of a frame where nothing else is configured.
pub(crate) const LENGTH_MAX: usize = 16 << 20;

/// Declares the types of frames with their numbers.
macro_rules! frame_types {
    ($($(#[$doc:meta])* $variant:ident = $number:literal,)+) => {
        /// What a frame is. The numbers are the protocol's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum FrameType { $($(#[$doc])* $variant = $number,)+ }

        impl FrameType {
            fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

frame_types! {
    Auth = 0x01,
    Vm = 0x02,
    Stream = 0x03,
    Migration = 0x04,
    Health = 0x05,
    Metrics = 0x06,
    Config = 0x07,
    Snapshot = 0x08,
    Ok = 0x10,
    Error = 0x11,
    Item = 0x12,
    End = 0x13,
    Cancel = 0x14,
    Credit = 0x15,
    Ping = 0x16,
    Pong = 0x17,
    GoAway = 0x18,
    Data = 0x19,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) frame_type: FrameType,
    /// Informative only: some clients send seconds, some milliseconds.
    pub(crate) timestamp: u64,
    pub(crate) id: String,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// # Errors
    ///
    /// `resource_limit` when id or payload are too long for a frame of `max` bytes.
    pub(crate) fn encode(&self, max: usize) -> Result<Vec<u8>> {
        let mut out = BytesMut::with_capacity(4 + LENGTH_MIN + self.id.len() + self.payload.len());
        self.borrowed().encode_into(&mut out, max)?;
        Ok(out.into())
    }

    /// The number of bytes that follow the four of `prefix`, if a frame of at most `max` can be that
    /// long.
    pub(crate) fn length(prefix: [u8; 4], max: usize) -> Result<usize> {
        let length = u32::from_be_bytes(prefix) as usize;
        if length < LENGTH_MIN {
            return Err(malformed(&format!("a frame of {length} bytes")));
        }
        if length > max {
            return Err(too_long(length, max));
        }
        Ok(length)
    }

    /// Decodes what follows the length field.
    ///
    /// # Errors
    ///
    /// `invalid_message` saying what is wrong.
    pub(crate) fn decode(body: &[u8]) -> Result<Self> {
        match FrameRef::parse_body(body, body.len(), usize::MAX) {
            Ok(Some(frame)) => Ok(frame.to_frame()),
            Ok(None) => Err(disagreeing()),
            Err(refused) => Err(refused.error),
        }
    }

    /// The same, borrowed.
    pub(crate) fn borrowed(&self) -> FrameRef<'_> {
        FrameRef {
            head: Head {
                frame_type: self.frame_type,
                timestamp: self.timestamp,
                id: &self.id,
            },
            payload: &self.payload,
        }
    }
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) frame_type: FrameType,
    /// See [`Frame::timestamp`].
    pub(crate) timestamp: u64,
    pub(crate) id: &'a str,
}

impl Head<'_> {
    /// Appends a frame whose payload `write` appends, and writes the lengths when they are known. So a
    /// payload is made in the buffer that is sent, and copied nowhere.
    ///
    /// # Errors
    ///
    /// That of `write`; `resource_limit` when the frame is longer than `max`. `out` is then as before.
    pub(crate) fn encode_with(
        &self,
        out: &mut BytesMut,
        max: usize,
        write: impl FnOnce(&mut BytesMut) -> Result<()>,
    ) -> Result<()> {
        let start = out.len();
        let encoded = self.encode_at(start, out, max, write);
        if encoded.is_err() {
            out.truncate(start);
        }
        encoded
    }

    fn encode_at(
        &self,
        start: usize,
        out: &mut BytesMut,
        max: usize,
        write: impl FnOnce(&mut BytesMut) -> Result<()>,
    ) -> Result<()> {
        let id = self.id.as_bytes();
        let id_length = match u16::try_from(id.len()) {
            Ok(length) if id.len() <= ID_MAX => length,
            _ => return Err(too_long(LENGTH_MIN + id.len(), max)),
        };
        out.reserve(4 + LENGTH_MIN + id.len());
        out.put_u32(0);
        out.put_u8(VERSION);
        out.put_u8(self.frame_type as u8);
        out.put_u64(self.timestamp);
        out.put_u16(id_length);
        out.put_slice(id);
        let payload_at = out.len() + 4;
        out.put_u32(0);
        write(out)?;
        let (length, payload) = (out.len() - start - 4, out.len() - payload_at);
        let (Ok(length_field), Ok(payload_field)) = (u32::try_from(length), u32::try_from(payload))
        else {
            return Err(too_long(length, max));
        };
        if length > max {
            return Err(too_long(length, max));
        }
        out[start..start + 4].copy_from_slice(&length_field.to_be_bytes());
        out[payload_at - 4..payload_at].copy_from_slice(&payload_field.to_be_bytes());
        Ok(())
    }
}

/// A frame in the buffer in which it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameRef<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) payload: &'a [u8],
}

/// Why bytes are no frame, and the id of the request they would have been, where it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) id: Option<String>,
    pub(crate) error: DWCPError,
}

impl From<DWCPError> for Refused {
    fn from(error: DWCPError) -> Self {
        Self { id: None, error }
    }
}

impl<'a> FrameRef<'a> {
    /// The frame at the front of `bytes`, and how many of them it is; `None` while more have to come.
    ///
    /// The answer depends on the bytes of the frame alone, and an error is found as soon as they show
    /// it, before the payload arrives. A frame that is too long is refused when its id is known, so
    /// that the refusal reaches whoever sent it.
    ///
    /// # Errors
    ///
    /// `invalid_message` saying what is wrong, `resource_limit` for a frame of more than `max`.
    pub(crate) fn parse(bytes: &'a [u8], max: usize) -> Result<Option<(Self, usize)>, Refused> {
        let Some((prefix, body)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = Frame::length(*prefix, usize::MAX)?;
        let frame = Self::parse_body(&body[..body.len().min(length)], length, max)?;
        Ok(frame.map(|frame| (frame, 4 + length)))
    }

    /// The same for what follows the length field: as much as is there of `length` bytes.
    fn parse_body(body: &'a [u8], length: usize, max: usize) -> Result<Option<Self>, Refused> {
        if let Some(&version) = body.first()
            && version != VERSION
        {
            let error = malformed(&format!("protocol version {version}, not {VERSION}"));
            return Err(error.into());
        }
        let Some((head, rest)) = body.split_first_chunk::<12>() else {
            return Ok(None);
        };
        let [_, number, t0, t1, t2, t3, t4, t5, t6, t7, r0, r1] = *head;
        let id_length = usize::from(u16::from_be_bytes([r0, r1]));
        if id_length > ID_MAX {
            return Err(malformed(&format!("a request id of {id_length} bytes")).into());
        }
        let Some(payload_length) = length.checked_sub(LENGTH_MIN + id_length) else {
            return Err(disagreeing().into());
        };
        let Some((id, rest)) = rest.split_at_checked(id_length) else {
            return Ok(None);
        };
        let id = std::str::from_utf8(id).map_err(|_| malformed("a request id that is no UTF-8"))?;
        let refused = |error| Refused {
            id: Some(id.to_owned()),
            error,
        };
        let frame_type = FrameType::from_number(number)
            .ok_or_else(|| refused(malformed(&format!("a frame of unknown type {number:#04x}"))))?;
        if length > max {
            return Err(refused(too_long(length, max)));
        }
        let Some((payload_field, payload)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        if u32::from_be_bytes(*payload_field) as usize != payload_length {
            return Err(refused(disagreeing()));
        }
        if payload.len() < payload_length {
            return Ok(None);
        }
        let head = Head {
            frame_type,
            timestamp: u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            id,
        };
        Ok(Some(Self { head, payload }))
    }

    /// Appends it to `out`.
    ///
    /// # Errors
    ///
    /// `resource_limit` when it is longer than `max`; `out` is then as before.
    pub(crate) fn encode_into(&self, out: &mut BytesMut, max: usize) -> Result<()> {
        self.head.encode_with(out, max, |out| {
            out.extend_from_slice(self.payload);
            Ok(())
        })
    }

    /// A copy that owns what it holds.
    pub(crate) fn to_frame(self) -> Frame {
        Frame {
            frame_type: self.head.frame_type,
            timestamp: self.head.timestamp,
            id: self.head.id.to_owned(),
            payload: self.payload.to_vec(),
        }
    }
}

fn malformed(what: &str) -> DWCPError {
    DWCPError::Protocol(format!("the peer sent {what}"))
}

fn disagreeing() -> DWCPError {
    malformed("a frame whose lengths do not agree")
}

fn too_long(length: usize, max: usize) -> DWCPError {
    DWCPError::ResourceLimit(format!(
        "a frame of {length} bytes, where {max} are the limit"
    ))
}

#[cfg(test)]
mod tests;

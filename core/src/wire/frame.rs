//! The frame: what every request, reply and stream item of DWCP/3 travels in.
//!
//! Big-endian: `length u32` (bytes after this field), version `u8`, type `u8`, timestamp `u64`,
//! length of the id `u16`, id, length of the payload `u32`, payload.

use crate::error::{DWCPError, Result};

/// The protocol's version.
const VERSION: u8 = 3;
/// The `length` of a frame with neither id nor payload.
const LENGTH_MIN: usize = 16;
/// Longest id in bytes. Base clients send a UUID of 36.
pub(crate) const ID_MAX: usize = 128;
/// Largest `length` of a frame where nothing else is configured.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the server's, which is not built yet")
)]
pub(crate) const LENGTH_MAX: usize = 16 << 20;

/// Declares the types of frames with their numbers.
macro_rules! frame_types {
    ($($(#[$doc:meta])* $variant:ident = $number:literal,)+) => {
        /// What a frame is. The numbers are the protocol's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(dead_code, reason = "a complete table: the server will send them all")]
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
        let (id, payload) = (self.id.as_bytes(), &self.payload);
        let length = LENGTH_MIN + id.len() + payload.len();
        let (Ok(id_len), Ok(payload_len), Ok(length_field)) = (
            u16::try_from(id.len()),
            u32::try_from(payload.len()),
            u32::try_from(length),
        ) else {
            return Err(too_long(length, max));
        };
        if id.len() > ID_MAX || length > max {
            return Err(too_long(length, max));
        }
        let mut out = Vec::with_capacity(4 + length);
        out.extend_from_slice(&length_field.to_be_bytes());
        out.push(VERSION);
        out.push(self.frame_type as u8);
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&id_len.to_be_bytes());
        out.extend_from_slice(id);
        out.extend_from_slice(&payload_len.to_be_bytes());
        out.extend_from_slice(payload);
        Ok(out)
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
        let truncated = || malformed("a frame whose lengths do not agree");
        let (head, rest) = body.split_first_chunk::<12>().ok_or_else(truncated)?;
        let [version, number, t0, t1, t2, t3, t4, t5, t6, t7, r0, r1] = *head;
        if version != VERSION {
            return Err(malformed(&format!(
                "protocol version {version}, not {VERSION}"
            )));
        }
        let frame_type = FrameType::from_number(number)
            .ok_or_else(|| malformed(&format!("a frame of unknown type {number:#04x}")))?;
        let id_len = usize::from(u16::from_be_bytes([r0, r1]));
        if id_len > ID_MAX {
            return Err(malformed(&format!("a request id of {id_len} bytes")));
        }
        let (id, rest) = rest.split_at_checked(id_len).ok_or_else(truncated)?;
        let id = std::str::from_utf8(id).map_err(|_| malformed("a request id that is no UTF-8"))?;
        let (length, payload) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
        if u32::from_be_bytes(*length) as usize != payload.len() {
            return Err(truncated());
        }
        Ok(Self {
            frame_type,
            timestamp: u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            id: id.to_owned(),
            payload: payload.to_vec(),
        })
    }
}

fn malformed(what: &str) -> DWCPError {
    DWCPError::Protocol(format!("the peer sent {what}"))
}

fn too_long(length: usize, max: usize) -> DWCPError {
    DWCPError::ResourceLimit(format!(
        "a frame of {length} bytes, where {max} are the limit"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The vector of the protocol's description.
    #[test]
    fn the_vector_is_kept() {
        let frame = Frame {
            frame_type: FrameType::Auth,
            timestamp: 1_700_000_000,
            id: "00000000-0000-4000-8000-000000000000".into(),
            payload: br#"{"api_key":"k","version":3}"#.to_vec(),
        };
        let hex = "0000004f0301000000006553f1000024\
            30303030303030302d303030302d343030302d383030302d303030303030303030303030\
            0000001b7b226170695f6b6579223a226b222c2276657273696f6e223a337d";
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        assert_eq!(frame.encode(LENGTH_MAX).unwrap(), bytes);
        let (prefix, body) = bytes.split_first_chunk::<4>().unwrap();
        assert_eq!(Frame::length(*prefix, LENGTH_MAX).unwrap(), body.len());
        assert_eq!(Frame::decode(body).unwrap(), frame);
    }

    #[test]
    fn limits_are_errors() {
        assert!(Frame::length([0, 0, 0, 15], LENGTH_MAX).is_err());
        assert!(Frame::length([1, 0, 0, 1], LENGTH_MAX).is_err());
        assert!(Frame::length([0xff; 4], LENGTH_MAX).is_err());
        let long = |id: usize, payload| Frame {
            frame_type: FrameType::Ok,
            timestamp: 0,
            id: "x".repeat(id),
            payload: vec![0; payload],
        };
        assert!(long(ID_MAX, 0).encode(LENGTH_MAX).is_ok());
        assert!(long(ID_MAX + 1, 0).encode(LENGTH_MAX).is_err());
        assert!(long(0, 100).encode(115).is_err());
        assert!(long(0, 100).encode(116).is_ok());
    }

    proptest! {
        #[test]
        fn round_trip(id in "[a-z0-9]{0,40}", timestamp: u64, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let frame = Frame { frame_type: FrameType::Migration, timestamp, id, payload };
            let bytes = frame.encode(LENGTH_MAX).unwrap();
            prop_assert_eq!(Frame::decode(&bytes[4..]).unwrap(), frame);
            // Cut anywhere, or with more behind it, it is no frame.
            for cut in 4..bytes.len() {
                prop_assert!(Frame::decode(&bytes[4..cut]).is_err());
            }
            let mut more = bytes;
            more.push(0);
            prop_assert!(Frame::decode(&more[4..]).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Frame::decode(&body);
        }
    }
}

//! Frames by hand over a blocking socket: what no client of ours would send, and what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

/// Types of frames, by their numbers in the protocol.
pub mod kind {
    pub const AUTH: u8 = 0x01;
    pub const VM: u8 = 0x02;
    pub const STREAM: u8 = 0x03;
    pub const MIGRATION: u8 = 0x04;
    pub const HEALTH: u8 = 0x05;
    pub const METRICS: u8 = 0x06;
    pub const CONFIG: u8 = 0x07;
    pub const SNAPSHOT: u8 = 0x08;
    pub const OK: u8 = 0x10;
    pub const ERROR: u8 = 0x11;
    pub const ITEM: u8 = 0x12;
    pub const END: u8 = 0x13;
    pub const CANCEL: u8 = 0x14;
    pub const CREDIT: u8 = 0x15;
    pub const PING: u8 = 0x16;
    pub const PONG: u8 = 0x17;
    pub const GOAWAY: u8 = 0x18;
    pub const DATA: u8 = 0x19;
}

/// An answer that takes longer is a failure, and no endless run.
const PATIENCE: Duration = Duration::from_secs(20);

/// A frame that came.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub id: String,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn json(&self) -> Value {
        let value = serde_json::from_slice(&self.payload);
        value.unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Whether it says no: an error, or AUTH that failed.
    pub fn is_refusal(&self) -> bool {
        let refused_auth = serde_json::from_slice::<Value>(&self.payload)
            .is_ok_and(|value| value.get("success") == Some(&Value::Bool(false)));
        refused_auth || self.error().is_some()
    }

    /// The code of the error that it is, in either profile.
    pub fn error(&self) -> Option<u32> {
        if let Some(text) = self.text().strip_prefix("DWCP error 0x") {
            return u32::from_str_radix(&text[..4], 16).ok();
        }
        let value = serde_json::from_slice::<Value>(&self.payload).ok()?;
        let code = value.get("code").and_then(Value::as_u64)?;
        u32::try_from(code).ok()
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, id: &str, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + id.len() + payload.len()).unwrap();
    let id_length = u16::try_from(id.len()).unwrap();
    let payload_length = u32::try_from(payload.len()).unwrap();
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend([3, kind]);
    bytes.extend(1_700_000_000_u64.to_be_bytes());
    bytes.extend(id_length.to_be_bytes());
    bytes.extend(id.as_bytes());
    bytes.extend(payload_length.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The same, whose payload is JSON.
pub fn request(kind: u8, id: &str, payload: &Value) -> Vec<u8> {
    frame(kind, id, payload.to_string().as_bytes())
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By the peer's half-close.
    Closed,
    /// By a reset.
    Reset,
}

/// A connection.
#[derive(Debug)]
pub struct Raw {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    ids: u32,
}

impl Raw {
    /// Connects, and says nothing.
    pub fn connect(address: &str) -> Raw {
        Raw::over(TcpStream::connect(address).unwrap())
    }

    /// Speaks over a connection that there is.
    pub fn over(stream: TcpStream) -> Raw {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Raw {
            stream,
            buffer: Vec::new(),
            ids: 0,
        }
    }

    /// Connects and is let in, in the base profile.
    pub fn base(address: &str, key: Option<&str>) -> Raw {
        let mut raw = Raw::connect(address);
        if let Some(key) = key {
            let reply = raw.call(kind::AUTH, &json!({"api_key": key, "version": 3}));
            assert_eq!(reply.json()["success"], true, "{reply:?}");
        }
        raw
    }

    /// The same in the extended profile.
    pub fn extended(address: &str, key: Option<&str>) -> Raw {
        let mut raw = Raw::connect(address);
        let reply = raw.call(kind::AUTH, &extended_auth(key));
        assert_eq!(reply.json()["success"], true, "{reply:?}");
        assert_eq!(reply.json()["features"], json!(["x3.1"]), "{reply:?}");
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends what the peer may refuse to take.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a request under a new id, which it gives back.
    pub fn ask(&mut self, kind: u8, payload: &Value) -> String {
        self.ids += 1;
        let id = format!("r{}", self.ids);
        self.send(&request(kind, &id, payload));
        id
    }

    /// Sends a request and takes the next frame, which has to be its answer.
    pub fn call(&mut self, kind: u8, payload: &Value) -> Frame {
        let id = self.ask(kind, payload);
        let frame = self.next();
        assert_eq!(frame.id, id, "{frame:?} does not answer {payload}");
        frame
    }

    /// The next frame, which has to come.
    pub fn next(&mut self) -> Frame {
        match self.next_or_end() {
            Ok(frame) => frame,
            Err(end) => panic!("the connection ended: {end:?}"),
        }
    }

    /// The next frame that is no PING.
    pub fn next_or_end(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.buffered() {
                if frame.kind == kind::PING {
                    continue;
                }
                return Ok(frame);
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    assert!(self.buffer.is_empty(), "it ended within a frame");
                    return Err(End::Closed);
                }
                Ok(read) => self.buffer.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(End::Reset),
                Err(error) => panic!("reading: {error}"),
            }
        }
    }

    fn buffered(&mut self) -> Option<Frame> {
        let length = u32::from_be_bytes(*self.buffer.first_chunk::<4>()?) as usize;
        if self.buffer.len() < 4 + length {
            return None;
        }
        let body: Vec<u8> = self.buffer.drain(..4 + length).skip(4).collect();
        assert_eq!(body[0], 3, "the version");
        let id_length = usize::from(u16::from_be_bytes([body[10], body[11]]));
        let (id, rest) = body[12..].split_at(id_length);
        let (payload_length, payload) = rest.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*payload_length) as usize, payload.len());
        Some(Frame {
            kind: body[1],
            id: String::from_utf8(id.to_vec()).unwrap(),
            payload: payload.to_vec(),
        })
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// All frames until the end, which has to be a clean one.
    pub fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.next_or_end() {
                Ok(frame) => frames.push(frame),
                Err(end) => {
                    assert_eq!(end, End::Closed, "after {frames:?}");
                    return frames;
                }
            }
        }
    }
}

/// AUTH of the extended profile.
pub fn extended_auth(key: Option<&str>) -> Value {
    json!({
        "api_key": key, "version": 3, "features": ["x3.1"], "encoding": "json",
        "client": {"name": "raw", "version": "0"},
    })
}

//! The control connection of a hand-over, and the first words on a bulk channel.
//!
//! Messages travel in frames of the wire protocol. A driver owns the sending side; the receiving side
//! belongs to a thread that turns what arrives into the driver's inputs.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::clock::{PeerClock, Stamp};
use super::patience::{Attentive, Patience, Speaker};
use super::probe::Probe;
use super::protocol::message::Message;
use super::whereabouts::Question;
use crate::error::{DWCPError, Result};
use crate::machine::{Work, spawn, work_as};
use crate::transport::{self, Address, Blocking, ClientTls};
use crate::wire::frame::{Frame, FrameType};
use crate::wire::message::decode_error;

/// Longest control message: an offer carries a VM's config with all its annotations.
pub(crate) const FRAME_MAX: usize = 2 << 20;

/// A message, and what the drivers tell each other beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// The UUID of the sender's store.
    pub(crate) from: String,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stamp: Option<Stamp>,
    /// Microseconds that the destination's steps of the switch took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timing: Option<Timing>,
    #[serde(flatten)]
    pub(crate) message: Message,
}

/// What the destination's part of the downtime went into, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Timing {
    pub(crate) load_us: u64,
    pub(crate) commit_us: u64,
    pub(crate) resume_us: u64,
    /// When all vCPUs ran, by the destination's clock.
    pub(crate) ran_at: Option<u64>,
}

/// The first frame on a bulk channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attach {
    pub(crate) operation: AttachOperation,
    pub(crate) migration_id: String,
    pub(crate) token: String,
    pub(crate) channel: u32,
}

/// The answer to an attach, where it is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Attached {
    /// Pages may also come after the switch.
    pub(crate) post_copy: bool,
}

/// Tells an attach from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AttachOperation {
    Attach,
}

/// What a connection from a peer begins with.
#[derive(Debug)]
pub(crate) enum Greeting {
    /// A hand-over's control connection.
    Control(Box<Envelope>),
    /// A bulk channel.
    Bulk(Attach),
    /// A question about VMs, and nothing after it.
    Whereabouts(Question),
    /// A question about a migration that nobody has begun.
    Probe(Box<Probe>),
}

impl Greeting {
    /// # Errors
    ///
    /// `invalid_message` when it is none of them; those of a question that asks too much.
    pub(crate) fn parse(frame: &Frame) -> Result<Self> {
        let refused = |why: &dyn std::fmt::Display| {
            DWCPError::Protocol(format!("the peer's first frame: {why}"))
        };
        if frame.frame_type != FrameType::Migration {
            return Err(DWCPError::Unsupported(format!(
                "frames of type {:?}: this version serves only migrations over the network",
                frame.frame_type
            )));
        }
        if let Ok(attach) = serde_json::from_slice(&frame.payload) {
            return Ok(Self::Bulk(attach));
        }
        if let Ok(question) = serde_json::from_slice::<Question>(&frame.payload) {
            return question.check().map(Self::Whereabouts);
        }
        if let Ok(probe) = serde_json::from_slice(&frame.payload) {
            return Ok(Self::Probe(Box::new(probe)));
        }
        match serde_json::from_slice(&frame.payload) {
            Ok(envelope) => Ok(Self::Control(Box::new(envelope))),
            Err(error) => Err(refused(&error)),
        }
    }
}

/// How a peer is reached.
#[derive(Clone)]
pub(crate) struct Dial {
    pub(crate) address: Address,
    /// `None`: nothing is encrypted.
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// The key with which this node authenticates, where the peer asks for one.
    pub(crate) credential: Option<String>,
    /// How long it may be silent.
    pub(crate) patience: Patience,
}

/// Credentials do not belong into logs.
impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial")
            .field("address", &self.address)
            .field("tls", &self.tls)
            .field("credential", &self.credential.as_ref().map(|_| "…"))
            .field("patience", &self.patience)
            .finish()
    }
}

/// A peer that asks for nothing, such as one on the same host.
impl From<SocketAddr> for Dial {
    fn from(address: SocketAddr) -> Self {
        Self {
            address: address.into(),
            tls: None,
            credential: None,
            patience: Patience::default(),
        }
    }
}

/// Connects to a peer, and authenticates where there is a credential.
///
/// # Errors
///
/// As [`Blocking::connect`]; `auth` when the peer does not accept the credential.
pub(crate) fn connect(dial: &Dial) -> Result<Blocking> {
    let limit = dial.patience.silence();
    let mut stream = Blocking::connect(&dial.address, dial.tls.as_deref(), limit)?;
    if let Some(credential) = &dial.credential {
        authenticate(&mut stream, credential, dial.patience)
            .map_err(|e| of_peer(&dial.address, e))?;
    }
    Ok(stream)
}

fn of_peer(address: &Address, error: DWCPError) -> DWCPError {
    match error {
        DWCPError::Authentication(text) => {
            DWCPError::Authentication(format!("the peer {address} refused this node: {text}"))
        }
        other => other,
    }
}

/// The first exchange of the extended profile: nothing else is sent before its answer.
fn authenticate(stream: &mut Blocking, credential: &str, patience: Patience) -> Result<()> {
    let request = serde_json::json!({
        "api_key": credential,
        "version": 3,
        "features": ["x3.1"],
        "client": { "name": "dwcp-node", "version": env!("CARGO_PKG_VERSION") },
        "encoding": "json",
    });
    write(stream, FrameType::Auth, "1", serde_json::to_vec(&request)?)?;
    stream.set_read_timeout(Some(patience.silence()))?;
    let answer = read_frame(stream)?;
    stream.set_read_timeout(None)?;
    let Some(frame) = answer else {
        return Err(DWCPError::Connection(
            "the peer closed the connection in place of an answer to AUTH".into(),
        ));
    };
    /// What of the answer counts, of either kind.
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        success: bool,
        #[serde(default)]
        message: String,
    }
    let answer: Answer = serde_json::from_slice(&frame.payload)
        .map_err(|e| DWCPError::Protocol(format!("the peer's answer to AUTH: {e}")))?;
    match frame.frame_type {
        FrameType::Vm | FrameType::Ok if answer.success => Ok(()),
        FrameType::Vm | FrameType::Ok | FrameType::Error => {
            Err(DWCPError::Authentication(answer.message))
        }
        other => Err(DWCPError::Protocol(format!(
            "the peer answered AUTH with a frame of type {other:?}"
        ))),
    }
}

/// Buffers of a bulk channel within one host. Who sends and who receives share processors with the guest:
/// with small buffers they take short turns of their own accord, where the kernel would give each a tick
/// or two. What is in the buffers also stays in the processor's cache. Between hosts the kernel sizes
/// them by what is under way.
const LOCAL_BUFFER: usize = 512 << 10;

/// Prepares a bulk channel's socket. That it does not wait for more bytes was set where it was made.
pub(super) fn tune(stream: &Blocking) -> Result<()> {
    if stream.is_local() {
        let socket = socket2::SockRef::from(stream);
        socket.set_send_buffer_size(LOCAL_BUFFER)?;
        socket.set_recv_buffer_size(LOCAL_BUFFER)?;
    }
    Ok(())
}

/// Opens bulk channel number `channel`.
///
/// # Errors
///
/// `migration` where the target was reached and does not want it; else as [`connect`].
pub(super) fn attach(
    dial: &Dial,
    session: &str,
    token: &str,
    channel: u32,
) -> Result<(Blocking, Attached)> {
    let mut stream = connect(dial)?;
    tune(&stream)?;
    let request = Attach {
        operation: AttachOperation::Attach,
        migration_id: session.to_owned(),
        token: token.to_owned(),
        channel,
    };
    write_frame(
        &mut stream,
        FrameType::Migration,
        serde_json::to_vec(&request)?,
    )?;
    stream.set_read_timeout(Some(dial.patience.silence()))?;
    let answer = read_frame(&mut stream)?;
    // A channel that stands still while its control connection does not has lost something.
    stream.set_read_timeout(Some(dial.patience.work()))?;
    stream.set_write_timeout(Some(dial.patience.work()))?;
    match answer {
        Some(frame) if frame.frame_type == FrameType::Ok => {
            Ok((stream, serde_json::from_slice(&frame.payload)?))
        }
        Some(frame) => Err(DWCPError::Migration(format!(
            "the target refused a bulk channel: {}",
            String::from_utf8_lossy(&frame.payload)
        ))),
        None => Err(DWCPError::Connection(
            "the target closed a bulk channel".into(),
        )),
    }
}

/// Writes a frame.
pub(crate) fn write_frame(
    stream: &mut impl Write,
    frame_type: FrameType,
    payload: Vec<u8>,
) -> Result<()> {
    write(stream, frame_type, "", payload)
}

fn write(stream: &mut impl Write, frame_type: FrameType, id: &str, payload: Vec<u8>) -> Result<()> {
    let frame = Frame {
        frame_type,
        timestamp: u64::try_from(crate::model::Timestamp::now().as_unix_micros() / 1000)
            .unwrap_or(0),
        id: id.to_owned(),
        payload,
    };
    let bytes = frame.encode(FRAME_MAX)?;
    stream
        .write_all(&bytes)
        .map_err(|e| transport::lost("sending", &e))
}

/// Reads a frame; `None` when the peer closed the connection between two.
pub(super) fn read_frame(stream: &mut impl Read) -> Result<Option<Frame>> {
    let lost = |e: io::Error| transport::lost("receiving", &e);
    let mut prefix = [0; 4];
    match stream.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(lost(e)),
    }
    if transport::is_tls_record(&prefix) {
        return Err(DWCPError::Protocol(
            "the peer speaks TLS on this port, and this connection is made without".into(),
        ));
    }
    let length = Frame::length(prefix, FRAME_MAX)?;
    let mut body = Vec::new();
    let read = stream
        .take(length as u64)
        .read_to_end(&mut body)
        .map_err(lost)?;
    if read < length {
        return Err(lost(io::ErrorKind::UnexpectedEof.into()));
    }
    Frame::decode(&body).map(Some)
}

/// What came over a control connection.
enum Heard {
    Message(Box<Envelope>),
    /// Only that the peer is there.
    Sign,
    End,
}

/// The next message on a connection that no thread listens to, if one comes within `patience`; `None`
/// when the peer closed it. That the peer is there is answered, and is no message.
pub(super) fn next_message(stream: &mut Blocking, patience: Duration) -> Result<Option<Envelope>> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let Some(frame) = read_frame(stream)? else {
            return Ok(None);
        };
        match frame.frame_type {
            FrameType::Migration => return Ok(Some(serde_json::from_slice(&frame.payload)?)),
            // A peer that only says so is not waited for for ever.
            FrameType::Ping | FrameType::Pong if left.is_zero() => {
                return Err(DWCPError::Timeout(format!(
                    "the peer said nothing about the migration for {patience:?}"
                )));
            }
            FrameType::Ping => write_frame(stream, FrameType::Pong, Vec::new())?,
            FrameType::Pong => {}
            _ => {
                return Err(DWCPError::Migration(format!(
                    "the peer refused to talk about it: {}",
                    String::from_utf8_lossy(&frame.payload)
                )));
            }
        }
    }
}

/// The sending side of a control connection. Dropping it ends the receiving side as well.
#[derive(Debug)]
pub(super) struct Link {
    /// For ending it under a write that waits.
    stream: Blocking,
    speaker: Arc<Mutex<Speaker>>,
    uuid: String,
    clock: Arc<Mutex<PeerClock>>,
    refusal: Refusal,
    met: Arc<AtomicBool>,
}

/// The error with which the peer's node answered in place of a hand-over's other side.
type Refusal = Arc<Mutex<Option<DWCPError>>>;

impl Link {
    /// Takes over a connection: `arrived` is called, from a thread of its own, with each message, and
    /// once with `None` when the connection ends, or when the peer is silent for too long.
    pub(super) fn start(
        incoming: Blocking,
        uuid: &str,
        patience: Patience,
        mut arrived: impl FnMut(Option<Envelope>) + Send + 'static,
    ) -> Result<Self> {
        let stream = incoming.try_clone()?;
        let speaker = Arc::new(Mutex::new(Speaker {
            stream: incoming.try_clone()?,
            begun: false,
        }));
        let mut incoming = Attentive::new(incoming, Arc::clone(&speaker), patience)?;
        let clock = Arc::new(Mutex::new(PeerClock::new(Instant::now())));
        let listening = Arc::clone(&clock);
        let refusal = Refusal::default();
        let refused = Arc::clone(&refusal);
        let met = Arc::new(AtomicBool::new(false));
        let meets = Arc::clone(&met);
        spawn("dwcp-control", move || {
            work_as(Work::Control);
            loop {
                let next = read_frame(&mut incoming).and_then(|frame| {
                    let now = Instant::now();
                    let Some(frame) = frame else {
                        return Ok(Heard::End);
                    };
                    meets.store(true, Ordering::SeqCst);
                    match frame.frame_type {
                        FrameType::Ping => return incoming.answer().map(|()| Heard::Sign),
                        FrameType::Pong => return Ok(Heard::Sign),
                        FrameType::Error => {
                            let error = decode_error(&frame.payload);
                            *lock(&refused) = Some(error.clone());
                            return Err(error);
                        }
                        _ => {}
                    }
                    let envelope: Envelope = serde_json::from_slice(&frame.payload)?;
                    if let Some(stamp) = envelope.stamp {
                        lock(&listening).heard(stamp, now);
                    }
                    Ok(Heard::Message(Box::new(envelope)))
                });
                match next {
                    Ok(Heard::Message(envelope)) => arrived(Some(*envelope)),
                    Ok(Heard::Sign) => {}
                    Ok(Heard::End) => break,
                    Err(error) => {
                        tracing::debug!(%error, "a control connection ended");
                        break;
                    }
                }
            }
            let _ = incoming.shutdown();
            arrived(None);
        })?;
        Ok(Self {
            stream,
            speaker,
            uuid: uuid.to_owned(),
            clock,
            refusal,
            met,
        })
    }

    #[cfg(test)]
    pub(super) fn speaker(&self) -> &Arc<Mutex<Speaker>> {
        &self.speaker
    }

    /// Whether anything was heard of the peer over it. That it could be opened says nothing: the kernel of a peer
    /// that stands still accepts connections.
    pub(super) fn is_met(&self) -> bool {
        self.met.load(Ordering::SeqCst)
    }

    /// Why the peer's node refused the connection, if it did.
    pub(super) fn refusal(&self) -> Option<DWCPError> {
        lock(&self.refusal).clone()
    }

    /// A moment, as the peer is told it.
    pub(super) fn tell(&self, moment: Instant) -> u64 {
        lock(&self.clock).at(moment)
    }

    /// The moment that the peer told, if its clock is known.
    pub(super) fn moment(&self, told: u64) -> Option<Instant> {
        lock(&self.clock).moment(told)
    }

    pub(super) fn send(&mut self, message: Message, timing: Option<Timing>) -> Result<()> {
        let envelope = Envelope {
            from: self.uuid.clone(),
            stamp: Some(lock(&self.clock).stamp(Instant::now())),
            timing,
            message,
        };
        let payload = serde_json::to_vec(&envelope)?;
        let mut speaker = lock(&self.speaker);
        speaker.begun = true;
        write_frame(&mut speaker.stream, FrameType::Migration, payload)
    }
}

fn lock<T>(of_both: &Mutex<T>) -> MutexGuard<'_, T> {
    of_both.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Link {
    fn drop(&mut self) {
        // Ends the receiving thread; it fails only when the peer was faster.
        let _ = self.stream.shutdown();
    }
}

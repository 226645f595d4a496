//! The client's side of a connection: AUTH first, then calls and streams under ids of its own.
//!
//! Ids are decimal numbers, as short as they are; 0 is AUTH's. An id is live until its terminal frame,
//! also when it was cancelled: the node says what became of it. `receive` reads what the node sends.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::keep_alive::{Due, KeepAlive};
use super::output::Output;
use crate::action::{Action, Item, Outcome, Role, Subscription};
use crate::error::{DWCPError, Result};
use crate::wire::frame::{FrameReader, FrameType};
use crate::wire::message::{
    AuthReply, AuthRequest, ClientName, EXTENDED, ItemKind, Profile, Reply, Request, VERSION,
    encode_credit,
};

mod base;
mod receive;
mod stream;

use stream::Stream;

/// Bytes waiting to be sent beyond which nothing is read.
const OUTBOUND_MAX: usize = 8 << 20;
/// The id of AUTH.
const AUTH_ID: u64 = 0;

/// How a client wants to be served.
#[derive(Clone)]
pub(crate) struct ClientSessionConfig {
    pub(crate) api_key: Option<String>,
    /// A node only: the role of whom it asks for.
    pub(crate) on_behalf: Option<Role>,
    /// For the node's logs.
    pub(crate) client_name: String,
    pub(crate) client_version: String,
    /// Silence after which the node is asked whether it is there; `None` for never.
    pub(crate) keep_alive: Option<Duration>,
    /// Largest frame in either direction; the node may allow less.
    pub(crate) max_frame: usize,
    /// Items of a stream that may be on their way.
    pub(crate) stream_credit: u32,
    /// Whether a node that does not grant the extended profile will do. Calls only, then.
    pub(crate) accept_base: bool,
}

/// Nobody's key gets into a log.
impl std::fmt::Debug for ClientSessionConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSessionConfig")
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("client_name", &self.client_name)
            .field("client_version", &self.client_version)
            .field("keep_alive", &self.keep_alive)
            .field("max_frame", &self.max_frame)
            .field("stream_credit", &self.stream_credit)
            .field("accept_base", &self.accept_base)
            .finish()
    }
}

/// What the driver is to know.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientEvent {
    /// AUTH succeeded: calls may be made.
    Ready(AuthReply),
    /// AUTH failed. The last event.
    Refused(DWCPError),
    /// The terminal answer of a call, or why a stream was not opened.
    Reply {
        id: u64,
        result: Result<Outcome>,
    },
    /// A stream is open.
    Opened {
        id: u64,
    },
    Item {
        id: u64,
        item: Item,
    },
    /// An open stream ended.
    Ended {
        id: u64,
        error: Option<DWCPError>,
    },
    /// The node serves nothing new. What is in flight is answered.
    GoAway {
        why: String,
    },
    /// The last event: the connection is of no use any more. What is in flight has no answer.
    Close {
        reason: DWCPError,
    },
}

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// AUTH was sent.
    Authenticating,
    Ready,
    /// The node goes away.
    Leaving,
    Closed,
}

/// What an id stands for until its terminal frame.
#[derive(Debug)]
enum Pending {
    Call(Reply),
    Stream(Stream),
}

/// One connection, as a client sees it. How it is driven is said in the [module](super).
#[derive(Debug)]
pub(crate) struct ClientSession {
    config: ClientSessionConfig,
    profile: Profile,
    phase: Phase,
    reader: FrameReader,
    out: Output,
    events: VecDeque<ClientEvent>,
    pending: HashMap<u64, Pending>,
    streams: u32,
    next_id: u64,
    /// What the node allows; no limit until it says.
    max_inflight: u32,
    max_streams: u32,
    now: Instant,
    keep_alive: Option<KeepAlive>,
}

impl ClientSession {
    /// A session that has AUTH to send.
    pub(crate) fn new(config: ClientSessionConfig, now: Instant) -> Self {
        let mut session = Self {
            profile: Profile::Extended,
            phase: Phase::Authenticating,
            reader: FrameReader::new(config.max_frame),
            out: Output::new(config.max_frame, OUTBOUND_MAX),
            events: VecDeque::new(),
            pending: HashMap::new(),
            streams: 0,
            next_id: AUTH_ID,
            max_inflight: u32::MAX,
            max_streams: u32::MAX,
            now,
            keep_alive: None,
            config,
        };
        let auth = Request::Auth(AuthRequest {
            api_key: session.config.api_key.clone(),
            version: VERSION,
            features: vec![EXTENDED.to_owned()],
            client: Some(ClientName {
                name: session.config.client_name.clone(),
                version: session.config.client_version.clone(),
            }),
            on_behalf: session.config.on_behalf,
            encoding: Some("json".to_owned()),
        });
        if let Err(error) = session.send(&auth) {
            session.phase = Phase::Closed;
            session.events.push_back(ClientEvent::Refused(error));
        }
        session
    }

    /// Takes what arrived.
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.now = now;
        if self.phase == Phase::Closed {
            return;
        }
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.heard(now);
        }
        let mut reader = mem::take(&mut self.reader);
        let result = reader.feed(bytes, |frame| {
            self.frame(frame);
            if self.phase == Phase::Closed {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if self.phase == Phase::Closed {
            return;
        }
        self.reader = reader;
        if let Err(refused) = result {
            self.close(refused.error);
        }
    }

    /// The node will send no more.
    pub(crate) fn receive_end(&mut self, now: Instant) {
        self.now = now;
        if self.phase == Phase::Closed {
            return;
        }
        let text = match self.phase {
            Phase::Authenticating => "the node closed the connection before it answered AUTH",
            _ if self.reader.buffered() > 0 => "the node closed the connection within a frame",
            _ => "the node closed the connection",
        };
        self.close(DWCPError::Connection(text.into()));
    }

    /// The next event; `None` until something else happens.
    pub(crate) fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Bytes to send. The driver takes from the front what it has sent.
    pub(crate) fn transmit(&mut self) -> &mut BytesMut {
        self.out.bytes()
    }

    /// Whether to read from the connection: not while too much waits to be sent.
    pub(crate) fn wants_input(&self) -> bool {
        self.phase != Phase::Closed && !self.out.is_full()
    }

    /// When to call [`ClientSession::handle_timeout`].
    pub(crate) fn timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Closed {
            return None;
        }
        self.keep_alive.as_ref().map(KeepAlive::timeout)
    }

    /// Does what is due at this time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.phase == Phase::Closed {
            return;
        }
        let due = self.keep_alive.as_mut().map(|alive| alive.elapsed(now));
        match due {
            None | Some(Due::Nothing) => {}
            Some(Due::Ping) => self.out.small(FrameType::Ping, "", b""),
            Some(Due::Lost) => self.close(DWCPError::Connection(
                "the node does not answer any more".into(),
            )),
        }
    }

    /// Whether calls may be made.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Calls and streams that have no terminal answer yet.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Asks the node; the id under which [`ClientEvent::Reply`] comes.
    ///
    /// # Errors
    ///
    /// `Connection` before [`ClientEvent::Ready`] and after the last event, `unavailable` when the node
    /// goes away, `resource_limit` when as many calls are in flight as it allows, or for more than a
    /// frame. Nothing was sent.
    pub(crate) fn call(&mut self, action: &Action, deadline: Option<Duration>) -> Result<u64> {
        self.may_ask()?;
        let calls = self.pending.len() - self.streams as usize;
        if calls >= self.max_inflight as usize {
            return Err(DWCPError::ResourceLimit(format!(
                "max_inflight: {calls} calls are in flight on this connection"
            )));
        }
        let request = Request::Call {
            action: action.clone(),
            deadline,
        };
        let id = self.send(&request)?;
        self.pending.insert(id, Pending::Call(Reply::of(action)));
        Ok(id)
    }

    /// Asks for a stream; the id of its events.
    ///
    /// # Errors
    ///
    /// As [`ClientSession::call`], and `unsupported` by a node of the base profile.
    pub(crate) fn subscribe(&mut self, subscription: &Subscription) -> Result<u64> {
        self.may_ask()?;
        if self.profile == Profile::Base {
            return Err(DWCPError::Unsupported(
                "streams: the node speaks the base profile only".into(),
            ));
        }
        if self.streams >= self.max_streams {
            return Err(DWCPError::ResourceLimit(format!(
                "max_streams: {} streams are open on this connection",
                self.streams
            )));
        }
        let request = Request::Subscribe {
            subscription: subscription.clone(),
            credit: self.config.stream_credit,
            deadline: None,
        };
        let id = self.send(&request)?;
        let stream = Stream::new(ItemKind::of(subscription), self.config.stream_credit);
        self.pending.insert(id, Pending::Stream(stream));
        self.streams += 1;
        Ok(id)
    }

    /// The user took items of a stream: the node may send as many again, which it learns when they are
    /// half of the window.
    pub(crate) fn consumed(&mut self, id: u64, items: u32) {
        if let Some(Pending::Stream(stream)) = self.pending.get_mut(&id)
            && let Some(grant) = stream.consume(items)
        {
            self.out.small(
                FrameType::Credit,
                text(id).as_str(),
                &encode_credit(grant, 0),
            );
        }
    }

    /// Tells the node that nobody waits any more. The terminal answer comes all the same; items do not.
    pub(crate) fn cancel(&mut self, id: u64) {
        if self.profile == Profile::Base {
            return;
        }
        let wanted = match self.pending.get_mut(&id) {
            Some(Pending::Stream(stream)) => stream.cancel(),
            Some(Pending::Call(_)) => true,
            None => false,
        };
        if wanted {
            self.out.small(FrameType::Cancel, text(id).as_str(), b"");
        }
    }

    /// Types on an open console stream. Bytes for which there is no window yet wait here, up to the
    /// size of one.
    ///
    /// # Errors
    ///
    /// `resource_limit` when more would wait, and nothing was taken then (see
    /// [`ClientSession::data_room`]); `not_found` for what is no open stream.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn data(&mut self, id: u64, bytes: &[u8]) -> Result<()> {
        let Some(Pending::Stream(stream)) = self.pending.get_mut(&id) else {
            return Err(DWCPError::NotFound("the stream has ended".into()));
        };
        stream.write(bytes)?;
        stream.flush(text(id).as_str(), &mut self.out);
        Ok(())
    }

    /// Bytes that [`ClientSession::data`] would take now.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn data_room(&self, id: u64) -> usize {
        match self.pending.get(&id) {
            Some(Pending::Stream(stream)) => stream.room(),
            _ => 0,
        }
    }

    fn may_ask(&self) -> Result<()> {
        match self.phase {
            Phase::Ready => Ok(()),
            Phase::Authenticating => Err(DWCPError::Connection("AUTH is not answered yet".into())),
            Phase::Leaving => Err(DWCPError::Unavailable("the node goes away".into())),
            Phase::Closed => Err(DWCPError::Connection("the connection is closed".into())),
        }
    }

    /// Queues a request under the next id.
    fn send(&mut self, request: &Request) -> Result<u64> {
        let id = self.next_id;
        let (frame_type, payload) = request.encode()?;
        self.out.frame(frame_type, 0, text(id).as_str(), &payload)?;
        self.next_id += 1;
        Ok(id)
    }

    fn close(&mut self, reason: DWCPError) {
        self.shut();
        self.events.push_back(ClientEvent::Close { reason });
    }

    fn shut(&mut self) {
        self.phase = Phase::Closed;
        self.pending = HashMap::new();
        self.streams = 0;
        self.reader = FrameReader::default();
    }
}

/// An id in decimal, without an allocation.
fn text(id: u64) -> Text {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = id;
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            return Text { digits, start };
        }
    }
}

/// A decimal number.
struct Text {
    digits: [u8; 20],
    start: usize,
}

impl Text {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits[self.start..]).unwrap_or("")
    }
}

/// The id that a node wrote; `None` for what no id of ours is.
fn number(id: &str) -> Option<u64> {
    let number: u64 = id.parse().ok()?;
    (text(number).as_str() == id).then_some(number)
}

//! The node's side of a connection.
//!
//! ```text
//!              AUTH                    accept
//! First ───────────────► Answering ─────────────► Serving ◄────────► Peer
//!   │ (no AUTH required)    │ refuse                 ▲      a node-to-node frame;
//!   └───────────────────────┼────────────────────────┘      `reply`, or `into_rest`
//!                           ▼
//!                         Closed ◄── half-close and all answered, violation, silence
//! ```
//!
//! `receive` reads frames and makes events of them, `answer` writes what the application says.

use std::collections::VecDeque;
use std::mem;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::keep_alive::{Due, KeepAlive};
use super::limit::Limit;
use super::live::Live;
use super::output::Output;
use super::{FRAME_TIMEOUT, Id, REQUEST_BYTES_MAX, STALL_TIMEOUT, UNKNOWN_PEER_FRAME_MAX, earlier};
use crate::action::{Action, Role, Subscription};
use crate::error::DWCPError;
use crate::wire::frame::{Frame, FrameReader, FrameType, LENGTH_MAX};
use crate::wire::message::{AuthRequest, NodeName, Profile};

mod answer;
mod receive;

/// What a node allows on a connection.
#[derive(Clone, Debug)]
pub(crate) struct ServerConfig {
    /// Largest frame in either direction, as its length field says it.
    pub(crate) max_frame: usize,
    /// Whether nothing is served before AUTH.
    pub(crate) auth_required: bool,
    /// Most calls that are being answered.
    pub(crate) max_inflight: u32,
    /// Most open streams.
    pub(crate) max_streams: u32,
    /// Bytes waiting to be sent beyond which nothing is read.
    pub(crate) outbound_max: usize,
    /// Silence after which a peer of the extended profile is asked whether it is there.
    pub(crate) keep_alive: Duration,
    /// Time for AUTH to arrive where it is required, and for any frame until then.
    pub(crate) auth_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_frame: LENGTH_MAX,
            auth_required: true,
            max_inflight: 1024,
            max_streams: 100,
            outbound_max: 8 << 20,
            keep_alive: Duration::from_secs(30),
            auth_timeout: Duration::from_secs(30),
        }
    }
}

/// What the application is to do.
#[derive(Debug, PartialEq)]
pub(crate) enum ServerEvent {
    /// Who the peer says it is. Answered by [`ServerSession::accept`] or [`ServerSession::refuse`];
    /// nothing else is read before.
    Auth(AuthRequest),
    /// Answered by [`ServerSession::reply`].
    Call {
        id: Id,
        action: Action,
        deadline: Option<Duration>,
    },
    /// Answered by [`ServerSession::opened`] and later [`ServerSession::end`], or refused by
    /// [`ServerSession::reply`].
    Subscribe {
        id: Id,
        subscription: Subscription,
        deadline: Option<Duration>,
    },
    /// The peer wants no answer any more, or no more items. The answer is due all the same: the error
    /// `cancelled` if nothing happened. Once per id.
    Cancel { id: Id },
    /// An item may be sent on that stream again, after none could.
    Credit { id: Id },
    /// Typed on the open console stream `id`. [`ServerSession::data_taken`] makes room for more.
    Data { id: Id, bytes: Bytes },
    /// A node-to-node frame as it came, and the application checks the role. [`ServerSession::reply`]
    /// with the frame's id refuses it, or accepts it; then the connection is the hand-over's
    /// ([`ServerSession::into_rest`]). Nothing else is read before.
    Peer { frame: Frame },
    /// The last event: all is answered after the peer's half-close, or the session is over for this
    /// reason. What is in flight has no answer any more. Send what waits, half-close, drain, close.
    Close { reason: Option<DWCPError> },
}

/// What a peer is told when it is let in.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    /// Name of the session, for logs.
    pub(crate) session: String,
    pub(crate) node: NodeName,
    pub(crate) role: Role,
    /// For people.
    pub(crate) message: String,
}

/// Where the session stands.
#[derive(Debug)]
enum Phase {
    /// Nothing but AUTH is served.
    First,
    /// The application looks at AUTH.
    Answering {
        id: Id,
        timestamp: u64,
        extended: bool,
    },
    Serving,
    /// The application looks at a node-to-node frame.
    Peer,
    Closed,
}

/// One connection, as a node sees it. How it is driven is said in the [module](super).
#[derive(Debug)]
pub(crate) struct ServerSession {
    config: ServerConfig,
    profile: Profile,
    phase: Phase,
    /// AUTH came, whatever became of it.
    auth_seen: bool,
    reader: FrameReader,
    /// The reader has bytes that nobody looked at.
    unread: bool,
    out: Output,
    events: VecDeque<ServerEvent>,
    live: Live,
    /// Streams whose items were held back because too much waited to be sent.
    starved: Vec<Id>,
    /// Why nothing new is served.
    going_away: Option<String>,
    /// The peer's half-close came.
    ended: bool,
    /// The time as last told.
    now: Instant,
    /// For AUTH.
    auth_limit: Option<Instant>,
    /// For the rest of a frame.
    frame_limit: Limit,
    /// For a peer that has too much to read.
    stall_limit: Limit,
    /// What waited to be sent when last looked at.
    stalled_at: usize,
    keep_alive: KeepAlive,
}

impl ServerSession {
    pub(crate) fn new(config: ServerConfig, now: Instant) -> Self {
        let (phase, frame_max) = if config.auth_required {
            (Phase::First, config.max_frame.min(UNKNOWN_PEER_FRAME_MAX))
        } else {
            (Phase::Serving, config.max_frame)
        };
        Self {
            profile: Profile::Base,
            phase,
            auth_seen: false,
            reader: FrameReader::new(frame_max),
            unread: false,
            out: Output::new(config.max_frame, config.outbound_max),
            events: VecDeque::new(),
            live: Live::default(),
            starved: Vec::new(),
            going_away: None,
            ended: false,
            now,
            auth_limit: config.auth_required.then(|| now + config.auth_timeout),
            frame_limit: Limit::Off,
            stall_limit: Limit::Off,
            stalled_at: 0,
            keep_alive: KeepAlive::new(config.keep_alive, now),
            config,
        }
    }

    /// Takes what arrived.
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.now = now;
        if self.is_closed() {
            return;
        }
        self.keep_alive.heard(now);
        if self.reads() {
            self.read(bytes);
        } else {
            self.reader.keep(bytes);
            self.unread = self.reader.buffered() > 0;
        }
        self.settle();
        self.begin_limits();
    }

    /// The peer will send no more: what is in flight is answered, streams end.
    pub(crate) fn receive_end(&mut self, now: Instant) {
        self.now = now;
        self.ended = true;
        self.settle();
        self.begin_limits();
    }

    /// The next event; `None` until something else happens.
    pub(crate) fn poll_event(&mut self) -> Option<ServerEvent> {
        if self.events.is_empty() {
            self.resume();
        }
        self.events.pop_front()
    }

    /// Bytes to send. The driver takes from the front what it has sent.
    pub(crate) fn transmit(&mut self) -> &mut BytesMut {
        self.out.bytes()
    }

    /// Bytes that wait to be sent.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn outbound(&self) -> usize {
        self.out.len()
    }

    /// Whether to read from the connection: not while the peer has too much to read or to be answered,
    /// or while AUTH is being answered.
    pub(crate) fn wants_input(&self) -> bool {
        !self.ended && !self.unread && self.reads()
    }

    /// When to call [`ServerSession::handle_timeout`].
    pub(crate) fn timeout(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let limits = earlier(
            self.frame_limit.timeout(self.now),
            self.stall_limit.timeout(self.now),
        );
        let alive = self.asks_whether_alive().then(|| self.keep_alive.timeout());
        earlier(earlier(limits, alive), self.auth_limit)
    }

    /// Does what is due at this time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.is_closed() {
            return;
        }
        self.settle();
        if self.auth_limit.is_some_and(|limit| limit <= now) {
            // Its id is not known, and a frame without one would be one that nobody asked for.
            self.close(Some(DWCPError::Timeout("no AUTH in time".into())));
        } else if self.frame_limit.is_over(now) {
            let late = DWCPError::Timeout("the rest of a frame did not come in time".into());
            self.violation(None, late);
        } else if self.stall_limit.is_over(now) {
            let stalled = DWCPError::ResourceLimit(format!(
                "the peer does not read the {} bytes that it asked for",
                self.out.len()
            ));
            self.close(Some(stalled));
        } else if self.asks_whether_alive() {
            match self.keep_alive.elapsed(now) {
                Due::Nothing => {}
                Due::Ping => self.out.small(FrameType::Ping, "", b""),
                Due::Lost => {
                    let lost = DWCPError::Connection("the peer does not answer any more".into());
                    self.close(Some(lost));
                }
            }
        }
        self.begin_limits();
    }

    /// Whether a terminal frame is due for the id.
    pub(crate) fn is_live(&self, id: &Id) -> bool {
        self.live.contains(id)
    }

    /// Whether nothing is being answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.live.is_empty() && !matches!(self.phase, Phase::Answering { .. } | Phase::Peer)
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    /// For a connection that becomes a hand-over's: bytes that arrived behind the last frame. What
    /// waits in [`ServerSession::transmit`] is to be sent before.
    pub(crate) fn into_rest(self) -> Bytes {
        self.reader.into_rest()
    }

    fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether the next frame may be looked at.
    fn reads(&self) -> bool {
        matches!(self.phase, Phase::First | Phase::Serving)
            && !self.out.is_full()
            && self.live.request_bytes < REQUEST_BYTES_MAX
            // Deployed clients do not see errors everywhere: theirs wait instead of being refused.
            && (self.profile == Profile::Extended || self.live.calls < self.config.max_inflight)
    }

    /// A peer of the base profile may be silent, and is sent nothing that it did not ask for. One that
    /// waits for the application is not expected to speak.
    fn asks_whether_alive(&self) -> bool {
        self.profile == Profile::Extended && matches!(self.phase, Phase::Serving)
    }

    /// Looks at frames as long as that is allowed.
    fn read(&mut self, bytes: &[u8]) {
        let mut reader = mem::take(&mut self.reader);
        let (mut frames, mut paused) = (false, false);
        let result = reader.feed(bytes, |frame| {
            frames = true;
            self.frame(frame);
            paused = !self.reads();
            if paused {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if self.is_closed() {
            return;
        }
        self.reader = reader;
        self.unread = paused && self.reader.buffered() > 0;
        if frames {
            // What is incomplete now is another frame than before.
            self.frame_limit = Limit::Off;
        }
        if let Err(refused) = result {
            self.violation(refused.id.as_deref(), refused.error);
        }
    }

    /// Goes on with what was put off: frames that nobody looked at, streams that had no room.
    fn resume(&mut self) {
        if self.is_closed() {
            return;
        }
        if self.unread && self.reads() {
            self.read(&[]);
        }
        if !self.starved.is_empty() && !self.out.is_full() {
            for id in mem::take(&mut self.starved) {
                if let Some(stream) = self.live.stream_mut(&id) {
                    stream.starved = false;
                    if stream.credit > 0 {
                        self.events.push_back(ServerEvent::Credit { id });
                    }
                }
            }
        }
        self.settle();
    }

    /// Brings limits up to date, and ends the session when all is said.
    fn settle(&mut self) {
        if self.is_closed() {
            return;
        }
        let incomplete = self.reader.buffered() > 0 && self.reads() && !self.unread;
        self.frame_limit.set(incomplete);
        if self.out.len() < self.stalled_at && self.stall_limit != Limit::Off {
            // Whoever reads is there, although what it sends is not read meanwhile.
            self.stall_limit = Limit::Off;
            self.keep_alive.answered();
        }
        self.stall_limit.set(self.out.is_full());
        self.stalled_at = self.out.len();
        if self.ended && !self.unread {
            for id in self.live.cancel_streams() {
                self.events.push_back(ServerEvent::Cancel { id });
            }
            if self.is_idle() {
                let within = self.reader.buffered() > 0;
                self.close(within.then(|| {
                    DWCPError::Connection("the peer's half-close came within a frame".into())
                }));
            }
        }
    }

    fn begin_limits(&mut self) {
        let unknown = matches!(self.phase, Phase::First);
        let for_frame = if unknown {
            self.config.auth_timeout
        } else {
            FRAME_TIMEOUT
        };
        self.frame_limit.begin(self.now, for_frame);
        self.stall_limit.begin(self.now, STALL_TIMEOUT);
    }

    fn close(&mut self, reason: Option<DWCPError>) {
        self.phase = Phase::Closed;
        self.reader = FrameReader::default();
        self.unread = false;
        self.live = Live::default();
        self.starved = Vec::new();
        self.events.push_back(ServerEvent::Close { reason });
    }
}

//! Both sides on a link in memory, with a clock that is told; and a peer that is written out by hand.

use std::time::{Duration, Instant};

use bytes::Buf;
use proptest::prelude::*;

use super::*;
use crate::action::{Action, Item, Outcome, Role, Subscription};
use crate::error::DWCPError;
use crate::wire::frame::{Frame, FrameType};
use crate::wire::message::{NodeName, Profile};

mod base;
mod client;
mod limits;
mod server;

const FRAME_MAX: usize = 1 << 20;

fn config() -> ServerConfig {
    ServerConfig {
        max_frame: FRAME_MAX,
        max_inflight: 4,
        max_streams: 2,
        outbound_max: 64 << 10,
        ..ServerConfig::default()
    }
}

fn client_config() -> ClientSessionConfig {
    ClientSessionConfig {
        on_behalf: None,
        api_key: Some("key".into()),
        client_name: "test".into(),
        client_version: "3".into(),
        keep_alive: Some(Duration::from_secs(30)),
        max_frame: FRAME_MAX,
        stream_credit: 8,
        accept_base: false,
    }
}

fn accepted() -> Accepted {
    Accepted {
        session: "session-1".into(),
        node: NodeName {
            name: "node-01".into(),
            uuid: "0b6f".into(),
            version: "3.0.0".into(),
        },
        role: Role::Operator,
        message: "welcome".into(),
    }
}

fn get() -> Action {
    Action::Get {
        vm_id: "vm-1".into(),
    }
}

fn start() -> Action {
    Action::Start {
        vm_id: "vm-1".into(),
    }
}

fn console() -> Subscription {
    Subscription::Console {
        vm_id: "vm-1".into(),
        writer: None,
    }
}

fn printed(text: &str) -> Item {
    Item::Console(text.to_owned().into())
}

fn id(text: &str) -> Id {
    Id::from(text)
}

/// A client and a node. What is not looked at stays in the lists.
struct Pair {
    client: ClientSession,
    server: ServerSession,
    now: Instant,
    /// Most bytes that the link moves at once.
    piece: usize,
    client_events: Vec<ClientEvent>,
    server_events: Vec<ServerEvent>,
}

impl Pair {
    /// Nothing has been moved yet.
    fn new(client: ClientSessionConfig, server: ServerConfig) -> Self {
        let now = Instant::now();
        Self {
            client: ClientSession::new(client, now),
            server: ServerSession::new(server, now),
            now,
            piece: usize::MAX,
            client_events: Vec::new(),
            server_events: Vec::new(),
        }
    }

    /// The client is let in.
    fn connected() -> Self {
        let mut pair = Self::new(client_config(), config());
        pair.connect();
        pair
    }

    fn connect(&mut self) {
        self.drive();
        assert!(matches!(self.server_events[..], [ServerEvent::Auth(_)]));
        self.server.accept(accepted(), self.now);
        self.drive();
        assert!(matches!(self.client_events[..], [ClientEvent::Ready(_)]));
        assert!(self.client.is_ready());
        self.server_events.clear();
        self.client_events.clear();
    }

    /// Moves bytes until there are none, and collects events.
    fn drive(&mut self) {
        loop {
            self.server_events
                .extend(std::iter::from_fn(|| self.server.poll_event()));
            self.client_events
                .extend(std::iter::from_fn(|| self.client.poll_event()));
            let mut moved = false;
            let out = self.client.transmit();
            if !out.is_empty() && self.server.wants_input() {
                let bytes = out.split_to(out.len().min(self.piece));
                self.server.receive(&bytes, self.now);
                moved = true;
            }
            let out = self.server.transmit();
            if !out.is_empty() {
                let length = out.len().min(self.piece);
                self.client.receive(&out[..length], self.now);
                out.advance(length);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    /// Lets time pass, waking whoever wants to be woken.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = earlier(self.client.timeout(), self.server.timeout());
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if self.client.timeout().is_some_and(|at| at <= self.now) {
                self.client.handle_timeout(self.now);
            }
            if self.server.timeout().is_some_and(|at| at <= self.now) {
                self.server.handle_timeout(self.now);
            }
            self.drive();
        }
        self.now = end;
    }

    fn server_event(&mut self) -> ServerEvent {
        self.drive();
        assert!(!self.server_events.is_empty(), "no event");
        self.server_events.remove(0)
    }

    fn client_event(&mut self) -> ClientEvent {
        self.drive();
        assert!(!self.client_events.is_empty(), "no event");
        self.client_events.remove(0)
    }

    /// An open console stream, at the client and at the node.
    fn console(&mut self) -> (u64, Id) {
        let stream = self.client.subscribe(&console()).unwrap();
        let ServerEvent::Subscribe { id, .. } = self.server_event() else {
            panic!("not subscribed")
        };
        self.server.opened(&id);
        assert_eq!(self.client_event(), ClientEvent::Opened { id: stream });
        (stream, id)
    }
}

/// A node, and a peer whose every frame is written by the test.
struct Raw {
    server: ServerSession,
    now: Instant,
    received: Vec<u8>,
}

impl Raw {
    fn new(config: ServerConfig) -> Self {
        let now = Instant::now();
        Self {
            server: ServerSession::new(config, now),
            now,
            received: Vec::new(),
        }
    }

    /// A node that requires no AUTH.
    fn open() -> Self {
        Self::new(ServerConfig {
            auth_required: false,
            ..config()
        })
    }

    /// A peer of the extended profile.
    fn extended() -> Self {
        let mut raw = Self::new(config());
        raw.send(FrameType::Auth, "a", r#"{"version":3,"features":["x3.1"]}"#);
        assert!(matches!(raw.event(), Some(ServerEvent::Auth(_))));
        raw.server.accept(accepted(), raw.now);
        assert_eq!(raw.frames().len(), 1);
        assert_eq!(raw.server.profile(), Profile::Extended);
        raw
    }

    fn send(&mut self, frame_type: FrameType, id: &str, payload: &str) {
        self.send_bytes(&encoded(frame_type, id, payload.as_bytes()));
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.server.receive(bytes, self.now);
    }

    fn event(&mut self) -> Option<ServerEvent> {
        self.server.poll_event()
    }

    fn events(&mut self) -> Vec<ServerEvent> {
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }

    /// The reason of the last event, which is the only one.
    fn closed(&mut self) -> Option<DWCPError> {
        let mut events = self.events();
        match (events.pop(), events.is_empty()) {
            (Some(ServerEvent::Close { reason }), true) => reason,
            (other, _) => panic!("{other:?} after {events:?}"),
        }
    }

    /// What was sent since the last time.
    fn frames(&mut self) -> Vec<Frame> {
        let sent = self.server.transmit().split();
        self.received.extend_from_slice(&sent);
        let received = std::mem::take(&mut self.received);
        let (frames, result, rest) = fuzz::frames(&received, 1 << 20, 16 << 20);
        assert_eq!((result, rest.len()), (Ok(()), 0));
        frames
    }

    /// The one frame that was sent: its type, its id, its payload.
    fn frame(&mut self) -> (FrameType, String, String) {
        let mut frames = self.frames();
        assert_eq!(frames.len(), 1, "{frames:?}");
        let frame = frames.remove(0);
        let payload = String::from_utf8(frame.payload).unwrap();
        (frame.frame_type, frame.id, payload)
    }

    /// The code of the error frame that was sent for an id.
    fn error(&mut self, id: &str) -> u64 {
        let (frame_type, of, payload) = self.frame();
        assert_eq!((frame_type, &*of), (FrameType::Error, id), "{payload}");
        let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
        value["code"].as_u64().unwrap()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.server.timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.server.handle_timeout(self.now);
        }
        self.now = end;
    }
}

fn encoded(frame_type: FrameType, id: &str, payload: &[u8]) -> Vec<u8> {
    let frame = Frame {
        frame_type,
        timestamp: 1_700_000_000,
        id: id.to_owned(),
        payload: payload.to_vec(),
    };
    frame.encode(64 << 20).unwrap()
}

/// A conversation of an extended client, from its AUTH on.
fn conversation() -> Vec<Vec<u8>> {
    vec![
        encoded(FrameType::Auth, "a", br#"{"features":["x3.1"]}"#),
        encoded(FrameType::Vm, "1", br#"{"operation":"get","vm_id":"vm-1"}"#),
        encoded(
            FrameType::Stream,
            "2",
            br#"{"operation":"console","vm_id":"vm-1","credit":2}"#,
        ),
        encoded(FrameType::Ping, "", b"there?"),
        encoded(FrameType::Credit, "2", &[0, 0, 0, 1]),
        encoded(FrameType::Cancel, "1", b""),
        encoded(FrameType::Vm, "3", b"not json"),
        encoded(FrameType::Data, "9", b"to nobody"),
        encoded(FrameType::Health, "4", b"{}"),
    ]
}

/// All that a node makes of pieces of a conversation, and the frames that it sends, with an application
/// that does the same each time. In which order it is told to answer depends on the cuts, so they are
/// sorted.
fn made_of(pieces: impl IntoIterator<Item = Vec<u8>>) -> (Vec<String>, Vec<String>) {
    let mut raw = Raw::new(config());
    let (mut events, mut sent) = (Vec::new(), Vec::new());
    for piece in pieces {
        raw.send_bytes(&piece);
        while let Some(event) = raw.event() {
            events.push(format!("{event:?}"));
            match event {
                ServerEvent::Auth(_) => raw.server.accept(accepted(), raw.now),
                ServerEvent::Subscribe { id, .. } => raw.server.opened(&id),
                ServerEvent::Cancel { id } => {
                    let cancelled = DWCPError::Cancelled("as asked".into());
                    raw.server.reply(&id, Err(&cancelled));
                }
                _ => {}
            }
        }
        let frames = raw.frames();
        sent.extend(frames.into_iter().map(|frame| format!("{frame:?}")));
    }
    sent.sort_unstable();
    (events, sent)
}

#[test]
fn an_answer_while_more_is_there_changes_nothing() {
    let whole: Vec<u8> = conversation().concat();
    let (events, sent) = made_of([whole]);
    assert_eq!(events.len(), 5, "{events:#?}");
    assert_eq!(sent.len(), 6, "{sent:#?}");
    assert_eq!(made_of(conversation()), (events, sent));
}

#[test]
fn a_conversation_may_end_at_every_byte() {
    let whole: Vec<u8> = conversation().concat();
    let (events, _) = made_of([whole.clone()]);
    for end in 0..whole.len() {
        let (some, _) = made_of([whole[..end].to_vec()]);
        assert_eq!(some, events[..some.len()], "at {end}");
        let mut raw = Raw::new(config());
        raw.send_bytes(&whole[..end]);
        raw.server.receive_end(raw.now);
        assert!(!raw.server.wants_input());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn cuts_change_nothing(cuts in proptest::collection::vec(1_usize..90, 1..40)) {
        let whole: Vec<u8> = conversation().concat();
        let mut rest = &whole[..];
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = behind;
        }
        prop_assert_eq!(made_of(pieces), made_of([whole]));
    }

    #[test]
    fn frames_are_found_whatever_the_bytes(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_frames(&data);
    }

    #[test]
    fn frames_are_found_among_others(
        cut: u8,
        lengths in proptest::collection::vec(0_usize..300, 0..12),
        garbage in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let mut data = vec![cut];
        for length in lengths {
            data.extend(encoded(FrameType::Data, "7", &vec![b'x'; length]));
        }
        data.extend(garbage);
        fuzz_frames(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn sessions_keep_their_promises(data in proptest::collection::vec(any::<u8>(), 1..500)) {
        fuzz_session(&data);
    }
}

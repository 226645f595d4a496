//! A peer that sends what it likes to a node, which answers when it likes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::{Id, ServerConfig, ServerEvent, ServerSession};
use super::pair::accepted;
use super::{Bytes, frames};
use crate::action::{Item, Outcome};
use crate::error::DWCPError;
use crate::wire::frame::{Frame, FrameType};
use crate::wire::message::Profile;

const TYPES: [FrameType; 18] = [
    FrameType::Vm,
    FrameType::Vm,
    FrameType::Stream,
    FrameType::Stream,
    FrameType::Credit,
    FrameType::Cancel,
    FrameType::Data,
    FrameType::Auth,
    FrameType::Migration,
    FrameType::Health,
    FrameType::Metrics,
    FrameType::Config,
    FrameType::Snapshot,
    FrameType::Ok,
    FrameType::Item,
    FrameType::Ping,
    FrameType::Pong,
    FrameType::End,
];
const IDS: [&str; 5] = ["1", "2", "3", "an-id-as-long-as-those-of-the-base--", ""];
const PAYLOADS: [&[u8]; 14] = [
    br#"{"operation":20,"vm_id":"0194"}"#,
    br#"{"operation":"get","vm_id":"0194"}"#,
    br#"{"operation":17,"vm_id":"0194"}"#,
    br#"{"operation":20,"filters":null}"#,
    br#"{"operation":"console","vm_id":"0194","credit":3}"#,
    br#"{"operation":"migration_progress","migration_id":"0194","credit":2}"#,
    br#"{"operation":"attach","migration_id":"0194","token":"t","channel":0}"#,
    br#"{"version":3,"features":["x3.1"]}"#,
    br#"{"version":3}"#,
    b"\0\0\0\x02",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0\0\0\0\x01",
    b"",
    b"{",
];

/// What the peer knows of an id: what it asked for, and got.
#[derive(Debug, Default)]
struct Seen {
    asked: u64,
    answered: u64,
    granted: u64,
    items: u64,
}

struct World {
    server: ServerSession,
    now: Instant,
    live: Vec<Id>,
    seen: BTreeMap<String, Seen>,
    received: Vec<u8>,
    over: bool,
}

/// Runs a connection until the bytes end, then answers all.
pub(super) fn run(bytes: &mut Bytes<'_>, auth_required: bool) {
    let now = Instant::now();
    let config = ServerConfig {
        max_frame: 1 << 16,
        auth_required,
        max_inflight: 3,
        max_streams: 2,
        outbound_max: 2000,
        ..ServerConfig::default()
    };
    let mut world = World {
        server: ServerSession::new(config, now),
        now,
        live: Vec::new(),
        seen: BTreeMap::new(),
        received: Vec::new(),
        over: false,
    };
    if bytes.below(4) != 0 {
        world.send(FrameType::Auth, "0", PAYLOADS[7 + bytes.below(2)], 7);
    }
    while let Some(choice) = bytes.next() {
        world.step(choice, bytes);
        world.events();
        let waiting = world.server.outbound();
        assert!(waiting < 2000 + 16 * 4500, "{waiting} bytes wait");
    }
    world.finish();
}

impl World {
    fn step(&mut self, choice: u8, bytes: &mut Bytes<'_>) {
        let error = DWCPError::VMNotFound("0194".into());
        let live = self.live.clone();
        match choice % 12 {
            0..=3 => {
                let frame_type = TYPES[bytes.below(TYPES.len())];
                let id = IDS[bytes.below(IDS.len())];
                let payload = PAYLOADS[bytes.below(PAYLOADS.len())];
                self.send(frame_type, id, payload, bytes.below(60) + 1);
            }
            4 => {
                let length = bytes.below(40);
                let raw: Vec<u8> = (0..length).map(|_| bytes.below(256) as u8).collect();
                self.server.receive(&raw, self.now);
                // From here on nobody can say what it asked for.
                self.over = true;
            }
            5 | 6 => {
                if let Some(id) = bytes.one_of(&live) {
                    let well = bytes.below(2) == 0;
                    let result = if well {
                        Ok(&Outcome::Done)
                    } else {
                        Err(&error)
                    };
                    self.server.reply(id, result);
                }
            }
            7 => {
                if let Some(id) = bytes.one_of(&live) {
                    self.server.opened(id);
                }
            }
            8 => {
                if let Some(id) = bytes.one_of(&live) {
                    let item = Item::Console(vec![b'y'; bytes.below(256)].into());
                    self.server.item(id, &item);
                }
            }
            9 => {
                if let Some(id) = bytes.one_of(&live) {
                    self.server.end(id, None);
                }
            }
            10 => self.take(),
            _ => {
                self.now += Duration::from_secs(bytes.below(256) as u64);
                self.server.handle_timeout(self.now);
                if bytes.below(64) == 0 {
                    self.server.receive_end(self.now);
                }
            }
        }
        self.live.retain(|id| self.server.is_live(id));
    }

    fn send(&mut self, frame_type: FrameType, id: &str, payload: &[u8], piece: usize) {
        let seen = self.seen.entry(id.to_owned()).or_default();
        match frame_type {
            FrameType::Credit if payload.len() >= 4 => {
                let items = [payload[0], payload[1], payload[2], payload[3]];
                seen.granted += u64::from(u32::from_be_bytes(items));
            }
            FrameType::Cancel | FrameType::Credit | FrameType::Data => {}
            // Answered by PONG, or at most by the end of all.
            FrameType::Ping | FrameType::Pong => {}
            _ => {
                seen.asked += 1;
                // More than any of the payloads asks for.
                seen.granted += 3;
            }
        }
        let frame = Frame {
            frame_type,
            timestamp: 0,
            id: id.to_owned(),
            payload: payload.to_vec(),
        };
        for piece in frame.encode(1 << 16).unwrap_or_default().chunks(piece) {
            self.server.receive(piece, self.now);
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Auth(_) => self.server.accept(accepted(), self.now),
                ServerEvent::Call { id, .. } | ServerEvent::Subscribe { id, .. } => {
                    self.live.push(id);
                }
                ServerEvent::Peer { frame } => self.live.push(frame.id.into()),
                ServerEvent::Data { id, bytes } => self.server.data_taken(&id, bytes.len()),
                ServerEvent::Cancel { .. } | ServerEvent::Credit { .. } => {}
                ServerEvent::Close { .. } => {
                    self.over = true;
                    assert_eq!(self.server.poll_event(), None, "an event after the last");
                    assert!(!self.server.wants_input() && self.server.timeout().is_none());
                }
            }
        }
        self.live.retain(|id| self.server.is_live(id));
    }

    /// The peer reads what there is.
    fn take(&mut self) {
        let sent = self.server.transmit().split();
        self.received.extend_from_slice(&sent);
    }

    fn finish(&mut self) {
        for _ in 0..200 {
            self.take();
            self.events();
            for id in std::mem::take(&mut self.live) {
                self.server
                    .reply(&id, Err(&DWCPError::Cancelled("over".into())));
            }
        }
        self.take();
        let (frames, result, rest) = frames(&self.received, 1 << 20, 1 << 16);
        assert_eq!((result, rest), (Ok(()), Vec::new()), "a node sends frames");
        for frame in frames {
            let seen = self.seen.entry(frame.id).or_default();
            match frame.frame_type {
                FrameType::Item => seen.items += 1,
                FrameType::Ok | FrameType::Credit | FrameType::Ping | FrameType::Pong => {}
                _ => seen.answered += 1,
            }
        }
        let extended = self.server.profile() == Profile::Extended;
        for (id, seen) in &self.seen {
            assert!(seen.items <= seen.granted, "{id:?}: {seen:?}");
            // The last frame may be about the connection, and have no id.
            let asked = seen.asked + u64::from(id.is_empty());
            assert!(self.over || seen.answered <= asked, "{id:?}: {seen:?}");
            // In the base profile nothing but answers is sent.
            if !extended && !self.over && self.server.is_idle() {
                assert_eq!(seen.answered, seen.asked, "{id:?}");
            }
        }
    }
}

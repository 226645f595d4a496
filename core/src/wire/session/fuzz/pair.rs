//! Our client and our node on a link that moves as many bytes as it is told to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Buf;

use super::super::{
    Accepted, ClientEvent, ClientSession, ClientSessionConfig, Id, ServerConfig, ServerEvent,
    ServerSession,
};
use super::Bytes;
use crate::action::{Action, Item, Outcome, Role, Subscription};
use crate::error::DWCPError;
use crate::wire::message::NodeName;

/// What waits at a node beyond which it says that it is full.
const OUTBOUND_MAX: usize = 600;
const MAX_INFLIGHT: u32 = 6;
const MAX_STREAMS: u32 = 3;
const CREDIT: u32 = 4;

/// What an application knows of an id.
#[derive(Debug, PartialEq)]
enum Known {
    Call,
    /// With the items that it was given, once it is open.
    Stream(bool),
}

struct World {
    client: ClientSession,
    server: ServerSession,
    now: Instant,
    /// Live ids at the node's application.
    asked: BTreeMap<Id, Known>,
    /// Live ids at the client's user, and the items it holds.
    waiting: BTreeMap<u64, u32>,
    client_over: bool,
    server_over: bool,
    /// Time stood still so far: nobody may be given up.
    patient: bool,
}

/// Runs a connection until the bytes end, then to its end.
pub(super) fn run(bytes: &mut Bytes<'_>) {
    let now = Instant::now();
    let mut world = World {
        client: ClientSession::new(
            ClientSessionConfig {
                on_behalf: None,
                api_key: Some("key".into()),
                client_name: "fuzz".into(),
                client_version: "1".into(),
                keep_alive: Some(Duration::from_secs(20)),
                max_frame: 1 << 16,
                stream_credit: CREDIT,
                accept_base: false,
            },
            now,
        ),
        server: ServerSession::new(
            ServerConfig {
                max_frame: 1 << 16,
                max_inflight: MAX_INFLIGHT,
                max_streams: MAX_STREAMS,
                outbound_max: OUTBOUND_MAX,
                ..ServerConfig::default()
            },
            now,
        ),
        now,
        asked: BTreeMap::new(),
        waiting: BTreeMap::new(),
        client_over: false,
        server_over: false,
        patient: true,
    };
    while let Some(choice) = bytes.next() {
        world.step(choice, bytes);
        world.check();
    }
    world.finish();
}

impl World {
    fn step(&mut self, choice: u8, bytes: &mut Bytes<'_>) {
        let ids: Vec<Id> = self.asked.keys().cloned().collect();
        let waiting: Vec<u64> = self.waiting.keys().copied().collect();
        match choice % 18 {
            0 | 1 => self.call(bytes.below(2) == 0),
            2 => self.subscribe(bytes.below(2) == 0),
            3 => {
                if let Some(&id) = bytes.one_of(&waiting) {
                    self.client.cancel(id);
                }
            }
            4 => {
                if let Some(id) = bytes.one_of(&waiting) {
                    let items = bytes.below(6) as u32;
                    let held = self.waiting.entry(*id).or_default();
                    let items = items.min(*held);
                    *held -= items;
                    self.client.consumed(*id, items);
                }
            }
            5 => {
                if let Some(&id) = bytes.one_of(&waiting) {
                    let room = self.client.data_room(id);
                    let typed = vec![b'x'; bytes.below(256) * 300];
                    let taken = self.client.data(id, &typed);
                    assert!(taken.is_ok() || typed.len() > room || room == 0);
                }
            }
            6 | 7 => {
                if let Some(id) = bytes.one_of(&ids) {
                    self.answer(id, bytes.below(3) != 0);
                }
            }
            8 | 9 => {
                if let Some(id) = bytes.one_of(&ids) {
                    self.item(id, bytes.below(200));
                }
            }
            10 => {
                if let Some(id) = bytes.one_of(&ids) {
                    self.end(id, bytes.below(2) == 0);
                }
            }
            11 | 12 => self.move_to_server(bytes.below(256)),
            13 | 14 => self.move_to_client(bytes.below(256)),
            15 => self.let_pass(Duration::from_secs(bytes.below(30) as u64)),
            16 if bytes.below(8) == 0 => self.server.go_away("the test ends"),
            17 if bytes.below(8) == 0 => self.server.receive_end(self.now),
            _ => {}
        }
        self.client_events();
        self.server_events();
    }

    fn call(&mut self, changes: bool) {
        let vm_id = "0194".to_owned();
        let action = if changes {
            Action::Start { vm_id }
        } else {
            Action::Health
        };
        if let Ok(id) = self.client.call(&action, None) {
            assert!(self.waiting.insert(id, 0).is_none(), "an id is used again");
        }
    }

    fn subscribe(&mut self, console: bool) {
        let vm_id = "0194".to_owned();
        let subscription = if console {
            Subscription::Console {
                vm_id,
                writer: None,
            }
        } else {
            Subscription::MigrationProgress {
                migration_id: vm_id,
            }
        };
        if let Ok(id) = self.client.subscribe(&subscription) {
            assert!(self.waiting.insert(id, 0).is_none(), "an id is used again");
        }
    }

    fn answer(&mut self, id: &Id, well: bool) {
        let error = DWCPError::Timeout("as chosen".into());
        match self.asked.get_mut(id) {
            Some(Known::Call) => {
                let result = if well {
                    Ok(&Outcome::Done)
                } else {
                    Err(&error)
                };
                self.server.reply(id, result);
                self.asked.remove(id);
            }
            Some(Known::Stream(opened)) if well => {
                *opened = true;
                self.server.opened(id);
            }
            Some(Known::Stream(false)) => {
                self.server.reply(id, Err(&error));
                self.asked.remove(id);
            }
            _ => {}
        }
    }

    fn item(&mut self, id: &Id, length: usize) {
        let credit = self.server.credit(id);
        let sent = self
            .server
            .item(id, &Item::Console(vec![b'y'; length].into()));
        // The item is none that a migration has: the client says so, and that is a promise as well.
        assert_eq!(sent, credit > 0, "credit is not what it says");
    }

    fn end(&mut self, id: &Id, well: bool) {
        if let Some(Known::Stream(_)) = self.asked.get(id) {
            let error = DWCPError::Unavailable("draining".into());
            self.server.end(id, (!well).then_some(&error));
            self.asked.remove(id);
        }
    }

    fn move_to_server(&mut self, most: usize) {
        let out = self.client.transmit();
        let moved = out.split_to(out.len().min(most));
        if self.server.wants_input() {
            self.server.receive(&moved, self.now);
        } else {
            let rest = out.split();
            out.extend_from_slice(&moved);
            out.extend_from_slice(&rest);
        }
    }

    fn move_to_client(&mut self, most: usize) {
        let out = self.server.transmit();
        let length = out.len().min(most);
        self.client.receive(&out[..length], self.now);
        out.advance(length);
    }

    fn let_pass(&mut self, time: Duration) {
        self.now += time;
        self.patient &= time.is_zero();
        if self.client.timeout().is_some_and(|at| at <= self.now) {
            self.client.handle_timeout(self.now);
        }
        if self.server.timeout().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
        }
    }

    fn client_events(&mut self) {
        while let Some(event) = self.client.poll_event() {
            assert!(!self.client_over, "an event after the last: {event:?}");
            match event {
                ClientEvent::Reply { id, .. } | ClientEvent::Ended { id, .. } => {
                    assert!(self.waiting.remove(&id).is_some(), "{id} ends twice");
                }
                ClientEvent::Item { id, .. } => {
                    let held = self.waiting.get_mut(&id);
                    let held = held.unwrap_or_else(|| unreachable!("an item after the end"));
                    *held += 1;
                    assert!(*held <= CREDIT, "more items than were granted");
                }
                ClientEvent::Close { reason } | ClientEvent::Refused(reason) => {
                    self.client_over = true;
                    self.waiting.clear();
                    let misread = matches!(reason, DWCPError::Protocol(_));
                    assert!(!misread, "our node misbehaves: {reason}");
                }
                ClientEvent::Ready(_) | ClientEvent::Opened { .. } | ClientEvent::GoAway { .. } => {
                }
            }
        }
    }

    fn server_events(&mut self) {
        while let Some(event) = self.server.poll_event() {
            assert!(!self.server_over, "an event after the last: {event:?}");
            let asked = match event {
                ServerEvent::Auth(_) => {
                    self.server.accept(accepted(), self.now);
                    continue;
                }
                ServerEvent::Call { id, .. } => (id, Known::Call),
                ServerEvent::Subscribe { id, .. } => (id, Known::Stream(false)),
                ServerEvent::Cancel { id } | ServerEvent::Credit { id } => {
                    assert!(self.asked.contains_key(&id), "{id} has ended");
                    continue;
                }
                ServerEvent::Data { id, bytes } => {
                    self.server.data_taken(&id, bytes.len());
                    continue;
                }
                ServerEvent::Peer { .. } => unreachable!("nobody sent that"),
                ServerEvent::Close { reason } => {
                    self.server_over = true;
                    self.asked.clear();
                    let misread = matches!(reason, Some(DWCPError::Protocol(_)));
                    assert!(!misread, "our client misbehaves: {reason:?}");
                    continue;
                }
            };
            let before = self.asked.insert(asked.0, asked.1);
            assert_eq!(before, None, "an id is live twice");
        }
    }

    fn check(&self) {
        // Items stop where it is full; answers and one item may pass that.
        let answers = 300 * (MAX_INFLIGHT + 3 * MAX_STREAMS) as usize;
        assert!(
            self.server.outbound() <= OUTBOUND_MAX + 4 * answers,
            "{} bytes wait",
            self.server.outbound()
        );
        assert!(self.asked.len() <= (MAX_INFLIGHT + MAX_STREAMS) as usize);
        for id in self.asked.keys() {
            assert!(self.server.is_live(id), "{id} is lost");
        }
    }

    /// All that is asked is answered, and all arrives.
    fn finish(&mut self) {
        for _ in 0..1000 {
            self.move_to_server(usize::MAX);
            self.server_events();
            for (id, known) in std::mem::take(&mut self.asked) {
                match known {
                    Known::Call => self.server.reply(&id, Ok(&Outcome::Done)),
                    Known::Stream(_) => self.server.end(&id, None),
                }
            }
            self.move_to_client(usize::MAX);
            self.client_events();
            self.server_events();
        }
        if self.patient && !self.server_over {
            assert!(!self.client_over, "nobody had a reason");
        }
        if !self.client_over && !self.server_over {
            assert!(self.waiting.is_empty(), "no end: {:?}", self.waiting);
            assert_eq!(self.client.in_flight(), 0);
            assert!(self.server.is_idle());
        }
    }
}

pub(super) fn accepted() -> Accepted {
    Accepted {
        session: "s".into(),
        node: NodeName {
            name: "node".into(),
            uuid: "u".into(),
            version: "3".into(),
        },
        role: Role::Admin,
        message: "welcome".into(),
    }
}

//! Carrying one connection: a thread for each way.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::names::{self, Message, Next};
use super::{Fault, Seen, Shared, State, Way};

/// Most bytes that are sent at a time where a link is slow.
const PIECE: usize = 16 << 10;

/// A connection through the proxy.
pub(super) struct Connection {
    number: u64,
    /// The way of who opened it.
    opened: Way,
    /// The socket to each node: A, B.
    ends: [TcpStream; 2],
    /// Its opener asked for a bulk channel, of that number where it said one.
    bulk: OnceLock<Option<u32>>,
    /// By way: nothing passes any more.
    closed: [AtomicBool; 2],
    /// Ways that have ended.
    ended: AtomicU8,
}

impl Connection {
    /// `near` is the socket of who opened it, to carry what goes that way first.
    pub(super) fn new(number: u64, opened: Way, near: TcpStream, far: TcpStream) -> Connection {
        for end in [&near, &far] {
            // A message is written at once or not at all.
            end.set_nodelay(true).unwrap();
        }
        let ends = match opened {
            Way::AToB => [near, far],
            Way::BToA => [far, near],
        };
        Connection {
            number,
            opened,
            ends,
            bulk: OnceLock::new(),
            closed: [AtomicBool::new(false), AtomicBool::new(false)],
            ended: AtomicU8::new(0),
        }
    }

    /// Ends both ways at both ends.
    pub(super) fn cut(&self) {
        for end in &self.ends {
            // It may have ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn reset(&self) {
        for end in &self.ends {
            let socket = socket2::SockRef::from(end);
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        self.cut();
    }

    fn half_close(&self, way: Way) {
        self.closed[way as usize].store(true, Ordering::SeqCst);
        let _ = self.to(way).shutdown(Shutdown::Write);
    }

    fn from(&self, way: Way) -> &TcpStream {
        &self.ends[way as usize]
    }

    fn to(&self, way: Way) -> &TcpStream {
        &self.ends[way.back() as usize]
    }

    fn is_closed(&self, way: Way) -> bool {
        self.closed[way as usize].load(Ordering::SeqCst)
    }
}

/// Carries a connection until it ends.
pub(super) fn start(shared: &Arc<Shared>, connection: Connection) {
    let connection = Arc::new(connection);
    let mut state = shared.lock();
    if state.over {
        return;
    }
    state.threads.retain(|thread| !thread.is_finished());
    state.connections.push(Arc::clone(&connection));
    for way in [Way::AToB, Way::BToA] {
        let (shared, connection) = (Arc::clone(shared), Arc::clone(&connection));
        state.threads.push(std::thread::spawn(move || {
            let carried = carry(&shared, &connection, way);
            // On a link that loses everything, the end is lost as well.
            shared.wait_unmuted(way);
            if carried.is_err() {
                connection.cut();
            } else {
                let _ = connection.to(way).shutdown(Shutdown::Write);
            }
            if connection.ended.fetch_add(1, Ordering::SeqCst) == 1 {
                let mut state = shared.lock();
                state
                    .connections
                    .retain(|own| own.number != connection.number);
            }
        }));
    }
}

/// Carries one way until its end.
fn carry(shared: &Shared, connection: &Connection, way: Way) -> io::Result<()> {
    let mut from = connection.from(way);
    let mut raw = false;
    loop {
        let next = if raw {
            names::bulk(&mut from)?
        } else {
            names::frame(&mut from, || connection.bulk.get().is_some())?
        };
        let message = match next {
            Next::Message(message) => message,
            Next::End(rest) => return shared.send(connection, way, &rest),
        };
        // From here on each side sends bulk messages.
        if way == connection.opened && message.operation == "attach" {
            // A connection asks once.
            let _ = connection.bulk.set(message.channel);
            raw = true;
        }
        raw |= message.operation == "attached";
        shared.pass(connection, way, message)?;
    }
}

impl Shared {
    /// Passes a message, with what is due at it.
    fn pass(&self, connection: &Connection, way: Way, message: Message) -> io::Result<()> {
        let due = {
            let mut state = self.lock();
            let channel = connection.bulk.get().copied().flatten();
            let due = state.due(way, &message.operation, channel);
            state.waiting += usize::from(!due.is_empty());
            if message.operation != "ping" {
                state.seen.push(Seen {
                    way,
                    operation: message.operation,
                    connection: connection.number,
                    channel,
                    at: self.started.elapsed(),
                    fate: due.iter().map(|fault| format!("{fault:?}")).collect(),
                });
            }
            due
        };
        self.changed.notify_all();
        if due.is_empty() {
            return self.send(connection, way, &message.bytes);
        }
        let done = self.harm(connection, way, message.bytes, due);
        self.lock().waiting -= 1;
        done
    }

    /// Does to a message what is due at it.
    fn harm(
        &self,
        connection: &Connection,
        way: Way,
        mut bytes: Vec<u8>,
        due: Vec<Fault>,
    ) -> io::Result<()> {
        let (mut copies, mut cut, mut after) = (1, false, Vec::new());
        for fault in due {
            match fault {
                Fault::Cut => (cut, copies) = (true, 0),
                Fault::Reset => {
                    connection.reset();
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Fault::CutWithin(most) => {
                    cut = true;
                    bytes.truncate(most);
                }
                Fault::HalfClose(way) => connection.half_close(way),
                Fault::Drop => copies = 0,
                Fault::Corrupt => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                }
                Fault::Duplicate => copies *= 2,
                Fault::Hold => self.hold(),
                // The fault is the time itself.
                Fault::Delay(time) => std::thread::sleep(time),
                Fault::Mute(way) => self.lock().links[way as usize].muted = true,
                Fault::Slow(way, rate) => self.lock().slow(way, Some(rate)),
                Fault::Before(hook) => hook(),
                Fault::After(hook) => after.push(hook),
            }
        }
        for _ in 0..copies {
            self.send(connection, way, &bytes)?;
        }
        for hook in after {
            hook();
        }
        if cut {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Waits until what is held may go on.
    fn hold(&self) {
        let state = self.lock();
        let before = state.released;
        let held = |state: &mut State| state.released == before && !state.over;
        let _released = self.changed.wait_while(state, held).unwrap();
    }

    fn wait_unmuted(&self, way: Way) {
        let state = self.lock();
        let _open = self
            .changed
            .wait_while(state, |state| {
                state.links[way as usize].muted && !state.over
            })
            .unwrap();
    }

    /// Sends bytes as the link lets them pass; what it loses is as if sent.
    fn send(&self, connection: &Connection, way: Way, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let (piece, wait) = {
                let mut state = self.lock();
                let link = &mut state.links[way as usize];
                if link.muted || connection.is_closed(way) {
                    return Ok(());
                }
                match link.rate {
                    None => (left.len(), Duration::ZERO),
                    Some(rate) => {
                        // Fifty turns a second, or more.
                        let most = usize::try_from(rate / 50).unwrap_or(PIECE);
                        let piece = left.len().min(most.clamp(1, PIECE));
                        let now = Instant::now();
                        let begin = link.free.unwrap_or(now).max(now);
                        let time = Duration::from_secs_f64(piece as f64 / rate.max(1) as f64);
                        link.free = Some(begin + time);
                        (piece, begin + time - now)
                    }
                }
            };
            // The fault is the time itself.
            std::thread::sleep(wait);
            let (now, rest) = left.split_at(piece);
            let mut to = connection.to(way);
            match to.write_all(now) {
                // It was closed meanwhile by a fault.
                Err(_) if connection.is_closed(way) => return Ok(()),
                written => written?,
            }
            left = rest;
        }
        Ok(())
    }
}

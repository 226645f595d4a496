//! What a client has done so far.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::model::{ClientMetrics, Timestamp};

/// Where no connection has been made.
const NEVER: i64 = i64::MIN;

/// The counters of a client and its clones.
#[derive(Debug)]
pub(super) struct Counters {
    /// Whether frames are counted, by whoever reads and writes them. Without a network there are
    /// none, and a message is one request, answer or item.
    framed: bool,
    connections: AtomicU64,
    /// In microseconds since 1970.
    connected_at: AtomicI64,
    sent: AtomicU64,
    received: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    errors: AtomicU64,
}

impl Counters {
    fn new(framed: bool) -> Counters {
        Counters {
            framed,
            connections: AtomicU64::new(0),
            connected_at: AtomicI64::new(NEVER),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// Those of a client that is connected from the start, and for good.
    pub(super) fn in_process() -> Counters {
        let counters = Counters::new(false);
        counters.connected();
        counters
    }

    /// Those of a client with connections.
    pub(super) fn of_frames() -> Counters {
        Counters::new(true)
    }

    /// A connection was made.
    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let now = Timestamp::now().as_unix_micros();
        self.connected_at.store(now, Ordering::Relaxed);
    }

    /// A request was handed on.
    pub(super) fn asked(&self) {
        if !self.framed {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An answer or an item was taken.
    pub(super) fn answered(&self) {
        if !self.framed {
            self.received.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Bytes were written, and with them these frames began.
    pub(super) fn wrote(&self, bytes: usize, frames: u64) {
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sent.fetch_add(frames, Ordering::Relaxed);
    }

    /// Bytes were read, and with them these frames began.
    pub(super) fn read(&self, bytes: usize, frames: u64) {
        self.bytes_received
            .fetch_add(bytes as u64, Ordering::Relaxed);
        self.received.fetch_add(frames, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn metrics(&self) -> ClientMetrics {
        let connected_at = self.connected_at.load(Ordering::Relaxed);
        ClientMetrics {
            connections_total: self.connections.load(Ordering::Relaxed),
            messages_sent: self.sent.load(Ordering::Relaxed),
            messages_received: self.received.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            errors_total: self.errors.load(Ordering::Relaxed),
            last_connected: (connected_at != NEVER)
                .then(|| Timestamp::from_unix_micros(connected_at)),
        }
    }
}

/// Counts the frames in a stream of bytes by their lengths, wherever it is cut.
#[derive(Debug, Default)]
pub(super) struct FrameCount {
    /// What is known of the length of the next frame.
    prefix: [u8; 4],
    known: usize,
    /// What is left of the present frame.
    left: usize,
}

impl FrameCount {
    /// The frames whose length is complete with these bytes.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) -> u64 {
        let mut frames = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skip = self.left.min(bytes.len());
                self.left -= skip;
                bytes = &bytes[skip..];
                continue;
            }
            self.prefix[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            if self.known == self.prefix.len() {
                self.left = u32::from_be_bytes(self.prefix) as usize;
                self.known = 0;
                frames += 1;
            }
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_wherever_the_stream_is_cut() {
        let stream: Vec<u8> = [3_u8, 0, 200]
            .iter()
            .flat_map(|&length| {
                let mut frame = vec![0, 0, 0, length];
                frame.extend(std::iter::repeat_n(7, usize::from(length)));
                frame
            })
            .collect();
        for size in 1..=stream.len() {
            let mut count = FrameCount::default();
            let frames: u64 = stream.chunks(size).map(|part| count.advance(part)).sum();
            assert_eq!(frames, 3, "in parts of {size}");
        }
    }

    #[test]
    fn frames_or_messages_are_counted_and_not_both() {
        let (here, there) = (Counters::in_process(), Counters::of_frames());
        assert!(here.metrics().last_connected.is_some());
        assert_eq!(there.metrics(), ClientMetrics::default());
        for counters in [&here, &there] {
            counters.asked();
            counters.answered();
        }
        assert_eq!(here.metrics().messages_sent, 1);
        assert_eq!(there.metrics().messages_sent, 0);
        there.connected();
        there.wrote(30, 1);
        there.read(70, 2);
        let metrics = there.metrics();
        assert_eq!((metrics.connections_total, metrics.bytes_sent), (1, 30));
        assert_eq!((metrics.messages_received, metrics.bytes_received), (2, 70));
        assert!(metrics.last_connected.is_some());
    }
}

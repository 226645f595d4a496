//! What a client has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::{ClientMetrics, Timestamp};

#[derive(Debug)]
pub(super) struct Counters {
    connections: u64,
    connected_at: Option<Timestamp>,
    sent: AtomicU64,
    received: AtomicU64,
    errors: AtomicU64,
}

impl Counters {
    /// Those of a client that is connected from the start.
    pub(super) fn connected() -> Counters {
        Counters {
            connections: 1,
            connected_at: Some(Timestamp::now()),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    pub(super) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> ClientMetrics {
        ClientMetrics {
            connections_total: self.connections,
            messages_sent: self.sent.load(Ordering::Relaxed),
            messages_received: self.received.load(Ordering::Relaxed),
            errors_total: self.errors.load(Ordering::Relaxed),
            last_connected: self.connected_at,
            ..ClientMetrics::default()
        }
    }
}

//! The log of what happened to VMs.
//!
//! A ring of events with rising numbers. Readers keep a cursor each and no events, so that a slow
//! one costs nothing; what it misses is counted for it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{LostEvents, Timestamp, VM, VMEvent, VMEventType};

/// Most bytes of labels, annotations and other long text in the events that are kept: a few VMs with
/// large annotations must not make the ring a hundred times larger than usual.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// An event as it is kept. VMs are shared with whoever else has that state of them.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) seq: u64,
    pub(super) event_type: VMEventType,
    /// The VM after it.
    pub(super) vm: Arc<VM>,
    /// The VM before it, where there was one.
    pub(super) before: Option<Arc<VM>>,
    pub(super) timestamp: Timestamp,
    pub(super) message: String,
    /// Whether the VM is no longer here after it.
    pub(super) last: bool,
}

impl Logged {
    pub(super) fn to_event(&self) -> VMEvent {
        VMEvent {
            seq: self.seq,
            event_type: self.event_type.clone(),
            vm: VM::clone(&self.vm),
            timestamp: self.timestamp,
            message: self.message.clone(),
            ..VMEvent::default()
        }
    }
}

/// What a reader gets.
#[derive(Debug)]
pub(super) enum Read {
    /// The next events, at least one.
    Events(Vec<Arc<Logged>>),
    /// These are no longer kept.
    Lost(LostEvents),
    /// There is nothing new.
    Nothing,
}

/// The ring.
#[derive(Debug)]
pub(super) struct EventLog {
    kept: VecDeque<Arc<Logged>>,
    capacity: usize,
    text_bytes: usize,
    next: u64,
}

impl EventLog {
    /// Keeps the last `capacity` events, at least one, and begins with those that are known from
    /// before, which have no gap.
    pub(super) fn new(capacity: usize, before: Vec<Arc<Logged>>) -> EventLog {
        let mut log = EventLog {
            kept: VecDeque::new(),
            capacity: capacity.max(1),
            text_bytes: 0,
            // 0 stands for "before the first".
            next: before.first().map_or(1, |event| event.seq),
        };
        for event in before {
            log.keep(event);
        }
        log
    }

    /// Number of the event that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Number of the oldest event that is kept; that of the next one where there is none.
    pub(super) fn oldest(&self) -> u64 {
        self.next - self.kept.len() as u64
    }

    /// Whether all events from a number on are kept.
    pub(super) fn keeps(&self, from: u64) -> bool {
        from >= self.oldest()
    }

    /// Adds an event; `seq` is set here.
    pub(super) fn append(&mut self, mut event: Logged) -> Arc<Logged> {
        event.seq = self.next;
        let event = Arc::new(event);
        self.keep(Arc::clone(&event));
        event
    }

    fn keep(&mut self, event: Arc<Logged>) {
        self.next += 1;
        self.text_bytes += text_bytes(&event.vm);
        self.kept.push_back(event);
        while self.kept.len() > self.capacity
            || self.text_bytes > TEXT_BYTES_MAX && self.kept.len() > 1
        {
            if let Some(old) = self.kept.pop_front() {
                self.text_bytes -= text_bytes(&old.vm);
            }
        }
    }

    /// At most `most` events from number `from` on, up to number `last`.
    pub(super) fn read(&self, from: u64, last: u64, most: usize) -> Read {
        let oldest = self.oldest();
        if from >= self.next || from > last {
            return Read::Nothing;
        }
        if !self.keeps(from) {
            if oldest - 1 > last {
                // What is lost ends there, and a reader goes on from there after a restart.
                return Read::Nothing;
            }
            return Read::Lost(LostEvents {
                count: oldest - from,
                next: oldest,
            });
        }
        let skip = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        let most = most.min(usize::try_from((last - from).saturating_add(1)).unwrap_or(usize::MAX));
        Read::Events(self.kept.iter().skip(skip).take(most).cloned().collect())
    }
}

/// The size of what a caller can make long in a VM.
fn text_bytes(vm: &VM) -> usize {
    let maps = [
        &vm.labels,
        &vm.annotations,
        &vm.config.labels,
        &vm.config.annotations,
    ];
    let pairs = maps.into_iter().flatten();
    vm.config.cloud_init.len()
        + pairs
            .map(|(key, value)| key.len() + value.len())
            .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All events are durable.
    const LAST: u64 = u64::MAX;

    fn event(vm: &Arc<VM>) -> Logged {
        Logged {
            seq: 0,
            event_type: VMEventType::Updated,
            vm: Arc::clone(vm),
            before: None,
            timestamp: Timestamp::now(),
            message: String::new(),
            last: false,
        }
    }

    fn seqs(read: Read) -> Vec<u64> {
        match read {
            Read::Events(events) => events.iter().map(|event| event.seq).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_rise_and_what_is_gone_is_counted() {
        let mut log = EventLog::new(3, Vec::new());
        let vm = Arc::new(VM::default());
        assert!(matches!(log.read(1, LAST, 9), Read::Nothing));
        for _ in 0..5 {
            log.append(event(&vm));
        }
        assert_eq!(log.next(), 6);
        assert_eq!(seqs(log.read(3, LAST, 9)), [3, 4, 5]);
        assert_eq!(seqs(log.read(3, LAST, 2)), [3, 4]);
        assert_eq!(seqs(log.read(5, LAST, 9)), [5]);
        assert!(matches!(log.read(6, LAST, 9), Read::Nothing));
        assert!(matches!(log.read(u64::MAX, LAST, 9), Read::Nothing));
        for from in [0, 1, 2] {
            match log.read(from, LAST, 9) {
                Read::Lost(lost) => assert_eq!((lost.count, lost.next), (3 - from, 3)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_known_from_before_goes_on() {
        let mut log = EventLog::new(5, Vec::new());
        let vm = Arc::new(VM::default());
        for _ in 0..7 {
            log.append(event(&vm));
        }
        let Read::Events(before) = log.read(3, LAST, 9) else {
            panic!("nothing is kept");
        };
        let mut log = EventLog::new(3, before);
        assert_eq!((log.oldest(), log.next()), (5, 8));
        assert_eq!(log.append(event(&vm)).seq, 8);
        assert_eq!(seqs(log.read(6, LAST, 9)), [6, 7, 8]);
    }

    #[test]
    fn what_is_not_durable_is_not_read() {
        let mut log = EventLog::new(3, Vec::new());
        let vm = Arc::new(VM::default());
        for _ in 0..3 {
            log.append(event(&vm));
        }
        assert!(matches!(log.read(1, 0, 9), Read::Nothing));
        assert_eq!(seqs(log.read(1, 2, 9)), [1, 2]);
        assert_eq!(seqs(log.read(2, 2, 9)), [2]);
        assert!(matches!(log.read(3, 2, 9), Read::Nothing));
    }

    #[test]
    fn long_text_makes_the_ring_shorter() {
        let mut log = EventLog::new(1000, Vec::new());
        let mut vm = VM::default();
        vm.annotations
            .insert("note".into(), "x".repeat(TEXT_BYTES_MAX / 4));
        let vm = Arc::new(vm);
        for _ in 0..10 {
            log.append(event(&vm));
        }
        assert_eq!(log.kept.len(), 3);
        assert_eq!(seqs(log.read(8, LAST, 9)), [8, 9, 10]);
        let small = Arc::new(VM::default());
        for _ in 0..10 {
            log.append(event(&small));
        }
        assert_eq!(log.kept.len(), 13);
        assert!(log.text_bytes < TEXT_BYTES_MAX);
    }
}

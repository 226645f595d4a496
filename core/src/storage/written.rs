//! Which parts of a disk were changed while a copy of it is made.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is recorded as one, in bytes.
pub(crate) const CLUSTER: u64 = 64 << 10;

/// Clusters that were changed since somebody looked last: of one who looks, who keeps it for as long as it is to be
/// recorded.
///
/// A change is marked when it is **done**, and whoever copies takes the marks first and reads then. Marked before, a
/// change could be taken, read as it was, and only then made: it would be lost. Marked afterwards, what is read too
/// early is marked again; and of a device that was drained every change is marked.
#[derive(Debug)]
pub(crate) struct Written {
    size: u64,
    words: Vec<AtomicU64>,
}

impl Written {
    /// Of a disk of that size, of which nothing was changed yet.
    pub(crate) fn new(size: u64) -> Self {
        let words = size.div_ceil(CLUSTER * 64);
        Self {
            size,
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A range was changed, or may have been.
    pub(crate) fn mark(&self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let last = (range.end - 1) / CLUSTER;
        for cluster in range.start / CLUSTER..=last {
            let word = usize::try_from(cluster / 64).ok();
            // A disk that has grown since is copied as far as its guest was told.
            if let Some(word) = word.and_then(|word| self.words.get(word)) {
                word.fetch_or(1 << (cluster % 64), Ordering::SeqCst);
            }
        }
    }

    /// The ranges that are marked, in their order; from now on they are not.
    pub(crate) fn take(&self) -> Vec<Range<u64>> {
        self.ranges(|word| word.swap(0, Ordering::SeqCst))
    }

    /// The same, and they still are: what must not be done, for proving that tests notice.
    #[cfg(test)]
    pub(crate) fn look(&self) -> Vec<Range<u64>> {
        self.ranges(|word| word.load(Ordering::SeqCst))
    }

    fn ranges(&self, get: impl Fn(&AtomicU64) -> u64) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (word, first) in self.words.iter().zip((0..).step_by(64)) {
            let mut bits = get(word);
            while bits != 0 {
                let start = (first + u64::from(bits.trailing_zeros())) * CLUSTER;
                bits &= bits - 1;
                let end = (start + CLUSTER).min(self.size);
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ if start < end => ranges.push(start..end),
                    _ => {}
                }
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_clusters_are_marked_and_taken_once() {
        let size = 200 * CLUSTER + 512;
        let written = Written::new(size);
        assert_eq!(written.take(), []);
        written.mark(&(CLUSTER - 1..CLUSTER + 1));
        written.mark(&(5 * CLUSTER..5 * CLUSTER));
        written.mark(&(63 * CLUSTER..65 * CLUSTER));
        written.mark(&(size - 512..size));
        let expected = [
            0..2 * CLUSTER,
            63 * CLUSTER..65 * CLUSTER,
            200 * CLUSTER..size,
        ];
        assert_eq!(written.look(), expected);
        assert_eq!(written.take(), expected);
        assert_eq!(written.take(), []);
    }

    #[test]
    fn what_lies_beyond_the_disk_is_left_out() {
        let written = Written::new(CLUSTER);
        written.mark(&(3 * CLUSTER..70 * CLUSTER));
        assert_eq!(written.take(), []);
    }
}

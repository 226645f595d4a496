//! Page data in fewer bytes: whether that pays for a chunk, and LZ4 blocks of it.
//!
//! Compressing takes time with the processor to save time on the link. Who wins depends on what is in
//! the pages and on the link, so both are measured: a few pages of each chunk are tried, and chunks that
//! go as they are show how fast this channel is. On a link that is faster than the processor nothing is
//! compressed, and hardly anything tried.
#![forbid(unsafe_code)]

use std::time::Duration;

use lz4_flex::block;

use super::channel::violation;
use crate::error::{DWCPError, Result};

/// Pages of a chunk that are tried: a guest fills its memory with the same kind of thing for longer than a
/// chunk is.
pub(super) const SAMPLE_PAGES: u64 = 4;
/// Chunks that go as they are without a trial, after one which no contents could have made pay.
const NO_TRIAL: u32 = 16;
/// Every so many chunks one goes as it is, for the link may have become faster meanwhile.
const LOOK_AGAIN: u32 = 32;
/// Fewer bytes than this say more of the socket's buffer than of the link.
const TELLING: u64 = 64 << 10;
/// What is sent compressed is at most seven eighths of what it was: less gain is not worth the other side's
/// time.
const WORTHWHILE: (usize, usize) = (7, 8);

/// Decides for one channel, chunk by chunk.
#[derive(Debug, Default)]
pub(super) struct Compression {
    /// Bytes per second that the channel may take, where that is limited.
    limit: Option<f64>,
    /// Bytes per second that it took lately.
    measured: Option<f64>,
    /// Chunks to be sent before the next trial.
    no_trial: u32,
    /// Chunks compressed since the link was last measured.
    compressed: u32,
}

impl Compression {
    /// For a channel that may take so many bytes per second; 0: as many as it can.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit: (limit > 0).then_some(limit as f64),
            ..Self::default()
        }
    }

    /// Whether the next chunk is worth a trial. Where not, it goes as it is.
    pub(super) fn wants_trial(&mut self) -> bool {
        if self.link().is_none() {
            return false;
        }
        if self.compressed >= LOOK_AGAIN {
            self.compressed = 0;
            return false;
        }
        match self.no_trial.checked_sub(1) {
            Some(left) => {
                self.no_trial = left;
                false
            }
            None => true,
        }
    }

    /// A trial made `packed` bytes of `bytes` in that time: whether to compress the chunk.
    pub(super) fn tried(&mut self, bytes: usize, packed: usize, time: Duration) -> bool {
        let Some(link) = self.link() else {
            return false;
        };
        let (time, saved) = (time.as_secs_f64(), bytes.saturating_sub(packed));
        if time >= bytes as f64 / link {
            self.no_trial = NO_TRIAL;
        }
        let pays = is_smaller(bytes, packed) && time < saved as f64 / link;
        if pays {
            self.compressed += 1;
        }
        pays
    }

    /// So many bytes went as they were, and all it took was that time.
    pub(super) fn sent_raw(&mut self, bytes: u64, time: Duration) {
        if bytes < TELLING {
            return;
        }
        let now = bytes as f64 / time.as_secs_f64().max(1e-9);
        self.measured = Some(self.measured.map_or(now, |rate| 0.5 * rate + 0.5 * now));
    }

    fn link(&self) -> Option<f64> {
        match (self.limit, self.measured) {
            (Some(limit), Some(measured)) => Some(limit.min(measured)),
            (limit, measured) => limit.or(measured),
        }
    }
}

/// Whether that much less is worth to be undone at the other side.
pub(super) fn is_smaller(bytes: usize, packed: usize) -> bool {
    packed.saturating_mul(WORTHWHILE.1) <= bytes.saturating_mul(WORTHWHILE.0)
}

/// Compresses `bytes` into `packed`, whose contents are replaced. Its length afterwards is that of the
/// block.
pub(super) fn pack(bytes: &[u8], packed: &mut Vec<u8>) -> Result<()> {
    packed.resize(block::get_maximum_output_size(bytes.len()), 0);
    let length = block::compress_into(bytes, packed)
        .map_err(|error| DWCPError::Internal(format!("pages were not compressed: {error}")))?;
    packed.truncate(length);
    Ok(())
}

/// Undoes [`pack`]: fills all of `bytes`, and takes no other memory, whatever the peer sent.
///
/// # Errors
///
/// `migration` for what is no block, or one of another length.
pub(super) fn unpack(packed: &[u8], bytes: &mut [u8]) -> Result<()> {
    match block::decompress_into(packed, bytes) {
        Ok(length) if length == bytes.len() => Ok(()),
        Ok(length) => Err(violation(&format!(
            "compressed pages of {length} bytes in place of {}",
            bytes.len()
        ))),
        Err(error) => Err(violation(&format!("what is no compressed pages: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;
    const FAST: Duration = Duration::from_micros(10);

    /// A channel that was seen to take so many bytes per second.
    fn channel(rate: u64) -> Compression {
        let mut channel = Compression::new(0);
        assert!(!channel.wants_trial(), "nothing is known of the link");
        channel.sent_raw(rate, Duration::from_secs(1));
        channel
    }

    #[test]
    fn what_saves_more_time_than_it_takes_is_compressed() {
        // 4 KiB that become 1 KiB in 10 µs save 3 µs at 1 GB/s and 30 µs at 100 MB/s.
        for (rate, pays) in [(1_000_000_000, false), (100_000_000, true)] {
            let mut channel = channel(rate);
            assert!(channel.wants_trial());
            assert_eq!(channel.tried(PAGE, PAGE / 4, FAST), pays, "{rate} B/s");
        }
        // What does not become smaller is sent as it is on the slowest of links.
        assert!(!channel(1_000_000).tried(PAGE, PAGE + 20, Duration::ZERO));
        assert!(!channel(1_000_000).tried(PAGE, PAGE * 15 / 16, Duration::ZERO));
    }

    #[test]
    fn a_limit_counts_like_a_link_and_the_slower_of_both_decides() {
        let mut limited = Compression::new(100_000_000);
        assert!(
            limited.wants_trial(),
            "the limit is known before a byte is sent"
        );
        assert!(limited.tried(PAGE, PAGE / 4, FAST));
        limited.sent_raw(10_000_000_000, Duration::from_secs(1));
        assert!(limited.tried(PAGE, PAGE / 4, FAST));
    }

    #[test]
    fn on_a_fast_link_hardly_anything_is_tried() {
        let mut channel = channel(4_000_000_000);
        let trials = (0..170).filter(|_| {
            let trial = channel.wants_trial();
            trial && !channel.tried(PAGE, 0, FAST)
        });
        assert_eq!(trials.count(), 10);
    }

    #[test]
    fn the_link_is_looked_at_again() {
        let mut channel = channel(1_000_000);
        let mut chunks = (0..).take_while(|_| {
            let trial = channel.wants_trial();
            trial && channel.tried(PAGE, 100, FAST)
        });
        assert_eq!(chunks.by_ref().count(), LOOK_AGAIN as usize);
        for _ in 0..20 {
            channel.sent_raw(10_000_000_000, Duration::from_secs(1));
        }
        assert!(channel.wants_trial() && !channel.tried(PAGE, 100, FAST));
    }

    #[test]
    fn pages_survive_and_a_block_fills_exactly_what_it_should() {
        let text: Vec<u8> = (0..4 * PAGE).map(|i| (i / 100) as u8).collect();
        let mut packed = Vec::new();
        pack(&text, &mut packed).unwrap();
        assert!(is_smaller(text.len(), packed.len()), "{}", packed.len());
        let mut back = vec![1; text.len()];
        unpack(&packed, &mut back).unwrap();
        assert_eq!(back, text);
        let longer = unpack(&packed, &mut vec![0; text.len() + 1]).unwrap_err();
        assert!(longer.to_string().contains("in place of"), "{longer}");
        let shorter = unpack(&packed, &mut vec![0; PAGE]).unwrap_err();
        assert!(
            shorter.to_string().contains("no compressed pages"),
            "{shorter}"
        );
        assert!(unpack(&packed[..packed.len() - 1], &mut back).is_err());
    }
}

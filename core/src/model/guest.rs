//! What the built-in guest says of itself.

use serde::{Deserialize, Serialize};

use super::timestamp::Timestamp;

/// The report of the built-in guest `dwcp/pulse`, which writes patterns to its memory and checks
/// them. `verify` returns it after a check of all memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct GuestReport {
    /// The VM.
    pub vm_id: String,
    /// Beats of vCPU 0 since the guest was started.
    pub beats: u64,
    /// Pages of 4 KiB written by the working load since the guest was started.
    pub pages_written: u64,
    /// Pages filled with the pattern at the start, all of which are checked.
    pub pages_filled: u64,
    /// Complete laps of the check that runs in the background.
    pub laps: u64,
    /// Pages checked, in the background and on request.
    pub pages_verified: u64,
    /// Pages whose content was wrong.
    pub faults: u64,
    /// Guest-physical address of the first wrong page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_fault: Option<u64>,
    /// Whether the check that was asked for ended, and no page was ever wrong.
    pub verified: bool,
    /// Longest silence between two beats of vCPU 0 since the previous `verify`, in microseconds.
    pub longest_beat_gap_us: u64,
    /// Silence across the move to this node, from the last beat of vCPU 0 there to its first one here,
    /// in microseconds; absent for a guest that was started here. Between two hosts, as exact as their
    /// clocks agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch_gap_us: Option<u64>,
    /// Pages of 4 KiB the working load writes per second.
    #[serde(deserialize_with = "super::keys::number")]
    pub pages_written_per_second: f64,
    /// When the report was made.
    pub timestamp: Timestamp,
}

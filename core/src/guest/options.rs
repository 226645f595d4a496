//! What the built-in guest is asked to do, as annotations of its VM.

use std::collections::BTreeMap;

use super::layout::{Pace, fill_start};
use crate::error::{DWCPError, Result};
use crate::memory::PAGE_SIZE;

/// The annotations `dwcp.pulse/…` of a VM, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PulseOptions {
    /// Bytes to fill; whole pages. Default: half the memory.
    pub(crate) fill: u64,
    /// Bytes of the working set; whole pages. Default: 1/32 of `fill`.
    pub(crate) working_set: u64,
    /// Writes of working-set pages a second, over all vCPUs; 0: as fast as it can. Default: 1,000.
    pub(crate) dirty_pages_per_second: u64,
    /// Beats of each vCPU a second. Default: 10.
    pub(crate) beat_hz: u64,
    /// Whether it keeps its CPUs busy between its deeds. Default: no.
    pub(crate) spin: bool,
}

const PREFIX: &str = "dwcp.pulse/";
/// Above this, the guest would do little else than beat.
const MAX_BEAT_HZ: u64 = 100_000;
/// A write takes longer than this many would leave for it.
const MAX_DIRTY_RATE: u64 = 1_000_000_000;
/// What one top-level page table entry maps, which is all that the guest's page tables use.
const MAX_MEMORY: u64 = 512 << 30;

impl PulseOptions {
    /// The options of a VM with that much memory and those annotations. Annotations without the
    /// prefix `dwcp.pulse/` are somebody else's.
    ///
    /// # Errors
    ///
    /// `invalid_config` naming the annotation.
    pub(crate) fn new(memory: u64, annotations: &BTreeMap<String, String>) -> Result<Self> {
        if memory > MAX_MEMORY {
            return Err(DWCPError::Config(format!(
                "memory: the image dwcp/pulse runs in at most {MAX_MEMORY} bytes"
            )));
        }
        let known = [
            "fill",
            "working-set",
            "dirty-pages-per-second",
            "beat-hz",
            "spin",
        ];
        for key in annotations.keys() {
            if let Some(name) = key.strip_prefix(PREFIX)
                && !known.contains(&name)
            {
                return Err(invalid(
                    name,
                    &format!("not known; there are {}", known.join(", ")),
                ));
            }
        }
        let room = memory.saturating_sub(fill_start(memory));
        let half = memory / 2 / PAGE_SIZE * PAGE_SIZE;
        let fill = number(annotations, "fill", half.min(room), room)?;
        let fill = fill / PAGE_SIZE * PAGE_SIZE;
        let working_set = number(annotations, "working-set", fill / 32, fill)?;
        let spin = match annotations.get("dwcp.pulse/spin").map(String::as_str) {
            None | Some("false" | "") => false,
            Some("true") => true,
            Some(other) => return Err(invalid("spin", &format!("`{other}` is not true or false"))),
        };
        let beat_hz = number(annotations, "beat-hz", 10, MAX_BEAT_HZ)?;
        if beat_hz == 0 {
            return Err(invalid("beat-hz", "must be at least 1"));
        }
        Ok(Self {
            fill,
            working_set: working_set.div_ceil(PAGE_SIZE) * PAGE_SIZE,
            dirty_pages_per_second: number(
                annotations,
                "dirty-pages-per-second",
                1_000,
                MAX_DIRTY_RATE,
            )?,
            beat_hz,
            spin,
        })
    }

    /// How each of `cpus` vCPUs spends its time, on processors with a TSC of that frequency. The
    /// filled memory is split among them, and of each part the same share is working set.
    pub(super) fn paces(&self, memory: u64, cpus: u32, tsc_khz: u32) -> Vec<Pace> {
        let count = u64::from(cpus);
        let hz = u64::from(tsc_khz) * 1000;
        let start = fill_start(memory) / PAGE_SIZE;
        let (pages, working) = (self.fill / PAGE_SIZE, self.working_set / PAGE_SIZE);
        (0..count)
            .map(|i| {
                let first = start + pages * i / count;
                let end = start + pages * (i + 1) / count;
                let own = working * (i + 1) / count - working * i / count;
                Pace {
                    first,
                    end,
                    working_end: (first + own).min(end),
                    ticks_per_page: match self.dirty_pages_per_second {
                        0 => 0,
                        rate => (hz * count / rate).max(1),
                    },
                    ticks_per_beat: (hz / self.beat_hz).max(1),
                    spin: self.spin,
                }
            })
            .collect()
    }
}

fn number(
    annotations: &BTreeMap<String, String>,
    name: &str,
    default: u64,
    max: u64,
) -> Result<u64> {
    let Some(text) = annotations
        .get(&format!("{PREFIX}{name}"))
        .filter(|t| !t.is_empty())
    else {
        return Ok(default);
    };
    let value: u64 = text
        .parse()
        .map_err(|_| invalid(name, &format!("`{text}` is not a whole number")))?;
    if value > max {
        return Err(invalid(name, &format!("{value} is more than {max}")));
    }
    Ok(value)
}

fn invalid(name: &str, why: &str) -> DWCPError {
    DWCPError::Config(format!("annotations.{PREFIX}{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(memory: u64, pairs: &[(&str, &str)]) -> Result<PulseOptions> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned()));
        PulseOptions::new(memory, &pairs.collect())
    }

    #[test]
    fn defaults_follow_the_memory() {
        let own = options(2 << 30, &[]).unwrap();
        assert_eq!((own.fill, own.working_set), (1 << 30, 32 << 20));
        assert_eq!(
            (own.dirty_pages_per_second, own.beat_hz, own.spin),
            (1000, 10, false)
        );
        assert_eq!(options(16 << 20, &[]).unwrap().fill, 8 << 20);
    }

    #[test]
    fn mistakes_are_named() {
        for (name, value, says) in [
            ("fill", "x", "fill: `x`"),
            ("fill", "99999999999", "fill: 99999999999 is more"),
            ("working-set", "9999999999", "working-set"),
            ("beat-hz", "0", "beat-hz: must be"),
            ("spin", "yes", "spin: `yes`"),
            ("fil", "1", "fil: not known"),
        ] {
            let error = options(16 << 20, &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_parts_of_the_vcpus_cover_the_memory() {
        let own = options(64 << 20, &[("working-set", "1048576")]).unwrap();
        let paces = own.paces(64 << 20, 3, 2_000_000);
        assert_eq!(paces[0].first, 1024);
        assert!(paces.windows(2).all(|w| w[0].end == w[1].first));
        assert_eq!(paces[2].end, 1024 + (32 << 20) / PAGE_SIZE);
        let working: u64 = paces.iter().map(|p| p.working_end - p.first).sum();
        assert_eq!(working, (1 << 20) / PAGE_SIZE);
        assert_eq!(paces[0].ticks_per_page, 6_000_000);
    }
}

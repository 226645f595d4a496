//! What a migration was like, for people and for machines.

use std::fmt;
use std::time::Duration;

use dwcp::{DWCPError, MigrationStatus};
use serde_json::{Value, json};

/// How one migration went.
pub(crate) struct Report {
    pub(crate) status: MigrationStatus,
    /// `kvm`, or `sim`.
    pub(crate) backend: String,
    /// From the request to its end, as the caller saw it.
    pub(crate) total: Duration,
    /// The guest checked all its memory after it had arrived, and found it right.
    pub(crate) memory_verified: bool,
    pub(crate) faults: u64,
    /// The longest silence of the guest's heartbeat.
    pub(crate) downtime_seen: Duration,
    /// Its silence across the switch: from the last beat there to the first one here.
    pub(crate) switch_seen: Duration,
    /// Pages the guest wrote a second while it moved.
    pub(crate) dirty_rate: f64,
}

impl Report {
    /// One JSON object. Times in the unit of their names, `throughput_mb_s` in 10⁶ bytes.
    pub(crate) fn json(&self) -> Value {
        let status = &self.status;
        json!({
            "status": status.state,
            "backend": self.backend,
            "mode": status.mode,
            "memory_verified": self.memory_verified,
            "total_ms": millis(self.total),
            "downtime_ms": rounded(status.downtime_us as f64 / 1e3),
            "downtime_seen_ms": millis(self.downtime_seen),
            "switch_ms": rounded(status.breakdown.total_us as f64 / 1e3),
            "switch_seen_ms": millis(self.switch_seen),
            "stall_ms": rounded(status.stall_us as f64 / 1e3),
            "bytes_sent": status.bytes_sent,
            "throughput_mb_s": rounded(self.throughput()),
            "rounds": status.rounds.len(),
            "first_round_mb_s": self.first_round().map(rounded),
            "dirty_pages_per_second_achieved": rounded(self.dirty_rate),
            "downtime_breakdown_us": status.breakdown,
            "channels": status.channels,
            "zero_bytes": status.bytes.zero,
            "resent_bytes": status.bytes.resent,
            "faults": self.faults,
        })
    }

    /// 10⁶ bytes a second, over the whole migration.
    fn throughput(&self) -> f64 {
        self.status.bytes_sent as f64 / 1e6 / self.total.as_secs_f64().max(1e-9)
    }

    /// 10⁶ bytes a second in the round that sends all memory; `None` where nothing was copied in rounds.
    fn first_round(&self) -> Option<f64> {
        let round = self.status.rounds.first()?;
        Some(round.throughput as f64 / 1e6)
    }
}

/// An error as the JSON object of a run. What this version cannot do is told apart from what went wrong.
pub(crate) fn failure(error: &DWCPError) -> Value {
    let status = match error {
        DWCPError::Unsupported(_) => "unsupported",
        _ => "failed",
    };
    json!({"status": status, "error": error.to_string()})
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.status;
        let verdict = if self.memory_verified {
            "whole, by the guest's own check".to_owned()
        } else {
            format!("WRONG: the guest found {} faults", self.faults)
        };
        writeln!(
            f,
            "{} → {} ({})",
            status.source_node, status.target_node, self.backend
        )?;
        writeln!(f, "  memory         {verdict}")?;
        writeln!(f, "  total          {:.1} ms", millis(self.total))?;
        writeln!(
            f,
            "  downtime       {:.2} ms; the heartbeat was silent for at most {:.2} ms",
            status.downtime_us as f64 / 1e3,
            millis(self.downtime_seen),
        )?;
        writeln!(
            f,
            "  switch         {:.2} ms; the heartbeat was silent for {:.2} ms",
            status.breakdown.total_us as f64 / 1e3,
            millis(self.switch_seen),
        )?;
        let parts = &status.breakdown;
        writeln!(
            f,
            "                 stop {} µs, save {}, last pages {}, load {}, grant {}, commit {}, resume {}",
            parts.stop_vcpus_us,
            parts.save_state_us,
            parts.last_pages_us,
            parts.load_state_us,
            parts.grant_us,
            parts.commit_us,
            parts.resume_us,
        )?;
        writeln!(
            f,
            "  sent           {:.1} MB over {} connections, {:.0} MB/s; {:.1} MB more than once, \
             {:.1} MB of zeros not sent",
            status.bytes_sent as f64 / 1e6,
            status.channels,
            self.throughput(),
            status.bytes.resent as f64 / 1e6,
            status.bytes.zero as f64 / 1e6,
        )?;
        writeln!(
            f,
            "  guest          wrote {:.0} pages/s meanwhile, and stood still for {:.1} ms in all before the switch",
            self.dirty_rate,
            status.stall_us as f64 / 1e3,
        )?;
        for round in &status.rounds {
            writeln!(
                f,
                "  round {:<8} {:>8} pages {:>9.1} ms {:>6} MB/s",
                round.round,
                round.pages,
                round.duration_us as f64 / 1e3,
                round.throughput / 1_000_000,
            )?;
        }
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

/// To three places: finer than any of these figures is.
fn rounded(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

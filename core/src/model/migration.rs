//! Moving a VM: what may be asked, and how it goes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration::{DurationText, serialize_option};
use super::keys::keyed;
use super::limits::{
    MAX_DOWNTIME_DEFAULT_MS, MAX_DOWNTIME_MS, PARALLEL_DEFAULT, PARALLEL_MAX, TIMEOUT_MAX_SECS,
};
use super::names::words;
use super::report::{DowntimeBreakdown, MigrationBytes, MigrationMode, RoundReport};
use super::timestamp::Timestamp;
use super::validate::{at_most, wrong};
use crate::error::{DWCPError, Result};

words! {
    /// What a migration does when its `timeout` has passed before the switch.
    pub enum OnTimeout as "on_timeout" {
        /// It ends; the VM stays where it is.
        Cancel = "cancel",
        /// It goes on.
        Ignore = "ignore",
    }
}

words! {
    /// Whether memory is handed over instead of copied, where both nodes are on one host.
    pub enum SameHost as "same_host" {
        /// Where it is possible.
        Auto = "auto",
        /// Not even then.
        Never = "never",
        /// Or the migration is refused.
        Require = "require",
    }
}

/// How to move a VM.
///
/// `compression`, `auto_converge`, `post_copy` and `parallel` are permissions: the status says what
/// was used. `live`, `offline`, `verify_checksum` and `encrypt_transport` are promises, kept or
/// refused.
///
/// # Examples
///
/// ```
/// use dwcp::MigrationOptions;
///
/// let options = MigrationOptions { max_downtime: 50, post_copy: true, ..Default::default() };
/// options.validate()?;
/// # Ok::<(), dwcp::DWCPError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrationOptions {
    /// The VM runs while its memory is copied; else it is paused, copied, and resumed there.
    /// Default true.
    pub live: bool,
    /// The VM is stopped, or gets stopped, and moves so: its record, and nothing of memory. Its disk has to be
    /// within reach of both nodes. Default false.
    pub offline: bool,
    /// Limit on the time in which the VM runs nowhere, in milliseconds; 0 for the default, 500.
    pub max_downtime: u64,
    /// Limit in bytes per second over all connections; 0, the default, for none.
    pub bandwidth: u64,
    /// Permission to compress page data where it pays. Default true.
    pub compression: bool,
    /// Permission to slow vCPUs down that write faster than can be copied. Default true.
    pub auto_converge: bool,
    /// Permission to switch first and fetch the rest when it is needed. Default false.
    pub post_copy: bool,
    /// Connections for page data, up to 64; 0 for the default, 4.
    pub parallel: u32,
    /// Every chunk carries a checksum. Default true.
    pub verify_checksum: bool,
    /// Page data travels in TLS. Default true.
    pub encrypt_transport: bool,
    /// Time from the start to the switch, `None` or zero for no limit. Text such as `5m` in JSON.
    #[serde(serialize_with = "serialize_option")]
    pub timeout: Option<Duration>,
    /// What happens then.
    pub on_timeout: OnTimeout,
    /// Copy the disks too, where the target cannot reach them. Default false.
    pub with_disks: bool,
    /// Whether memory is handed over instead of copied, where both nodes are on one host. Default `auto`.
    pub same_host: SameHost,
}

keyed! {
    MigrationOptions as "a migration options object" {
        live = "live",
        offline = "offline",
        max_downtime = "max_downtime" | "maxDowntime",
        bandwidth = "bandwidth",
        compression = "compression",
        auto_converge = "auto_converge" | "autoConverge",
        post_copy = "post_copy" | "postCopy",
        parallel = "parallel",
        verify_checksum = "verify_checksum" | "verifyChecksum",
        encrypt_transport = "encrypt_transport" | "encryptTransport",
        timeout = "timeout" via DurationText,
        on_timeout = "on_timeout" | "onTimeout",
        with_disks = "with_disks" | "withDisks",
        same_host = "same_host" | "sameHost",
    }
}

impl Default for MigrationOptions {
    fn default() -> Self {
        MigrationOptions {
            live: true,
            offline: false,
            max_downtime: MAX_DOWNTIME_DEFAULT_MS,
            bandwidth: 0,
            compression: true,
            auto_converge: true,
            post_copy: false,
            parallel: PARALLEL_DEFAULT,
            verify_checksum: true,
            encrypt_transport: true,
            timeout: None,
            on_timeout: OnTimeout::Cancel,
            with_disks: false,
            same_host: SameHost::Auto,
        }
    }
}

impl MigrationOptions {
    /// The limit on downtime, with the default for 0.
    #[must_use]
    pub fn downtime_limit(&self) -> Duration {
        Duration::from_millis(match self.max_downtime {
            0 => MAX_DOWNTIME_DEFAULT_MS,
            millis => millis,
        })
    }

    /// The number of connections for page data, with the default for 0.
    #[must_use]
    pub fn channels(&self) -> u32 {
        if self.parallel == 0 {
            PARALLEL_DEFAULT
        } else {
            self.parallel
        }
    }

    /// The time from the start to the switch, or `None` for no limit.
    #[must_use]
    pub fn time_limit(&self) -> Option<Duration> {
        self.timeout.filter(|timeout| !timeout.is_zero())
    }

    /// Reads and validates what a user sent.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`], naming the field.
    pub fn from_value(value: Value) -> Result<MigrationOptions> {
        let options = serde_json::from_value::<Option<MigrationOptions>>(value)
            .map_err(|error| DWCPError::Config(error.to_string()))?
            .unwrap_or_default();
        options.validate()?;
        Ok(options)
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] for the first field with a value that is never allowed.
    pub fn validate(&self) -> Result<()> {
        at_most("max_downtime", self.max_downtime, MAX_DOWNTIME_MS)?;
        at_most(
            "parallel",
            u64::from(self.parallel),
            u64::from(PARALLEL_MAX),
        )?;
        if self
            .timeout
            .is_some_and(|timeout| timeout > Duration::from_secs(TIMEOUT_MAX_SECS))
        {
            return wrong("timeout", "must be at most 7 days");
        }
        if self.offline && self.post_copy {
            return wrong("post_copy", "must be false where offline is true");
        }
        if self.offline && self.same_host == SameHost::Require {
            return wrong("same_host", "must not be require where offline is true");
        }
        Ok(())
    }
}

words! {
    /// How far a migration is.
    #[non_exhaustive]
    pub enum MigrationState as "migration state" {
        /// The target checks whether it can run the VM, and makes room.
        Preparing = "preparing",
        /// Memory is being copied while the VM runs here.
        Running = "running",
        /// The switch, and in post-copy the rest of the memory after it.
        Completing = "completing",
        /// The VM runs on the target.
        Completed = "completed",
        /// It ended without moving the VM; `error` says why.
        Failed = "failed",
        /// It was cancelled; the VM stays where it was.
        Cancelled = "cancelled",
    }
}

impl MigrationState {
    /// Whether it has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            MigrationState::Completed | MigrationState::Failed | MigrationState::Cancelled
        )
    }
}

/// How a migration goes, or went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// Id of the migration.
    pub id: String,
    /// The VM.
    pub vm_id: String,
    /// Name of the node it leaves.
    pub source_node: String,
    /// Name of the node it goes to.
    pub target_node: String,
    /// How far it is.
    pub state: MigrationState,
    /// Share of the work that is done, 0 to 100.
    #[serde(deserialize_with = "super::keys::number")]
    pub progress: f64,
    /// Bytes to be sent, as far as it is known now.
    pub bytes_total: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes sent per second, lately; of a migration that is over, in all its rounds.
    pub throughput: u64,
    /// The longest time in which the guest stood still, in milliseconds. That is the switch, in which
    /// the VM runs nowhere; or, where the host is short of processors, the longest wait of a vCPU for
    /// one while pages were copied, if that was longer.
    pub downtime: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The way it is done.
    pub mode: MigrationMode,
    /// The round being sent, from 1; 0 before the first.
    pub round: u32,
    /// The rounds that were sent.
    pub rounds: Vec<RoundReport>,
    /// Pages of 4 KiB the guest writes per second, lately.
    #[serde(deserialize_with = "super::keys::number")]
    pub dirty_rate: f64,
    /// Downtime in microseconds, were the switch made now.
    pub expected_downtime_us: u64,
    /// The same in microseconds. `breakdown.total_us` is the switch alone.
    pub downtime_us: u64,
    /// What the switch went into.
    pub breakdown: DowntimeBreakdown,
    /// How long all vCPUs together stood still up to now, or to the switch, although the guest had
    /// something to do, in microseconds: without a processor, or held up by the kernel or the host.
    pub stall_us: u64,
    /// Bytes by kind.
    pub bytes: MigrationBytes,
    /// Connections for page data in use.
    pub channels: u32,
    /// How far the guest's vCPUs were held back so that copying could keep up, in percent of the time; 0:
    /// not at all. They are let go at the switch.
    pub throttle: u32,
    /// Microseconds until the switch if all goes on as now; in the first round, as if the guest wrote nothing.
    /// `None` where it is not known, or the guest writes as fast as is copied.
    pub time_left_us: Option<u64>,
}

impl MigrationStatus {
    /// The JSON keys that only the extended profile carries.
    pub const EXTENDED_KEYS: &'static [&'static str] = &[
        "mode",
        "round",
        "rounds",
        "dirty_rate",
        "expected_downtime_us",
        "downtime_us",
        "breakdown",
        "stall_us",
        "bytes",
        "channels",
        "throttle",
        "time_left_us",
    ];
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_those_of_the_sdks() {
        let value = serde_json::to_value(MigrationOptions::default()).unwrap();
        assert_eq!(
            value,
            json!({
                "live": true, "offline": false, "max_downtime": 500, "bandwidth": 0,
                "compression": true, "auto_converge": true, "post_copy": false, "parallel": 4,
                "verify_checksum": true, "encrypt_transport": true,
                "timeout": null, "on_timeout": "cancel", "with_disks": false, "same_host": "auto",
            })
        );
        for value in [json!(null), json!({}), value] {
            assert_eq!(
                MigrationOptions::from_value(value),
                Ok(MigrationOptions::default())
            );
        }
    }

    #[test]
    fn both_cases_are_read() {
        let snake = json!({
            "live": false, "offline": false, "max_downtime": 20, "bandwidth": 1, "compression": false,
            "auto_converge": false, "post_copy": true, "parallel": 2, "verify_checksum": false,
            "encrypt_transport": false, "timeout": "1m30s", "on_timeout": "ignore",
            "with_disks": true, "same_host": "never",
        });
        let camel = json!({
            "live": false, "offline": false, "maxDowntime": 20, "bandwidth": 1, "compression": false,
            "autoConverge": false, "postCopy": true, "parallel": 2, "verifyChecksum": false,
            "encryptTransport": false, "timeout": "1m30s", "onTimeout": "ignore",
            "withDisks": true, "sameHost": "never",
        });
        let options = MigrationOptions::from_value(snake).unwrap();
        assert_eq!(MigrationOptions::from_value(camel).unwrap(), options);
        assert_eq!(options.timeout, Some(Duration::from_secs(90)));
        let written = serde_json::to_value(&options).unwrap();
        assert_eq!(written["timeout"], "1m30s");
        assert_eq!(MigrationOptions::from_value(written).unwrap(), options);
    }

    #[test]
    fn zero_is_the_default() {
        let zeros = json!({"max_downtime": 0, "parallel": 0, "bandwidth": 0, "timeout": "0"});
        let options = MigrationOptions::from_value(zeros).unwrap();
        assert_eq!(options.downtime_limit(), Duration::from_millis(500));
        assert_eq!((options.channels(), options.time_limit()), (4, None));
        let some = MigrationOptions {
            max_downtime: 7,
            parallel: 9,
            ..Default::default()
        };
        assert_eq!(
            (some.downtime_limit(), some.channels()),
            (Duration::from_millis(7), 9)
        );
    }

    #[test]
    fn errors_start_with_the_field() {
        for (value, expected) in [
            (
                json!({"max_downtime": 3_600_001}),
                "max_downtime: must be at most 3600000, not 3600001",
            ),
            (
                json!({"parallel": 65}),
                "parallel: must be at most 64, not 65",
            ),
            (
                json!({"parallel": -1}),
                "parallel: invalid value: integer `-1`, expected u32",
            ),
            (
                json!({"timeout": "200h"}),
                "timeout: must be at most 7 days",
            ),
            (
                json!({"timeout": "soon"}),
                "timeout: duration \"soon\": expected a number",
            ),
            (
                json!({"timeout": 5}),
                "timeout: invalid type: integer `5`, expected a string",
            ),
            (
                json!({"onTimeout": "panic"}),
                "on_timeout: unknown on_timeout \"panic\", must be one of cancel, ignore",
            ),
            (
                json!({"offline": true, "post_copy": true}),
                "post_copy: must be false where offline is true",
            ),
            (
                json!({"offline": true, "same_host": "require"}),
                "same_host: must not be require where offline is true",
            ),
            (json!({"speed": 1}), "speed: unknown field"),
        ] {
            let error = MigrationOptions::from_value(value).unwrap_err();
            assert_eq!(error, DWCPError::Config(expected.into()));
        }
    }

    #[test]
    fn a_status_survives_json_and_the_base_profile_is_enough() {
        let full = MigrationStatus {
            id: "m".into(),
            state: MigrationState::Completed,
            progress: 100.0,
            completed_at: Some(Timestamp::from_unix_micros(5)),
            error: Some("x".into()),
            mode: MigrationMode::Postcopy,
            rounds: vec![RoundReport {
                round: 1,
                pages: 7,
                ..Default::default()
            }],
            breakdown: DowntimeBreakdown {
                total_us: 900,
                ..Default::default()
            },
            ..MigrationStatus::default()
        };
        let mut value = serde_json::to_value(&full).unwrap();
        assert_eq!(value["downtime"], 0, "an integer");
        assert_eq!(
            serde_json::from_value::<MigrationStatus>(value.clone()).unwrap(),
            full
        );
        for key in MigrationStatus::EXTENDED_KEYS {
            assert!(
                value.as_object_mut().unwrap().remove(*key).is_some(),
                "{key}"
            );
        }
        let keys: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let base = [
            "bytes_sent",
            "bytes_total",
            "completed_at",
            "downtime",
            "error",
            "id",
            "progress",
            "source_node",
            "started_at",
            "state",
            "target_node",
            "throughput",
            "vm_id",
        ];
        assert_eq!(keys, base);
        let read: MigrationStatus = serde_json::from_value(value).unwrap();
        assert_eq!(
            (read.id.as_str(), read.state),
            ("m", MigrationState::Completed)
        );
    }

    #[test]
    fn three_states_are_the_end() {
        use MigrationState::{Cancelled, Completed, Failed};
        let ends: Vec<_> = MigrationState::ALL
            .iter()
            .filter(|state| state.is_terminal())
            .collect();
        assert_eq!(ends, [&Completed, &Failed, &Cancelled]);
    }
}

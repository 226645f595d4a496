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
    /// The VM is stopped, or gets stopped, and its disks and config move. Default false.
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
    /// Whether memory is handed over instead of copied on one host.
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
    pub progress: f64,
    /// Bytes to be sent, as far as it is known now.
    pub bytes_total: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes sent per second, lately.
    pub throughput: u64,
    /// Time in which the VM ran nowhere, in milliseconds.
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
    pub dirty_rate: f64,
    /// Downtime in microseconds, were the switch made now.
    pub expected_downtime_us: u64,
    /// Time in which the VM ran nowhere, in microseconds.
    pub downtime_us: u64,
    /// What the downtime went into.
    pub breakdown: DowntimeBreakdown,
    /// Time in which the copy held the guest up while it ran, in microseconds.
    pub stall_us: u64,
    /// Bytes by kind.
    pub bytes: MigrationBytes,
    /// Connections for page data in use.
    pub channels: u32,
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
    ];
}

//! Durations as text: `500ms`, `1.5s`, `5m`, `1h30m0s`, `100µs`.
//!
//! The grammar is that of Go's `time.ParseDuration` without the sign, because deployed clients
//! send what Go prints.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names::quote;
use crate::error::{DWCPError, Result};

const NANOS_PER_SEC: u128 = 1_000_000_000;

/// Every unit and its length in nanoseconds. Both code points that look like µ are in use.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS_PER_SEC),
    ("m", 60 * NANOS_PER_SEC),
    ("h", 3_600 * NANOS_PER_SEC),
];

/// Longest text that is read. [`Duration::MAX`] needs 32 bytes; the rest is room for zeros.
const TEXT_MAX: usize = 64;

/// Reads a duration: one or more of a decimal number with a unit (`h m s ms us µs ns`), or `0`.
///
/// Parts of a nanosecond are dropped.
///
/// # Errors
///
/// [`DWCPError::Config`] naming the text and what is wrong with it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use dwcp::model::duration;
///
/// assert_eq!(duration::parse("1h30m0s")?, Duration::from_secs(5400));
/// assert_eq!(duration::parse("1.5s")?, Duration::from_millis(1500));
/// assert_eq!(duration::format(Duration::from_micros(100)), "100µs");
/// # Ok::<(), dwcp::DWCPError>(())
/// ```
pub fn parse(text: &str) -> Result<Duration> {
    let wrong = |why: &str| DWCPError::Config(format!("duration {}: {why}", quote(text)));
    if text.len() > TEXT_MAX {
        return Err(wrong("too long"));
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(wrong("empty"));
    }
    let mut total: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (part, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && part.is_empty() {
            return Err(wrong("expected a number"));
        }
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(wrong("missing unit, such as s or ms"));
        }
        let Some(&(_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(wrong(
                "unknown unit, must be one of h, m, s, ms, us, µs, ns",
            ));
        };
        let amount = scaled(whole, part, nanos).ok_or_else(|| wrong("too large"))?;
        total = total
            .checked_add(amount)
            .ok_or_else(|| wrong("too large"))?;
        rest = after;
    }
    let seconds = u64::try_from(total / NANOS_PER_SEC).map_err(|_| wrong("too large"))?;
    let nanos = u32::try_from(total % NANOS_PER_SEC).map_err(|_| wrong("too large"))?;
    Ok(Duration::new(seconds, nanos))
}

/// Writes a duration so that [`parse`] gives the same one: `0s`, `100µs`, `1.5s`, `1h30m0s`.
#[must_use]
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => with_fraction(nanos, 1_000, "µs"),
        1_000_000..NANOS_PER_SEC => with_fraction(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / (60 * NANOS_PER_SEC);
            let seconds = with_fraction(nanos % (60 * NANOS_PER_SEC), NANOS_PER_SEC, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// Splits the leading ASCII digits off.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// `whole.part` times `unit`, or `None` past the range.
fn scaled(whole: &str, part: &str, unit: u128) -> Option<u128> {
    let number = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<u128>().ok()
        }
    };
    // More decimals than this lie below a nanosecond for every unit, and 10^18 hours fit in u128.
    let part = &part[..part.len().min(18)];
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    number(whole)?
        .checked_mul(unit)?
        .checked_add(number(part)? * unit / scale)
}

/// `nanos` in a unit, with as many decimals as it takes and no trailing zeros.
fn with_fraction(nanos: u128, unit: u128, name: &str) -> String {
    let width = unit.ilog10() as usize;
    let text = format!("{}.{:0width$}", nanos / unit, nanos % unit);
    format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A duration that is text in JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DurationText(pub(crate) Duration);

impl From<DurationText> for Option<Duration> {
    fn from(text: DurationText) -> Self {
        Some(text.0)
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(self.0))
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse(&text)
            .map(DurationText)
            .map_err(|error| D::Error::custom(error.message()))
    }
}

/// For `#[serde(serialize_with)]` on an optional duration.
pub(crate) fn serialize_option<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(DurationText).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_clients_send() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("5m", 300_000_000_000),
            ("1h30m0s", 5_400_000_000_000),
            ("1h15m30.918273645s", 4_530_918_273_645),
            ("100\u{b5}s", 100_000),
            ("100\u{3bc}s", 100_000),
            ("100us", 100_000),
            ("7ns", 7),
            ("1.9ns", 1),
            ("0.000000000001h", 3),
            ("0.333333333333333333333h", 1_199_999_999_999),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_nanos(nanos), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_by_name() {
        for text in [
            "",
            " ",
            "5",
            "s",
            ".",
            ".s",
            "-5s",
            "+5s",
            "5 s",
            " 5s",
            "5s ",
            "5x",
            "5d",
            "5S",
            "1e3s",
            "1..5s",
            "1.5.5s",
            "5\u{665}s",
            "inf",
            "99999999999999999999h",
            "18446744073709551615s1h",
            "\u{b5}s",
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, DWCPError::Config(_)), "{error:?}");
            assert!(
                error.message().starts_with(&format!("duration {text:?}: ")),
                "{error}"
            );
        }
        let long = format!("{}s", "1".repeat(100));
        assert!(parse(&long).unwrap_err().message().ends_with("too long"));
    }

    #[test]
    fn writes_what_go_writes() {
        for (duration, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1ns"),
            (Duration::from_nanos(1_100), "1.1µs"),
            (Duration::from_micros(100), "100µs"),
            (Duration::from_micros(2_200), "2.2ms"),
            (Duration::from_millis(3_300), "3.3s"),
            (Duration::from_secs(300), "5m0s"),
            (Duration::from_secs(5_400), "1h30m0s"),
            (Duration::MAX, "5124095576030431h0m15.999999999s"),
        ] {
            assert_eq!(format(duration), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(secs: u64, shift in 0_u32..64, nanos in 0_u32..1_000_000_000) {
            let duration = Duration::new(secs >> shift, nanos);
            prop_assert_eq!(parse(&format(duration)).unwrap(), duration);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.hmsnuµ]{0,70}|.*") {
            let _ = parse(&text);
        }
    }
}

//! Points in time, to the microsecond.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::keys::Text;
use super::names::quote;
use crate::error::{DWCPError, Result};

/// A point in time: microseconds since 1970-01-01T00:00:00 UTC, leap seconds not counted.
///
/// Text and JSON are `YYYY-MM-DDThh:mm:ss.ffffff+00:00`; any RFC 3339 text is read. The range is
/// that of the SDKs' languages, the years 1 to 9999; what lies outside is moved to its end.
///
/// # Examples
///
/// ```
/// use dwcp::Timestamp;
///
/// let then = Timestamp::from_unix_micros(1_700_000_000_250_000);
/// assert_eq!(then.to_string(), "2023-11-14T22:13:20.250000+00:00");
/// assert_eq!("2023-11-14T23:13:20.25+01:00".parse::<Timestamp>()?, then);
/// # Ok::<(), dwcp::DWCPError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 0001-01-01T00:00:00, the first moment that every SDK's language can hold.
    pub const MIN: Timestamp = Timestamp(-62_135_596_800_000_000);
    /// The last moment of the calendar library, a day before the year 10000.
    pub const MAX: Timestamp = Timestamp(253_402_207_200_000_000);

    /// The present time of this host's clock.
    #[must_use]
    pub fn now() -> Timestamp {
        Timestamp::from_unix_micros(jiff::Timestamp::now().as_microsecond())
    }

    /// The time this many microseconds after (or, negative, before) the epoch.
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> Timestamp {
        if micros < Self::MIN.0 {
            Self::MIN
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Timestamp(micros)
        }
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_unix_micros(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_microsecond(self.0).map_err(|_| fmt::Error)?;
        let time = jiff::tz::Offset::UTC.to_datetime(time);
        // Written digit by digit: every reply has several of them.
        let mut text = *b"0000-00-00T00:00:00.000000+00:00";
        for (end, number) in [
            (4, i32::from(time.year())),
            (7, i32::from(time.month())),
            (10, i32::from(time.day())),
            (13, i32::from(time.hour())),
            (16, i32::from(time.minute())),
            (19, i32::from(time.second())),
            (26, time.subsec_nanosecond() / 1_000),
        ] {
            let mut rest = number;
            for digit in text[..end].iter_mut().rev() {
                if rest == 0 {
                    break;
                }
                *digit += u8::try_from(rest % 10).map_err(|_| fmt::Error)?;
                rest /= 10;
            }
        }
        let text = std::str::from_utf8(&text).map_err(|_| fmt::Error)?;
        f.pad(text)
    }
}

impl FromStr for Timestamp {
    type Err = DWCPError;

    /// Reads RFC 3339 text; parts of a microsecond are dropped.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] naming the text.
    fn from_str(text: &str) -> Result<Self> {
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            DWCPError::Config(format!("timestamp {} is not RFC 3339 text", quote(text)))
        })?;
        Ok(Timestamp::from_unix_micros(time.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::<'de>::deserialize(deserializer)?;
        text.as_str()
            .parse()
            .map_err(|error: DWCPError| D::Error::custom(error.message()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_has_always_six_decimals_and_an_offset() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000+00:00"),
            (1, "1970-01-01T00:00:00.000001+00:00"),
            (-1, "1969-12-31T23:59:59.999999+00:00"),
            (1_700_000_000_000_000, "2023-11-14T22:13:20.000000+00:00"),
            (i64::MIN, "0001-01-01T00:00:00.000000+00:00"),
            (i64::MAX, "9999-12-30T22:00:00.000000+00:00"),
        ] {
            assert_eq!(Timestamp::from_unix_micros(micros).to_string(), text);
        }
    }

    #[test]
    fn reads_rfc_3339() {
        let then = Timestamp::from_unix_micros(1_700_000_000_123_456);
        for text in [
            "2023-11-14T22:13:20.123456Z",
            "2023-11-14T22:13:20.123456789Z",
            "2023-11-14t22:13:20.123456z",
            "2023-11-15T03:43:20.123456+05:30",
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap(), then, "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-13-14T22:13:20Z",
        ] {
            let error = text.parse::<Timestamp>().unwrap_err();
            assert!(error.message().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn now_is_now() {
        let now = Timestamp::now();
        let system = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let apart = i128::from(now.as_unix_micros()) - i128::try_from(system.as_micros()).unwrap();
        assert!(apart.abs() < 60_000_000, "{apart}");
    }

    proptest! {
        #[test]
        fn every_time_survives_json(micros in Timestamp::MIN.0 - 9..=Timestamp::MAX.0 + 9) {
            let time = Timestamp::from_unix_micros(micros);
            let json = serde_json::to_string(&time).unwrap();
            prop_assert_eq!(json.len(), 34);
            prop_assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
        }
    }
}

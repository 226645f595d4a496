//! Enums that are words on the wire: one table gives the words, `Display`, `FromStr` and serde.

/// Declares an enum of words.
///
/// The first variant is the default. Reading an unknown word is an error that lists the known ones,
/// unless a variant is marked `, else Variant`, which then stands for every unknown word in JSON
/// (but not in `FromStr`, where a user typed it).
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident as $what:literal {
            $( $(#[$doc:meta])* $variant:ident = $word:literal, )+
        }
        $(else $other:ident)?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[$doc])* #[doc = concat!("\n\nWritten `\"", $word, "\"`.")] $variant, )+
        }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [$name] = &[$( $name::$variant, )+];

            /// The word that stands for this value in JSON and in text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word, )+ }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::error::DWCPError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $( $word => Ok($name::$variant), )+
                    _ => Err(crate::error::DWCPError::Config(
                        $crate::model::names::unknown_word($what, text, &[$( $word, )+]),
                    )),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = $crate::model::keys::Text::<'de>::deserialize(deserializer)?;
                match text.as_str() {
                    $( $word => Ok($name::$variant), )+
                    _other => $crate::model::names::words!(@unknown $what _other [$( $word, )+] $($name $other)?),
                }
            }
        }
    };
    (@unknown $what:literal $text:ident $words:tt $name:ident $other:ident) => { Ok($name::$other) };
    (@unknown $what:literal $text:ident $words:tt) => {
        Err(serde::de::Error::custom($crate::model::names::unknown_word($what, $text, &$words)))
    };
}
pub(crate) use words;

/// Longest piece of a caller's text that an error repeats: enough to recognise it by.
const QUOTED_MAX: usize = 64;

/// `text` in quotes, control characters escaped, shortened if it is long.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The text of the error for a word that is not in its table.
pub(crate) fn unknown_word(what: &str, text: &str, known: &[&str]) -> String {
    let known: Vec<&str> = known
        .iter()
        .copied()
        .filter(|word| !word.is_empty())
        .collect();
    format!(
        "unknown {what} {}, must be one of {}",
        quote(text),
        known.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::quote;
    use crate::model::{
        HealthStatus, MigrationMode, MigrationState, NetworkMode, OnTimeout, SameHost, VMState,
    };

    /// Every word of an enum survives `Display`, `FromStr` and JSON.
    fn survives<T>(all: &[T])
    where
        T: Copy + PartialEq + std::fmt::Debug + std::fmt::Display + std::str::FromStr,
        T::Err: std::fmt::Debug,
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        for value in all {
            let word = value.to_string();
            assert_eq!(word, word.to_lowercase());
            assert_eq!(word.parse::<T>().unwrap(), *value);
            let json = serde_json::to_value(value).unwrap();
            assert_eq!(json, word.as_str());
            assert_eq!(serde_json::from_value::<T>(json).unwrap(), *value);
        }
    }

    #[test]
    fn every_word_survives_text_and_json() {
        survives(VMState::ALL);
        survives(MigrationState::ALL);
        survives(MigrationMode::ALL);
        survives(NetworkMode::ALL);
        survives(OnTimeout::ALL);
        survives(SameHost::ALL);
        survives(HealthStatus::ALL);
    }

    #[test]
    fn an_unknown_word_names_itself_and_the_known_ones() {
        let error = "bridged".parse::<NetworkMode>().unwrap_err();
        assert_eq!(
            error.message(),
            "unknown network mode \"bridged\", must be one of none, bridge, tap, nat"
        );
    }

    #[test]
    fn a_state_of_a_newer_node_is_unknown_but_not_one_that_was_typed() {
        assert_eq!(
            serde_json::from_str::<VMState>("\"dreaming\"").unwrap(),
            VMState::Unknown
        );
        assert!("dreaming".parse::<VMState>().is_err());
        assert!(serde_json::from_str::<MigrationState>("\"dreaming\"").is_err());
    }

    #[test]
    fn quoted_text_is_short_and_on_one_line() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        assert!(quote(&"é".repeat(10_000)).len() < 200);
    }
}

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
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().or_else(|error: crate::error::DWCPError| {
                    let _ = &error;
                    $( return Ok($name::$other); )?
                    #[allow(unreachable_code)]
                    Err(serde::de::Error::custom(error.message()))
                })
            }
        }
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

//! Reading what users send: snake case and camel case, nothing unknown, errors that name the field.
//!
//! Derived code could do the first half, but its errors do not say which field had the wrong type,
//! and `null` needs an attribute per field. The same reader reads the config in a node's reply,
//! leniently: what a newer node adds is dropped there.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Types read by [`keyed!`].
pub(crate) trait Keyed<'de>: Sized {
    /// The snake-case keys with their camel-case spellings, the usual one first.
    const ALIASES: &'static [(&'static str, &'static [&'static str])];

    /// Reads it: what users send if `STRICT`, and else what a node replies, in which only the
    /// snake-case keys count.
    fn read<const STRICT: bool, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// One that is read as strictly as what it is in.
pub(crate) struct Part<T, const STRICT: bool>(pub(crate) T);

impl<'de, T: Keyed<'de>, const STRICT: bool> Deserialize<'de> for Part<T, STRICT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::read::<STRICT, D>(deserializer).map(Part)
    }
}

/// Text that is looked at and not kept, borrowed where that is possible.
pub(crate) struct Text<'de>(Cow<'de, str>);

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsText;

        impl<'de> Visitor<'de> for AsText {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }

        deserializer.deserialize_str(AsText)
    }
}

/// Implements `Deserialize` for a struct with `Default`.
///
/// Each row is `field = "key" | "camelKey"`, with `via Type` where the JSON form is another type
/// that converts into the field's, and with `part`, `optional part` or `list of part` where the
/// field's type is such a struct again. `null` and absence leave the default. `, then function` runs
/// at the end.
macro_rules! keyed {
    (
        $name:ident as $what:literal {
            $( $field:ident = $key:literal $(| $alias:literal)* $(via $via:ty)? $([$($part:ident)+])?, )+
        }
        $(then $then:path)?
    ) => {
        impl<'de> $crate::model::keys::Keyed<'de> for $name {
            const ALIASES: &'static [(&'static str, &'static [&'static str])] =
                &[$( ($key, &[$( $alias, )*]), )+];

            fn read<const STRICT: bool, D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                struct Fields<const STRICT: bool>;

                impl<'de, const STRICT: bool> serde::de::Visitor<'de> for Fields<STRICT> {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<$name, A::Error> {
                        let mut value = $name::default();
                        let mut seen = std::collections::BTreeSet::new();
                        while let Some(key) = map.next_key::<$crate::model::keys::Text<'de>>()? {
                            match key.as_str() {
                                $( $key $(| $alias)* => {
                                    if STRICT {
                                        $crate::model::keys::once::<A>(&mut seen, $key)?;
                                    } else if key.as_str() != $key {
                                        map.next_value::<serde::de::IgnoredAny>()?;
                                        continue;
                                    }
                                    $crate::model::keys::keyed!(
                                        @read map value $field $key $([$($part)+])? $($via)?
                                    );
                                } )+
                                unknown if STRICT => {
                                    return Err($crate::model::keys::unknown::<A>(unknown));
                                }
                                _ => {
                                    map.next_value::<serde::de::IgnoredAny>()?;
                                }
                            }
                        }
                        $( $then(&mut value); )?
                        Ok(value)
                    }
                }

                deserializer.deserialize_map(Fields::<STRICT>)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$name as $crate::model::keys::Keyed<'de>>::read::<true, D>(deserializer)
            }
        }
    };
    (@read $map:ident $value:ident $field:ident $key:literal [part]) => {
        if let Some(part) =
            $crate::model::keys::field::<$crate::model::keys::Part<_, STRICT>, A>(&mut $map, $key)?
        {
            $value.$field = part.0;
        }
    };
    (@read $map:ident $value:ident $field:ident $key:literal [optional part]) => {
        if let Some(part) =
            $crate::model::keys::field::<$crate::model::keys::Part<_, STRICT>, A>(&mut $map, $key)?
        {
            $value.$field = Some(part.0);
        }
    };
    (@read $map:ident $value:ident $field:ident $key:literal [list of part]) => {
        if let Some(parts) = $crate::model::keys::field::<
            Vec<$crate::model::keys::Part<_, STRICT>>,
            A,
        >(&mut $map, $key)?
        {
            $value.$field = parts.into_iter().map(|part| part.0).collect();
        }
    };
    (@read $map:ident $value:ident $field:ident $key:literal) => {
        if let Some(read) = $crate::model::keys::field(&mut $map, $key)? {
            $value.$field = read;
        }
    };
    (@read $map:ident $value:ident $field:ident $key:literal $via:ty) => {
        if let Some(read) = $crate::model::keys::field::<$via, A>(&mut $map, $key)? {
            $value.$field = read.into();
        }
    };
}
pub(crate) use keyed;

/// Reads one value; `null` is `None`. Errors start with the path of the field.
pub(crate) fn field<'de, T, A>(map: &mut A, key: &'static str) -> Result<Option<T>, A::Error>
where
    T: serde::Deserialize<'de>,
    A: MapAccess<'de>,
{
    map.next_value::<Option<T>>().map_err(|error| {
        let text = error.to_string();
        // A nested field has already put its own name in front: make a path of the two.
        let is_path = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let nested = text.split_once(": ").is_some_and(|(path, _)| is_path(path));
        let join = if nested { "." } else { ": " };
        A::Error::custom(format_args!("{key}{join}{text}"))
    })
}

/// Refuses a key that came before, in either case: which of the two counts would be a guess.
pub(crate) fn once<'de, A: MapAccess<'de>>(
    seen: &mut std::collections::BTreeSet<&'static str>,
    key: &'static str,
) -> Result<(), A::Error> {
    if seen.insert(key) {
        Ok(())
    } else {
        Err(A::Error::custom(format_args!("{key}: given twice")))
    }
}

/// The error for a key that no version of the table has.
pub(crate) fn unknown<'de, A: MapAccess<'de>>(key: &str) -> A::Error {
    // The name has to come first, as in every other error about a field; its length is the
    // sender's choice.
    let shown: String = key.chars().take(64).filter(|c| !c.is_control()).collect();
    A::Error::custom(format_args!("{shown}: unknown field"))
}

/// Copies what an object has under snake-case keys to the usual camel-case keys.
pub(crate) fn add_camel_case<T: Keyed<'static>>(value: &mut Value) {
    if let Value::Object(object) = value {
        for (key, aliases) in T::ALIASES {
            if let (Some(alias), Some(value)) = (aliases.first(), object.get(*key).cloned()) {
                object.insert((*alias).to_owned(), value);
            }
        }
    }
}

/// Reads a number of a reply; `null`, which is how JSON writes what is not a number, is 0.
pub(crate) fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(<Option<f64> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

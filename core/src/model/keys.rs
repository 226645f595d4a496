//! Reading what users send: snake case and camel case, nothing unknown, errors that name the field.
//!
//! Derived code could do the first half, but its errors do not say which field had the wrong type,
//! and `null` needs an attribute per field. Replies use derived code; see [`known_only`].

use serde::de::{Error, MapAccess};
use serde_json::Value;

/// Types read by [`keyed!`].
pub(crate) trait Keyed {
    /// The snake-case keys.
    const KEYS: &'static [&'static str];
    /// The snake-case keys with their camel-case spellings, the usual one first.
    const ALIASES: &'static [(&'static str, &'static [&'static str])];
}

/// Implements `Deserialize` for a struct with `Default`.
///
/// Each row is `field = "key" | "camelKey"`, with `via Type` where the JSON form is another type
/// that converts into the field's. `null` and absence leave the default. `, then function` runs at
/// the end.
macro_rules! keyed {
    (
        $name:ident as $what:literal {
            $( $field:ident = $key:literal $(| $alias:literal)* $(via $via:ty)?, )+
        }
        $(then $then:path)?
    ) => {
        impl $crate::model::keys::Keyed for $name {
            const KEYS: &'static [&'static str] = &[$( $key, )+];
            const ALIASES: &'static [(&'static str, &'static [&'static str])] =
                &[$( ($key, &[$( $alias, )*]), )+];
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;

                impl<'de> serde::de::Visitor<'de> for Fields {
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
                        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                            match key.as_ref() {
                                $( $key $(| $alias)* => {
                                    $crate::model::keys::once::<A>(&mut seen, $key)?;
                                    $crate::model::keys::keyed!(@read map value $field $key $($via)?);
                                } )+
                                unknown => return Err($crate::model::keys::unknown::<A>(unknown)),
                            }
                        }
                        $( $then(&mut value); )?
                        Ok(value)
                    }
                }

                deserializer.deserialize_map(Fields)
            }
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

/// Drops from an object what this version does not know, so that a reply of a newer node can be
/// read by the strict reader.
pub(crate) fn known_only<T: Keyed>(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|key, _| T::KEYS.contains(&key.as_str()));
    }
}

/// Copies what an object has under snake-case keys to the usual camel-case keys.
pub(crate) fn add_camel_case<T: Keyed>(value: &mut Value) {
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

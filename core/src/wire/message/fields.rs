//! The fields of a request, taken out one by one: what is left over in the end is unknown.

use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::REQUEST_MAX;
use crate::error::{DWCPError, Result};
use crate::model::duration;

/// Most fields of one request: no operation has half as many.
const FIELDS_MAX: usize = 32;
/// Longest piece of an unknown field's name that an error repeats, in characters.
const NAME_SHOWN_MAX: usize = 64;

/// The fields of a JSON object. `null` is the same as absence.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, Value)>);

impl Fields {
    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// `resource_limit` for one that is too long, `invalid_message` for one that is no object or has
    /// a field twice.
    pub(super) fn read(payload: &[u8]) -> Result<Fields> {
        if payload.len() > REQUEST_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "a request of {} bytes, where {REQUEST_MAX} are the limit",
                payload.len()
            )));
        }
        serde_json::from_slice(payload)
            .map_err(|error| DWCPError::Protocol(format!("payload: {error}")))
    }

    /// Whether there is such a field.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The value of a field, which stays.
    pub(super) fn peek(&self, name: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    /// Takes a field as it is.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.swap_remove(index).1)
    }

    /// Takes a field of any type that JSON has a form of.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        self.value(name)
            .map(|value| serde_json::from_value(value).map_err(|error| wrong(name, error)))
            .transpose()
    }

    /// Takes text that has to be there.
    pub(super) fn text(&mut self, name: &str) -> Result<String> {
        self.optional_text(name)?
            .ok_or_else(|| wrong(name, "missing"))
    }

    /// Takes text.
    pub(super) fn optional_text(&mut self, name: &str) -> Result<Option<String>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "must be text")),
        }
    }

    /// Takes true or false; absence is false.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool> {
        match self.value(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(wrong(name, "must be true or false")),
        }
    }

    /// Takes a number; absence is 0.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<T> {
        Ok(match self.optional_number(name)? {
            Some(number) => T::try_from(number).map_err(|_| wrong(name, "is too large"))?,
            None => T::try_from(0).map_err(|_| wrong(name, "missing"))?,
        })
    }

    /// Takes a number.
    pub(super) fn optional_number(&mut self, name: &str) -> Result<Option<u64>> {
        self.value(name)
            .map(|value| {
                value
                    .as_u64()
                    .ok_or_else(|| wrong(name, "must be a whole number, 0 or more"))
            })
            .transpose()
    }

    /// Takes a duration in text; empty text is absence.
    pub(super) fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        self.optional_text(name)?
            .filter(|text| !text.is_empty())
            .map(|text| duration::parse(&text).map_err(|error| wrong(name, error.message())))
            .transpose()
    }

    /// Takes `deadline_ms`; 0 asks for nothing.
    pub(super) fn deadline(&mut self) -> Result<Option<Duration>> {
        let millis = self.optional_number("deadline_ms")?;
        Ok(millis
            .filter(|millis| *millis > 0)
            .map(Duration::from_millis))
    }

    /// Takes an object with fields of its own.
    pub(super) fn object(&mut self, name: &str) -> Result<Fields> {
        self.optional(name)?.ok_or_else(|| wrong(name, "missing"))
    }

    /// # Errors
    ///
    /// `invalid_message` for a field that nobody took.
    pub(super) fn end(self) -> Result<()> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(wrong(&shown(&name), "unknown field")),
        }
    }
}

/// The error for a field.
pub(super) fn wrong(name: &str, why: impl fmt::Display) -> DWCPError {
    DWCPError::Protocol(format!("{name}: {why}"))
}

/// A name that a peer chose, fit to stand first in an error.
fn shown(name: &str) -> String {
    let name = name.chars().take(NAME_SHOWN_MAX);
    name.filter(|c| !c.is_control()).collect()
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields(Vec::with_capacity(4));
                // A field that is null is remembered until the end, to be known if it comes twice.
                while let Some(name) = map.next_key::<String>()? {
                    if fields.has(&name) {
                        let name = shown(&name);
                        return Err(A::Error::custom(format_args!("{name} is given twice")));
                    }
                    if fields.0.len() == FIELDS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "more than {FIELDS_MAX} fields"
                        )));
                    }
                    let value = map.next_value()?;
                    fields.0.push((name, value));
                }
                fields.0.retain(|(_, value)| !value.is_null());
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Fields> {
        Fields::read(value.to_string().as_bytes())
    }

    fn message<T: fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(DWCPError::Protocol(message)) => message,
            other => panic!("expected an invalid message, got {other:?}"),
        }
    }

    #[test]
    fn fields_are_taken_by_their_type() {
        let mut fields = read(&json!({
            "text": "a", "flag": true, "number": 7, "wait": "1.5s", "deadline_ms": 20,
            "inner": {"x": 1}, "nothing": null,
        }))
        .unwrap();
        assert_eq!(fields.text("text").unwrap(), "a");
        assert!(fields.flag("flag").unwrap() && !fields.flag("other").unwrap());
        assert_eq!(fields.number::<u32>("number").unwrap(), 7);
        assert_eq!(fields.number::<u32>("other").unwrap(), 0);
        let wait = fields.duration("wait").unwrap();
        assert_eq!(wait, Some(Duration::from_millis(1500)));
        assert_eq!(fields.deadline().unwrap(), Some(Duration::from_millis(20)));
        assert_eq!(
            fields.object("inner").unwrap().number::<u8>("x").unwrap(),
            1
        );
        assert_eq!(fields.optional_text("nothing").unwrap(), None);
        fields.end().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let all = json!({"a": [], "long": u64::MAX, "wait": "soon"});
        let fields = || read(&all).unwrap();
        assert_eq!(message(fields().text("a")), "a: must be text");
        assert_eq!(message(fields().text("b")), "b: missing");
        assert_eq!(message(fields().flag("a")), "a: must be true or false");
        assert_eq!(
            message(fields().number::<u32>("long")),
            "long: is too large"
        );
        assert_eq!(
            message(fields().number::<u32>("a")),
            "a: must be a whole number, 0 or more"
        );
        assert_eq!(
            message(fields().duration("wait")),
            "wait: duration \"soon\": expected a number"
        );
        let inner = message(fields().object("a"));
        assert!(inner.starts_with("a: invalid type: sequence"), "{inner}");
        assert_eq!(message(fields().end()), "a: unknown field");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for payload in ["", "5", "[]", "null", "{", "{}{}", "{\"a\":1,}", "\u{0}"] {
            let error = message(Fields::read(payload.as_bytes()));
            assert!(error.starts_with("payload: "), "{payload}: {error}");
        }
        assert!(Fields::read(b"{\"a\":\"\xff\"}").is_err());
        Fields::read(b" {} ").unwrap().end().unwrap();
    }

    #[test]
    fn a_field_twice_is_refused() {
        for payload in [
            r#"{"vm_id":"a","vm_id":"b"}"#,
            r#"{"vm_id":null,"vm_id":"b"}"#,
        ] {
            let error = message(Fields::read(payload.as_bytes()));
            assert!(error.contains("vm_id is given twice"), "{error}");
        }
    }

    #[test]
    fn what_a_request_can_make_us_hold_is_bounded() {
        let long = vec![b' '; REQUEST_MAX + 1];
        let error = Fields::read(&long).unwrap_err();
        assert!(matches!(error, DWCPError::ResourceLimit(_)), "{error:?}");
        let many: serde_json::Map<_, _> = (0..=FIELDS_MAX)
            .map(|n| (n.to_string(), json!(1)))
            .collect();
        let error = message(read(&many.into()));
        assert!(error.contains("more than 32 fields"), "{error}");
        let name = "x\n".repeat(500);
        let error = message(read(&json!({name: 1})).unwrap().end());
        assert_eq!(error, format!("{}: unknown field", "x".repeat(32)));
        let deep = "[".repeat(100_000);
        assert!(Fields::read(format!("{{\"a\":{deep}").as_bytes()).is_err());
    }
}

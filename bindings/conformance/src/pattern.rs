//! Whether a value is as it must be.

use serde_json::Value;

use crate::Fault;

/// Holds a value against a pattern: objects have at least its fields, lists its items, and these words stand
/// for what is not known beforehand: `<text>`, `<number>`, `<list>`, `<any>`.
pub(crate) fn matches(pattern: &Value, value: &Value) -> Result<(), Fault> {
    at("", pattern, value)
}

fn at(place: &str, pattern: &Value, value: &Value) -> Result<(), Fault> {
    let holds = match (pattern, value) {
        (Value::String(word), _) if word == "<any>" => !value.is_null(),
        (Value::String(word), _) if word == "<text>" => {
            value.as_str().is_some_and(|text| !text.is_empty())
        }
        (Value::String(word), _) if word == "<number>" => value.is_number(),
        (Value::String(word), _) if word == "<list>" => value.is_array(),
        // What is empty may be left out.
        (Value::Object(fields), Value::Null) => fields.is_empty(),
        (Value::Object(fields), Value::Object(_)) => {
            for (name, pattern) in fields {
                at(&format!("{place}/{name}"), pattern, &value[name])?;
            }
            true
        }
        (Value::Array(patterns), Value::Array(items)) if patterns.len() == items.len() => {
            for (index, (pattern, item)) in patterns.iter().zip(items).enumerate() {
                at(&format!("{place}/{index}"), pattern, item)?;
            }
            true
        }
        // One language has whole numbers only where another has any.
        (Value::Number(_), Value::Number(_)) => pattern.as_f64() == value.as_f64(),
        _ => pattern == value,
    };
    if holds {
        return Ok(());
    }
    let place = if place.is_empty() { "it" } else { place };
    Err(format!("{place} must be {pattern}, and is {value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_asked_for_does_not_matter() {
        let value = json!({"a": 1, "b": "text", "c": [1, 2], "d": {"e": null}});
        for pattern in [
            json!({}),
            json!({"a": 1.0, "b": "<text>"}),
            json!({"c": ["<number>", 2], "b": "text"}),
            json!({"c": "<list>", "a": "<any>"}),
        ] {
            assert_eq!(matches(&pattern, &value), Ok(()));
        }
        for (pattern, place) in [
            (json!({"a": 2}), "/a"),
            (json!({"b": "<number>"}), "/b"),
            (json!({"c": [1]}), "/c"),
            (json!({"c": [1, 3]}), "/c/1"),
            (json!({"d": {"e": "<any>"}}), "/d/e"),
            (json!({"f": "<text>"}), "/f"),
            (json!([]), "it"),
        ] {
            let fault = matches(&pattern, &value).unwrap_err();
            assert!(fault.starts_with(place), "{fault}");
        }
    }
}

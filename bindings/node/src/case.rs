//! Keys of JSON in camel case: those of known structures, never those of maps a user fills.
#![forbid(unsafe_code)]

/// The fields whose keys are a user's.
pub(crate) const MAPS: &[&[u8]] = &[b"labels", b"annotations", b"node_selector"];

/// What is being read between two braces or brackets.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    /// An object whose keys are names of fields.
    Fields,
    /// An object whose keys are a user's.
    Map,
    Array,
}

/// The same JSON with the keys of its structures in camel case. JSON that this library wrote; of other
/// text it gives back some other text.
pub(crate) fn camel(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut inside: Vec<Inside> = Vec::new();
    // Whether the next text is a key, and whether the next object is a map.
    let (mut is_key, mut is_map) = (false, false);
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = end_of_text(json, at);
                let text = &json[at..end];
                if is_key && inside.last() == Some(&Inside::Fields) {
                    let name = text.get(1..text.len() - 1).unwrap_or_default();
                    is_map = MAPS.contains(&name);
                    push_camel(&mut out, text);
                } else {
                    out.extend_from_slice(text);
                }
                is_key = false;
                at = end;
                continue;
            }
            b'{' => {
                let kind = if is_map { Inside::Map } else { Inside::Fields };
                inside.push(kind);
                is_key = true;
                is_map = false;
            }
            b'[' => {
                inside.push(Inside::Array);
                is_map = false;
            }
            b'}' | b']' => {
                inside.pop();
            }
            b',' => {
                is_key = inside.last() != Some(&Inside::Array);
                is_map = false;
            }
            _ => {}
        }
        out.push(byte);
        at += 1;
    }
    out
}

/// Where the text ends that begins at `start`, its quotes included.
fn end_of_text(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    json.len()
}

/// Adds a key in camel case.
pub(crate) fn push_camel(out: &mut Vec<u8>, text: &[u8]) {
    let mut raise = false;
    for &byte in text {
        if byte == b'_' {
            raise = true;
            continue;
        }
        out.push(if raise {
            byte.to_ascii_uppercase()
        } else {
            byte
        });
        raise = false;
    }
}

#[cfg(test)]
mod tests {
    use super::camel;

    fn check(json: &str, want: &str) {
        assert_eq!(camel(json.as_bytes()), want.as_bytes(), "{json}");
    }

    #[test]
    fn fields_are_renamed() {
        check("[]", "[]");
        check("\"a_b\"", "\"a_b\"");
        check(
            r#"{"vm_id":"x_y","list_of":["a_b",{"c_d":[1,2]},"e_f"],"stall_us":1.5e3,"n":null}"#,
            r#"{"vmId":"x_y","listOf":["a_b",{"cD":[1,2]},"e_f"],"stallUs":1.5e3,"n":null}"#,
        );
        check(
            r#"{"first_one":"\"a_b\\","in_it":"{\"x_y\":1}","the_end":true}"#,
            r#"{"firstOne":"\"a_b\\","inIt":"{\"x_y\":1}","theEnd":true}"#,
        );
    }

    #[test]
    fn keys_of_users_are_not() {
        check(
            r#"{"labels":{"my_key":"a_b","o_k":"x"},"node_selector":{"a_b":"c"},"anti_affinity_vms":[]}"#,
            r#"{"labels":{"my_key":"a_b","o_k":"x"},"nodeSelector":{"a_b":"c"},"antiAffinityVms":[]}"#,
        );
        check(
            r#"{"annotations":{},"max_vms":{"x_y":1}}"#,
            r#"{"annotations":{},"maxVms":{"xY":1}}"#,
        );
        // A key that looks like a field of ours, in a map of theirs.
        check(
            r#"[{"labels":{"labels":"a_b"},"vm_id":1}]"#,
            r#"[{"labels":{"labels":"a_b"},"vmId":1}]"#,
        );
    }

    #[test]
    fn no_text_is_a_panic() {
        for json in [
            "",
            "{",
            "\"",
            "\"\\",
            "}}]]",
            "{\"labels\":[{\"a_b\":1}]",
            ",,",
            "{\"\":1}",
        ] {
            camel(json.as_bytes());
        }
    }
}

//! What the types of the API are in C: documents with named fields.

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dwcp_bindings_support::{Failure, Result};
use serde_json::{Map, Number, Value};

use crate::args::{dwcp_bytes, handle, text};
use crate::error::{DWCP_OK, c_text, dwcp_error};
use crate::give::{Out, give, guard, quietly, wanted};

/// A VM, its config, figures, an event: whatever the API takes and gives that has fields. It is JSON, as
/// on the wire: `dwcp_document_bytes()` gives it as it is, and the functions below read and write it field
/// by field. What a console prints is the one thing that is not JSON, and has bytes only.
///
/// A field is named by a path: "state", "config.memory", "network.interfaces.0.name". "" is the whole
/// document. Pairs, such as labels, have names that may hold dots: see `dwcp_document_set_pair()`.
///
/// Any thread may use it; while one writes, what others were given of it is gone.
pub struct dwcp_document(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// `None` where only the value is up to date.
    bytes: Option<Vec<u8>>,
    /// Read when it is first asked for.
    value: Option<Value>,
    /// Text that was given out.
    texts: HashMap<String, CString>,
}

impl dwcp_document {
    pub(crate) fn of_bytes(bytes: Vec<u8>) -> dwcp_document {
        dwcp_document(Mutex::new(Inner {
            bytes: Some(bytes),
            ..Inner::default()
        }))
    }

    fn of_value(value: Value) -> dwcp_document {
        dwcp_document(Mutex::new(Inner {
            value: Some(value),
            ..Inner::default()
        }))
    }

    /// The document as JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        self.inner().value().cloned()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn value(&mut self) -> Result<&mut Value> {
        let value = match self.value.take() {
            Some(value) => value,
            None => serde_json::from_slice(self.bytes.as_deref().unwrap_or_default())
                .map_err(|error| Failure::argument(format!("document: {error}")))?,
        };
        Ok(self.value.insert(value))
    }

    /// The value of a field; `None` where it is absent or null.
    fn field(&mut self, path: &str) -> Result<Option<&Value>> {
        let steps = path.split('.').filter(|step| !step.is_empty());
        let mut value = Some(&*self.value()?);
        for step in steps {
            value = value.and_then(|value| match value {
                Value::Object(fields) => fields.get(step),
                Value::Array(items) => items.get(step.parse::<usize>().ok()?),
                _ => None,
            });
        }
        Ok(value.filter(|value| !value.is_null()))
    }

    /// The place of a field, made where it is missing.
    fn place(&mut self, path: &str) -> Result<&mut Value> {
        self.bytes = None;
        self.texts.clear();
        let mut place = self.value()?;
        for step in path.split('.').filter(|step| !step.is_empty()) {
            if place.is_null() {
                *place = match step.parse::<usize>() {
                    Ok(_) => Value::Array(Vec::new()),
                    Err(_) => Value::Object(Map::new()),
                };
            }
            place = match place {
                Value::Object(fields) => fields.entry(step).or_insert(Value::Null),
                Value::Array(items) => {
                    let index = step.parse::<usize>().ok();
                    let index = index.filter(|index| *index <= items.len()).ok_or_else(|| {
                        Failure::argument(format!(
                            "path: {path:?}: {step:?} is neither an item of the list nor the next one"
                        ))
                    })?;
                    if index == items.len() {
                        items.push(Value::Null);
                    }
                    &mut items[index]
                }
                _ => {
                    return Err(Failure::argument(format!(
                        "path: {path:?}: there is no field {step:?} in a plain value"
                    )));
                }
            };
        }
        Ok(place)
    }
}

/// An empty document, to be filled and handed to a request; `dwcp_document_free()` frees it.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_new() -> Option<Box<dwcp_document>> {
    let empty = || dwcp_document::of_value(Value::Object(Map::new()));
    quietly(None, || Some(Box::new(empty())))
}

/// A document from JSON.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_parse(
    json: dwcp_bytes,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_document>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let out = wanted(out, "out")?;
        let value = serde_json::from_slice(json.get("json")?);
        let value = value.map_err(|error| Failure::argument(format!("json: {error}")))?;
        give(out, dwcp_document::of_value(value))
    })
}

/// Frees it; NULL is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_free(document: Option<Box<dwcp_document>>) {
    quietly((), || drop(document));
}

/// The document as bytes: JSON, or what a console printed. Empty for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_bytes(document: Option<&dwcp_document>) -> dwcp_bytes {
    quietly(dwcp_bytes::EMPTY, || {
        let Some(document) = document else {
            return dwcp_bytes::EMPTY;
        };
        let mut inner = document.inner();
        if inner.bytes.is_none() {
            inner.bytes = inner
                .value()
                .ok()
                .map(|value| value.to_string().into_bytes());
        }
        inner
            .bytes
            .as_deref()
            .map_or(dwcp_bytes::EMPTY, dwcp_bytes::of)
    })
}

/// The text of a field, or NULL where it has none. Valid until the document is changed or freed.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_text(
    document: Option<&dwcp_document>,
    path: *const c_char,
) -> *const c_char {
    quietly(std::ptr::null(), || {
        let (Some(document), Ok(path)) = (document, text(path, "path")) else {
            return std::ptr::null();
        };
        let mut inner = document.inner();
        if let Some(given) = inner.texts.get(path) {
            return given.as_ptr();
        }
        let found = inner.field(path).ok().flatten().and_then(Value::as_str);
        let Some(given) = found.map(c_text) else {
            return std::ptr::null();
        };
        let pointer = given.as_ptr();
        // What it points to does not move with it.
        inner.texts.insert(path.to_owned(), given);
        pointer
    })
}

/// The text that a pair has in the map at `path`, such as a label, or NULL.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_pair(
    document: Option<&dwcp_document>,
    path: *const c_char,
    name: *const c_char,
) -> *const c_char {
    quietly(std::ptr::null(), || {
        let (Some(document), Ok(path), Ok(name)) =
            (document, text(path, "path"), text(name, "name"))
        else {
            return std::ptr::null();
        };
        let mut inner = document.inner();
        let map = inner.field(path).ok().flatten();
        let Some(given) = map.and_then(|map| map.get(name)?.as_str()).map(c_text) else {
            return std::ptr::null();
        };
        // No path has a NUL in it, so this is nobody else's.
        let given = inner
            .texts
            .entry(format!("{path}\0{name}"))
            .or_insert(given);
        given.as_ptr()
    })
}

/// Reads a field: `invalid_config` where it is missing or of another type.
fn read<T>(
    document: Option<&dwcp_document>,
    path: *const c_char,
    out: Option<&mut MaybeUninit<T>>,
    error: Out<'_, dwcp_error>,
    kind: &str,
    take: impl FnOnce(&Value) -> Option<T>,
) -> i32 {
    guard(error, || {
        let path = text(path, "path")?;
        let out = out.ok_or_else(|| Failure::argument("out: is NULL"))?;
        let mut inner = handle(document, "document")?.inner();
        let value = inner.field(path)?.and_then(take);
        let value = value.ok_or_else(|| Failure::argument(format!("{path}: is no {kind}")));
        out.write(value?);
        Ok(DWCP_OK)
    })
}

/// A whole number that is not negative.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_u64(
    document: Option<&dwcp_document>,
    path: *const c_char,
    out: Option<&mut MaybeUninit<u64>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    read(document, path, out, error, "whole number", Value::as_u64)
}

/// A whole number.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_i64(
    document: Option<&dwcp_document>,
    path: *const c_char,
    out: Option<&mut MaybeUninit<i64>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    read(document, path, out, error, "whole number", Value::as_i64)
}

/// Any number.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_f64(
    document: Option<&dwcp_document>,
    path: *const c_char,
    out: Option<&mut MaybeUninit<f64>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    read(document, path, out, error, "number", Value::as_f64)
}

/// True or false.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_bool(
    document: Option<&dwcp_document>,
    path: *const c_char,
    out: Option<&mut MaybeUninit<bool>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    read(document, path, out, error, "true or false", Value::as_bool)
}

/// A part of a document, such as an item of a list, as a document of its own.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_part(
    document: Option<&dwcp_document>,
    path: *const c_char,
    out: Option<&mut MaybeUninit<Option<Box<dwcp_document>>>>,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let (out, path) = (wanted(out, "out")?, text(path, "path")?);
        let mut inner = handle(document, "document")?.inner();
        let part = inner.field(path)?.cloned();
        let part = part.ok_or_else(|| Failure::argument(format!("{path}: there is none")))?;
        give(out, dwcp_document::of_value(part))
    })
}

/// How many items a list has, or pairs a map; 0 where there is neither.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_count(
    document: Option<&dwcp_document>,
    path: *const c_char,
) -> usize {
    quietly(0, || {
        let (Some(document), Ok(path)) = (document, text(path, "path")) else {
            return 0;
        };
        match document.inner().field(path) {
            Ok(Some(Value::Array(items))) => items.len(),
            Ok(Some(Value::Object(fields))) => fields.len(),
            _ => 0,
        }
    })
}

/// Writes a field, and makes those on the way to it.
fn write(
    document: Option<&dwcp_document>,
    path: *const c_char,
    error: Out<'_, dwcp_error>,
    value: impl FnOnce() -> Result<Value>,
) -> i32 {
    guard(error, || {
        let path = text(path, "path")?;
        let value = value()?;
        *handle(document, "document")?.inner().place(path)? = value;
        Ok(DWCP_OK)
    })
}

/// Sets a field to text. The item after the last one of a list adds one: "dns.0", then "dns.1".
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_set_text(
    document: Option<&dwcp_document>,
    path: *const c_char,
    value: *const c_char,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    write(document, path, error, || Ok(text(value, "value")?.into()))
}

/// Sets a field to a whole number that is not negative.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_set_u64(
    document: Option<&dwcp_document>,
    path: *const c_char,
    value: u64,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    write(document, path, error, || Ok(value.into()))
}

/// Sets a field to a whole number.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_set_i64(
    document: Option<&dwcp_document>,
    path: *const c_char,
    value: i64,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    write(document, path, error, || Ok(value.into()))
}

/// Sets a field to a number, which is not infinite.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_set_f64(
    document: Option<&dwcp_document>,
    path: *const c_char,
    value: f64,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    write(document, path, error, || {
        let number = Number::from_f64(value).map(Value::Number);
        number.ok_or_else(|| Failure::argument("value: is not finite"))
    })
}

/// Sets a field to true or false.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_set_bool(
    document: Option<&dwcp_document>,
    path: *const c_char,
    value: bool,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    write(document, path, error, || Ok(value.into()))
}

/// Sets a pair in the map at `path`, such as a label: "labels", "env", "production".
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_document_set_pair(
    document: Option<&dwcp_document>,
    path: *const c_char,
    name: *const c_char,
    value: *const c_char,
    error: Option<&mut MaybeUninit<Option<Box<dwcp_error>>>>,
) -> i32 {
    guard(error, || {
        let (path, name, value) = (
            text(path, "path")?,
            text(name, "name")?,
            text(value, "value")?,
        );
        let mut inner = handle(document, "document")?.inner();
        let place = inner.place(path)?;
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(fields) = place else {
            return Err(Failure::argument(format!("{path}: has no pairs")));
        };
        fields.insert(name.to_owned(), value.into());
        Ok(DWCP_OK)
    })
}

//! What comes often as JSON of JavaScript's own: in camel case as it is written, and in a batch of events the config
//! of a VM only once, for nearly always it is that of the event before.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;

use dwcp::{DWCPError, VMEvent};
use dwcp_bindings_support::Result;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::case::{MAPS, push_camel};

/// So many configs of a batch are looked at whether one is the same: one of many VMs costs no more than being written.
const LOOK_BACK: usize = 4;

/// A value, with the keys of its structures in camel case.
pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    append(&mut bytes, value)?;
    Ok(bytes)
}

/// Events and configs: `[[event, …], [config, …]]`. Where an event has its VM's config stands which of them it is.
pub(crate) fn events<'e>(events: impl IntoIterator<Item = &'e VMEvent>) -> Result<Vec<u8>> {
    let mut bytes = b"[[".to_vec();
    let mut configs: Vec<Vec<u8>> = Vec::new();
    for event in events {
        if bytes.len() > 2 {
            bytes.push(b',');
        }
        if let Some((start, end)) = append(&mut bytes, event)? {
            let config = &bytes[start..end];
            let recent = configs.iter().rposition(|known| known == config);
            let index = match recent {
                Some(index) if configs.len() - index <= LOOK_BACK => index,
                _ => {
                    configs.push(config.to_vec());
                    configs.len() - 1
                }
            };
            bytes.splice(start..end, index.to_string().into_bytes());
        }
    }
    bytes.extend(b"],[");
    bytes.extend(configs.join(&b','));
    bytes.extend(b"]]");
    Ok(bytes)
}

/// Writes a value; where in the bytes the first config in it is.
fn append(bytes: &mut Vec<u8>, value: &impl Serialize) -> Result<Option<(usize, usize)>> {
    let at = Cell::new(bytes.len());
    let config = Cell::new(None);
    let camel = Camel {
        maps: Vec::with_capacity(4),
        is_key: false,
        next: Next::Value,
        config_from: None,
        config: &config,
        at: &at,
    };
    let out = Counted { bytes, at: &at };
    let written = value.serialize(&mut Serializer::with_formatter(out, camel));
    written.map_err(DWCPError::from)?;
    Ok(config.get())
}

/// Bytes, and for the formatter how many there are.
struct Counted<'w> {
    bytes: &'w mut Vec<u8>,
    at: &'w Cell<usize>,
}

impl io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        self.at.set(self.bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What follows a key.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Value,
    /// An object whose keys are a user's.
    Map,
    /// The config of a VM.
    Config,
}

/// Writes keys in camel case, but for those of a user.
struct Camel<'w> {
    /// Of each object that is open, whether its keys are a user's.
    maps: Vec<bool>,
    is_key: bool,
    next: Next,
    /// Where the config began that is being written, and how many objects were open.
    config_from: Option<(usize, usize)>,
    config: &'w Cell<Option<(usize, usize)>>,
    at: &'w Cell<usize>,
}

impl Formatter for Camel<'_> {
    fn begin_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.next == Next::Config && self.config.get().is_none() {
            self.config_from = Some((self.at.get(), self.maps.len()));
        }
        self.maps.push(self.next == Next::Map);
        self.next = Next::Value;
        writer.write_all(b"{")
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"}")?;
        self.maps.pop();
        if let Some((start, depth)) = self.config_from
            && depth == self.maps.len()
        {
            self.config.set(Some((start, self.at.get())));
            self.config_from = None;
        }
        Ok(())
    }

    fn begin_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.next = Next::Value;
        writer.write_all(b"[")
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.is_key = true;
        self.next = Next::Value;
        if first {
            return Ok(());
        }
        writer.write_all(b",")
    }

    fn end_object_key<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_key = false;
        Ok(())
    }

    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let fragment = fragment.as_bytes();
        if !self.is_key || self.maps.last() == Some(&true) {
            return writer.write_all(fragment);
        }
        if fragment == b"config" {
            self.next = Next::Config;
        } else if MAPS.contains(&fragment) {
            self.next = Next::Map;
        }
        if !fragment.contains(&b'_') {
            return writer.write_all(fragment);
        }
        let mut name = Vec::with_capacity(fragment.len());
        push_camel(&mut name, fragment);
        writer.write_all(&name)
    }
}

#[cfg(test)]
mod tests {
    use dwcp::{VM, VMConfig};
    use serde_json::{Value, json};

    use super::*;
    use crate::case::camel;

    fn vm(name: &str) -> VM {
        let mut config = VMConfig::builder().name(name).build().unwrap();
        for (key, value) in [("my_key", "a_b"), ("config", "{\"x_y\":1}"), ("", "é\n")] {
            config.labels.insert(key.to_owned(), value.to_owned());
        }
        VM::new("id-1", "node_01", config)
    }

    fn event(name: &str, seq: u64) -> VMEvent {
        let mut event = VMEvent::default();
        (event.seq, event.vm) = (seq, vm(name));
        event
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn it_is_what_the_protocol_has_in_camel_case() {
        let event = event("a", 1);
        let plain = serde_json::to_vec(&event).unwrap();
        assert_eq!(text(json(&event).unwrap()), text(camel(&plain)));
        let plain = serde_json::to_vec(&event.vm).unwrap();
        assert_eq!(text(json(&event.vm).unwrap()), text(camel(&plain)));
    }

    #[test]
    fn a_config_is_written_once() {
        let all = ["a", "a", "b", "a", "c", "d", "e", "f", "a"];
        let all: Vec<VMEvent> = (1..).zip(all).map(|(seq, name)| event(name, seq)).collect();
        let written: Value = serde_json::from_slice(&events(&all).unwrap()).unwrap();
        let (items, configs) = (&written[0], &written[1]);
        let indices: Vec<&Value> = (0..all.len())
            .map(|at| &items[at]["vm"]["config"])
            .collect();
        assert_eq!(json!(indices), json!([0, 0, 1, 0, 2, 3, 4, 5, 6]));
        for (at, event) in all.iter().enumerate() {
            let mut item = items[at].clone();
            let index = item["vm"]["config"].as_u64().unwrap();
            item["vm"]["config"] = configs[usize::try_from(index).unwrap()].clone();
            let want: Value = serde_json::from_slice(&json(event).unwrap()).unwrap();
            assert_eq!(item, want);
        }
    }
}

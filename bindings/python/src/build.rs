//! The core's structs as objects of the package.
//!
//! A serializer that knows the package's classes: a struct is a call of the class of its name with all
//! fields by position, which is several times as fast as JSON and a parser.

use std::fmt::Display;

use dwcp::{Item, Outcome, VMEvent};
use dwcp_bindings_support::Batch;
use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use serde::ser::{self, Impossible, Serialize};

use crate::registry::{Class, Kind, Registry};

type Object<'py> = Bound<'py, PyAny>;

/// Any value of the core.
pub(crate) fn object<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Object<'py>> {
    let maker = Maker {
        py,
        registry: Registry::get(py)?,
    };
    value.serialize(maker).map_err(|Failed(error)| error)
}

/// An answer; `None` where there is nothing to say.
pub(crate) fn outcome<'py>(py: Python<'py>, outcome: &Outcome) -> PyResult<Object<'py>> {
    match outcome {
        Outcome::Done => Ok(py.None().into_bound(py)),
        Outcome::VM(vm) => object(py, vm),
        Outcome::VMs(vms) | Outcome::Page { vms, .. } => object(py, vms),
        Outcome::Metrics(metrics) => object(py, metrics),
        Outcome::Guest(report) => object(py, report),
        Outcome::Migration(status) => object(py, status),
        Outcome::Migrations(all) => object(py, all),
        Outcome::Plan(plan) => object(py, plan),
        Outcome::Snapshot(snapshot) => object(py, snapshot),
        Outcome::Snapshots(all) => object(py, all),
        Outcome::Health(health) => object(py, health),
        Outcome::Node(node) => object(py, node),
        other => Err(PyTypeError::new_err(format!(
            "dwcp: an answer this version does not know: {other:?}"
        ))),
    }
}

/// Items of a stream, the last one first, for whoever takes them from the end of the list.
pub(crate) fn batch<'py>(py: Python<'py>, Batch(items): &Batch) -> PyResult<Object<'py>> {
    let list = PyList::empty(py);
    for made in items.iter().rev() {
        list.append(item(py, made)?)?;
    }
    Ok(list.into_any())
}

fn item<'py>(py: Python<'py>, item: &Item) -> PyResult<Object<'py>> {
    match item {
        Item::Event(made) => event(py, made),
        Item::Metrics(metrics) => object(py, metrics),
        Item::Migration(status) => object(py, status),
        Item::Console(bytes) => Ok(PyBytes::new(py, bytes).into_any()),
        other => Err(PyTypeError::new_err(format!(
            "dwcp: an item this version does not know: {other:?}"
        ))),
    }
}

/// An event, which is no plain struct: what it lost stands beside its other fields.
fn event<'py>(py: Python<'py>, event: &VMEvent) -> PyResult<Object<'py>> {
    let registry = Registry::get(py)?;
    let mut fields = Fields::new(py, registry, registry.class("VMEvent")?);
    let lost = event.lost;
    let add = |fields: &mut Fields<'py>| -> Result<(), Failed> {
        fields.add("seq", &event.seq)?;
        fields.add("type", &event.event_type)?;
        fields.add("vm", &event.vm)?;
        fields.add("timestamp", &event.timestamp)?;
        fields.add("message", &event.message)?;
        fields.add("store", &event.store)?;
        fields.add("count", &lost.map(|lost| lost.count))?;
        fields.add("next", &lost.map(|lost| lost.next))
    };
    add(&mut fields).map_err(|Failed(error)| error)?;
    fields.make().map_err(|Failed(error)| error)
}

/// An exception, as the error of a serializer.
#[derive(Debug)]
struct Failed(PyErr);

impl Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed {}

impl ser::Error for Failed {
    fn custom<T: Display>(text: T) -> Failed {
        Failed(PyTypeError::new_err(text.to_string()))
    }
}

impl From<PyErr> for Failed {
    fn from(error: PyErr) -> Failed {
        Failed(error)
    }
}

type Made<'py> = Result<Object<'py>, Failed>;

#[derive(Clone, Copy)]
struct Maker<'py> {
    py: Python<'py>,
    registry: &'static Registry,
}

/// The fields of an object that is being made.
struct Fields<'py> {
    maker: Maker<'py>,
    class: &'static Class,
    values: Vec<Object<'py>>,
}

impl<'py> Fields<'py> {
    fn new(py: Python<'py>, registry: &'static Registry, class: &'static Class) -> Fields<'py> {
        Fields {
            maker: Maker { py, registry },
            class,
            values: Vec::with_capacity(class.fields.len()),
        }
    }

    /// Adds the next field. One that the class does not have is left out.
    fn add<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Failed> {
        let Some(kind) = self.reach(name) else {
            return Ok(());
        };
        let py = self.maker.py;
        let value = value.serialize(self.maker)?;
        self.values.push(match kind {
            _ if value.is_none() => value,
            Kind::Plain | Kind::List => value,
            Kind::Words { known, other } => match known.bind(py).get_item(value)? {
                Some(member) => member,
                None => other.bind(py).clone(),
            },
            Kind::Parsed(parse) => parse.bind(py).call1((value,))?,
        });
        Ok(())
    }

    /// The kind of that field, with those before it that were left out in their places.
    fn reach(&mut self, name: &str) -> Option<&'static Kind> {
        let fields = &self.class.fields;
        let next = self.values.len();
        if fields.get(next).is_none_or(|(field, _)| field != name) {
            fields
                .iter()
                .skip(next)
                .position(|(field, _)| field == name)?;
            while fields[self.values.len()].0 != name {
                self.leave_out();
            }
        }
        fields.get(self.values.len()).map(|(_, kind)| kind)
    }

    fn leave_out(&mut self) {
        let py = self.maker.py;
        let value = match self.class.fields.get(self.values.len()) {
            Some((_, Kind::List)) => PyList::empty(py).into_any(),
            _ => py.None().into_bound(py),
        };
        self.values.push(value);
    }

    fn make(mut self) -> Made<'py> {
        while self.values.len() < self.class.fields.len() {
            self.leave_out();
        }
        let values = PyTuple::new(self.maker.py, self.values)?;
        Ok(self.class.make.bind(self.maker.py).call1(values)?)
    }
}

impl<'py> ser::SerializeStruct for Fields<'py> {
    type Ok = Object<'py>;
    type Error = Failed;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Failed> {
        self.add(name, value)
    }

    fn end(self) -> Made<'py> {
        self.make()
    }
}

/// A list that is being made.
struct Items<'py> {
    maker: Maker<'py>,
    list: Bound<'py, PyList>,
}

impl<'py> ser::SerializeSeq for Items<'py> {
    type Ok = Object<'py>;
    type Error = Failed;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        Ok(self.list.append(value.serialize(self.maker)?)?)
    }

    fn end(self) -> Made<'py> {
        Ok(self.list.into_any())
    }
}

/// A dict that is being made.
struct Pairs<'py> {
    maker: Maker<'py>,
    dict: Bound<'py, PyDict>,
    key: Option<Object<'py>>,
}

impl<'py> ser::SerializeMap for Pairs<'py> {
    type Ok = Object<'py>;
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        self.key = Some(key.serialize(self.maker)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        let value = value.serialize(self.maker)?;
        match self.key.take() {
            Some(key) => Ok(self.dict.set_item(key, value)?),
            None => Err(ser::Error::custom("dwcp: a value without a key")),
        }
    }

    fn end(self) -> Made<'py> {
        Ok(self.dict.into_any())
    }
}

/// Values that Python has as they are.
macro_rules! plain {
    ($( $method:ident: $of:ty, )+) => {
        $( fn $method(self, value: $of) -> Made<'py> {
            Ok(value.into_bound_py_any(self.py)?)
        } )+
    };
}

impl<'py> ser::Serializer for Maker<'py> {
    type Ok = Object<'py>;
    type Error = Failed;
    type SerializeSeq = Items<'py>;
    type SerializeMap = Pairs<'py>;
    type SerializeStruct = Fields<'py>;
    type SerializeTuple = Impossible<Object<'py>, Failed>;
    type SerializeTupleStruct = Impossible<Object<'py>, Failed>;
    type SerializeTupleVariant = Impossible<Object<'py>, Failed>;
    type SerializeStructVariant = Impossible<Object<'py>, Failed>;

    plain! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
    }

    fn serialize_str(self, text: &str) -> Made<'py> {
        Ok(PyString::new(self.py, text).into_any())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Made<'py> {
        Ok(PyBytes::new(self.py, bytes).into_any())
    }

    fn serialize_none(self) -> Made<'py> {
        Ok(self.py.None().into_bound(self.py))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Made<'py> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Made<'py> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Made<'py> {
        self.serialize_none()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, word: &'static str) -> Made<'py> {
        self.serialize_str(word)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Made<'py> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Made<'py> {
        Err(unknown(name))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'py>, Failed> {
        Ok(Items {
            maker: self,
            list: PyList::empty(self.py),
        })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Pairs<'py>, Failed> {
        Ok(Pairs {
            maker: self,
            dict: PyDict::new(self.py),
            key: None,
        })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'py>, Failed> {
        Ok(Fields::new(
            self.py,
            self.registry,
            self.registry.class(name)?,
        ))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Failed> {
        Err(unknown("tuple"))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Failed> {
        Err(unknown(name))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Failed> {
        Err(unknown(name))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Failed> {
        Err(unknown(name))
    }
}

/// The error for a shape that no type of the core has.
fn unknown(name: &str) -> Failed {
    ser::Error::custom(format_args!("dwcp: nothing is made from a {name}"))
}

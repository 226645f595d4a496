//! The core's structs as objects of the package.
//!
//! A serializer that knows the package's classes: a struct is a call of the class of its name with all
//! fields by position, which is several times as fast as JSON and a parser. VMs and events have a few of their fields
//! only; `rest` makes the others when they are asked for, by the same serializer.

use std::fmt::Display;

use dwcp::{Item, Outcome, VMEvent};
use dwcp_bindings_support::Batch;
use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use serde::ser::{self, Impossible, Serialize, SerializeStruct as _};

use crate::registry::{Class, Field, Kind, Registry};
use crate::rest::{Kept, Rest};

type Object<'py> = Bound<'py, PyAny>;

/// Any value of the core.
pub(crate) fn object<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Object<'py>> {
    part(py, value, Wanted::All)
}

/// That of it.
pub(crate) fn part<'py>(
    py: Python<'py>,
    value: &impl Serialize,
    wanted: Wanted,
) -> PyResult<Object<'py>> {
    let maker = Maker {
        py,
        registry: Registry::get(py)?,
        wanted,
    };
    value.serialize(maker).map_err(|Failed(error)| error)
}

/// What of a struct is made.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    /// An object of its class, with all fields.
    All,
    /// One with the fields that it has from the start.
    Early,
    /// The values of the other fields, in a list.
    Late,
}

/// An answer; `None` where there is nothing to say.
pub(crate) fn outcome(py: Python<'_>, outcome: Outcome) -> PyResult<Object<'_>> {
    match outcome {
        Outcome::Done => Ok(py.None().into_bound(py)),
        Outcome::VM(vm) => Rest::object(py, Kept::VM(vm)),
        Outcome::VMs(vms) | Outcome::Page { vms, .. } => {
            let list = PyList::empty(py);
            for vm in vms {
                list.append(Rest::object(py, Kept::VM(Box::new(vm)))?)?;
            }
            Ok(list.into_any())
        }
        Outcome::Metrics(metrics) => object(py, &metrics),
        Outcome::Guest(report) => object(py, &report),
        Outcome::Migration(status) => object(py, &status),
        Outcome::Migrations(all) => object(py, &all),
        Outcome::Plan(plan) => object(py, &plan),
        Outcome::Snapshot(snapshot) => object(py, &snapshot),
        Outcome::Snapshots(all) => object(py, &all),
        Outcome::Image(image) => object(py, &image),
        Outcome::Images(all) => object(py, &all),
        Outcome::Health(health) => object(py, &health),
        Outcome::Node(node) => object(py, &node),
        other => Err(PyTypeError::new_err(format!(
            "dwcp: an answer this version does not know: {other:?}"
        ))),
    }
}

/// Items of a stream, the last one first, for whoever takes them from the end of the list.
pub(crate) fn batch(py: Python<'_>, Batch(items): Batch) -> PyResult<Object<'_>> {
    let list = PyList::empty(py);
    for made in items.into_iter().rev() {
        list.append(item(py, made)?)?;
    }
    Ok(list.into_any())
}

fn item(py: Python<'_>, item: Item) -> PyResult<Object<'_>> {
    match item {
        Item::Event(made) => Rest::object(py, Kept::Event(made)),
        Item::Metrics(metrics) => object(py, &metrics),
        Item::Migration(status) => object(py, &status),
        Item::Console(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
        other => Err(PyTypeError::new_err(format!(
            "dwcp: an item this version does not know: {other:?}"
        ))),
    }
}

/// An event without its VM. It is no plain struct: what it lost stands beside its other fields.
pub(crate) struct Event<'e>(pub(crate) &'e VMEvent);

impl Serialize for Event<'_> {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (event, lost) = (self.0, self.0.lost);
        let mut fields = serializer.serialize_struct("VMEvent", 7)?;
        fields.serialize_field("seq", &event.seq)?;
        fields.serialize_field("type", &event.event_type)?;
        fields.serialize_field("timestamp", &event.timestamp)?;
        fields.serialize_field("message", &event.message)?;
        fields.serialize_field("store", &event.store)?;
        fields.serialize_field("count", &lost.map(|lost| lost.count))?;
        fields.serialize_field("next", &lost.map(|lost| lost.next))?;
        fields.end()
    }
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
    wanted: Wanted,
}

/// The fields of an object that is being made.
struct Fields<'py> {
    maker: Maker<'py>,
    class: &'static Class,
    /// Those that are wanted.
    fields: &'static [Field],
    values: Vec<Object<'py>>,
}

impl<'py> Fields<'py> {
    fn new(maker: Maker<'py>, class: &'static Class) -> Fields<'py> {
        let (early, late) = class.fields.split_at(class.early);
        let fields = match maker.wanted {
            Wanted::All => &class.fields,
            Wanted::Early => early,
            Wanted::Late => late,
        };
        Fields {
            maker,
            class,
            fields,
            values: Vec::with_capacity(fields.len()),
        }
    }

    /// Adds the next field. One that is not wanted is left out, such as one that the class does not have.
    fn add<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Failed> {
        let Some(kind) = self.reach(name) else {
            return Ok(());
        };
        let py = self.maker.py;
        let value = value.serialize(Maker {
            wanted: Wanted::All,
            ..self.maker
        })?;
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
        let next = self.values.len();
        let (first, others) = self.fields.get(next..)?.split_first()?;
        if first.name != name {
            let between = others.iter().position(|field| field.name == name)?;
            self.fill(next + 1 + between);
        }
        self.fields.get(self.values.len()).map(|field| &field.kind)
    }

    /// Leaves out what is missing of so many.
    fn fill(&mut self, count: usize) {
        let py = self.maker.py;
        while let Some(field) = self.fields.get(self.values.len())
            && self.values.len() < count
        {
            self.values.push(match field.kind {
                Kind::List => PyList::empty(py).into_any(),
                _ => py.None().into_bound(py),
            });
        }
    }

    fn make(mut self) -> Made<'py> {
        self.fill(self.fields.len());
        let py = self.maker.py;
        let class = self.class.make.bind(py);
        match self.maker.wanted {
            Wanted::All => Ok(class.call1(PyTuple::new(py, self.values)?)?),
            Wanted::Early => {
                let object = class.call_method1(intern!(py, "__new__"), (class,))?;
                for (field, value) in self.fields.iter().zip(self.values) {
                    object.setattr(field.key.bind(py), value)?;
                }
                Ok(object)
            }
            Wanted::Late => Ok(PyList::new(py, self.values)?.into_any()),
        }
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
        Ok(Fields::new(self, self.registry.class(name)?))
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

//! The classes of the package, by which its objects are made.

use std::collections::HashMap;

use dwcp_bindings_support::{Code, Failure};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

static REGISTRY: PyOnceLock<Registry> = PyOnceLock::new();

/// What was registered.
pub(crate) struct Registry {
    classes: HashMap<String, Class>,
    error: Py<PyAny>,
}

/// A class whose objects are made from a struct of the core of the same name.
pub(crate) struct Class {
    /// Called with all fields by position.
    pub(crate) make: Py<PyAny>,
    /// The fields of the struct, in the order of the class.
    pub(crate) fields: Vec<Field>,
    /// How many of them, from the first on, an object has from the start, where the others are made when one is asked
    /// for; all, where nothing is made later.
    pub(crate) early: usize,
}

/// A field of a class.
pub(crate) struct Field {
    pub(crate) name: String,
    /// The same, as Python has it.
    pub(crate) key: Py<PyString>,
    pub(crate) kind: Kind,
}

/// How a field is made from what the core says.
pub(crate) enum Kind {
    /// As it is.
    Plain,
    /// A list that is absent where it is empty.
    List,
    /// A word is looked up; for one that is not there, there is a member of its own.
    Words { known: Py<PyDict>, other: Py<PyAny> },
    /// A text is given to a function.
    Parsed(Py<PyAny>),
}

impl Registry {
    /// What was registered.
    pub(crate) fn get(py: Python<'_>) -> PyResult<&'static Registry> {
        // It is never replaced, and never freed: the module is not unloaded.
        REGISTRY
            .get(py)
            .ok_or_else(|| PyRuntimeError::new_err("import dwcp, not dwcp._dwcp"))
    }

    /// The class of that name.
    pub(crate) fn class(&self, name: &str) -> PyResult<&Class> {
        let unknown = || PyRuntimeError::new_err(format!("dwcp: no class is called {name}"));
        self.classes.get(name).ok_or_else(unknown)
    }
}

/// The fields of a class, each with what its kind is made from.
type FieldKinds<'py> = Vec<(Bound<'py, PyString>, Py<PyAny>)>;

/// Tells the classes: for each its name in the core, what makes one, its fields with their kinds, and how many of them
/// an object has from the start. A kind is `None`, `list`, a pair of a dict of words and the member for others, or a
/// function.
#[pyfunction]
pub(crate) fn register(
    py: Python<'_>,
    error: Py<PyAny>,
    classes: Vec<(String, Py<PyAny>, FieldKinds<'_>, usize)>,
) -> PyResult<()> {
    let kind = |kind: Py<PyAny>| -> PyResult<Kind> {
        let bound = kind.bind(py);
        if bound.is_none() {
            return Ok(Kind::Plain);
        }
        if bound.is(py.get_type::<PyList>()) {
            return Ok(Kind::List);
        }
        if bound.is_instance_of::<PyTuple>() {
            let (known, other) = bound.extract()?;
            return Ok(Kind::Words { known, other });
        }
        Ok(Kind::Parsed(kind))
    };
    let mut all = HashMap::new();
    for (name, make, fields, early) in classes {
        let fields: PyResult<Vec<Field>> = fields
            .into_iter()
            .map(|(key, of)| {
                Ok(Field {
                    name: key.to_string(),
                    key: key.unbind(),
                    kind: kind(of)?,
                })
            })
            .collect();
        let fields = fields?;
        let class = Class {
            make,
            early: early.min(fields.len()),
            fields,
        };
        all.insert(name, class);
    }
    let registry = Registry {
        classes: all,
        error,
    };
    REGISTRY
        .set(py, registry)
        .map_err(|_| PyRuntimeError::new_err("dwcp: its classes are registered already"))
}

/// The exception for a failure.
pub(crate) fn exception(py: Python<'_>, failure: &Failure) -> PyErr {
    exception_of(py, failure, failure.operation)
}

/// The exception for a failure of that method.
pub(crate) fn exception_of(py: Python<'_>, failure: &Failure, operation: Option<&str>) -> PyErr {
    let made = Registry::get(py).and_then(|registry| {
        registry.error.bind(py).call1((
            failure.code.name(),
            failure.message.as_str(),
            failure.retryable,
            operation,
            failure.concerns.as_deref(),
        ))
    });
    made.map_or_else(|error| error, PyErr::from_value)
}

/// Every code an error can have.
#[pyfunction]
pub(crate) fn codes() -> Vec<&'static str> {
    Code::all().map(Code::name).collect()
}

/// The exception for an error with that code, for the tests of the table.
#[pyfunction]
pub(crate) fn example_error(py: Python<'_>, code: &str) -> PyResult<Py<PyAny>> {
    let Some(code) = Code::all().find(|known| known.name() == code) else {
        return Err(exception(
            py,
            &Failure::argument("code: there is none of that name"),
        ));
    };
    let failure = Failure {
        code,
        message: "text".to_owned(),
        retryable: true,
        operation: Some("get"),
        concerns: Some("id".to_owned()),
    };
    Ok(exception(py, &failure).into_value(py).into_any())
}

//! What an object of the package was not made with, until one of its fields is asked for.

use dwcp::{VM, VMEvent};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::build::{self, Event, Wanted};

/// What the fields of an object are made from. It never changes.
pub(crate) enum Kept {
    VM(Box<VM>),
    Event(Box<VMEvent>),
    /// The VM of an event.
    Of(Py<Rest>),
}

/// Makes the fields that one object does not have yet.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub(crate) struct Rest(Kept);

#[pymethods]
impl Rest {
    /// The values of these fields, in the order of the class, made anew.
    fn fields<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let kept = &slf.get().0;
        let fields = kept.make(py, Wanted::Late)?;
        if matches!(kept, Kept::Event(_)) {
            // The first of them, whose own fields may never be asked for.
            let vm = Rest::object(py, Kept::Of(slf.clone().unbind()))?;
            fields.cast::<PyList>()?.set_item(0, vm)?;
        }
        Ok(fields)
    }
}

impl Rest {
    /// An object with few of its fields, and with this, which makes the others.
    pub(crate) fn object(py: Python<'_>, kept: Kept) -> PyResult<Bound<'_, PyAny>> {
        let object = kept.make(py, Wanted::Early)?;
        object.setattr(intern!(py, "_rest"), Rest(kept))?;
        Ok(object)
    }
}

impl Kept {
    fn make<'py>(&self, py: Python<'py>, wanted: Wanted) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Kept::VM(vm) => build::part(py, vm, wanted),
            Kept::Event(event) => build::part(py, &Event(event), wanted),
            Kept::Of(rest) => match &rest.get().0 {
                Kept::Event(event) => build::part(py, &event.vm, wanted),
                other => other.make(py, wanted),
            },
        }
    }
}

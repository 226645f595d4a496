//! An error, as it is told to another language.
#![forbid(unsafe_code)]

use std::any::Any;
use std::fmt;

use dwcp::{DWCPError, ErrorCode};

/// A result whose error is a [`Failure`] unless said otherwise.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// What kind of error it is: the code of the protocol, or one of those that arise on this side only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// A code of the protocol.
    Wire(ErrorCode),
    /// There is no connection, or it was lost.
    Connection,
    /// The operating system refused a call.
    Io,
    /// A value could not be turned into JSON, or JSON into a value.
    Serialization,
    /// A code that only newer nodes know.
    Other,
    /// The handle was made before a fork, by the process that was forked.
    Forked,
}

impl Code {
    /// Every code, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Code> {
        let local = [
            Code::Connection,
            Code::Io,
            Code::Serialization,
            Code::Other,
            Code::Forked,
        ];
        let wire = ErrorCode::ALL.iter().copied().map(Code::Wire);
        local.into_iter().chain(wire)
    }

    /// Its number: that of the protocol, or below 0x1000 for those of this side. It never changes.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Code::Connection => 1,
            Code::Io => 2,
            Code::Serialization => 3,
            Code::Other => 4,
            Code::Forked => 5,
            // All of them are small; a number beyond an `i32` could not be told.
            Code::Wire(code) => i32::try_from(code.number()).unwrap_or(Code::Other.number()),
        }
    }

    /// Its name: that of the protocol, or of the same kind for those of this side.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Code::Connection => "connection",
            Code::Io => "io",
            Code::Serialization => "serialization",
            Code::Other => "other",
            Code::Forked => "forked",
            Code::Wire(code) => code.name(),
        }
    }
}

/// An error with what a caller asks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind it is.
    pub code: Code,
    /// The text without the kind in front of it.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// The method that failed, where it was one.
    pub operation: Option<&'static str>,
    /// The id of the VM, migration or snapshot that it concerns, where it concerns one.
    pub concerns: Option<String>,
}

impl Failure {
    /// The error of a caller's mistake: the argument, and what is wrong with it.
    pub fn argument(text: impl Into<String>) -> Failure {
        DWCPError::Config(text.into()).into()
    }

    /// The error for a handle that was inherited by a fork.
    #[must_use]
    pub fn forked() -> Failure {
        Failure {
            code: Code::Forked,
            message: "the handle was made before fork(), by the parent process: make a new one in \
                      this process"
                .into(),
            retryable: false,
            operation: None,
            concerns: None,
        }
    }

    /// The error for a panic, which is a defect of this library.
    #[must_use]
    pub fn panicked(payload: &(dyn Any + Send)) -> Failure {
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no text");
        DWCPError::Internal(format!("a panic, which is a defect of dwcp: {text}")).into()
    }

    /// The error of an operation that was taken back.
    #[must_use]
    pub fn cancelled() -> Failure {
        DWCPError::Cancelled("by the caller".into()).into()
    }

    /// Adds what was asked and of what.
    #[must_use]
    pub fn about(mut self, operation: &'static str, concerns: Option<&str>) -> Failure {
        self.operation = Some(operation);
        self.concerns = concerns.map(str::to_owned);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Failure {}

impl From<DWCPError> for Failure {
    fn from(error: DWCPError) -> Failure {
        let code = match (&error, error.code()) {
            (_, Some(code)) => Code::Wire(code),
            (DWCPError::Connection(_), None) => Code::Connection,
            (DWCPError::Io(_), None) => Code::Io,
            (DWCPError::Serialization(_), None) => Code::Serialization,
            (_, None) => Code::Other,
        };
        Failure {
            code,
            message: error.message().to_owned(),
            retryable: error.is_retryable(),
            operation: None,
            concerns: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_number_and_a_name_of_its_own() {
        let all: Vec<Code> = Code::all().collect();
        for (index, code) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                assert!(code.number() < other.number(), "{code:?} {other:?}");
                assert_ne!(code.name(), other.name());
            }
        }
    }

    #[test]
    fn an_error_keeps_its_kind_and_text() {
        for &code in ErrorCode::ALL {
            let failure = Failure::from(DWCPError::from_code(code, "x"));
            assert_eq!(failure.code, Code::Wire(code));
            assert_eq!(failure.message, "x");
            assert_eq!(failure.retryable, code.is_retryable());
        }
        let lost = Failure::from(DWCPError::Connection("reset".into()));
        assert_eq!((lost.code, lost.retryable), (Code::Connection, true));
        let other = Failure::from(DWCPError::from_number(0x10aa, "too novel"));
        assert_eq!(other.code, Code::Other);
        assert!(other.to_string().contains("0x10aa"), "{other}");
    }

    #[test]
    fn a_panic_says_what_it_said() {
        for payload in [
            Box::new("text") as Box<dyn Any + Send>,
            Box::new(String::from("text")),
        ] {
            assert!(Failure::panicked(&*payload).message.ends_with(": text"));
        }
        assert!(Failure::panicked(&7).message.ends_with("no text"));
    }
}

//! Errors: the codes of the wire protocol, and the one error type of this crate.
//!
//! [`ErrorCode`] is a single table. Number, wire name, HTTP status, whether a retry can help and
//! the [`DWCPError`] variant all come from it, so encoder, decoder and documentation cannot drift
//! apart. The language packages compare their exceptions with [`ErrorCode::ALL`].

#![forbid(unsafe_code)]

use std::fmt;

/// A result whose error is a [`DWCPError`] unless said otherwise.
pub type Result<T, E = DWCPError> = std::result::Result<T, E>;

/// Builds [`ErrorCode`] and its mapping to [`DWCPError`] from one row per code.
macro_rules! error_codes {
    ($( $(#[$doc:meta])* $number:literal $name:literal $variant:ident $http:literal $retryable:literal; )+) => {
        /// A code of the wire protocol: what kind of error it is, the same in every language.
        ///
        /// # Examples
        ///
        /// ```
        /// use dwcp::ErrorCode;
        ///
        /// assert_eq!(ErrorCode::from_number(0x1002), Some(ErrorCode::VMNotFound));
        /// assert_eq!(ErrorCode::VMNotFound.to_string(), "0x1002 vm_not_found");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $( $(#[$doc])* #[doc = concat!("\n\nCode `", stringify!($number), "`, `", $name, "`, HTTP ", stringify!($http), ".")]
               $variant, )+
        }

        impl ErrorCode {
            /// Every code, in the order of its number.
            pub const ALL: &'static [ErrorCode] = &[$( ErrorCode::$variant, )+];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $( ErrorCode::$variant => $number, )+ }
            }

            /// The name on the wire, in snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( ErrorCode::$variant => $name, )+ }
            }

            /// The HTTP status a gateway answers with.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $( ErrorCode::$variant => $http, )+ }
            }

            /// Whether the same request may succeed later, after a back-off.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $( ErrorCode::$variant => $retryable, )+ }
            }

            /// The code with this number, or `None` if this version does not know it.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<ErrorCode> {
                match number { $( $number => Some(ErrorCode::$variant), )+ _ => None }
            }

            /// The code with this wire name, or `None` if this version does not know it.
            #[must_use]
            pub fn from_name(name: &str) -> Option<ErrorCode> {
                match name { $( $name => Some(ErrorCode::$variant), )+ _ => None }
            }
        }

        impl DWCPError {
            /// The error a peer reported with this code.
            #[must_use]
            pub fn from_code(code: ErrorCode, message: impl Into<String>) -> DWCPError {
                let message = message.into();
                match code { $( ErrorCode::$variant => error_codes!(@error $variant)(message), )+ }
            }
        }
    };
    // The two codes whose variant has had another name in the SDKs since before the codes had names.
    (@error Auth) => { DWCPError::Authentication };
    (@error InvalidMessage) => { DWCPError::Protocol };
    (@error InvalidConfig) => { DWCPError::Config };
    (@error $variant:ident) => { DWCPError::$variant };
}

error_codes! {
    /// The credential is missing, unknown or expired.
    0x1000 "auth" Auth 401 false;
    /// The bytes, or the order they came in, are not what the protocol allows.
    0x1001 "invalid_message" InvalidMessage 500 false;
    /// No VM has this id here, and none has moved away from here under it.
    0x1002 "vm_not_found" VMNotFound 404 false;
    /// A named limit of the node is reached. Retry only after something was released.
    0x1003 "resource_limit" ResourceLimit 429 true;
    /// A migration cannot start, or ended without moving the VM.
    0x1004 "migration" Migration 500 false;
    /// The VM or job is in a state in which this cannot be done.
    0x1005 "invalid_operation" InvalidOperation 400 false;
    /// The time allowed has passed; nothing happened.
    0x1006 "timeout" Timeout 504 true;
    /// A snapshot cannot be taken, read or restored.
    0x1007 "snapshot" Snapshot 500 false;
    /// A field of a configuration or of options has a value that is never allowed.
    0x1008 "invalid_config" InvalidConfig 400 false;
    /// The request is well formed, but this node cannot do it.
    0x1009 "unsupported" Unsupported 501 false;
    /// The name or id is taken.
    0x100a "already_exists" AlreadyExists 409 false;
    /// Something other than a VM (a migration, a snapshot, a node) is not known here.
    0x100b "not_found" NotFound 404 false;
    /// The node cannot take the request now; it was not executed.
    0x100c "unavailable" Unavailable 503 true;
    /// The caller took the request back; nothing happened.
    0x100d "cancelled" Cancelled 499 false;
    /// The credential is good, but its role does not allow this.
    0x100e "permission_denied" PermissionDenied 403 false;
    /// A defect, or a failure of the host, on the node's side.
    0x10ff "internal" Internal 500 false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x} {}", self.number(), self.name())
    }
}

/// Everything that can go wrong, each with a text that says what it concerns.
///
/// Most variants stand for one [`ErrorCode`], and [`code`](DWCPError::code) gives it. `Connection`,
/// `Io`, `Serialization` and `Other` arise on this side only and have none. Variants may be
/// constructed by programs that use this crate, to fit their own failures into the same type.
///
/// # Examples
///
/// ```
/// use dwcp::{DWCPError, ErrorCode};
///
/// let error = DWCPError::VMNotFound("web-1".into());
/// assert_eq!(error.code(), Some(ErrorCode::VMNotFound));
/// assert_eq!(error.to_string(), "vm not found: web-1");
/// assert!(!error.is_retryable());
/// ```
///
/// A circuit breaker that fails in this type:
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use dwcp::{DWCPError, Result};
///
/// struct CircuitBreaker {
///     failures: AtomicU32,
///     threshold: u32,
/// }
///
/// impl CircuitBreaker {
///     async fn call<T, F>(&self, f: F) -> Result<T>
///     where
///         F: Future<Output = Result<T>>,
///     {
///         if self.failures.load(Ordering::Relaxed) >= self.threshold {
///             return Err(DWCPError::Other("Circuit breaker open".into()));
///         }
///         match f.await {
///             Ok(result) => {
///                 self.failures.store(0, Ordering::Relaxed);
///                 Ok(result)
///             }
///             Err(e) => {
///                 self.failures.fetch_add(1, Ordering::Relaxed);
///                 Err(e)
///             }
///         }
///     }
/// }
/// # let breaker = CircuitBreaker { failures: AtomicU32::new(3), threshold: 3 };
/// # let call = breaker.call(async { Ok(()) });
/// # let error = tokio::runtime::Builder::new_current_thread().build()?.block_on(call);
/// # assert_eq!(error, Err(DWCPError::Other("Circuit breaker open".into())));
/// # Ok::<(), DWCPError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DWCPError {
    /// There is no connection, or it was lost; whether the request was executed is not known.
    #[error("connection: {0}")]
    Connection(String),
    /// The credential is missing, unknown or expired.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// The credential is good, but its role does not allow this.
    #[error("permission denied: {0}")]
    PermissionDenied(String),
    /// No VM has this id.
    #[error("vm not found: {0}")]
    VMNotFound(String),
    /// Something other than a VM is not known.
    #[error("not found: {0}")]
    NotFound(String),
    /// The name or id is taken.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// The time allowed has passed.
    #[error("timed out: {0}")]
    Timeout(String),
    /// The caller took the request back.
    #[error("cancelled: {0}")]
    Cancelled(String),
    /// The node cannot take the request now; it was not executed.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The VM or job is in a state in which this cannot be done.
    #[error("invalid operation: {0}")]
    InvalidOperation(String),
    /// A field has a value that is never allowed. The text starts with the field's name.
    #[error("invalid config: {0}")]
    Config(String),
    /// This node cannot do what a field asks for. The text starts with the field's name.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A named limit is reached.
    #[error("resource limit: {0}")]
    ResourceLimit(String),
    /// A migration cannot start, or ended without moving the VM.
    #[error("migration: {0}")]
    Migration(String),
    /// A snapshot cannot be taken, read or restored.
    #[error("snapshot: {0}")]
    Snapshot(String),
    /// The peer sent what the protocol does not allow.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// A defect, or a failure of the host, on the node's side.
    #[error("internal error: {0}")]
    Internal(String),
    /// The operating system refused a call on this side.
    #[error("i/o: {0}")]
    Io(String),
    /// A value could not be turned into JSON, or JSON into a value.
    #[error("serialization: {0}")]
    Serialization(String),
    /// What fits nowhere else; for programs that use this crate, and for codes of newer nodes.
    #[error("{0}")]
    Other(String),
}

impl DWCPError {
    /// The code this error has on the wire, or `None` where it is local to this side.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        Some(match self {
            Self::Authentication(_) => ErrorCode::Auth,
            Self::PermissionDenied(_) => ErrorCode::PermissionDenied,
            Self::VMNotFound(_) => ErrorCode::VMNotFound,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::AlreadyExists(_) => ErrorCode::AlreadyExists,
            Self::Timeout(_) => ErrorCode::Timeout,
            Self::Cancelled(_) => ErrorCode::Cancelled,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::InvalidOperation(_) => ErrorCode::InvalidOperation,
            Self::Config(_) => ErrorCode::InvalidConfig,
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::ResourceLimit(_) => ErrorCode::ResourceLimit,
            Self::Migration(_) => ErrorCode::Migration,
            Self::Snapshot(_) => ErrorCode::Snapshot,
            Self::Protocol(_) => ErrorCode::InvalidMessage,
            Self::Internal(_) => ErrorCode::Internal,
            Self::Connection(_) | Self::Io(_) | Self::Serialization(_) | Self::Other(_) => {
                return None;
            }
        })
    }

    /// The text without the kind of error in front of it: what the peer sent, or what the error
    /// concerns.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Connection(text)
            | Self::Authentication(text)
            | Self::PermissionDenied(text)
            | Self::VMNotFound(text)
            | Self::NotFound(text)
            | Self::AlreadyExists(text)
            | Self::Timeout(text)
            | Self::Cancelled(text)
            | Self::Unavailable(text)
            | Self::InvalidOperation(text)
            | Self::Config(text)
            | Self::Unsupported(text)
            | Self::ResourceLimit(text)
            | Self::Migration(text)
            | Self::Snapshot(text)
            | Self::Protocol(text)
            | Self::Internal(text)
            | Self::Io(text)
            | Self::Serialization(text)
            | Self::Other(text) => text,
        }
    }

    /// Whether the same request may succeed later: the code's answer, and yes for `Connection`.
    ///
    /// After `Connection` the request may have been executed; repeat it only if it changes nothing
    /// or carries an idempotency key.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self.code() {
            Some(code) => code.is_retryable(),
            None => matches!(self, Self::Connection(_)),
        }
    }

    /// The HTTP status a gateway answers with; 502 where it has no connection to the node.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self.code() {
            Some(code) => code.http_status(),
            None if matches!(self, Self::Connection(_)) => 502,
            None => 500,
        }
    }

    /// The error a peer reported with this number, which may be one that only newer versions know.
    #[must_use]
    pub fn from_number(number: u32, message: impl Into<String>) -> DWCPError {
        match ErrorCode::from_number(number) {
            Some(code) => DWCPError::from_code(code, message),
            None => DWCPError::Other(format!("error {number:#06x}: {}", message.into())),
        }
    }
}

impl From<std::io::Error> for DWCPError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

impl From<serde_json::Error> for DWCPError {
    fn from(error: serde_json::Error) -> Self {
        Self::Serialization(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every variant, around the same text, and what it prints before it.
    fn every_variant() -> Vec<(DWCPError, &'static str)> {
        let text = || "web-1".to_owned();
        vec![
            (DWCPError::Connection(text()), "connection: "),
            (DWCPError::Authentication(text()), "authentication failed: "),
            (DWCPError::PermissionDenied(text()), "permission denied: "),
            (DWCPError::VMNotFound(text()), "vm not found: "),
            (DWCPError::NotFound(text()), "not found: "),
            (DWCPError::AlreadyExists(text()), "already exists: "),
            (DWCPError::Timeout(text()), "timed out: "),
            (DWCPError::Cancelled(text()), "cancelled: "),
            (DWCPError::Unavailable(text()), "unavailable: "),
            (DWCPError::InvalidOperation(text()), "invalid operation: "),
            (DWCPError::Config(text()), "invalid config: "),
            (DWCPError::Unsupported(text()), "unsupported: "),
            (DWCPError::ResourceLimit(text()), "resource limit: "),
            (DWCPError::Migration(text()), "migration: "),
            (DWCPError::Snapshot(text()), "snapshot: "),
            (DWCPError::Protocol(text()), "protocol violation: "),
            (DWCPError::Internal(text()), "internal error: "),
            (DWCPError::Io(text()), "i/o: "),
            (DWCPError::Serialization(text()), "serialization: "),
            (DWCPError::Other(text()), ""),
        ]
    }

    #[test]
    fn every_variant_prints_what_it_concerns() {
        for (error, prefix) in every_variant() {
            let printed = error.to_string();
            assert_eq!(printed, format!("{prefix}web-1"), "{error:?}");
            assert_eq!(printed, printed.to_lowercase());
            assert!(!printed.ends_with('.'));
            assert_eq!(error.message(), "web-1");
        }
    }

    #[test]
    fn a_code_gives_the_variant_that_gives_the_code() {
        for &code in ErrorCode::ALL {
            let error = DWCPError::from_code(code, "x");
            assert_eq!(error.code(), Some(code));
            assert_eq!(error, DWCPError::from_number(code.number(), "x"));
            assert_eq!(ErrorCode::from_number(code.number()), Some(code));
            assert_eq!(ErrorCode::from_name(code.name()), Some(code));
            assert_eq!(error.http_status(), code.http_status());
            assert_eq!(error.is_retryable(), code.is_retryable());
        }
        let with_code = every_variant()
            .iter()
            .filter(|(error, _)| error.code().is_some())
            .count();
        assert_eq!(with_code, ErrorCode::ALL.len(), "one variant for each code");
    }

    #[test]
    fn the_table_is_that_of_the_protocol() {
        let rows: Vec<String> = ErrorCode::ALL
            .iter()
            .map(|code| format!("{code} {} {}", code.http_status(), code.is_retryable()))
            .collect();
        assert_eq!(
            rows,
            [
                "0x1000 auth 401 false",
                "0x1001 invalid_message 500 false",
                "0x1002 vm_not_found 404 false",
                "0x1003 resource_limit 429 true",
                "0x1004 migration 500 false",
                "0x1005 invalid_operation 400 false",
                "0x1006 timeout 504 true",
                "0x1007 snapshot 500 false",
                "0x1008 invalid_config 400 false",
                "0x1009 unsupported 501 false",
                "0x100a already_exists 409 false",
                "0x100b not_found 404 false",
                "0x100c unavailable 503 true",
                "0x100d cancelled 499 false",
                "0x100e permission_denied 403 false",
                "0x10ff internal 500 false",
            ]
        );
    }

    #[test]
    fn a_code_of_a_newer_node_is_kept_in_the_text() {
        let error = DWCPError::from_number(0x10aa, "too novel");
        assert_eq!(error, DWCPError::Other("error 0x10aa: too novel".into()));
        assert_eq!(ErrorCode::from_number(0x10aa), None);
    }

    #[test]
    fn local_errors_have_no_code() {
        let lost = DWCPError::Connection("reset".into());
        assert_eq!(
            (lost.code(), lost.is_retryable(), lost.http_status()),
            (None, true, 502)
        );
        let io = DWCPError::from(std::io::Error::other("disk on fire"));
        assert_eq!(io, DWCPError::Io("disk on fire".into()));
        assert_eq!(
            (io.code(), io.is_retryable(), io.http_status()),
            (None, false, 500)
        );
        let json = DWCPError::from(serde_json::from_str::<u8>("{").unwrap_err());
        assert!(matches!(json, DWCPError::Serialization(_)), "{json:?}");
    }
}

"""The exceptions: one base class, one class per kind of error.

The names `ConnectionError` and `TimeoutError` are those of Python's own exceptions, from which the two
also derive: `except builtins.TimeoutError` catches them too.
"""

from __future__ import annotations

import builtins
from typing import Dict, Optional, Type


class DWCPError(Exception):
    """The base class of every error of this package.

    `code` is the name of the kind of error, the same in every language; `message` the text; `retryable`
    whether the same request may succeed later, after a back-off; `operation` the method that failed, and
    `concerns` the id of the VM, migration or snapshot it is about, where there is one.
    """

    code: str = "other"

    def __init__(
        self,
        message: str = "",
        *,
        code: Optional[str] = None,
        retryable: bool = False,
        operation: Optional[str] = None,
        concerns: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.message = message
        self.retryable = retryable
        self.operation = operation
        self.concerns = concerns


class ConnectionError(DWCPError, builtins.ConnectionError):
    """There is no connection, or it was lost; whether the request was executed is not known."""

    code = "connection"


class TimeoutError(DWCPError, builtins.TimeoutError):
    """The time allowed has passed."""

    code = "timeout"


class AuthenticationError(DWCPError):
    """The key is missing, unknown or expired."""

    code = "auth"


class PermissionDeniedError(DWCPError):
    """The key is good, but its role does not allow this."""

    code = "permission_denied"


class VMNotFoundError(DWCPError):
    """No VM has this id."""

    code = "vm_not_found"


class NotFoundError(DWCPError):
    """Something other than a VM is not known: a migration, a snapshot, a node."""

    code = "not_found"


class AlreadyExistsError(DWCPError):
    """The name or id is taken."""

    code = "already_exists"


class CancelledError(DWCPError):
    """The request was taken back, by somebody else than the task that waits for it.

    A task that is cancelled gets `asyncio.CancelledError`, as everywhere in asyncio.
    """

    code = "cancelled"


class UnavailableError(DWCPError):
    """The node cannot take the request now; it was not executed."""

    code = "unavailable"


class InvalidOperationError(DWCPError):
    """The VM or job is in a state in which this cannot be done."""

    code = "invalid_operation"


class ConfigError(DWCPError, ValueError):
    """A field of a config or of options is unknown, of the wrong type or never allowed."""

    code = "invalid_config"


class UnsupportedError(DWCPError):
    """The request is well formed, but this node cannot do it; the text names the fields."""

    code = "unsupported"


class ResourceLimitError(DWCPError):
    """A limit of the node is reached."""

    code = "resource_limit"


class MigrationError(DWCPError):
    """A migration cannot start, or ended without moving the VM."""

    code = "migration"


class SnapshotError(DWCPError):
    """A snapshot cannot be taken, read or restored."""

    code = "snapshot"


class ProtocolError(DWCPError):
    """The other side does not keep to the protocol."""

    code = "invalid_message"


class InternalError(DWCPError):
    """A defect, or a failure of the host, on the node's side."""

    code = "internal"


class IoError(DWCPError, OSError):
    """The operating system refused a call."""

    code = "io"


class SerializationError(DWCPError):
    """A value could not be written or read."""

    code = "serialization"


class ForkedError(DWCPError):
    """The object was made before a fork, by the parent process: make a new one in this process."""

    code = "forked"


#: The class for every code. `other` is for the codes of newer nodes.
CLASSES: Dict[str, Type[DWCPError]] = {
    kind.code: kind
    for kind in (
        DWCPError,
        ConnectionError,
        TimeoutError,
        AuthenticationError,
        PermissionDeniedError,
        VMNotFoundError,
        NotFoundError,
        AlreadyExistsError,
        CancelledError,
        UnavailableError,
        InvalidOperationError,
        ConfigError,
        UnsupportedError,
        ResourceLimitError,
        MigrationError,
        SnapshotError,
        ProtocolError,
        InternalError,
        IoError,
        SerializationError,
        ForkedError,
    )
}


def from_code(
    code: str, message: str, retryable: bool, operation: Optional[str], concerns: Optional[str]
) -> DWCPError:
    """The exception for a code. Called by the native module."""
    return CLASSES.get(code, DWCPError)(
        message, code=code, retryable=retryable, operation=operation, concerns=concerns
    )

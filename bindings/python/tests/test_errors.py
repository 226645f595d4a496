import builtins

import pytest

import dwcp
from dwcp import _dwcp, errors

CLASSES = {
    "connection": dwcp.ConnectionError,
    "io": dwcp.IoError,
    "serialization": dwcp.SerializationError,
    "other": dwcp.DWCPError,
    "forked": dwcp.ForkedError,
    "auth": dwcp.AuthenticationError,
    "invalid_message": dwcp.ProtocolError,
    "vm_not_found": dwcp.VMNotFoundError,
    "resource_limit": dwcp.ResourceLimitError,
    "migration": dwcp.MigrationError,
    "invalid_operation": dwcp.InvalidOperationError,
    "timeout": dwcp.TimeoutError,
    "snapshot": dwcp.SnapshotError,
    "invalid_config": dwcp.ConfigError,
    "unsupported": dwcp.UnsupportedError,
    "already_exists": dwcp.AlreadyExistsError,
    "not_found": dwcp.NotFoundError,
    "unavailable": dwcp.UnavailableError,
    "cancelled": dwcp.CancelledError,
    "permission_denied": dwcp.PermissionDeniedError,
    "internal": dwcp.InternalError,
}


def test_the_table_has_every_code_of_the_core() -> None:
    assert set(_dwcp.codes()) == set(CLASSES) == set(errors.CLASSES)
    assert all(kind.code == code for code, kind in CLASSES.items())


@pytest.mark.parametrize("code", sorted(CLASSES))
def test_every_code_has_its_class(code: str) -> None:
    error = _dwcp.example_error(code)
    assert type(error) is CLASSES[code]
    assert isinstance(error, dwcp.DWCPError)
    assert (error.code, error.message, str(error)) == (code, "text", "text")
    assert (error.retryable, error.operation, error.concerns) == (True, "get", "id")


def test_a_code_of_a_newer_node_is_an_error_too() -> None:
    error = errors.from_code("too_novel", "text", True, None, None)
    assert type(error) is dwcp.DWCPError
    assert (error.code, error.retryable) == ("too_novel", True)


def test_builtin_names_are_builtin_kinds() -> None:
    assert issubclass(dwcp.ConnectionError, builtins.ConnectionError)
    assert issubclass(dwcp.TimeoutError, builtins.TimeoutError)
    assert issubclass(dwcp.ConfigError, ValueError)


def test_programs_may_make_their_own() -> None:
    error = dwcp.TimeoutError("too late")
    assert (error.code, error.message, error.retryable) == ("timeout", "too late", False)

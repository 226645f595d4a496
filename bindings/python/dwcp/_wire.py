"""Between this package's types and the JSON of requests."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

from . import _dwcp, config, enums, model
from ._lazy import Lazy
from .config import Duration
from .errors import ConfigError, from_code

_parse_time = datetime.fromisoformat


def duration(value: Optional[Duration], field: str) -> Optional[str]:
    """A duration as text, which is how requests have it; text is left for the core to read."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, timedelta):
        nanos = (value // timedelta(microseconds=1)) * 1000
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        # Beyond 10**12 seconds, which no setting allows, and for what is no number.
        if not abs(value) < 1e12:
            raise ConfigError(f"{field}: {value!r} is not a length of time")
        nanos = round(value * 1_000_000_000)
    else:
        raise ConfigError(
            f"{field}: must be seconds, a timedelta or text, not {type(value).__name__}"
        )
    if nanos < 0:
        raise ConfigError(f"{field}: must not be negative")
    return f"{nanos}ns"


def dumps(fields: Mapping[str, Any]) -> bytes:
    """JSON of the fields of a request."""
    try:
        return json.dumps(fields, default=_plain, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(str(error)) from None


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, timedelta):
        return duration(value, "timeout")
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    raise ConfigError(f"{type(value).__name__} is nothing that a request can carry")


def options(value: object, field: str) -> Any:
    """Options as they are written, with a `timeout` as text."""
    if value is None:
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = _plain(value)
        assert isinstance(plain, dict)
    elif isinstance(value, Mapping):
        plain = dict(value)
    else:
        raise ConfigError(f"{field}: must be options or a mapping, not {type(value).__name__}")
    if "timeout" in plain:
        plain["timeout"] = duration(plain["timeout"], f"{field}.timeout")
    return plain


def to_dict(value: object) -> Any:
    """A value of this package as plain dicts, lists, text and numbers, as the protocol has it.

    What is `None` is left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
        return {name: to_dict(each) for name, each in fields if each is not None}
    if isinstance(value, (list, tuple)):
        return [to_dict(each) for each in value]
    if isinstance(value, dict):
        return {key: to_dict(each) for key, each in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    return value


def _kinds(kind: Type[Any]) -> List[Tuple[str, object]]:
    """The fields of a class, each with how it is made."""
    made: List[Tuple[str, object]] = []
    for field in dataclasses.fields(kind):
        # Annotations are text here, which is all that is needed.
        text = str(field.type)
        name = text[len("Optional[") : -1] if text.startswith("Optional[") else text
        name = name[len("Union[") : -1].split(",")[0] if name.startswith("Union[") else name
        enum = getattr(enums, name, None)
        if name == "datetime":
            made.append((field.name, _parse_time))
        elif isinstance(enum, type) and issubclass(enum, Enum):
            words: Dict[str, object] = {member.value: member for member in enum}
            made.append((field.name, (words, enum["UNKNOWN"])))
        elif name.startswith("List["):
            made.append((field.name, list))
        else:
            made.append((field.name, None))
    return made


_CLASSES: Tuple[Type[Any], ...] = (
    config.Affinity,
    config.NetworkConfig,
    config.NetworkInterface,
    config.NodeLimits,
    config.VMConfig,
    model.ClientMetrics,
    model.DowntimeBreakdown,
    model.GuestReport,
    model.Health,
    model.Image,
    model.MigrationBytes,
    model.MigrationPlan,
    model.MigrationStatus,
    model.Misfit,
    model.NodeCapabilities,
    model.NodeInfo,
    model.RoundReport,
    model.Snapshot,
    model.VM,
    model.VMEvent,
    model.VMMetrics,
)


def _early(kind: Type[Any]) -> int:
    """How many fields its objects have from the start."""
    return kind._early if issubclass(kind, Lazy) else len(dataclasses.fields(kind))


_dwcp.register(
    from_code, [(kind.__name__, kind, _kinds(kind), _early(kind)) for kind in _CLASSES]
)

"""The fields of requests that have more than an id, for both clients."""

from __future__ import annotations

import base64
import os
from typing import Any, Dict, Iterator, Mapping, Optional, Union

from ._wire import dumps, duration, options
from .config import ClientConfig, Duration, MigrationOptions, SnapshotOptions, VMConfig
from .errors import ConfigError

#: What takes the place of a config or of options.
Fields = Mapping[str, Any]

#: Most bytes that a console takes at once.
CONSOLE_WRITE_MAX = 64 * 1024


def _without_none(**fields: object) -> bytes:
    return dumps({name: value for name, value in fields.items() if value is not None})


def client_options(config: ClientConfig) -> Dict[str, Any]:
    """The options of the core for a config; zero is no time for what has to have one."""
    plain = {name: value for name, value in vars(config).items() if value is not None}
    plain.pop("ssl_context", None)
    for name in ("connect_timeout", "request_timeout", "retry_backoff", "keep_alive_period"):
        text = duration(plain.get(name), name)
        if text == "0ns" and name != "retry_backoff":
            text = None
        plain[name] = text
    return plain


def client_config(config: Union[ClientConfig, Fields, None]) -> ClientConfig:
    """A config, however it was given."""
    if config is None:
        return ClientConfig()
    if isinstance(config, ClientConfig):
        return config
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: must be a ClientConfig, not {type(config).__name__}")
    for name in config:
        if name not in ClientConfig.__dataclass_fields__:
            raise ConfigError(f"client: unknown field {name!r}")
    return ClientConfig(**config)


def create(config: Union[VMConfig, Fields], key: Optional[str]) -> bytes:
    if not isinstance(config, (VMConfig, Mapping)):
        raise ConfigError(f"config: must be a VMConfig, not {type(config).__name__}")
    return _without_none(request={"config": config}, key=key)


def stop(id: str, force: bool, timeout: Optional[Duration]) -> bytes:
    return _without_none(vm_id=id, force=force, timeout=duration(timeout, "timeout"))


def update(id: str, labels: object, annotations: object) -> bytes:
    return _without_none(vm_id=id, labels=labels, annotations=annotations)


def filtered(filters: Optional[Mapping[str, str]]) -> bytes:
    return _without_none(filters=filters or None)


def watch(id: Optional[str], filters: object = None, since: Optional[int] = None) -> bytes:
    return _without_none(vm_id=id, filters=filters or None, since=since)


def metrics(id: str, window: Duration) -> bytes:
    return dumps({"vm_id": id, "duration": duration(window, "duration")})


def figures(id: str, interval: Duration) -> bytes:
    return dumps({"vm_id": id, "interval": duration(interval, "interval")})


def migrate(
    id: str,
    target: str,
    how: Union[MigrationOptions, Fields, None],
    key: Optional[str] = None,
) -> bytes:
    how = options(how, "options")
    return _without_none(vm_id=id, target_node=target, options=how, key=key)


def resolve(migration_id: str, force: bool) -> bytes:
    return dumps({"migration_id": migration_id, "force": force})


def snapshot(
    id: str, name: str, how: Union[SnapshotOptions, Fields, None], key: Optional[str]
) -> bytes:
    return _without_none(vm_id=id, name=name, options=options(how, "options"), key=key)


def restore(id: str, snapshot_id: str) -> bytes:
    return dumps({"vm_id": id, "snapshot_id": snapshot_id})


def import_image(path: Union[str, os.PathLike[str]], name: Optional[str]) -> bytes:
    return _without_none(path=os.fspath(path), name=name)


def typed(id: str, data: Union[bytes, str]) -> Iterator[bytes]:
    """The requests by which something is typed on a console, one after the other."""
    if isinstance(data, str):
        data = data.encode()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ConfigError(f"data: must be bytes or text, not {type(data).__name__}")
    whole = bytes(data)
    for start in range(0, max(len(whole), 1), CONSOLE_WRITE_MAX):
        part = whole[start : start + CONSOLE_WRITE_MAX]
        yield dumps({"vm_id": id, "data": base64.b64encode(part).decode()})

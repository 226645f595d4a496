"""A node in this process."""

from __future__ import annotations

import os
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

from . import _dwcp
from ._bridge import run
from ._requests import Fields
from ._wire import dumps, duration
from .client import Client
from .config import APIKey, Duration, NodeLimits, NodeTLS, Peer
from .enums import Backend, Role
from .errors import InvalidOperationError
from .model import MigrationStatus

if TYPE_CHECKING:
    from types import TracebackType

N = TypeVar("N", bound="Node")

#: How long the guests of a node that ends have to stop, in seconds.
SHUTDOWN_TIMEOUT = 10.0


def node_options(
    name: str,
    backend: Union[Backend, str, None],
    data_dir: Union[str, os.PathLike[str], None],
    disk_dir: Union[str, os.PathLike[str], None],
    listen: Sequence[str],
    api_keys: Sequence[Union[APIKey, Fields]],
    tls: Union[NodeTLS, Fields, None],
    insecure: bool,
    peers: Optional[Mapping[str, Union[str, Peer, Fields]]],
    labels: Optional[Mapping[str, str]],
    limits: Union[NodeLimits, Fields, None],
    default_image: Optional[str],
    event_ring: int,
    peer_timeout: Optional[Duration],
) -> bytes:
    """The options of the core."""
    fields: Dict[str, Any] = {
        "name": name,
        "backend": backend,
        "data_dir": None if data_dir is None else os.fspath(data_dir),
        "disk_dir": None if disk_dir is None else os.fspath(disk_dir),
        "listen": [listen] if isinstance(listen, str) else list(listen),
        "api_keys": list(api_keys),
        "tls": tls,
        "insecure": insecure,
        "peers": dict(peers or {}),
        "labels": dict(labels or {}),
        "limits": limits,
        "default_image": default_image,
        "event_ring": event_ring,
        "peer_timeout": duration(peer_timeout, "peer_timeout"),
    }
    return dumps({key: value for key, value in fields.items() if value is not None})


class NodeKeys:
    """The keys of a node. Keys are never shown, only their names."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def list(self) -> List[Tuple[str, Role]]:
        """Names and roles."""
        return [(name, Role(role)) for name, role in self._node._need().keys()]

    async def add(self, name: str, key: str, role: Union[Role, str]) -> None:
        """Adds a key of 8 to 512 bytes."""
        await run(self._node._need().add_key(name, key, str(role)))

    async def remove(self, name: str) -> None:
        """Removes a key that was added."""
        await run(self._node._need().remove_key(name))


class Node:
    """A node in this process. `async with` starts it and shuts it down.

    `backend` is `kvm` (default) or `sim`, a simulation for tests. Without `data_dir` all ends with the
    node, and it takes no snapshots and has no images; `disk_dir` is where the disks of its VMs are, else
    `disks/` below `data_dir`. `listen` has addresses such as `127.0.0.1:9000` or `unix:/path`; port 0
    is one of the system's choice, which `address()` says. A node without keys serves its own host only.
    `peers` are the nodes to which VMs can move, by name: an address, or a `Peer`. A mistake in any of
    them is a `ConfigError` when it starts.
    """

    def __init__(
        self,
        name: str,
        *,
        backend: Union[Backend, str, None] = None,
        data_dir: Union[str, os.PathLike[str], None] = None,
        disk_dir: Union[str, os.PathLike[str], None] = None,
        listen: Sequence[str] = (),
        api_keys: Sequence[Union[APIKey, Fields]] = (),
        tls: Union[NodeTLS, Fields, None] = None,
        insecure: bool = False,
        peers: Optional[Mapping[str, Union[str, Peer, Fields]]] = None,
        labels: Optional[Mapping[str, str]] = None,
        limits: Union[NodeLimits, Fields, None] = None,
        default_image: Optional[str] = None,
        event_ring: int = 0,
        peer_timeout: Optional[Duration] = None,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
    ) -> None:
        self._options = node_options(
            name,
            backend,
            data_dir,
            disk_dir,
            listen,
            api_keys,
            tls,
            insecure,
            peers,
            labels,
            limits,
            default_image,
            event_ring,
            peer_timeout,
        )
        self._shutdown_timeout = shutdown_timeout
        self._handle: Optional[_dwcp.Node] = None
        self._keys = NodeKeys(self)
        self.name = name

    def _need(self) -> _dwcp.Node:
        if self._handle is None:
            raise InvalidOperationError("the node is not started: use `async with`, or await start()")
        return self._handle

    async def start(self) -> None:
        """Starts it; once more does nothing."""
        if self._handle is None:
            self._handle = cast(_dwcp.Node, await run(_dwcp.Node.start(self._options)))

    async def shutdown(self, timeout: Optional[float] = None) -> None:
        """Ends it and its VMs; the guests have `timeout` seconds (10) to stop. Once more does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            seconds = self._shutdown_timeout if timeout is None else timeout
            await run(handle.shutdown(seconds))

    async def __aenter__(self: N) -> N:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.shutdown()

    def client(self) -> Client:
        """A client that calls it directly, as an admin. It is connected."""
        return Client._local(self._need().client())

    def address(self) -> Optional[str]:
        """Where its first listener is, such as `127.0.0.1:9000`; `None` without one."""
        return self._need().address()

    def add_peer(self, name: str, address: str, credential: Optional[str] = None) -> None:
        """Adds a node to which VMs can move, or gives it another address."""
        self._need().add_peer(name, address, credential)

    def drain(self) -> None:
        """Takes and starts no VMs from now on."""
        self._need().drain()

    @property
    def keys(self) -> NodeKeys:
        """Its keys."""
        return self._keys

    async def migrations(self) -> List[MigrationStatus]:
        """The migrations it knows of."""
        return await self.client().vm.list_migrations()

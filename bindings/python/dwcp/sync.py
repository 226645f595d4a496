"""The same without asyncio: every method waits, and lets other threads run meanwhile.

>>> with Client(ClientConfig(address="localhost", api_key="…")) as client:
...     vm = client.vm.create(VMConfig(name="web", memory=64 * 1024**2))
...     for event in client.vm.watch(vm.id):
...         print(event.type)

The objects may be used by several threads at once, a stream by one. Ctrl-C ends a wait within a tenth of
a second, and takes the request back. Do not use it in a coroutine: it would stop the loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Iterator,
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

from . import _dwcp, _requests
from ._dwcp import block
from ._requests import Fields, client_config, client_options
from ._tunnel import Tunnel
from ._wire import dumps
from .config import (
    APIKey,
    ClientConfig,
    Duration,
    MigrationOptions,
    NodeLimits,
    NodeTLS,
    Peer,
    SnapshotOptions,
    VMConfig,
)
from .enums import Backend, Role
from .errors import ConnectionError, InvalidOperationError
from .model import (
    VM,
    ClientMetrics,
    GuestReport,
    Health,
    Image,
    MigrationPlan,
    MigrationStatus,
    NodeInfo,
    Snapshot,
    VMEvent,
    VMMetrics,
)
from .node import SHUTDOWN_TIMEOUT, node_options
from .streams import BATCH

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Client", "Console", "Node", "NodeKeys", "Stream", "VMClient"]

T = TypeVar("T")
S = TypeVar("S", bound="Stream[Any]")
C = TypeVar("C", bound="Client")
N = TypeVar("N", bound="Node")


class Stream(Iterator[T], Generic[T]):
    """An iterator that is open from its first item on, or from `with` on. See `dwcp.Stream`."""

    __slots__ = ("_client", "_name", "_fields", "_handle", "_items", "_ended")

    def __init__(self, client: Client, name: str, fields: bytes) -> None:
        self._client = client
        self._name = name
        self._fields = fields
        self._handle: Optional[_dwcp.Stream] = None
        # The next item is the last of the list.
        self._items: List[T] = []
        self._ended = False

    def __iter__(self: S) -> S:
        return self

    def __next__(self) -> T:
        if not self._items:
            self._wait()
        return self._items.pop()

    def open(self) -> None:
        """Opens it now, where that was not done; raises what the first item would."""
        if self._handle is None and not self._ended:
            self._handle = block(self._client._need().subscribe(self._name, self._fields))

    def _wait(self) -> None:
        self.open()
        if self._ended or self._handle is None:
            raise StopIteration
        try:
            self._items = block(self._handle.next(BATCH))
        except Exception:
            self._ended = True
            raise
        if not self._items:
            self._ended = True
            raise StopIteration

    def close(self) -> None:
        """Ends it, at the node too. A thread that waits for the next item gets the end."""
        self._ended = True
        self._items = []
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def __enter__(self: S) -> S:
        self.open()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()


class Console(Stream[bytes]):
    """What a VM prints on its console, from now on; and its keyboard. See `dwcp.Console`."""

    __slots__ = ("_id",)

    def __init__(self, client: Client, id: str) -> None:
        super().__init__(client, "console", _requests.watch(id))
        self._id = id

    def write(self, data: Union[bytes, str]) -> None:
        """Types on the console."""
        for fields in _requests.typed(self._id, data):
            block(self._client._need().call("console", fields))


class VMClient:
    """The methods about VMs of a client. See `dwcp.VMClient`, whose methods these are."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self) -> VMClient:
        return self

    def _one(self, name: str, id: str, field: str = "vm_id") -> Any:
        return block(self._client._need().one(name, field, id))

    def _call(self, name: str, fields: bytes) -> Any:
        return block(self._client._need().call(name, fields))

    def create(self, config: Union[VMConfig, Fields], *, key: Optional[str] = None) -> VM:
        """Makes a VM, durable and stopped."""
        return cast(VM, self._call("create", _requests.create(config, key)))

    def start(self, id: str) -> None:
        """Starts it."""
        self._one("start", id)

    def stop(self, id: str, force: bool = False, timeout: Optional[Duration] = None) -> None:
        """Stops it."""
        self._call("stop", _requests.stop(id, force, timeout))

    def destroy(self, id: str) -> None:
        """Removes a stopped VM and its disks."""
        self._one("destroy", id)

    def pause(self, id: str) -> None:
        """Holds its vCPUs."""
        self._one("pause", id)

    def resume(self, id: str) -> None:
        """Lets its vCPUs run again."""
        self._one("resume", id)

    def reset(self, id: str) -> None:
        """Starts it anew at once."""
        self._one("reset", id)

    def update(
        self,
        id: str,
        labels: Optional[Mapping[str, str]] = None,
        annotations: Optional[Mapping[str, str]] = None,
    ) -> VM:
        """Replaces its labels or its annotations; `None` keeps them."""
        return cast(VM, self._call("update", _requests.update(id, labels, annotations)))

    def get(self, id: str) -> VM:
        """What it is and does."""
        return cast(VM, self._one("get", id))

    def list(self, filters: Optional[Mapping[str, str]] = None) -> List[VM]:
        """The VMs that match, oldest first."""
        return cast("List[VM]", self._call("list", _requests.filtered(filters)))

    def watch(self, id: str) -> Stream[VMEvent]:
        """What happens to it, after its present state."""
        return Stream(self._client, "watch", _requests.watch(id))

    def watch_all(self, filters: Optional[Mapping[str, str]] = None) -> Stream[VMEvent]:
        """What happens to all VMs that match."""
        return Stream(self._client, "watch", _requests.watch(None, filters))

    def watch_since(
        self, seq: int, id: Optional[str] = None, filters: Optional[Mapping[str, str]] = None
    ) -> Stream[VMEvent]:
        """What happened after the event `seq`."""
        return Stream(self._client, "watch", _requests.watch(id, filters, seq))

    def get_metrics(self, id: str, duration: Duration = "5m") -> VMMetrics:
        """Its figures over the time before now."""
        return cast(VMMetrics, self._call("get_metrics", _requests.metrics(id, duration)))

    def stream_metrics(self, id: str, interval: Duration = "1s") -> Stream[VMMetrics]:
        """Its figures, one item per `interval`."""
        return Stream(self._client, "stream_metrics", _requests.figures(id, interval))

    def guest_report(self, id: str) -> GuestReport:
        """What the built-in guest says of itself."""
        return cast(GuestReport, self._one("guest_report", id))

    def verify(self, id: str) -> GuestReport:
        """Has the built-in guest check all its memory."""
        return cast(GuestReport, self._one("verify", id))

    def migrate(
        self,
        id: str,
        target: str,
        options: Union[MigrationOptions, Fields, None] = None,
        *,
        key: Optional[str] = None,
    ) -> MigrationStatus:
        """Moves it to another node; returns when that is accepted and under way."""
        fields = _requests.migrate(id, target, options, key)
        return cast(MigrationStatus, self._call("migrate", fields))

    def get_migration_status(self, migration_id: str) -> MigrationStatus:
        """How a migration goes, or how it ended."""
        status = self._one("get_migration_status", migration_id, "migration_id")
        return cast(MigrationStatus, status)

    def migration_progress(self, migration_id: str) -> Stream[MigrationStatus]:
        """How a migration goes; the last item says how it ended."""
        fields = dumps({"migration_id": migration_id})
        return Stream(self._client, "migration_progress", fields)

    def cancel_migration(self, migration_id: str) -> MigrationStatus:
        """Ends a migration before its switch; the VM stays."""
        status = self._one("cancel_migration", migration_id, "migration_id")
        return cast(MigrationStatus, status)

    def list_migrations(self) -> List[MigrationStatus]:
        """The migrations the node knows of."""
        return cast("List[MigrationStatus]", self._call("list_migrations", b"{}"))

    def plan_migration(
        self, id: str, target: str, options: Union[MigrationOptions, Fields, None] = None
    ) -> MigrationPlan:
        """What a migration would be like."""
        fields = _requests.migrate(id, target, options)
        return cast(MigrationPlan, self._call("plan_migration", fields))

    def resolve_migration(self, migration_id: str, force: bool = False) -> MigrationStatus:
        """Finds out who has the VM of a migration that lost its peer; with `force`, takes it."""
        fields = _requests.resolve(migration_id, force)
        return cast(MigrationStatus, self._call("resolve_migration", fields))

    def snapshot(
        self,
        id: str,
        name: str,
        options: Union[SnapshotOptions, Fields, None] = None,
        *,
        key: Optional[str] = None,
    ) -> Snapshot:
        """Takes a snapshot, and returns when it is complete."""
        fields = _requests.snapshot(id, name, options, key)
        return cast(Snapshot, self._call("snapshot", fields))

    def list_snapshots(self, id: str) -> List[Snapshot]:
        """Its snapshots, oldest first."""
        return cast("List[Snapshot]", self._one("list_snapshots", id))

    def restore_snapshot(self, id: str, snapshot_id: str) -> None:
        """Makes it what it was, in the state it had."""
        self._call("restore_snapshot", _requests.restore(id, snapshot_id))

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Removes a snapshot that no other builds on."""
        self._one("delete_snapshot", snapshot_id, "snapshot_id")

    def import_image(
        self, path: Union[str, os.PathLike[str]], name: Optional[str] = None
    ) -> Image:
        """Brings the image in a folder of the node's own host into its store, under `name` or its own."""
        return cast(Image, self._call("import_image", _requests.import_image(path, name)))

    def list_images(self) -> List[Image]:
        """The images in the node's store, by name; the built-in guest is not among them."""
        return cast("List[Image]", self._call("list_images", b"{}"))

    def remove_image(self, name: str) -> None:
        """Removes an image that no VM names. Needs the role admin."""
        self._one("remove_image", name, "name")

    def console(self, id: str) -> Console:
        """Its console."""
        return Console(self._client, id)


class _TunnelThread:
    """A tunnel, in an event loop of its own."""

    def __init__(self, config: ClientConfig) -> None:
        self.tunnel = Tunnel(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="dwcp-tunnel", daemon=True
        )
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.tunnel.start(), self._loop).result()
        except BaseException:
            self._end()
            raise

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.tunnel.stop(), self._loop).result()
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Client:
    """A client of one node. `with` connects and disconnects it. See `dwcp.Client`."""

    def __init__(self, config: Union[ClientConfig, Fields, None] = None) -> None:
        self._config: Optional[ClientConfig] = client_config(config)
        self._handle: Optional[_dwcp.Client] = None
        self._tunnel: Optional[_TunnelThread] = None
        self._connecting = threading.Lock()
        self._vm = VMClient(self)

    @classmethod
    def _local(cls, handle: _dwcp.Client) -> Client:
        """The client of a node in this process."""
        client = cls()
        client._config = None
        client._handle = handle
        return client

    def _need(self) -> _dwcp.Client:
        handle = self._handle
        if handle is None:
            raise ConnectionError("not connected: use `with`, or connect()")
        return handle

    def connect(self) -> None:
        """Connects, where it is not connected."""
        with self._connecting:
            if self._handle is not None:
                return
            if self._config is None:
                raise ConnectionError(
                    "a node's own client cannot be connected again: node.client()"
                )
            options = client_options(self._config)
            tunnel = None
            if self._config.ssl_context is not None:
                tunnel = _TunnelThread(self._config)
                options = tunnel.tunnel.options(options)
            try:
                self._handle = cast(_dwcp.Client, block(_dwcp.Client.connect(dumps(options))))
            except BaseException as error:
                if tunnel is not None:
                    tunnel.stop()
                    if isinstance(error, ConnectionError) and tunnel.tunnel.error is not None:
                        raise tunnel.tunnel.error from None
                raise
            self._tunnel = tunnel

    def disconnect(self) -> None:
        """Ends its connections, for whatever is under way too. Once more does nothing."""
        handle, self._handle = self._handle, None
        tunnel, self._tunnel = self._tunnel, None
        try:
            if handle is not None:
                block(handle.close())
        finally:
            if tunnel is not None:
                tunnel.stop()

    def __enter__(self: C) -> C:
        self.connect()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.disconnect()

    @property
    def is_connected(self) -> bool:
        """Whether requests can reach the node."""
        return self._handle is not None and self._handle.is_connected

    @property
    def is_authenticated(self) -> bool:
        """Whether the node has accepted the key."""
        return self._handle is not None and self._handle.is_authenticated

    @property
    def vm(self) -> VMClient:
        """The methods about VMs."""
        return self._vm

    def VM(self) -> VMClient:
        """The methods about VMs."""
        return self._vm

    def get_metrics(self) -> ClientMetrics:
        """Its counters since it was connected."""
        return ClientMetrics() if self._handle is None else self._handle.metrics()

    def health(self) -> Health:
        """Whether the node can be relied on."""
        return cast(Health, block(self._need().call("health", b"{}")))

    def node(self) -> NodeInfo:
        """What the node is."""
        return cast(NodeInfo, block(self._need().call("node", b"{}")))


class NodeKeys:
    """The keys of a node. Keys are never shown, only their names."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def list(self) -> List[Tuple[str, Role]]:
        """Names and roles."""
        return [(name, Role(role)) for name, role in self._node._need().keys()]

    def add(self, name: str, key: str, role: Union[Role, str]) -> None:
        """Adds a key of 8 to 512 bytes."""
        block(self._node._need().add_key(name, key, str(role)))

    def remove(self, name: str) -> None:
        """Removes a key that was added."""
        block(self._node._need().remove_key(name))


class Node:
    """A node in this process. `with` starts it and shuts it down. See `dwcp.Node`."""

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
            raise InvalidOperationError("the node is not started: use `with`, or start()")
        return self._handle

    def start(self) -> None:
        """Starts it; once more does nothing."""
        if self._handle is None:
            self._handle = cast(_dwcp.Node, block(_dwcp.Node.start(self._options)))

    def shutdown(self, timeout: Optional[float] = None) -> None:
        """Ends it and its VMs; the guests have `timeout` seconds (10) to stop. Once more does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            seconds = self._shutdown_timeout if timeout is None else timeout
            block(handle.shutdown(seconds))

    def __enter__(self: N) -> N:
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.shutdown()

    def client(self) -> Client:
        """A client that calls it directly, as an admin. It is connected."""
        return Client._local(self._need().client())

    def address(self) -> Optional[str]:
        """Where its first listener is; `None` without one."""
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

    def migrations(self) -> List[MigrationStatus]:
        """The migrations it knows of."""
        return self.client().vm.list_migrations()

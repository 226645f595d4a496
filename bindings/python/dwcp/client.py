"""The asynchronous client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Type, TypeVar, Union, cast

from . import _dwcp
from ._bridge import run
from ._requests import Fields, client_config, client_options
from ._tunnel import Tunnel
from ._wire import dumps
from .config import ClientConfig
from .errors import ConnectionError
from .model import ClientMetrics, Health, NodeInfo
from .vm import VMClient

if TYPE_CHECKING:
    from types import TracebackType

C = TypeVar("C", bound="Client")


class Client:
    """A client of one node. `async with` connects and disconnects it.

    Any number of tasks may use it at once, in any event loop; requests share its connections and are
    answered in any order. A connection that is lost is made again with the next request.
    """

    def __init__(self, config: Union[ClientConfig, Fields, None] = None) -> None:
        self._config: Optional[ClientConfig] = client_config(config)
        self._handle: Optional[_dwcp.Client] = None
        self._tunnel: Optional[Tunnel] = None
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
            raise ConnectionError("not connected: use `async with`, or await connect()")
        return handle

    async def connect(self) -> None:
        """Connects, where it is not connected. Raises what hinders it, within `connect_timeout`."""
        if self._handle is not None:
            return
        if self._config is None:
            raise ConnectionError("a node's own client cannot be connected again: node.client()")
        options = client_options(self._config)
        tunnel = None
        if self._config.ssl_context is not None:
            tunnel = Tunnel(self._config)
            await tunnel.start()
            options = tunnel.options(options)
        try:
            handle = cast(_dwcp.Client, await run(_dwcp.Client.connect(dumps(options))))
        except BaseException as error:
            if tunnel is not None:
                await tunnel.stop()
                if isinstance(error, ConnectionError) and tunnel.error is not None:
                    raise tunnel.error from None
            raise
        if self._handle is not None:
            # Another task was faster; one connection is enough.
            await run(handle.close())
            if tunnel is not None:
                await tunnel.stop()
            return
        self._handle, self._tunnel = handle, tunnel

    async def disconnect(self) -> None:
        """Ends its connections, for whatever is under way too. Once more does nothing."""
        handle, self._handle = self._handle, None
        tunnel, self._tunnel = self._tunnel, None
        try:
            if handle is not None:
                await run(handle.close())
        finally:
            if tunnel is not None:
                await tunnel.stop()

    async def __aenter__(self: C) -> C:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.disconnect()

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

    async def health(self) -> Health:
        """Whether the node can be relied on."""
        return cast(Health, await run(self._need().call("health", b"{}")))

    async def node(self) -> NodeInfo:
        """What the node is."""
        return cast(NodeInfo, await run(self._need().call("node", b"{}")))

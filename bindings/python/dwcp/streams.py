"""Streams of events, figures, progress and console output."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, AsyncIterator, Generic, List, Optional, Type, TypeVar, Union

from . import _dwcp, _requests
from ._bridge import bridge_of, run
from .errors import InvalidOperationError

if TYPE_CHECKING:
    from types import TracebackType

    from .client import Client

T = TypeVar("T")
S = TypeVar("S", bound="Stream[Any]")

#: Most items that are taken from the core at once.
BATCH = 256


class _Sink:
    """Where a batch arrives. Apart from its stream, so that a forgotten stream can end."""

    __slots__ = ("items", "error", "ended", "busy", "waiter")

    def __init__(self) -> None:
        # The next item is the last of the list.
        self.items: List[Any] = []
        self.error: Optional[BaseException] = None
        self.ended = False
        self.busy = False
        self.waiter: Optional[asyncio.Future[None]] = None

    def arrived(self, items: Optional[List[Any]], error: Optional[BaseException]) -> None:
        """Called by the bridge, in the loop."""
        self.busy = False
        if error is not None:
            self.error = error
        elif items:
            self.items = items
        else:
            self.ended = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Stream(AsyncIterator[T], Generic[T]):
    """An async iterator that is open from its first item on, or from `async with` on.

    Items wait at the node until they are asked for; a slow reader of a watch is told by an event of type
    `lost` what it missed. `break` ends it, as do `aclose()` and dropping the last reference. An error that
    cannot be mended is raised once; after that the stream has ended. Cancelling the task that waits for
    the next item loses none. One task at a time may wait.
    """

    __slots__ = ("_client", "_name", "_fields", "_handle", "_sink", "_opening", "__weakref__")

    def __init__(self, client: Client, name: str, fields: bytes) -> None:
        self._client = client
        self._name = name
        self._fields = fields
        self._handle: Optional[_dwcp.Stream] = None
        self._sink = _Sink()
        self._opening = False

    def __aiter__(self: S) -> S:
        return self

    async def __anext__(self) -> T:
        items = self._sink.items
        if not items:
            items = await self._wait()
        item: T = items.pop()
        return item

    async def open(self) -> None:
        """Opens it now, where that was not done; raises what the first item would."""
        if self._handle is not None or self._sink.ended:
            return
        if self._opening:
            raise _one_at_a_time(self._name)
        self._opening = True
        try:
            handle = await run(self._client._need().subscribe(self._name, self._fields))
        finally:
            self._opening = False
        if self._sink.ended:
            # Closed meanwhile.
            handle.close()
        else:
            self._handle = handle

    async def _wait(self) -> List[Any]:
        sink = self._sink
        if sink.waiter is not None:
            raise _one_at_a_time(self._name)
        if self._handle is None:
            await self.open()
        loop = asyncio.get_running_loop()
        if not (sink.busy or sink.ended or sink.items or sink.error):
            assert self._handle is not None
            try:
                items = bridge_of(loop).pull(self._handle.next(BATCH), sink)
            except BaseException:
                sink.ended = True
                raise
            if items is None:
                sink.busy = True
            else:
                sink.arrived(items, None)
        while not (sink.items or sink.ended or sink.error):
            sink.waiter = loop.create_future()
            try:
                await sink.waiter
            finally:
                sink.waiter = None
        if sink.items:
            return sink.items
        error, sink.error, sink.ended = sink.error, None, True
        if error is not None:
            raise error
        raise StopAsyncIteration

    def close(self) -> None:
        """Ends it, at the node too. Whoever waits for the next item gets the end."""
        self._sink.ended = True
        self._sink.items = []
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()
        waiter = self._sink.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def aclose(self) -> None:
        """The same, as async iterators have it."""
        self.close()

    async def __aenter__(self: S) -> S:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            try:
                handle.close()
            except Exception:
                # In a child of a fork it is not ours, and without an error to tell anybody.
                pass


def _one_at_a_time(name: str) -> InvalidOperationError:
    return InvalidOperationError("another task waits for this stream already", operation=name)


class Console(Stream[bytes]):
    """What a VM prints on its console, from now on; and its keyboard.

    One client types at a time: the first that does while it reads the console, until it no longer does;
    others get an `InvalidOperationError` that names it.

    It cannot be continued exactly on another connection, and ends with `ConnectionError` when that is
    lost.
    """

    __slots__ = ("_id",)

    def __init__(self, client: Client, id: str) -> None:
        super().__init__(client, "console", _requests.watch(id))
        self._id = id

    async def write(self, data: Union[bytes, str]) -> None:
        """Types on the console; returns when the bytes are queued at the node."""
        for fields in _requests.typed(self._id, data):
            await run(self._client._need().call("console", fields))

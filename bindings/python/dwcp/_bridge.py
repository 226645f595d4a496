"""One bridge per event loop: the loop watches its descriptor, and drains it."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any
from weakref import WeakKeyDictionary

from ._dwcp import Bridge, Work

_bridges: WeakKeyDictionary[asyncio.AbstractEventLoop, Bridge] = WeakKeyDictionary()
_lock = threading.Lock()


def bridge_of(loop: asyncio.AbstractEventLoop) -> Bridge:
    """The bridge of a loop, made when it is first needed."""
    found = _bridges.get(loop)
    if found is not None:
        return found
    with _lock:
        # Those of loops that ended with work under way: nobody will hear of it.
        for other in [each for each in _bridges if each.is_closed()]:
            _bridges.pop(other).close()
        bridge = Bridge()
        loop.add_reader(bridge.fileno(), bridge.drain)
        _bridges[loop] = bridge
        return bridge


def _in_child() -> None:
    """A child of a fork leaves its parent's bridges alone."""
    global _bridges, _lock
    _bridges = WeakKeyDictionary()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_in_child)


async def run(work: Work) -> Any:
    """Does it, and waits. Taken back when the task that waits is cancelled."""
    begun = work.begin()
    if begun is not work:
        # There was nothing to wait for.
        return begun
    loop = asyncio.get_running_loop()
    bridge = _bridges.get(loop) or bridge_of(loop)
    future: asyncio.Future[Any] = loop.create_future()
    bridge.run(work, future)
    try:
        return await future
    except asyncio.CancelledError:
        bridge.cancel(future)
        raise

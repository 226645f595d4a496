"""The calls of `cargo xtask bench bindings` in Python: what to do comes line by line, what it took goes back as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import Awaitable, Callable, Dict, List

import dwcp
from dwcp import Stream, VMClient, VMConfig, VMEvent

Work = Callable[[int], Awaitable[None]]


class Calls:
    """A VM that is stopped, and what happens to it."""

    def __init__(self, vms: VMClient, id: str) -> None:
        self.vms = vms
        self.id = id
        self.events: Stream[VMEvent] = vms.watch(id)

    async def watch(self, count: int) -> None:
        """Opens the stream, and makes so many events: they wait at the node."""
        self.events = self.vms.watch(self.id)
        await self.events.open()
        for number in range(count):
            labels = {"env": f"production-{number % 10}", "tier": "web"}
            await self.vms.update(self.id, labels=labels)

    async def seq(self, count: int) -> None:
        for _ in range(count):
            check((await self.vms.get(self.id)).state == "stopped")

    async def whole(self, count: int) -> None:
        for _ in range(count):
            whole(await self.vms.get(self.id))

    async def at_once(self, count: int) -> None:
        calls = [self.vms.get(self.id) for _ in range(count)]
        for vm in await asyncio.gather(*calls):
            check(vm.state == "stopped")

    async def items(self, count: int) -> None:
        async for event in self.events:
            check(event.seq > 0)
            count -= 1
            if count == 0:
                return

    async def whole_items(self, count: int) -> None:
        async for event in self.events:
            whole(event.vm)
            count -= 1
            if count == 0:
                return


def whole(vm: dwcp.VM) -> None:
    check(vm.config.memory > 0 and vm.config.labels["tier"] == "web")
    check(vm.labels["tier"] == "web" and vm.annotations["owner"] != "")
    check(vm.created_at <= vm.updated_at)


def check(holds: bool) -> None:
    if not holds:
        raise AssertionError("the node says something else than it was told")


async def main() -> None:
    events = int(sys.argv[1])
    async with dwcp.Node("bench", backend="sim", event_ring=events) as node:
        vms = node.client().vm
        config = VMConfig(
            "web-server-01",
            memory=64 << 20,
            cpus=1,
            image="dwcp/pulse",
            labels={"env": "production", "tier": "web"},
            annotations={"owner": "platform@example.com"},
        )
        id = (await vms.create(config)).id
        calls = Calls(vms, id)
        works: Dict[str, Work] = {
            "seq": calls.seq,
            "seq-whole": calls.whole,
            "500": calls.at_once,
            "stream-item": calls.items,
            "stream-item-whole": calls.whole_items,
        }
        print(json.dumps({"version": "Python " + sys.version.split()[0]}), flush=True)
        for line in sys.stdin:
            name, count, block = line.split()[0], *map(int, line.split()[1:])
            if name.startswith("stream"):
                await calls.watch(count + block)
            # The first block is not measured: what was fetched ahead is read with it.
            await works[name](block)
            times: List[float] = []
            for _ in range(count // block):
                began = perf_counter()
                await works[name](block)
                times.append((perf_counter() - began) * 1e6 / block)
            calls.events.close()
            print(json.dumps(times), flush=True)


asyncio.run(main())

"""Calls under way: cancelled, timed out, many at once, and ended with their client."""

import asyncio
import gc
import weakref
from typing import Set

import pytest
from conftest import vm_config

import dwcp
from dwcp import Client, ClientConfig, Node
from dwcp._bridge import bridge_of


class Waiting:
    """A client of a node, with a wire in between that can be cut: then its calls wait."""

    def __init__(self, **more: object) -> None:
        self.node = Node("n", backend="sim", listen=["127.0.0.1:0"])
        self.more = more
        self.open = asyncio.Event()
        self.open.set()
        self.ways: Set["asyncio.Task[None]"] = set()

    async def __aenter__(self) -> "Waiting":
        await self.node.start()
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        config = {"address": "127.0.0.1", "port": port, "tls_enabled": False, "retry_attempts": 0}
        self.client = Client({**config, **self.more})
        await self.client.connect()
        self.open.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.disconnect()
        self.server.close()
        for way in self.ways:
            way.cancel()
        await asyncio.gather(*self.ways, return_exceptions=True)
        await self.node.shutdown(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self.node.address()).rsplit(":", 1)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        for way in (self.pump(reader, far_writer), self.pump(far_reader, writer)):
            self.ways.add(asyncio.ensure_future(way))

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self.open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            # What it was still to send is for nobody.
            writer.transport.abort()

    def call(self) -> "asyncio.Task[dwcp.Health]":
        return asyncio.ensure_future(self.client.health())


async def in_flight(count: int) -> None:
    """Until so many calls wait."""
    bridge = bridge_of(asyncio.get_running_loop())
    while bridge.in_flight() != count:
        await asyncio.sleep(0.001)


async def test_a_cancelled_task_takes_its_request_back() -> None:
    async with Waiting() as waiting:
        task = waiting.call()
        await in_flight(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Its work ends, although nobody waits for it.
        await in_flight(0)
        waiting.open.set()
        assert (await waiting.call()).status == "healthy"


async def test_cancelling_what_has_ended_does_nothing() -> None:
    async with Node("n", backend="sim") as node:
        task = asyncio.ensure_future(node.client().health())
        await task
        assert not task.cancel()


async def test_wait_for() -> None:
    async with Waiting() as waiting:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting.call(), 0.05)
        await in_flight(0)


async def test_request_timeout() -> None:
    async with Waiting(request_timeout=0.1) as waiting:
        with pytest.raises(TimeoutError) as raised:
            await waiting.call()
        assert isinstance(raised.value, dwcp.TimeoutError)
        assert raised.value.retryable and raised.value.operation == "health"


async def test_a_client_that_is_closed_ends_its_calls() -> None:
    async with Waiting() as waiting:
        calls = [waiting.call() for _ in range(20)]
        await in_flight(20)
        await waiting.client.disconnect()
        for end in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(end, dwcp.ConnectionError), end
        with pytest.raises(dwcp.ConnectionError):
            await waiting.call()


async def test_five_hundred_at_once() -> None:
    async with Node("n", backend="sim", listen=["127.0.0.1:0"]) as node:
        async with Client({"address": node.address(), "tls_enabled": False}) as client:
            vms = [await client.vm.create(vm_config(f"vm-{index}")) for index in range(10)]
            asked = [vms[index % 10].id for index in range(500)]
            got = await asyncio.gather(*[client.vm.get(id) for id in asked])
            assert [vm.id for vm in got] == asked
            assert bridge_of(asyncio.get_running_loop()).in_flight() == 0


async def test_an_exception_of_the_host_program_stays_its_own() -> None:
    async with Node("n", backend="sim", listen=["127.0.0.1:0"]) as node:
        async with Client({"address": node.address(), "tls_enabled": False}) as client:
            loop = asyncio.get_running_loop()
            told = []
            loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
            task = asyncio.ensure_future(client.health())

            def callback(_: object) -> None:
                raise RuntimeError("in a callback")

            task.add_done_callback(callback)

            async def fails() -> None:
                await client.health()
                raise RuntimeError("in a task")

            with pytest.raises(RuntimeError, match="in a task"):
                await asyncio.gather(fails(), task)
            assert (await client.health()).status == "healthy"
            while not told:  # The other call may end later than the one that failed.
                await asyncio.sleep(0)
            assert [str(error) for error in told] == ["in a callback"]




def test_a_loop_that_ends_with_work_under_way(black_hole: str) -> None:
    """Its bridge goes with it, and another loop works."""
    config = ClientConfig(address=black_hole, tls_enabled=False)

    async def leave() -> "weakref.ref[object]":
        asyncio.ensure_future(Client(config).connect())
        await in_flight(1)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(leave())

    async def other() -> str:
        async with Node("n", backend="sim", listen=["127.0.0.1:0"]) as node:
            async with Client({"address": node.address(), "tls_enabled": False}) as client:
                return (await client.node()).name

    assert asyncio.run(other()) == "n"
    asyncio.run(other())
    gc.collect()
    assert loop() is None

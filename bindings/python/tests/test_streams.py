import asyncio
import gc
from typing import Tuple

import pytest
from conftest import NOBODY, vm_config

import dwcp
from dwcp import Client, InvalidOperationError, Node, VMEventType, VMNotFoundError, VMState

Running = Tuple[Node, Client, dwcp.VM]


class AVM:
    """A running VM on a node, reached over a connection."""

    async def __aenter__(self) -> Running:
        self.node = Node("n", backend="sim", listen=["127.0.0.1:0"])
        await self.node.start()
        self.client = Client({"address": self.node.address(), "tls_enabled": False})
        await self.client.connect()
        vm = await self.client.vm.create(vm_config())
        await self.client.vm.start(vm.id)
        return self.node, self.client, vm

    async def __aexit__(self, *_: object) -> None:
        await self.client.disconnect()
        await self.node.shutdown(0)


async def test_a_watch_begins_with_the_present() -> None:
    async with AVM() as (_, client, vm):
        seen = []
        async for event in client.vm.watch(vm.id):
            seen.append(event)
            if len(seen) == 1:
                assert (event.type, event.vm.state) == (VMEventType.CURRENT, VMState.RUNNING)
                await client.vm.pause(vm.id)
                await client.vm.resume(vm.id)
                await client.vm.stop(vm.id, force=True)
            if event.vm.state is VMState.STOPPED:
                break
        assert {VMEventType.PAUSED, VMEventType.RESUMED, VMEventType.STOPPED} <= {
            event.type for event in seen
        }
        seqs = [event.seq for event in seen]
        assert seqs == sorted(set(seqs))
        # What came after the first of them, once more.
        async with client.vm.watch_since(seqs[0], vm.id) as again:
            assert [await again.__anext__() for _ in seqs[1:]] == seen[1:]
        async for event in client.vm.watch_all({"name": "vm"}):
            assert event.vm.id == vm.id
            break


async def test_figures_come_in_time() -> None:
    async with AVM() as (_, client, vm):
        times = []
        async for metrics in client.vm.stream_metrics(vm.id, interval=0.01):
            times.append(metrics.timestamp)
            if len(times) == 10:
                break
        assert times == sorted(set(times))


async def test_two_thousand_in_order() -> None:
    async with AVM() as (_, client, vm):
        stream = client.vm.stream_metrics(vm.id, "1ms")
        times = [(await stream.__anext__()).timestamp for _ in range(2000)]
        assert times == sorted(times)
        stream.close()


async def test_what_is_closed_has_ended() -> None:
    async with AVM() as (_, client, _):
        vm = await client.vm.create(vm_config("quiet"))
        stream = client.vm.watch(vm.id)
        await stream.__anext__()
        waits = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await waits
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        never_opened = client.vm.watch(vm.id)
        await never_opened.aclose()
        assert [event async for event in never_opened] == []


async def test_break_and_dropping_end_it_at_the_node() -> None:
    """The node allows so many streams; more than that were begun and left."""
    limits = {"max_streams": 2}
    async with Node("n", backend="sim", listen=["127.0.0.1:0"], limits=limits) as node:
        async with Client({"address": node.address(), "tls_enabled": False}) as client:
            vm = await client.vm.create(vm_config())
            for _ in range(20):
                async for _ in client.vm.watch(vm.id):
                    break
                dropped = client.vm.watch(vm.id)
                await dropped.__anext__()
                with pytest.raises(asyncio.TimeoutError):
                    # Left while it waits for the next.
                    await asyncio.wait_for(dropped.__anext__(), 0.001)
                del dropped
                gc.collect()


async def test_waiting_that_is_cancelled_loses_nothing() -> None:
    async with AVM() as (_, client, vm):
        got = []
        async with client.vm.watch_all() as stream:
            got.append(await stream.__anext__())

            async def work() -> None:
                for index in range(100):
                    await client.vm.update(vm.id, labels={"n": str(index)})
                    await asyncio.sleep(0.001)

            worker = asyncio.ensure_future(work())
            taken_back = 0
            while not got or got[-1].vm.labels.get("n") != "99":
                try:
                    got.append(await asyncio.wait_for(stream.__anext__(), 0.0005))
                except asyncio.TimeoutError:
                    taken_back += 1
            await worker
        seqs = [event.seq for event in got]
        assert seqs == sorted(set(seqs)), "in order, and none twice"
        updates = [event.vm.labels["n"] for event in got if event.type is VMEventType.UPDATED]
        assert updates == [str(n) for n in range(100)]
        assert taken_back > 0


async def test_one_task_at_a_time() -> None:
    async with AVM() as (_, client, _):
        vm = await client.vm.create(vm_config("quiet"))
        stream = client.vm.watch(vm.id)
        await stream.__anext__()
        first = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(InvalidOperationError, match="waits"):
            await stream.__anext__()
        await client.vm.update(vm.id, labels={"a": "b"})
        assert (await first).type is VMEventType.UPDATED


async def test_an_error_ends_it_once() -> None:
    async with AVM() as (_, client, vm):
        stream = client.vm.watch(NOBODY)
        with pytest.raises(VMNotFoundError) as raised:
            await stream.__anext__()
        assert raised.value.operation == "watch"
        with pytest.raises(dwcp.ConfigError, match="interval"):
            await client.vm.stream_metrics(vm.id, "10us").open()
        with pytest.raises(dwcp.ConfigError, match="soon"):
            await client.vm.stream_metrics(vm.id, "soon").open()


async def test_a_client_that_is_closed_ends_its_streams() -> None:
    async with AVM() as (_, client, _):
        vm = await client.vm.create(vm_config("quiet"))
        stream = client.vm.watch(vm.id)
        await stream.__anext__()
        waits = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        await client.disconnect()
        with pytest.raises((dwcp.ConnectionError, StopAsyncIteration)):
            await waits


async def test_console() -> None:
    async with AVM() as (_, client, vm):
        async with client.vm.console(vm.id) as console:
            await console.write("help\n")
            with pytest.raises(dwcp.ResourceLimitError, match="console"):
                # More than the guest reads at once; what it took of it is said.
                await console.write(b"\x00\xff" * 50_000)
            printed = b""

            async def read() -> None:
                nonlocal printed
                async for part in console:
                    printed += part
                    if printed:
                        break

            await client.vm.reset(vm.id)
            await read()
            assert isinstance(printed, bytes) and printed
            with pytest.raises(dwcp.ConfigError, match="data"):
                await console.write(5)  # type: ignore[arg-type]

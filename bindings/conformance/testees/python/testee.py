"""The Python testee of the conformance suite: JSON lines in, JSON lines out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, Awaitable, Callable, Dict, List, Mapping, Union

import dwcp
from dwcp import Client, ClientConfig, DWCPError, Stream, to_dict

Request = Dict[str, Any]


class Testee:
    def __init__(self) -> None:
        self.clients: Dict[str, Client] = {}
        self.streams: Dict[str, Stream[Any]] = {}
        self.running: Dict[int, asyncio.Task[None]] = {}

    def start(self, request: Request) -> None:
        """Begins a request; its answer is written when it has ended."""
        number = request["id"]
        task = asyncio.get_running_loop().create_task(self.answer(request))
        self.running[number] = task
        task.add_done_callback(lambda _: self.running.pop(number, None))

    async def answer(self, request: Request) -> None:
        try:
            reply = {"ok": await self.do(request)}
        except asyncio.CancelledError:
            reply = {"error": failure("cancelled", "by the caller", False, "CancelledError")}
        except DWCPError as error:
            kind = type(error).__name__
            reply = {"error": failure(error.code, error.message, error.retryable, kind)}
        except Exception as error:
            print(f"testee: {request}: {error!r}", file=sys.stderr, flush=True)
            reply = {"error": failure("internal", repr(error), False, type(error).__name__)}
        write({"id": request["id"], **reply})

    async def do(self, request: Request) -> Any:
        command = getattr(self, "do_" + str(request["do"]), None)
        if command is None:
            raise dwcp.UnsupportedError(f"do: there is no command {request['do']!r}")
        return await command(request)

    async def do_hello(self, _: Request) -> Any:
        return {"language": "python", "version": dwcp.__version__}

    async def do_connect(self, request: Request) -> Any:
        client = Client(request["config"])
        await client.connect()
        self.clients[request["client"]] = client
        return {}

    async def do_call(self, request: Request) -> Any:
        client = self.client(request)
        method = request["method"]
        call = CALLS.get(method)
        if call is None:
            raise dwcp.UnsupportedError(f"method: there is no {method!r}")
        return to_dict(await call(client, request.get("args") or {}))

    async def do_cancel(self, request: Request) -> Any:
        task = self.running.get(request["request"])
        if task is not None:
            task.cancel()
        return {}

    async def do_open(self, request: Request) -> Any:
        vm = self.client(request).vm
        args = request.get("args") or {}
        kind = request["kind"]
        stream: Stream[Any]
        if kind == "watch":
            stream = vm.watch(args["id"])
        elif kind == "watch_all":
            stream = vm.watch_all(args.get("filters"))
        elif kind == "stream_metrics":
            stream = vm.stream_metrics(args["id"], args.get("interval") or "1s")
        elif kind == "migration_progress":
            stream = vm.migration_progress(args["migration_id"])
        elif kind == "console":
            stream = vm.console(args["id"])
        else:
            raise dwcp.UnsupportedError(f"kind: there is no stream {kind!r}")
        await stream.open()
        self.streams[request["stream"]] = stream
        return {}

    async def do_next(self, request: Request) -> Any:
        stream = self.streams[request["stream"]]
        items: List[Any] = []
        while len(items) < request["count"]:
            try:
                item = await stream.__anext__()
            except StopAsyncIteration:
                return {"items": items, "ended": True}
            items.append(item.decode("latin-1") if isinstance(item, bytes) else to_dict(item))
        return {"items": items, "ended": False}

    async def do_close_stream(self, request: Request) -> Any:
        stream = self.streams.pop(request["stream"], None)
        if stream is not None:
            await stream.aclose()
        return {}

    async def do_write_console(self, request: Request) -> Any:
        console = self.client(request).vm.console(request["vm"])
        await console.write(request["data"].encode("latin-1"))
        return {}

    async def do_state(self, request: Request) -> Any:
        client = self.client(request)
        return {"connected": client.is_connected, "authenticated": client.is_authenticated}

    async def do_counters(self, request: Request) -> Any:
        return to_dict(self.client(request).get_metrics())

    async def do_disconnect(self, request: Request) -> Any:
        await self.client(request).disconnect()
        return {}

    async def do_memory(self, _: Request) -> Any:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
        return {"rss": pages * os.sysconf("SC_PAGESIZE")}

    def client(self, request: Request) -> Client:
        found = self.clients.get(request["client"])
        if found is None:
            # A client whose connect failed is one that is not connected.
            found = self.clients[request["client"]] = Client(ClientConfig())
        return found


Args = Mapping[str, Any]
CALLS: Dict[str, Callable[[Client, Args], Awaitable[Any]]] = {
    "create": lambda c, a: c.vm.create(a["config"]),
    "start": lambda c, a: c.vm.start(a["id"]),
    "stop": lambda c, a: c.vm.stop(a["id"], a.get("force") or False, a.get("timeout")),
    "destroy": lambda c, a: c.vm.destroy(a["id"]),
    "pause": lambda c, a: c.vm.pause(a["id"]),
    "resume": lambda c, a: c.vm.resume(a["id"]),
    "reset": lambda c, a: c.vm.reset(a["id"]),
    "update": lambda c, a: c.vm.update(a["id"], a.get("labels"), a.get("annotations")),
    "get": lambda c, a: c.vm.get(a["id"]),
    "list": lambda c, a: c.vm.list(a.get("filters")),
    "get_metrics": lambda c, a: c.vm.get_metrics(a["id"], a.get("duration") or "5m"),
    "guest_report": lambda c, a: c.vm.guest_report(a["id"]),
    "verify": lambda c, a: c.vm.verify(a["id"]),
    "migrate": lambda c, a: c.vm.migrate(a["id"], a["target"], a.get("options")),
    "get_migration_status": lambda c, a: c.vm.get_migration_status(a["migration_id"]),
    "cancel_migration": lambda c, a: c.vm.cancel_migration(a["migration_id"]),
    "list_migrations": lambda c, a: c.vm.list_migrations(),
    "plan_migration": lambda c, a: c.vm.plan_migration(a["id"], a["target"], a.get("options")),
    "resolve_migration": lambda c, a: c.vm.resolve_migration(
        a["migration_id"], a.get("force") or False
    ),
    "snapshot": lambda c, a: c.vm.snapshot(a["id"], a["name"], a.get("options")),
    "list_snapshots": lambda c, a: c.vm.list_snapshots(a["id"]),
    "restore_snapshot": lambda c, a: c.vm.restore_snapshot(a["id"], a["snapshot_id"]),
    "delete_snapshot": lambda c, a: c.vm.delete_snapshot(a["snapshot_id"]),
    "health": lambda c, a: c.health(),
    "node": lambda c, a: c.node(),
}


def failure(code: str, message: str, retryable: bool, kind: str) -> Dict[str, Union[str, bool]]:
    return {"code": code, "message": message, "retryable": retryable, "class": kind}


def write(reply: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


async def main() -> None:
    loop = asyncio.get_running_loop()
    # A line carries a config with its annotations, or a megabyte of payload.
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    testee = Testee()
    while True:
        line = await reader.readline()
        if not line:
            return
        request = json.loads(line)
        if request["do"] == "exit":
            write({"id": request["id"], "ok": {}})
            return
        testee.start(request)


if __name__ == "__main__":
    asyncio.run(main())

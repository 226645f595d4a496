"""The examples, the snippets of the guide and the testee, as the programs that they are."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict

import pytest
from conftest import EXAMPLES, LIMIT, MIB, ROOT, environment, python

from dwcp import APIKey, Node, NodeTLS

KEY = "a key that is long enough"
PEER_KEY = "the key by which nodes know each other"
GUIDE = sorted(path.name for path in (EXAMPLES / "guide").glob("*.py") if path.name != "setup.py")


async def succeeds(*arguments: str, **variables: str) -> str:
    """What it prints; it ends with status 0 and complains of nothing."""
    process = await asyncio.create_subprocess_exec(
        *python(*arguments),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), LIMIT)
    assert (process.returncode, error.decode()) == (0, ""), out.decode()
    return out.decode()


@pytest.mark.parametrize("backend", ["sim", "kvm"])
async def test_the_story(backend: str) -> None:
    if backend == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm here")
    out = await succeeds(str(EXAMPLES / "story.py"), DWCP_BACKEND=backend)
    assert out.endswith("\nstory: ok\n"), out


async def test_the_sync_example() -> None:
    out = await succeeds(str(EXAMPLES / "sync_client.py"))
    assert out.endswith("\nsync: ok\n"), out


def test_all_snippets_are_there() -> None:
    assert len(GUIDE) == 10, GUIDE


class TwoNodes:
    """Two nodes with TLS, each a peer of the other."""

    def __init__(self, directory: Path) -> None:
        tls = NodeTLS(dir=str(directory / "tls"))
        self.ca = str(directory / "tls" / "ca.pem")
        self.a, self.b = (
            Node(
                name,
                backend=os.environ.get("DWCP_BACKEND", "sim"),
                data_dir=directory / name,
                listen=["127.0.0.1:0"],
                tls=tls,
                api_keys=[APIKey(KEY, "admin"), APIKey(PEER_KEY, "node", name="peer")],
            )
            for name in ("node-a", "node-b")
        )

    async def __aenter__(self) -> "TwoNodes":
        await self.a.start()
        await self.b.start()
        self.a.add_peer("node-b", str(self.b.address()), PEER_KEY)
        self.b.add_peer("node-a", str(self.a.address()), PEER_KEY)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.b.shutdown(0)
        await self.a.shutdown(0)


@pytest.mark.parametrize("snippet", GUIDE)
async def test_a_snippet_of_the_guide(snippet: str, directory: Path) -> None:
    async with TwoNodes(directory) as nodes:
        host, port = str(nodes.a.address()).rsplit(":", 1)
        out = await succeeds(
            str(EXAMPLES / "guide" / snippet),
            DWCP_ADDRESS=host,
            DWCP_PORT=port,
            DWCP_API_KEY=KEY,
            DWCP_CA_FILE=nodes.ca,
            DWCP_TARGET_NODE="node-b",
        )
        assert out, snippet
        for node in (nodes.a, nodes.b):
            assert await node.client().vm.list() == [], "it left something"


async def test_the_story_with_two_other_nodes(directory: Path) -> None:
    async with TwoNodes(directory) as nodes:
        out = await succeeds(
            str(EXAMPLES / "story.py"),
            *("--remote", str(nodes.a.address()), str(nodes.b.address())),
            *("--api-key", KEY, "--ca-file", nodes.ca, "--peer", "node-b"),
        )
        assert out.endswith("\nstory: ok\n"), out


class Testee:
    """The conformance testee, and what it is asked."""

    async def __aenter__(self) -> "Testee":
        path = ROOT / "bindings" / "conformance" / "testees" / "python" / "testee.py"
        self.process = await asyncio.create_subprocess_exec(
            *python(str(path)),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.answers: Dict[int, Any] = {}
        self.last = 0
        return self

    async def __aexit__(self, *_: object) -> None:
        assert await self.ask(do="exit") == {"ok": {}}
        assert await self.process.wait() == 0

    def send(self, **request: Any) -> int:
        self.last += 1
        assert self.process.stdin is not None
        line = json.dumps({"id": self.last, **request}) + "\n"
        self.process.stdin.write(line.encode())
        return self.last

    async def answer(self, number: int) -> Any:
        assert self.process.stdout is not None
        while number not in self.answers:
            answer = json.loads(await self.process.stdout.readline())
            self.answers[answer.pop("id")] = answer
        return self.answers.pop(number)

    async def ask(self, **request: Any) -> Any:
        return await self.answer(self.send(**request))

    async def call(self, method: str, **args: Any) -> Any:
        return await self.ask(do="call", client="c", method=method, args=args)


async def test_the_testee() -> None:
    async with Node("n", backend="sim", listen=["127.0.0.1:0"]) as node, Testee() as testee:
        hello = (await testee.ask(do="hello"))["ok"]
        assert hello["language"] == "python"
        unknown = (await testee.ask(do="dance"))["error"]
        assert unknown["code"] == "unsupported"
        config = {"address": node.address(), "tls_enabled": False, "connect_timeout": "1s"}
        assert await testee.ask(do="connect", client="c", config=config) == {"ok": {}}
        vm = (await testee.call("create", config={"name": "x", "memory": 32 * MIB}))["ok"]
        assert (vm["state"], vm["config"]["memory"]) == ("stopped", 32 * MIB)
        assert await testee.call("start", id=vm["id"]) == {"ok": None}
        listed = (await testee.call("list", filters={"state": "running"}))["ok"]
        assert [each["id"] for each in listed] == [vm["id"]]
        missing = (await testee.call("get", id="nobody"))["error"]
        assert (missing["code"], missing["class"]) == ("vm_not_found", "VMNotFoundError")
        # Nothing happens to a VM that is not started, so whoever waits for more waits.
        idle = (await testee.call("create", config={"name": "idle", "memory": 32 * MIB}))["ok"]
        opened = testee.ask(do="open", client="c", stream="s", kind="watch", args={"id": idle["id"]})
        assert await opened == {"ok": {}}
        first = (await testee.ask(do="next", stream="s", count=1))["ok"]
        assert (first["items"][0]["type"], first["ended"]) == ("current", False)
        waits = testee.send(do="next", stream="s", count=1)
        await testee.ask(do="cancel", request=waits)
        assert (await testee.answer(waits))["error"]["code"] == "cancelled"
        assert await testee.ask(do="close_stream", stream="s") == {"ok": {}}
        write = {"do": "write_console", "client": "c", "vm": vm["id"], "data": "x"}
        assert await testee.ask(**write) == {"ok": {}}
        state = (await testee.ask(do="state", client="c"))["ok"]
        assert state == {"connected": True, "authenticated": True}
        assert (await testee.ask(do="counters", client="c"))["ok"]["connections_total"] == 1
        assert (await testee.ask(do="memory"))["ok"]["rss"] > MIB
        for _ in range(2):
            assert await testee.ask(do="disconnect", client="c") == {"ok": {}}
        assert (await testee.call("health"))["error"]["code"] == "connection"

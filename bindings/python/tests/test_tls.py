"""TLS: by the core, and by a context of Python's own."""

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any, Tuple

import pytest
from conftest import vm_config

import dwcp
import dwcp.sync
from dwcp import APIKey, Client, ClientConfig, ConfigError, Node, NodeTLS

KEY = "a key that is long enough"


def node(directory: Path) -> Node:
    return Node(
        "n",
        backend="sim",
        listen=["127.0.0.1:0"],
        tls=NodeTLS(dir=str(directory / "tls")),
        api_keys=[APIKey(KEY, "admin")],
    )


def by_context(running: Node, directory: Path, **more: Any) -> ClientConfig:
    context = ssl.create_default_context(cafile=str(directory / "tls" / "ca.pem"))
    return ClientConfig(
        address=running.address(), api_key=KEY, ssl_context=context, retry_attempts=0, **more
    )


async def test_by_the_core(directory: Path) -> None:
    async with node(directory) as running:
        ca = directory / "tls" / "ca.pem"
        trusts: Tuple[Any, ...] = ({"ca_file": str(ca)}, {"ca_pem": ca.read_text()})
        for trust in trusts:
            config = ClientConfig(address=running.address(), api_key=KEY, **trust)
            async with Client(config) as client:
                assert await client.vm.list() == []
        with pytest.raises(dwcp.DWCPError):
            config = ClientConfig(address=running.address(), api_key=KEY, retry_attempts=0)
            await Client(config).connect()


async def test_by_a_context(directory: Path) -> None:
    before = set(os.listdir(os.environ.get("TMPDIR", "/tmp")))
    async with node(directory) as running:
        client = Client(by_context(running, directory, pool_size=3))
        for _ in range(2):
            async with client:
                assert client.is_connected
                made = (set(os.listdir("/tmp")) - before) - {directory.name}
                mode = [os.stat(f"/tmp/{name}").st_mode & 0o777 for name in made if "dwcp-" in name]
                assert 0o700 in mode
                vm = await client.vm.create(vm_config(annotations={"big": "x" * 60_000}))
                got = await asyncio.gather(*[client.vm.get(vm.id) for _ in range(100)])
                assert all(each == vm for each in got)
                await client.vm.destroy(vm.id)
            assert client._tunnel is None
            with pytest.raises(dwcp.ConnectionError):
                await client.vm.list()


async def test_a_tunnel_that_breaks_is_made_again(directory: Path) -> None:
    async with node(directory) as running:
        async with Client(by_context(running, directory)) as client:
            assert client._tunnel is not None
            for task in list(client._tunnel._tasks):
                task.cancel()
            while client.is_connected:
                await asyncio.sleep(0.001)
            for _ in range(50):
                try:
                    assert (await client.health()).status == "healthy"
                    break
                except dwcp.ConnectionError:
                    await asyncio.sleep(0.01)
            else:
                raise AssertionError("it was not connected again")
            assert client.get_metrics().connections_total == 2


async def test_a_context_that_trusts_nobody_of_them(directory: Path) -> None:
    async with node(directory) as running:
        config = by_context(running, directory)
        config.ssl_context = ssl.create_default_context()
        with pytest.raises(dwcp.ConnectionError, match="(?i)certificate"):
            await Client(config).connect()
        left = [name for name in os.listdir("/tmp") if name.startswith("dwcp-")]
        assert all(not os.path.exists(f"/tmp/{name}/core") for name in left)


async def test_what_does_not_go_with_a_context() -> None:
    context = ssl.create_default_context()
    for more in (
        {"ca_file": "ca.pem"},
        {"tls_enabled": False},
        {"address": "unix:/path"},
        {"address": ""},
    ):
        fields: Any = {"address": "127.0.0.1", **more}
        with pytest.raises(ConfigError):
            await Client(ClientConfig(ssl_context=context, **fields)).connect()


def test_without_asyncio(directory: Path) -> None:
    tls = NodeTLS(dir=str(directory / "tls"))
    keys = [APIKey(KEY, "admin")]
    with dwcp.sync.Node(
        "n", backend="sim", listen=["127.0.0.1:0"], tls=tls, api_keys=keys
    ) as running:
        with dwcp.sync.Client(by_context(running, directory)) as client:  # type: ignore[arg-type]
            assert client.node().name == "n"
        assert not client.is_connected

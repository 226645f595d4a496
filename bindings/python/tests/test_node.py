import socket
from pathlib import Path
from typing import Any, Dict, Union

import pytest
from conftest import vm_config

from dwcp import (
    AlreadyExistsError,
    APIKey,
    AuthenticationError,
    Client,
    ClientConfig,
    ConfigError,
    InvalidOperationError,
    Node,
    NodeLimits,
    Peer,
    PermissionDeniedError,
    ResourceLimitError,
    Role,
    UnavailableError,
)

KEY = "a key that is long enough"


async def test_a_node_starts_and_ends() -> None:
    node = Node("n", backend="sim", labels={"zone": "a"}, limits=NodeLimits(max_vms=1))
    with pytest.raises(InvalidOperationError):
        node.client()
    await node.start()
    await node.start()
    client = node.client()
    info = await client.node()
    assert (info.name, info.backend, info.labels) == ("n", "sim", {"zone": "a"})
    assert info.limits.max_vms == 1
    assert node.address() is None
    await client.vm.create(vm_config("one"))
    with pytest.raises(ResourceLimitError):
        await client.vm.create(vm_config("two"))
    await node.shutdown()
    await node.shutdown()
    with pytest.raises(InvalidOperationError):
        node.address()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backend": "xen"}, "xen"),
        ({"listen": ["127.0.0.1:none"]}, "listen"),
        ({"api_keys": [APIKey("short", "admin")]}, "api_key|key"),
        ({"api_keys": [{"key": KEY, "role": "king"}]}, "king"),
        ({"tls": {"certificate": "c"}}, "tls"),
        ({"limits": {"max_vm": 1}}, "max_vm"),
        ({"labels": {"a": 1}}, "string|text"),
        ({"peer_timeout": "soon"}, "soon"),
    ],
)
async def test_mistakes_are_named(options: Dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        await Node("n", **{"backend": "sim", **options}).start()


async def test_names_are_checked() -> None:
    with pytest.raises(ConfigError):
        await Node("a name with spaces", backend="sim").start()


async def test_keys() -> None:
    keys = [APIKey(KEY, Role.ADMIN, name="root")]
    async with Node("n", backend="sim", listen=["127.0.0.1:0"], api_keys=keys) as node:
        assert node.keys.list() == [("root", Role.ADMIN)]
        await node.keys.add("eye", "another long key", Role.VIEWER)
        address = str(node.address())

        def config(key: str) -> ClientConfig:
            return ClientConfig(address=address, api_key=key, tls_enabled=False, retry_attempts=0)

        async with Client(config("another long key")) as viewer:
            assert viewer.is_connected and viewer.is_authenticated
            assert await viewer.vm.list() == []
            with pytest.raises(PermissionDeniedError):
                await viewer.vm.create(vm_config())
        await node.keys.remove("eye")
        assert node.keys.list() == [("root", Role.ADMIN)]
        client = Client(config("another long key"))
        with pytest.raises(AuthenticationError):
            await client.connect()
        assert not client.is_connected and not client.is_authenticated


async def test_a_drained_node_takes_no_vms() -> None:
    async with Node("n", backend="sim") as node:
        node.drain()
        with pytest.raises(UnavailableError):
            await node.client().vm.create(vm_config())


async def test_state_outlives_a_node(directory: Path) -> None:
    async with Node("n", backend="sim", data_dir=directory / "data") as node:
        vm = await node.client().vm.create(vm_config())
    async with Node("n", backend="sim", data_dir=directory / "data") as node:
        assert (await node.client().vm.get(vm.id)).config == vm.config


async def test_a_unix_socket_and_peers(directory: Path) -> None:
    path = f"unix:{directory}/n"
    peers: Dict[str, Union[str, Peer]] = {"other": "127.0.0.1:1", "third": Peer("127.0.0.1:2", KEY)}
    async with Node("n", backend="sim", listen=[path], peers=peers) as node:
        node.add_peer("fourth", "127.0.0.1:3")
        async with Client({"address": path, "tls_enabled": False}) as client:
            assert (await client.node()).peers == ["fourth", "other", "third"]


async def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AlreadyExistsError, match=address):
            await Node("n", backend="sim", listen=[address]).start()

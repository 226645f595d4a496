import asyncio
import dataclasses
from datetime import datetime, timezone
from pathlib import Path

import pytest
from conftest import MIB, NOBODY, image_folder, vm_config

import dwcp
from dwcp import (
    Client,
    ClientConfig,
    ConfigError,
    ConnectionError,
    InvalidOperationError,
    MigrationState,
    Node,
    SnapshotError,
    TimeoutError,
    UnsupportedError,
    VMClient,
    VMConfig,
    VMNotFoundError,
    VMState,
)


async def test_the_life_of_a_vm_over_a_connection() -> None:
    async with Node("n", backend="sim", listen=["127.0.0.1:0"]) as node:
        client = Client(ClientConfig(address=node.address(), tls_enabled=False))
        assert not client.is_connected
        with pytest.raises(ConnectionError, match="not connected"):
            await client.vm.list()
        async with client:
            await client.connect()
            assert client.is_connected and client.is_authenticated
            vm = await client.vm.create(vm_config("web", labels={"env": "test"}))
            assert (vm.name, vm.state, vm.node) == ("web", VMState.STOPPED, "n")
            assert vm.config == vm_config("web", labels={"env": "test"})
            assert vm.created_at.tzinfo is timezone.utc
            assert await client.vm.list({"env": "test"}) == [vm]
            assert await client.vm.list({"env": "production"}) == []
            await client.vm.start(vm.id)
            running = await client.vm.get(vm.id)
            assert running.state is VMState.RUNNING and running.metrics is not None
            assert isinstance(running.started_at, datetime)
            await client.vm.pause(vm.id)
            with pytest.raises(InvalidOperationError) as raised:
                await client.vm.pause(vm.id)
            assert (raised.value.operation, raised.value.concerns) == ("pause", vm.id)
            await client.vm.resume(vm.id)
            await client.vm.reset(vm.id)
            updated = await client.vm.update(vm.id, labels={"env": "other"})
            assert updated.labels == {"env": "other"} and updated.annotations == vm.annotations
            metrics = await client.vm.get_metrics(vm.id)
            assert metrics.memory_used + metrics.memory_available == 32 * MIB
            report = await client.vm.verify(vm.id)
            assert report.verified and report.pages_filled == 256
            assert (await client.vm.guest_report(vm.id)).vm_id == vm.id
            await client.vm.stop(vm.id, timeout=5)
            await client.vm.destroy(vm.id)
            with pytest.raises(VMNotFoundError):
                await client.vm.get(vm.id)
            counters = client.get_metrics()
            assert counters.connections_total == 1 and counters.messages_sent > 10
            assert counters.bytes_received > 0 and counters.last_connected is not None
            assert (await client.health()).status == "healthy"
        assert not client.is_connected and not client.is_authenticated
        await client.disconnect()
        async with client:
            assert await client.vm.list() == []


async def test_three_ways_to_the_methods() -> None:
    async with Node("n", backend="sim") as node:
        client = node.client()
        for methods in (client.vm, client.vm(), client.VM(), VMClient(client)):
            assert await methods.list() == []


async def test_mistakes_change_nothing() -> None:
    async with Node("n", backend="sim") as node:
        client = node.client()
        for config, text in [
            ({"name": "x", "colour": 1}, "colour"),
            ({"name": "x", "memory": "much"}, "memory"),
            ({"name": "x", "memory": 1000}, "memory"),
            (VMConfig(name=""), "name"),
            (VMConfig(name="x", labels={"a": {1}}), "set"),  # type: ignore[dict-item]
            (VMConfig(name="x", cpus=2.5), "cpus"),  # type: ignore[arg-type]
            ("x", "config"),
        ]:
            with pytest.raises(ConfigError, match=text):
                await client.vm.create(config)  # type: ignore[arg-type]
        with pytest.raises(UnsupportedError, match="enable_tpm"):
            await client.vm.create(vm_config(enable_tpm=True))
        with pytest.raises(ConfigError, match="vm_id"):
            await client.vm.get(5)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="soon"):
            await client.vm.get_metrics(NOBODY, "soon")
        assert await client.vm.list() == []


def test_mistakes_in_a_config_are_named() -> None:
    with pytest.raises(ConfigError, match="colour"):
        Client({"address": "h", "colour": 1})
    with pytest.raises(ConfigError, match="ClientConfig"):
        Client("localhost")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("port", 70000), ("port", "x"), ("connect_timeout", "soon"), ("retry_attempts", -1)],
)
async def test_wrong_values_in_a_config_are_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError):
        await Client({"address": "127.0.0.1", field: value}).connect()


async def test_what_says_nothing_asks_for_nothing() -> None:
    nothing = {
        field.name: field.default if isinstance(field.default, bool) else type(field.default)()
        for field in dataclasses.fields(ClientConfig)
        if isinstance(field.default, (int, float, str))
    }
    async with Node("n", backend="sim", listen=["127.0.0.1:0"]) as node:
        config = {**nothing, "address": node.address(), "port": 0, "api_key": "", "tls_enabled": False}
        async with Client(config) as client:
            assert await client.vm.list() == []
        vm = await node.client().vm.create({"name": "x", "memory": 0, "cpus": 0, "network": None})
        assert (vm.config.memory, vm.config.cpus) == (2 * 1024**3, 2)


async def test_a_node_that_is_not_there() -> None:
    config = ClientConfig(address="127.0.0.1", port=1, tls_enabled=False, retry_attempts=0)
    with pytest.raises(ConnectionError) as raised:
        await Client(config).connect()
    assert raised.value.retryable and raised.value.operation == "connect"


async def test_a_node_that_does_not_answer(black_hole: str) -> None:
    config = ClientConfig(
        address=black_hole, tls_enabled=False, connect_timeout=0.2, retry_attempts=0
    )
    with pytest.raises((ConnectionError, TimeoutError)):
        await Client(config).connect()


async def test_idempotency() -> None:
    async with Node("n", backend="sim") as node:
        vm = node.client().vm
        first, second = [await vm.create(vm_config(), key="once") for _ in range(2)]
        assert first.id == second.id


async def test_snapshots(directory: object) -> None:
    async with Node("n", backend="sim", data_dir=str(directory)) as node:
        vms = node.client().vm
        vm = await vms.create(vm_config())
        await vms.start(vm.id)
        options = dwcp.SnapshotOptions(description="before the change")
        snapshot = await vms.snapshot(vm.id, "first", options)
        assert (snapshot.name, snapshot.description) == ("first", "before the change")
        assert snapshot.include_memory and snapshot.size > 0
        assert await vms.list_snapshots(vm.id) == [snapshot]
        await vms.stop(vm.id, force=True)
        await vms.restore_snapshot(vm.id, snapshot.id)
        assert (await vms.get(vm.id)).state is VMState.RUNNING
        await vms.delete_snapshot(snapshot.id)
        assert await vms.list_snapshots(vm.id) == []
        with pytest.raises(dwcp.NotFoundError):
            await vms.delete_snapshot(snapshot.id)
        await vms.stop(vm.id, force=True)
    async with Node("n", backend="sim") as node:
        vm = await node.client().vm.create(vm_config())
        with pytest.raises((SnapshotError, UnsupportedError, InvalidOperationError)):
            await node.client().vm.snapshot(vm.id, "nowhere")


async def test_images(directory: Path) -> None:
    folder, disks = image_folder(directory / "mini"), directory / "disks"
    data = directory / "data"
    async with Node("n", backend="sim", data_dir=data, disk_dir=disks) as node:
        vms = node.client().vm
        image = await vms.import_image(folder)
        assert isinstance(image, dwcp.Image)
        assert (image.name, image.cmdline, image.disk, image.initrd) == ("mini", "quiet", MIB, 0)
        assert image.kernel == 136 and len(image.digest) == 64
        other = await vms.import_image(str(folder), "other")
        assert other.digest == image.digest and other.created_at.year > 2000
        assert await vms.list_images() == [image, other]
        vm = await vms.create(vm_config(image="mini", annotations={}))
        assert vm.config.disk == MIB and (disks / vm.id).is_dir()
        with pytest.raises(InvalidOperationError, match=vm.id):
            await vms.remove_image("mini")
        await vms.remove_image("other")
        with pytest.raises(dwcp.NotFoundError):
            await vms.remove_image("other")
        (folder / "vmlinuz").write_bytes(b"a text")
        with pytest.raises(dwcp.AlreadyExistsError):
            await vms.import_image(folder)
        with pytest.raises(dwcp.ConfigError, match="kernel: "):
            await vms.import_image(folder, "text")
        assert await vms.list_images() == [image]


async def test_a_migration_with_progress() -> None:
    async with Node("a", backend="sim", listen=["127.0.0.1:0"]) as a, Node(
        "b", backend="sim", listen=["127.0.0.1:0"]
    ) as b:
        a.add_peer("b", str(b.address()))
        b.add_peer("a", str(a.address()))
        vms = a.client().vm
        vm = await vms.create(vm_config())
        await vms.start(vm.id)
        with pytest.raises(dwcp.DWCPError, match="encrypt_transport"):
            await vms.migrate(vm.id, "b")
        # Both are on this host; what is copied goes in rounds.
        options = dwcp.MigrationOptions(encrypt_transport=False, timeout=30, same_host="never")
        plan = await vms.plan_migration(vm.id, "b", options)
        assert plan.total_us >= plan.downtime_us > 0 and plan.misfits == []
        with pytest.raises(UnsupportedError, match="encrypt_transport"):
            await vms.plan_migration(vm.id, "b")
        accepted = await vms.migrate(vm.id, "b", options)
        assert (accepted.vm_id, accepted.target_node) == (vm.id, "b")
        states = [status async for status in vms.migration_progress(accepted.id)]
        assert states[-1].state is MigrationState.COMPLETED and states[-1].progress == 100
        status = await vms.get_migration_status(accepted.id)
        assert status.state.is_terminal and status.rounds and status.breakdown.total_us > 0
        assert [each.id for each in await vms.list_migrations()] == [accepted.id]
        assert [each.id for each in await a.migrations()] == [accepted.id]
        assert (await vms.get(vm.id)).node == "b", "the source still answers for it"
        with pytest.raises(InvalidOperationError):
            await vms.cancel_migration(accepted.id)
        assert (await vms.resolve_migration(accepted.id)).id == accepted.id
        with pytest.raises(ConfigError, match="speed"):
            await vms.migrate(vm.id, "a", {"speed": 1})
        await b.client().vm.stop(vm.id, force=True)


async def test_a_client_in_two_loops() -> None:
    async with Node("n", backend="sim", listen=["127.0.0.1:0"]) as node:
        async with Client({"address": node.address(), "tls_enabled": False}) as client:
            names = await asyncio.gather(
                *[asyncio.to_thread(lambda: asyncio.run(client.node())) for _ in range(4)]
            )
            assert {info.name for info in names} == {"n"}
            assert (await client.node()).name == "n"

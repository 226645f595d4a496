import threading
import time
from pathlib import Path
from typing import List, Set

import pytest
from conftest import NOBODY, image_folder, vm_config

import dwcp
import dwcp.sync
from dwcp.sync import Client, Node, VMClient


def test_the_life_of_a_vm(directory: Path) -> None:
    with Node("n", backend="sim", data_dir=directory, listen=["127.0.0.1:0"]) as node:
        client = Client({"address": node.address(), "tls_enabled": False})
        with pytest.raises(dwcp.ConnectionError):
            client.health()
        with client:
            assert client.is_connected and client.is_authenticated
            vm = client.vm.create(vm_config())
            client.vm.start(vm.id)
            for event in client.vm.watch(vm.id):
                if event.vm.state is dwcp.VMState.RUNNING:
                    break
            with client.vm.stream_metrics(vm.id, "1ms") as figures:
                times = [next(figures).timestamp for _ in range(20)]
            assert times == sorted(set(times))
            assert list(figures) == []
            client.vm.pause(vm.id)
            client.vm.resume(vm.id)
            client.vm.reset(vm.id)
            assert client.vm.update(vm.id, annotations={}).annotations == {}
            assert client.vm.get_metrics(vm.id).memory_used > 0
            assert client.vm.verify(vm.id).verified
            assert client.vm.guest_report(vm.id).vm_id == vm.id
            snapshot = client.vm.snapshot(vm.id, "one")
            assert client.vm.list_snapshots(vm.id) == [snapshot]
            client.vm.restore_snapshot(vm.id, snapshot.id)
            client.vm.delete_snapshot(snapshot.id)
            with client.vm.console(vm.id) as console:
                console.write("x")
                client.vm.reset(vm.id)
                assert next(console)
            assert client.vm.list_migrations() == [] == node.migrations()
            with pytest.raises(dwcp.VMNotFoundError) as raised:
                client.vm.get(NOBODY)
            assert raised.value.concerns == NOBODY
            with pytest.raises(dwcp.ConfigError):
                client.vm.create({"name": "x", "colour": 1})
            client.vm.stop(vm.id, force=True)
            client.vm.destroy(vm.id)
            assert client.vm().list() == client.VM().list() == VMClient(client).list() == []
            assert client.get_metrics().connections_total == 1
            assert client.node().name == "n"
        assert not client.is_connected
        client.disconnect()


def test_images(directory: Path) -> None:
    folder = image_folder(directory / "mini")
    data, disks = directory / "data", directory / "disks"
    with Node("n", backend="sim", data_dir=data, disk_dir=disks) as node:
        vms = node.client().vm
        image = vms.import_image(folder, "web")
        assert isinstance(image, dwcp.Image) and image.name == "web"
        assert vms.list_images() == [image]
        vms.remove_image("web")
        assert vms.list_images() == []


def test_migration() -> None:
    with Node("a", backend="sim", listen=["127.0.0.1:0"]) as a:
        with Node("b", backend="sim", listen=["127.0.0.1:0"]) as b:
            a.add_peer("b", str(b.address()))
            b.add_peer("a", str(a.address()))
            vms = a.client().vm
            vm = vms.create(vm_config())
            vms.start(vm.id)
            status = vms.migrate(vm.id, "b", {"encrypt_transport": False})
            *_, status = vms.migration_progress(status.id)
            assert status.state is dwcp.MigrationState.COMPLETED
            assert vms.get_migration_status(status.id).state.is_terminal
            with pytest.raises(dwcp.DWCPError):
                vms.cancel_migration(status.id)


def test_other_threads_run_while_one_waits() -> None:
    with Node("n", backend="sim") as node:
        client = node.client()
        vm = client.vm.create(vm_config())
        stream = client.vm.watch(vm.id)
        assert next(stream).type is dwcp.VMEventType.CURRENT
        got: List[dwcp.VMEvent] = []
        waits = threading.Thread(target=lambda: got.extend(stream))
        waits.start()
        # Were the interpreter's lock kept, this would never return.
        client.vm.update(vm.id, labels={"a": "b"})
        deadline = time.monotonic() + 20
        while not got and time.monotonic() < deadline:
            time.sleep(0.001)
        stream.close()
        waits.join(20)
        assert not waits.is_alive()
        assert [event.vm.labels for event in got] == [{"a": "b"}]


def test_both_twins_have_the_same_methods() -> None:
    for kind in ("Client", "Console", "Node", "NodeKeys", "Stream", "VMClient"):

        def public(module: object) -> Set[str]:
            return {name for name in dir(getattr(module, kind)) if not name.startswith("_")}

        assert public(dwcp) - {"aclose"} == public(dwcp.sync), kind

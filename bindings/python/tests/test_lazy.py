import copy
import dataclasses
import pickle
import threading
from typing import Any, Callable, Dict, List

import pytest
from conftest import vm_config

import dwcp
from dwcp import VM, VMEvent
from dwcp._lazy import _attributes
from dwcp.model import NEVER

NAMES = [field.name for field in dataclasses.fields(VM)]


async def two(node: dwcp.Node) -> List[VM]:
    """The same VM twice, of which nobody has asked anything yet."""
    vms = node.client().vm
    id = (await vms.create(vm_config(labels={"env": "prod"}))).id
    return [await vms.get(id), await vms.get(id)]


async def test_what_was_not_asked_for_is_not_there() -> None:
    async with dwcp.Node("a", backend="sim") as node:
        vm, other = await two(node)
        assert set(_attributes(vm)) == {"id", "name", "state", "_rest"}
        assert vm.labels == {"env": "prod"} and vm.config.memory == 32 * 1024**2
        assert vm.labels is vm.labels and vm.config is vm.config
        assert vm.node == "a" and vm.addresses == [] and vm.metrics is None and vm.reason is None
        assert NEVER < vm.created_at <= vm.updated_at
        assert set(_attributes(other)) == {"id", "name", "state", "_rest"}
        (listed,) = await node.client().vm.list()
        assert "_rest" in _attributes(listed) and listed == vm


async def test_whatever_looks_at_all_finds_all() -> None:
    ways: Dict[str, Callable[[VM], Any]] = {
        "vars": lambda vm: dict(vars(vm)),
        "asdict": dataclasses.asdict,
        "repr": repr,
        "pickle": lambda vm: vars(pickle.loads(pickle.dumps(vm))),
        "old pickle": lambda vm: vars(pickle.loads(pickle.dumps(vm, 0))),
        "copy": lambda vm: vars(copy.copy(vm)),
        "deepcopy": lambda vm: vars(copy.deepcopy(vm)),
        "replace": lambda vm: vars(dataclasses.replace(vm)),
        "to_dict": dwcp.to_dict,
    }
    async with dwcp.Node("a", backend="sim") as node:
        vms = node.client().vm
        for name, way in ways.items():
            vm, asked = await two(node)
            for field in NAMES:
                getattr(asked, field)
            assert way(vm) == way(asked), name
            if isinstance(way(vm), dict) and name != "to_dict":
                assert set(way(vm)) == set(NAMES), name
            assert vm == asked and await vms.get(vm.id) == vm, name
            assert not (vm != asked) and dataclasses.replace(vm, name="x") != vm


async def test_what_was_changed_stays_changed() -> None:
    async with dwcp.Node("a", backend="sim") as node:
        vm, other = await two(node)
        vm.labels["mine"] = "1"
        vm.annotations = {"mine": "2"}
        vm.created_at = NEVER
        assert vars(vm)["labels"] == {"env": "prod", "mine": "1"}
        assert vars(vm)["annotations"] == {"mine": "2"} and vm.created_at == NEVER
        assert other.labels == {"env": "prod"} and other.config.labels == {"env": "prod"}


async def test_an_event_has_its_vm() -> None:
    async with dwcp.Node("a", backend="sim") as node:
        vm, _ = await two(node)
        async with node.client().vm.watch(vm.id) as events:
            async for event in events:
                break
        assert set(_attributes(event)) == {"seq", "type", "_rest"}
        assert event.vm == vm and event.vm is event.vm
        assert pickle.loads(pickle.dumps(event)) == event
        assert event.timestamp > vm.created_at and event.store and event.count is None
        assert list(vars(event)) and "_rest" not in vars(event)


async def test_threads_are_told_the_same() -> None:
    async with dwcp.Node("a", backend="sim") as node:
        for _ in range(50):
            vm, _ = await two(node)
            together = threading.Barrier(8)
            seen: List[Any] = []

            def ask(number: int) -> None:
                together.wait()
                if number == 0:
                    vars(vm)
                seen.append((id(vm.labels), id(vm.config), id(vm.created_at)))

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(seen) == 8 and len(set(seen)) == 1
            await node.client().vm.destroy(vm.id)


def test_objects_of_a_user_are_as_ever() -> None:
    vm = VM(id="1", labels={"a": "b"})
    assert list(vars(vm)) == NAMES and vm == VM(id="1", labels={"a": "b"})
    assert VM.created_at is NEVER and not hasattr(VM, "labels")
    with pytest.raises(AttributeError, match="labels"):
        VM.__new__(VM).labels
    assert VMEvent().vm == VM() and copy.copy(VMEvent(seq=3)).seq == 3

    @dataclasses.dataclass
    class Mine(VM):
        more: int = 7

    mine = Mine(id="1")
    assert mine.more == 7 and pickle.loads(pickle.dumps(VM(id="2"))).id == "2"
    assert vars(mine)["created_at"] is NEVER and dataclasses.replace(mine, more=8).more == 8

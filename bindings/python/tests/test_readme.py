"""The programs in the README: they run, with the address of a node that is there."""

import re
from pathlib import Path
from typing import Any, Dict

import dwcp
from conftest import MIB, ROOT

PROGRAMS = re.findall(
    r"```python\n(.*?)```", (ROOT / "bindings/python/README.md").read_text(), re.DOTALL
)


async def run(program: str, changes: Dict[str, str]) -> None:
    for old, new in changes.items():
        assert old in program, old
        program = program.replace(old, new)
    names: Dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), names)
    await names["main"]()


async def test_the_client() -> None:
    async with dwcp.Node("n", backend="sim", listen=["127.0.0.1:0"]) as node:
        port = str(node.address()).rsplit(":", 1)[1]
        changes = {
            '"localhost", port=9000': f'"127.0.0.1", port={port}, tls_enabled=False',
            "2 * 1024**3": str(64 * MIB),
            "asyncio.run(main())": "",
        }
        await run(PROGRAMS[0], changes)
        (vm,) = await node.client().vm.list()
        assert (vm.name, vm.state) == ("my-vm", dwcp.VMState.RUNNING)


async def test_the_node(directory: Path) -> None:
    changes = {
        '"node-01", data_dir="/var/lib/dwcp", listen=["127.0.0.1:9000"]': (
            f'"node-01", data_dir="{directory}/data", listen=["127.0.0.1:0"], backend="sim"'
        )
    }
    await run(PROGRAMS[1], changes)
    assert len(PROGRAMS) == 2

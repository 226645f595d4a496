"""What all snippets of the guide need: where the node is, from the environment; VMs that end.

`DWCP_ADDRESS`, `DWCP_PORT`, `DWCP_API_KEY`, `DWCP_CA_FILE`: the node. Without `DWCP_CA_FILE` it is reached
without TLS. `DWCP_TARGET_NODE`: the node to which VMs can move.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import AsyncIterator

from dwcp import VM, Client, ClientConfig, VMClient, VMConfig, VMState

TLS = bool(os.environ.get("DWCP_CA_FILE"))
IMAGE = "dwcp/pulse"
MEMORY = 64 * 1024**2


def config() -> ClientConfig:
    """Where the node is."""
    return ClientConfig(
        address=os.environ["DWCP_ADDRESS"],
        port=int(os.environ["DWCP_PORT"]),
        api_key=os.environ.get("DWCP_API_KEY"),
        tls_enabled=TLS,
        ca_file=os.environ.get("DWCP_CA_FILE"),
    )


def vm_config(name: str) -> VMConfig:
    """A small VM with a name of its own."""
    return VMConfig(name=f"{name}-{uuid.uuid4().hex[:8]}", memory=MEMORY, cpus=1, image=IMAGE)


async def remove(vm_client: VMClient, vm: VM) -> None:
    """Ends what a snippet started."""
    if (await vm_client.get(vm.id)).state != VMState.STOPPED:
        await vm_client.stop(vm.id, force=True)
    await vm_client.destroy(vm.id)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[VMClient]:
    """A connected client."""
    async with Client(config()) as client:
        yield client.VM()


@contextlib.asynccontextmanager
async def running(vm_client: VMClient) -> AsyncIterator[VM]:
    """A VM that runs."""
    vm = await vm_client.create(vm_config("guide"))
    await vm_client.start(vm.id)
    try:
        yield vm
    finally:
        await remove(vm_client, vm)

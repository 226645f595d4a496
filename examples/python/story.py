"""The life of a VM: created, started, watched, measured, snapshotted, moved while it runs, removed.

Two nodes in this process by default (`DWCP_BACKEND=sim` where there is no KVM), or two others:

    python story.py --remote ADDRESS_A ADDRESS_B --api-key KEY --ca-file CA.pem --peer NAME_OF_B

The last line is `story: ok`; anything else is a failure, and the exit status says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
from typing import AsyncIterator, Tuple

from dwcp import (
    Client,
    ClientConfig,
    MigrationOptions,
    MigrationState,
    Node,
    VMConfig,
    VMNotFoundError,
    VMState,
)

MIB = 1024**2


@contextlib.asynccontextmanager
async def two_nodes() -> AsyncIterator[Tuple[Client, Client, str]]:
    """Two nodes of our own, each a peer of the other."""
    backend = os.environ.get("DWCP_BACKEND", "kvm")
    with tempfile.TemporaryDirectory(prefix="dwcp-story-") as directory:
        async with Node(
            "node-a", backend=backend, data_dir=f"{directory}/a", listen=["127.0.0.1:0"]
        ) as a, Node(
            "node-b", backend=backend, data_dir=f"{directory}/b", listen=["127.0.0.1:0"]
        ) as b:
            a.add_peer("node-b", str(b.address()))
            b.add_peer("node-a", str(a.address()))
            yield a.client(), b.client(), "node-b"


@contextlib.asynccontextmanager
async def two_others(args: argparse.Namespace) -> AsyncIterator[Tuple[Client, Client, str]]:
    """Two nodes that run already."""
    here, there = (
        ClientConfig(address=address, api_key=args.api_key, ca_file=args.ca_file)
        for address in args.remote
    )
    async with Client(here) as a, Client(there) as b:
        yield a, b, args.peer


async def story(a: Client, b: Client, peer: str, encrypt: bool) -> None:
    health = await a.health()
    print(f"node: {health.node} {health.version} is {health.status}")

    config = VMConfig(
        name=f"story-{os.getpid()}",
        memory=64 * MIB,
        cpus=1,
        annotations={"dwcp.pulse/fill": str(4 * MIB)},
    )
    vm = await a.vm.create(config)
    print(f"created: {vm.name} is {vm.state}")

    await a.vm.start(vm.id)
    async for event in a.vm.watch(vm.id):
        print(f"event: {event.type}, {event.vm.state}")
        if event.vm.state == VMState.RUNNING:
            break

    metrics = await a.vm.get_metrics(vm.id, "10s")
    print(f"metrics: {metrics.memory_used // MIB} MiB used of {config.memory // MIB}")
    count = 0
    async for metrics in a.vm.stream_metrics(vm.id, interval="50ms"):
        count += 1
        if count == 10:
            break
    print(f"metrics: {count} more, CPU {metrics.cpu_usage:.1f} %")

    snapshot = await a.vm.snapshot(vm.id, "before")
    await a.vm.restore_snapshot(vm.id, snapshot.id)
    assert (await a.vm.get(vm.id)).state == VMState.RUNNING
    await a.vm.delete_snapshot(snapshot.id)
    print(f"snapshot: {snapshot.size // 1024} KiB, restored and deleted")

    options = MigrationOptions(max_downtime=500, encrypt_transport=encrypt)
    status = await a.vm.migrate(vm.id, peer, options)
    async for status in a.vm.migration_progress(status.id):
        print(f"migration: {status.state}, {status.progress:.0f} %")
    if status.state != MigrationState.COMPLETED:
        raise RuntimeError(f"the migration ended {status.state}: {status.error}")
    print(f"migration: the VM stood still for {status.downtime_us / 1000:.1f} ms")

    moved = await b.vm.get(vm.id)
    assert (moved.node, moved.state) == (peer, VMState.RUNNING), moved
    report = await b.vm.verify(vm.id)
    assert report.verified and report.faults == 0, report
    print(f"verified: {report.pages_verified} pages on {moved.node}")

    try:
        await a.vm.get("00000000-0000-4000-8000-000000000000")
    except VMNotFoundError as error:
        print(f"error: {error.code}, as expected")
    else:
        raise RuntimeError("a VM that does not exist was found")

    await b.vm.stop(vm.id, force=True)
    await b.vm.destroy(vm.id)
    assert vm.id not in [other.id for other in await b.vm.list()]
    print("destroyed")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--remote", nargs=2, metavar=("ADDRESS_A", "ADDRESS_B"))
    parser.add_argument("--api-key")
    parser.add_argument("--ca-file")
    parser.add_argument("--peer", default="node-b", help="what A calls B")
    args = parser.parse_args()
    nodes = two_others(args) if args.remote else two_nodes()
    async with nodes as (a, b, peer):
        await story(a, b, peer, encrypt=bool(args.remote))
    print("story: ok")


if __name__ == "__main__":
    asyncio.run(main())

"""The same without asyncio: a node of our own, a VM, its events and figures."""

import os

from dwcp import VMConfig, VMState
from dwcp.sync import Node


def main() -> None:
    with Node("sync-node", backend=os.environ.get("DWCP_BACKEND", "kvm")) as node:
        client = node.client()
        vm = client.vm.create(VMConfig(name="sync", memory=64 * 1024**2, cpus=1))
        client.vm.start(vm.id)
        for event in client.vm.watch(vm.id):
            print(f"{event.type}: {event.vm.state}")
            if event.vm.state == VMState.RUNNING:
                break
        with client.vm.stream_metrics(vm.id, interval=0.05) as figures:
            for _, metrics in zip(range(3), figures):
                print(f"CPU: {metrics.cpu_usage:.1f} %")
        client.vm.stop(vm.id, force=True)
        client.vm.destroy(vm.id)
        client.disconnect()
    print("sync: ok")


if __name__ == "__main__":
    main()

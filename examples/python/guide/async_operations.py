"""Async Operations, and Batch Operations: several VMs at once."""

import asyncio

from setup import connected, remove
from setup import vm_config as config


async def main() -> None:
    async with connected() as vm_client:
        config1, config2, config3 = config("one"), config("two"), config("three")

        # Concurrent VM operations
        tasks = [
            vm_client.create(config1),
            vm_client.create(config2),
            vm_client.create(config3),
        ]

        vms = await asyncio.gather(*tasks)
        print(f"Created {len(vms)} VMs")

        # Start all VMs concurrently
        await asyncio.gather(*[vm_client.start(vm.id) for vm in vms])

        # Create multiple VMs concurrently
        configs = [config("four"), config("five"), config("six")]
        more = await asyncio.gather(*[vm_client.create(cfg) for cfg in configs])
        assert len({vm.id for vm in vms + more}) == 6

        await asyncio.gather(*[remove(vm_client, vm) for vm in vms + more])


if __name__ == "__main__":
    asyncio.run(main())

"""From v2 to v3: VM configuration, the half that is v3."""

import asyncio

from setup import connected, remove

from dwcp import VMConfig


async def main() -> None:
    async with connected() as vm_client:
        vm_config = VMConfig(name="my-vm", memory=64 * 1024**2, cpus=2)
        vm = await vm_client.create(vm_config)
        print(f"Created VM: {vm.name}")
        await remove(vm_client, vm)


if __name__ == "__main__":
    asyncio.run(main())

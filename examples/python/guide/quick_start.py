"""Quick Start."""

import asyncio
import os

from setup import IMAGE, MEMORY, TLS, remove

from dwcp import Client, ClientConfig, VMConfig


async def main() -> None:
    # Create configuration
    config = ClientConfig(
        address=os.environ["DWCP_ADDRESS"],
        port=int(os.environ["DWCP_PORT"]),
        api_key=os.environ.get("DWCP_API_KEY"),
        tls_enabled=TLS,
    )

    # Use async context manager
    async with Client(config) as client:
        print("Connected to DWCP server")

        # Create VM
        vm_config = VMConfig(
            name="my-vm",
            memory=MEMORY,
            cpus=2,
            image=IMAGE,
        )

        vm_client = client.VM()
        vm = await vm_client.create(vm_config)
        print(f"Created VM: {vm.name} (ID: {vm.id})")

        # Start VM
        await vm_client.start(vm.id)
        print("VM started")

        await remove(vm_client, vm)


if __name__ == "__main__":
    asyncio.run(main())

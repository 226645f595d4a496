"""Event Streaming."""

import asyncio

from setup import connected, running

from dwcp import VMState


async def main() -> None:
    async with connected() as vm_client, running(vm_client) as vm:
        # Watch VM events
        async for event in vm_client.watch(vm.id):
            print(f"[{event.timestamp}] {event.type}: {event.message}")
            print(f"  State: {event.vm.state}")

            if event.vm.state == VMState.RUNNING:
                break


if __name__ == "__main__":
    asyncio.run(main())

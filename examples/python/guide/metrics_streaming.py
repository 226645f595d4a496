"""Metrics Streaming."""

import asyncio

from setup import connected, running


async def main() -> None:
    async with connected() as vm_client, running(vm_client) as vm:
        count = 0
        # Stream real-time metrics
        async for metrics in vm_client.stream_metrics(vm.id, interval="1s"):
            print(f"CPU: {metrics.cpu_usage:.2f}%")
            print(f"Memory: {metrics.memory_used / 1024**3:.1f} GB")
            count += 1
            if count == 2:
                break


if __name__ == "__main__":
    asyncio.run(main())

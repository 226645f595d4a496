"""Migration."""

import asyncio
import os

from setup import TLS, connected, running

from dwcp import MigrationOptions, MigrationState


async def main() -> None:
    async with connected() as vm_client, running(vm_client) as vm:
        options = MigrationOptions(
            live=True,
            max_downtime=500,  # ms
            bandwidth=1024**3,  # 1 GiB/s
            compression=True,
            auto_converge=True,
            encrypt_transport=TLS,
        )

        status = await vm_client.migrate(vm.id, os.environ["DWCP_TARGET_NODE"], options)

        # Monitor progress
        while status.state != MigrationState.COMPLETED:
            await asyncio.sleep(2)
            status = await vm_client.get_migration_status(status.id)
            print(f"Progress: {status.progress:.1f}%")
            print(f"Throughput: {status.throughput / 1024**2:.1f} MB/s")

            if status.state == MigrationState.FAILED:
                raise Exception(f"Migration failed: {status.error}")

        print("Migration completed!")
        print(f"Downtime: {status.downtime} ms")


if __name__ == "__main__":
    asyncio.run(main())

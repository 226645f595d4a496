"""Error Handling."""

import asyncio

from setup import connected

from dwcp import ConnectionError, DWCPError, TimeoutError, VMNotFoundError


async def main() -> None:
    async with connected() as vm_client:
        vm_id = "00000000-0000-4000-8000-000000000000"
        try:
            vm = await vm_client.get(vm_id)
        except VMNotFoundError:
            print("VM not found")
        except ConnectionError as e:
            print(f"Connection error: {e}")
            raise
        except TimeoutError:
            print("Operation timeout")
            raise
        except DWCPError as e:
            print(f"DWCP error: {e}")
            raise
        else:
            raise RuntimeError(f"found {vm}")


if __name__ == "__main__":
    asyncio.run(main())

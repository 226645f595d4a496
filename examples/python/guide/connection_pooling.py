"""Connection Pooling, completed by what the guide leaves out: who connects, and who is next."""

import asyncio
from typing import List

import setup

from dwcp import Client, ClientConfig


class ClientPool:
    def __init__(self, size: int, config: ClientConfig):
        self.clients: List[Client] = [Client(config) for _ in range(size)]
        self.semaphore = asyncio.Semaphore(size)

    async def acquire(self) -> Client:
        await self.semaphore.acquire()
        client = self.clients.pop()
        await client.connect()
        return client

    def release(self, client: Client) -> None:
        self.clients.append(client)
        self.semaphore.release()

    async def close(self) -> None:
        for client in self.clients:
            await client.disconnect()


async def main() -> None:
    pool = ClientPool(2, setup.config())

    async def work() -> str:
        client = await pool.acquire()
        try:
            return (await client.health()).node
        finally:
            pool.release(client)

    names = await asyncio.gather(*[work() for _ in range(10)])
    assert len(names) == 10 and len(set(names)) == 1, names
    print(f"Asked {names[0]} ten times")
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main())

"""TLS Configuration, by a context of Python's `ssl`."""

import asyncio
import os
import ssl

from dwcp import Client, ClientConfig


async def main() -> None:
    # `cafile` is what a CA of one's own needs; without it the platform's are used.
    context = ssl.create_default_context(cafile=os.environ["DWCP_CA_FILE"])
    config = ClientConfig(
        address=os.environ["DWCP_ADDRESS"],
        port=int(os.environ["DWCP_PORT"]),
        api_key=os.environ["DWCP_API_KEY"],
        tls_enabled=True,
        ssl_context=context,
    )
    # A CA file in the environment is for the core, which makes no TLS connection here.
    async with Client(config) as client:
        print(f"Connected: {(await client.health()).status}")


if __name__ == "__main__":
    asyncio.run(main())

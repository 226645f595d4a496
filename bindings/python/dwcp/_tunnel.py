"""TLS by an `ssl.SSLContext`.

A context of Python's `ssl` cannot be read into the core's TLS library. So this side makes the TLS
connections by itself and hands the bytes on: the core connects to a Unix socket in a directory that only
this user may enter, as often as it likes, and each of its connections is one TLS connection to the node.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from typing import Any, Dict, Optional

from . import errors
from .config import ClientConfig

#: Bytes that are handed on at once.
CHUNK = 64 * 1024
#: How long a connection that ends has to send what it was given, in seconds.
CLOSE_TIMEOUT = 1.0


class Tunnel:
    """The socket between the core and the TLS connections. It belongs to the loop that started it."""

    def __init__(self, config: ClientConfig) -> None:
        for name in ("ca_file", "ca_pem", "client_cert", "client_key"):
            if getattr(config, name):
                raise errors.ConfigError(f"{name}: put it into ssl_context, which is given too")
        if not config.tls_enabled:
            raise errors.ConfigError("tls_enabled: must be true where ssl_context is given")
        address = config.address or os.environ.get("DWCP_ADDRESS") or ""
        if not address or address.startswith("unix:") or "://" in address:
            raise errors.ConfigError("address: must be a host where ssl_context is given")
        port = config.port or int(os.environ.get("DWCP_PORT") or 9000)
        host, colon, after = address.rpartition(":")
        if colon and after.isdigit() and (":" not in host or host.endswith("]")):
            address, port = host, int(after)
        self._host = address.strip("[]")
        self._port = port
        self._server_name = config.server_name or self._host
        self._context = config.ssl_context
        self._directory: Optional[str] = None
        self._server: Optional[asyncio.AbstractServer] = None
        # Each connection of the core, with what serves it.
        self._tasks: Dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        #: Why the last TLS connection could not be made.
        self.error: Optional[errors.DWCPError] = None

    async def start(self) -> None:
        """Listens for the core."""
        # Made with mode 0700.
        self._directory = tempfile.mkdtemp(prefix="dwcp-")
        try:
            self._server = await asyncio.start_unix_server(self._accept, self._path())
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise

    def options(self, options: Dict[str, Any]) -> Dict[str, Any]:
        """The options by which the core comes here."""
        changed = {**options, "address": f"unix:{self._path()}", "tls_enabled": False}
        changed.pop("server_name", None)
        changed.pop("port", None)
        return changed

    async def stop(self) -> None:
        """Ends all connections, and removes the socket."""
        if self._server is not None:
            self._server.close()
        serving = dict(self._tasks)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for writer in serving.values():
            # One whose task had not begun is still open.
            writer.transport.abort()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self) -> str:
        assert self._directory is not None
        return os.path.join(self._directory, "core")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine, so that stop() knows of it from the first moment.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._hand_on(reader, writer)
        finally:
            await _close(writer)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opening = asyncio.ensure_future(
            asyncio.open_connection(
                self._host, self._port, ssl=self._context, server_hostname=self._server_name
            )
        )
        try:
            far_reader, far_writer = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # asyncio leaves a connection open whose handshake is cancelled: let it end first.
            await asyncio.wait([opening], timeout=CLOSE_TIMEOUT)
            if not opening.done():
                opening.cancel()
            elif opening.exception() is None:
                await _close(opening.result()[1])
            raise
        except (OSError, ValueError) as error:
            # The core sees its connection end, and tries again where it may.
            self.error = errors.ConnectionError(
                f"{self._host}:{self._port}: {error}", retryable=True, operation="connect"
            )
            return
        self.error = None
        ways = [
            asyncio.ensure_future(_pump(reader, far_writer)),
            asyncio.ensure_future(_pump(far_reader, writer)),
        ]
        try:
            # With either way the connection ends: the protocol has no half-closed ones.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            try:
                # stop() may take this back when it has begun to end by itself.
                await asyncio.gather(*ways, return_exceptions=True)
            finally:
                await _close(far_writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), CLOSE_TIMEOUT)
    except (OSError, asyncio.TimeoutError):
        # The other side is gone, or takes nothing more.
        writer.transport.abort()
    except asyncio.CancelledError:
        # stop() does not wait for what is still to be sent.
        writer.transport.abort()
        raise


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            data = await reader.read(CHUNK)
            if not data:
                return
            writer.write(data)
            await writer.drain()
    except OSError:
        # A lost connection is the end, of which the core hears by its own.
        return

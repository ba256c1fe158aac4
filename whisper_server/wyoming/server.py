"""The Wyoming port: accepts clients, drains with the process, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence

from whisper_server.core.errors import ShuttingDown
from whisper_server.core.shutdown import SHUTTING_DOWN
from whisper_server.services.container import Services
from whisper_server.wyoming.connection import Connection
from whisper_server.wyoming.framing import MAX_LINE_BYTES

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0  # for clients whose work is cut short to hear so


class WyomingServer:
    """All connections of the port. For the event loop only."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._listening: list[asyncio.Server] = []
        self._clients: dict[asyncio.Task[None], Connection] = {}
        self._drained_s: float | None = None  # on the monotonic clock

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept clients; the sockets are bound."""
        for each in sockets:
            server = await asyncio.start_server(self._accept, sock=each, limit=MAX_LINE_BYTES)
            self._listening.append(server)

    def drain(self) -> None:
        """Accept no more, let idle clients go; what is being said may end. Idempotent."""
        if self._drained_s is not None:
            return
        self._drained_s = time.monotonic()
        for each in self._listening:
            each.close()
        for task, client in self._clients.items():
            if not client.is_busy:
                task.cancel()

    async def close(self) -> None:
        """Give what runs the rest of its grace period, then end it."""
        self.drain()
        assert self._drained_s is not None
        left_s = self._drained_s + self._services.settings.shutdown_grace_s - time.monotonic()
        if self._clients and left_s > 0:
            await asyncio.wait(set(self._clients), timeout=left_s)
        for task in list(self._clients):
            task.cancel()
        if self._clients:
            await asyncio.wait(set(self._clients), timeout=LAST_WORDS_S)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_full = len(self._clients) >= self._services.settings.connection_limit
        if is_full or self._drained_s is not None:
            writer.close()
            return
        client = Connection(self._services, reader, writer)
        task = asyncio.create_task(self._serve(client))
        self._clients[task] = client
        task.add_done_callback(self._forget)

    def _forget(self, done: asyncio.Task[None]) -> None:
        del self._clients[done]

    async def _serve(self, client: Connection) -> None:
        try:
            await client.serve(is_draining=lambda: self._drained_s is not None)
        except asyncio.CancelledError:
            await client.send_error(ShuttingDown(SHUTTING_DOWN))
        except Exception:
            log.exception("A Wyoming client's connection failed unexpectedly.")
        finally:
            client.close()


@contextlib.asynccontextmanager
async def serving(services: Services, sockets: Sequence[socket.socket]) -> AsyncIterator[WyomingServer]:
    """Serve on these sockets while the block runs, and to the end of the grace period."""
    server = WyomingServer(services)
    await server.listen(sockets)
    try:
        yield server
    finally:
        await server.close()

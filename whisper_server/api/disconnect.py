"""Work that ends when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from whisper_server.api.asgi import Receive

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client has closed its connection; no answer can reach it."""


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await the work; cancel it when the client disconnects, and wait until it has ended.

    Raises:
        ClientDisconnected: before the work was done.
        UploadStalled: the client has not sent the rest of its body in time.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            disconnect.result()  # raises where the wait ended with a timeout of the upload
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Wait for the end of the connection; the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass

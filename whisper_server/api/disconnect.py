"""Work that ends when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from whisper_server.api.asgi import Receive

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client went away; there is nobody to answer."""


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await the work; cancel it when the client leaves, and wait until it has ended.

    Raises:
        ClientDisconnected: the client left first.
        UploadStalled: it has not sent its body, which nobody but us waits for.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            gone.result()  # a client that owes us its body is not gone, but has missed its deadline
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Wait for the end of the connection; the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass

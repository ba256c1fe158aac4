"""The limit on the size of a body, and refusals that a client hears while it is still sending."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send, header, log_fields, mark_lingering
from whisper_server.api.errors import out_of_memory, send_error
from whisper_server.api.middleware.request_log import record_of
from whisper_server.api.min_rate import LINGER_S
from whisper_server.core.errors import (
    OutOfMemory,
    Overloaded,
    PayloadTooLarge,
    UploadStalled,
    WhisperServerError,
)
from whisper_server.core.system.allocator import trim_heap
from whisper_server.core.system.process import start_thread

# What is said of a body of which nothing was read.
_SAID_UNREAD = (PayloadTooLarge, Overloaded, UploadStalled, OutOfMemory)


class BodyLimitMiddleware:
    """Checks the bytes of a body as they come in, before anything parses or keeps them.

    Says no to clients that are still sending in a way that lets them hear it, also for want of a slot, to
    those that send too slowly, where there is no memory, and where what has come in so far is wrong already.
    Needs the record that `RequestLogMiddleware` keeps.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit_of: Callable[[Scope], tuple[int, Callable[[int], PayloadTooLarge]]],
    ) -> None:
        """Take what returns the limit in bytes of a request, and the error for a number of bytes."""
        self._app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse by the declared length, else by the bytes; after a refusal read on for a moment."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        limit_bytes, too_large = self._limit_of(scope)

        def check(n_bytes: int) -> None:
            if n_bytes > limit_bytes:
                raise too_large(n_bytes)

        async def receive_checked() -> Message:
            message = await receive()
            check(record.body_bytes)
            return message

        try:
            declared = header(scope, b"content-length")
            if declared is not None and declared.isdecimal():
                check(int(declared))
            await _in_memory(self._app(scope, receive_checked, send))
        except WhisperServerError as error:
            has_body = record.body_bytes > 0
            is_sending = has_body or isinstance(error, _SAID_UNREAD)
            if record.is_body_complete or record.status or not is_sending:
                raise
            log_fields(scope)["outcome"] = type(error).__name__
            await send_error(send, error, more_body=True)
            # A socket that is closed with bytes unread is reset, and the client may never see why. A
            # client that asked first was not told to go on: from it nothing more comes.
            if has_body or header(scope, b"expect") is None:
                mark_lingering(scope)
                await _drain(receive)
            await send({"type": "http.response.body", "body": b""})


async def _in_memory(answer: Awaitable[None]) -> None:
    """Await an answer; that there is no memory for it is no fault, and may be over in a moment.

    Raises:
        OutOfMemory: Python found none, wherever that was.
    """
    try:
        await answer
    except MemoryError as error:
        error.__traceback__ = None  # its frames have the upload
        start_thread(trim_heap)  # what is kept for later is wanted now
        raise out_of_memory() from None


async def _drain(receive: Receive) -> None:
    """Read and forget what still comes, for a moment."""

    async def read_all() -> None:
        message = await receive()
        while message["type"] == "http.request" and message.get("more_body", False):
            message = await receive()

    try:
        await asyncio.wait_for(read_all(), LINGER_S)
    except TimeoutError:
        return

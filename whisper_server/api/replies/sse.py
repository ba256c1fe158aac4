"""Server-Sent Events: how they are framed, and a response that sends them as they come.

Knows nothing of what the events say. Errors are not its business either: before the first event they
travel up and get their status, after it `ErrorMiddleware` ends the stream with an error event.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import StreamingResponse

from whisper_server.api.asgi import Receive, Scope, Send
from whisper_server.api.disconnect import ClientDisconnected, disconnected

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_S = 15.0  # of silence, then a comment: proxies close what seems dead
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"  # the end of a chat stream; a transcript's has an event of its own

# JSON leaves them alone, and clients that split text into lines would cut the event there.
_LINE_BREAKS = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
_END = b""


def event(value: dict[str, Any], number: int | None = None) -> bytes:
    """Frame one event; its `type`, where it has one, is the event's name too, which some clients go by.

    Its `number` is what a client that comes back names as the last one that it has seen.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_LINE_BREAKS)
    name = f"event: {value['type']}\n" if "type" in value else ""
    place = "" if number is None else f"id: {number}\n"
    return f"{place}{name}data: {text}\n\n".encode("utf-8", "replace")


class EventStream(StreamingResponse):
    """Sends frames as they come; 200 goes out with the first one, so that errors before it keep theirs.

    Where the first one takes long, 200 goes out before it, with a comment: proxies give up while a model is
    downloaded or the server is busy. What fails after that is an error event.

    Takes ownership of the generator and closes it whatever happens. A frame is asked for only when the
    one before it has been taken by the client: nothing piles up here for one that reads slowly.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None], *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        # The last header tells nginx not to collect the events before it passes them on.
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(frames, headers=headers, media_type=MEDIA_TYPE)
        self._frames = frames
        self._keep_alive_s = keep_alive_s
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, and the end; ends the work when the client disconnects.

        Raises:
            ClientDisconnected: before the end of the stream.
            UploadStalled: the client has not sent the rest of its body in time.
        """
        del scope
        disconnect = asyncio.ensure_future(disconnected(receive))
        try:
            async with contextlib.aclosing(self._frames):
                while (frame := await self._next(disconnect, send)) != _END:
                    await self._send_part(send, frame)
            await self._begin(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            disconnect.cancel()
            await asyncio.gather(disconnect, return_exceptions=True)

    async def _next(self, disconnect: asyncio.Future[None], send: Send) -> bytes:
        """Return the next frame, `_END` after the last; meanwhile send comments."""
        pull = asyncio.ensure_future(self._pull())
        either: set[asyncio.Future[Any]] = {pull, disconnect}
        try:
            while True:
                done, _ = await asyncio.wait(
                    either, timeout=self._keep_alive_s, return_when=asyncio.FIRST_COMPLETED
                )
                if disconnect in done:
                    disconnect.result()  # raises where it ended for another reason
                    raise ClientDisconnected
                if done:
                    return pull.result()
                await self._send_part(send, KEEP_ALIVE)
        finally:
            pull.cancel()
            await asyncio.gather(pull, return_exceptions=True)

    async def _pull(self) -> bytes:
        return await anext(self._frames, _END)

    async def _begin(self, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _send_part(self, send: Send, part: bytes) -> None:
        await self._begin(send)
        await send({"type": "http.response.body", "body": part, "more_body": True})

"""The timeout of an upload: how long the server waits for the bytes of a body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send
from whisper_server.api.min_rate import Allowance, TransferTimeout
from whisper_server.core.errors import UploadStalled


class UploadTimeoutMiddleware:
    """Lets `receive` raise `UploadStalled` where a client sends nothing, or too little, of its body.

    A client that lost its network never closes the connection, and a hostile one sends a byte now and then;
    each would hold its slot for ever. Only the time in which the server waits for bytes counts: what it takes
    itself to begin, or to make use of them, is not the client's fault.
    """

    def __init__(
        self, app: ASGIApp, *, timeout: TransferTimeout, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._timeout = timeout
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with a `receive` that times out."""
        if scope["type"] == "http":
            receive = _TimedBody(receive, self._timeout, self._clock).receive
        await self._app(scope, receive, send)


class _TimedBody:
    """A `receive` that times out, once; a caller that reads on after that has to bound it by itself."""

    def __init__(self, receive: Receive, timeout: TransferTimeout, clock: Callable[[], float]) -> None:
        self._receive = receive
        self._timeout = timeout
        self._clock = clock
        self._allowance = Allowance(timeout)
        self._n_bytes = 0
        self._is_over = False  # complete, or given up

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            UploadStalled: the client is slower than it may be.
        """
        if self._is_over:
            return await self._receive()
        asked_s = self._clock()
        # Not `wait_for`: before Python 3.12 it loses a cancellation that comes with the message, and its
        # sender then waits for ever.
        coming = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({coming}, timeout=self._allowance.left_s)
            if not coming.done():
                raise self._give_up()
            message = coming.result()
        finally:
            coming.cancel()
        n_bytes = len(message.get("body", b""))
        self._n_bytes += n_bytes
        self._allowance.spend(self._clock() - asked_s, n_bytes)
        if not message.get("more_body", False):
            self._is_over = True
        elif self._allowance.is_spent:
            raise self._give_up()
        return message

    def _give_up(self) -> UploadStalled:
        self._is_over = True
        timeout = self._timeout
        return UploadStalled(
            f"The upload is too slow: {self._n_bytes} bytes of it have come in. A client may keep the server"
            f" waiting for {timeout.stall_s:g} seconds (WHISPER_STALL_TIMEOUT_S) and has to send at least"
            f" {timeout.min_bytes_per_s:g} bytes per second (WHISPER_MIN_BYTES_PER_S)."
        )

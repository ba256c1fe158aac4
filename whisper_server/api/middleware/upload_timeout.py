"""Pure ASGI middleware: a deadline for whoever waits for a request's body. `app.py` shows its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from whisper_server.api.asgi import ASGIApp, Message, Receive, Scope, Send
from whisper_server.api.min_rate import Allowance, Patience
from whisper_server.core.errors import UploadStalled


class ReceiveDeadlineMiddleware:
    """Lets `receive` raise `UploadStalled` where a client sends nothing, or too little, of its body.

    A client whose network is gone never hangs up, and one that means harm sends a byte now and then; each
    would hold its place in the queue for ever. Only the time in which somebody waits for bytes counts: what
    the server itself takes to begin, or to make use of them, is not the client's fault.
    """

    def __init__(
        self, app: ASGIApp, *, patience: Patience, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._patience = patience
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the watch over `receive`."""
        if scope["type"] == "http":
            receive = _TimedBody(receive, self._patience, self._clock).receive
        await self._app(scope, receive, send)


class _TimedBody:
    """A `receive` that gives up, once; who reads on after that, to be polite, has a deadline of its own."""

    def __init__(self, receive: Receive, patience: Patience, clock: Callable[[], float]) -> None:
        self._receive = receive
        self._patience = patience
        self._clock = clock
        self._allowance = Allowance(patience)
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
        # Not `wait_for`: before Python 3.12 it loses a cancellation that comes with the message, and who
        # cancelled then waits for ever.
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
        patience = self._patience
        return UploadStalled(
            f"The upload is too slow: {self._n_bytes} bytes of it have come in. A client may keep the server"
            f" waiting for {patience.stall_s:g} seconds (WHISPER_STALL_TIMEOUT_S) and has to send at least"
            f" {patience.min_bytes_per_s:g} bytes per second (WHISPER_MIN_BYTES_PER_S)."
        )

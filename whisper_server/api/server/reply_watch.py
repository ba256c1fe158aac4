"""Ends a connection whose client takes too little of its reply, or none."""

from __future__ import annotations

import asyncio

from whisper_server.api.min_rate import Allowance, TransferTimeout


class ReplyWatch:
    """Looks at what is left in a socket's buffer, from the moment when it is full until all was taken."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, timeout: TransferTimeout
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._allowance = Allowance(timeout)
        self._begin()

    def end(self) -> None:
        """The client has taken all, or is gone."""
        self._timer.cancel()

    def _begin(self) -> None:
        left_bytes = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._allowance.left_s, self._look, left_bytes, self._loop.time())

    def _look(self, left_before_bytes: int, began_s: float) -> None:
        taken_bytes = left_before_bytes - self._transport.get_write_buffer_size()
        self._allowance.spend(self._loop.time() - began_s, taken_bytes)
        if self._allowance.is_spent:
            self._transport.abort()
        else:
            self._begin()

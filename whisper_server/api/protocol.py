"""Connections whose clients stop reading: nothing piles up for them, and they end at a deadline.

ASGI lets an application wait until a client has taken what was sent, but not give up on one that
never does: only the owner of the socket can. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

STALL_S = 60.0  # without a byte taken; then the connection is cut


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, with a deadline for clients to take what was sent to them.

    Bytes wait in the socket's buffer; as soon as it is full, `send` waits, and the watch begins: every
    `stall_s` there must be fewer bytes left than before. A cut wakes `send`, and `receive` tells that the
    client is gone. The watch goes on for connections that are being closed, which a client could hold open.
    """

    stall_s = STALL_S
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let `send` wait as soon as the socket is full, not 64 KiB later."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)

    def pause_writing(self) -> None:
        """Begin the watch: the client has more to take than the socket holds."""
        super().pause_writing()
        self._look_again(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """End the watch: it has taken all."""
        self._end_watch()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch."""
        self._end_watch()
        super().connection_lost(exc)

    def _look_again(self, left_bytes: int) -> None:
        self._watch = self.loop.call_later(self.stall_s, self._look, left_bytes)

    def _look(self, left_before_bytes: int) -> None:
        left_bytes = self.transport.get_write_buffer_size()
        if left_bytes < left_before_bytes:
            self._look_again(left_bytes)
        else:
            self.transport.abort()

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

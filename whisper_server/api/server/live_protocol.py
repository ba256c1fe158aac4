"""WebSocket connections, and how long a client may leave unread what it was sent; knows nothing of events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from whisper_server.api.min_rate import TransferTimeout
from whisper_server.api.server.reply_watch import ReplyWatch

if TYPE_CHECKING:
    from whisper_server.core.config import Settings


def live_protocol_of(settings: Settings) -> type[LiveProtocol]:
    """Return the protocol with the operator's limits, as uvicorn wants it: a class."""

    class Limited(LiveProtocol):
        reply_timeout = TransferTimeout(settings.stall_timeout_s, settings.min_bytes_per_s)

    return Limited


class LiveProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket, which ends connections whose client takes too little.

    A closed transport waits until its client has taken the rest: for ever, where that reads nothing.
    """

    reply_timeout: TransferTimeout
    _reply_watch: ReplyWatch | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Watch whatever the system does not take at once."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)

    def pause_writing(self) -> None:
        """Begin the watch: the client has more to take than the socket holds."""
        super().pause_writing()
        self._reply_watch = ReplyWatch(self.loop, self.transport, self.reply_timeout)

    def resume_writing(self) -> None:
        """End the watch: it has taken all."""
        self._end_watch()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch: the client is gone."""
        self._end_watch()
        super().connection_lost(exc)

    def _end_watch(self) -> None:
        if self._reply_watch is not None:
            self._reply_watch.end()
            self._reply_watch = None

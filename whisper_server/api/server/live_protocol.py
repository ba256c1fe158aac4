"""WebSocket connections, and how long a client may leave unread what it was sent; knows nothing of events."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from whisper_server.api.asgi import Message, new_request_id
from whisper_server.api.errors import error_reply
from whisper_server.api.min_rate import TransferTimeout
from whisper_server.api.server.reply_watch import ReplyWatch
from whisper_server.core.errors import InvalidRequest

if TYPE_CHECKING:
    from websockets.http11 import Request

    from whisper_server.core.config import Settings

log = logging.getLogger("whisper_server.requests")


def live_protocol_of(settings: Settings) -> type[LiveProtocol]:
    """Return the protocol with the operator's limits, as uvicorn wants it: a class."""

    class Limited(LiveProtocol):
        reply_timeout = TransferTimeout(settings.stall_timeout_s, settings.min_bytes_per_s)

    return Limited


class LiveProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket, which ends connections whose client takes too little, or asks for what is none.

    A closed transport waits until its client has taken the rest: for ever, where that reads nothing. A
    handshake that the library cannot read (it takes fewer and shorter headers than requests have, and no
    body) gets no answer from it, and the connection no end.
    """

    reply_timeout: TransferTimeout
    _reply_watch: ReplyWatch | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Watch whatever the system does not take at once."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        """Take what came in; refuse a handshake that cannot be read."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse(self.conn.handshake_exc.__cause__ or self.conn.handshake_exc)

    def handle_connect(self, event: Request) -> None:
        """Begin a session, or say what speaks against it."""
        if self.conn.accept(event).status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)
        else:
            self._refuse(self.conn.handshake_exc)

    async def send(self, message: Message) -> None:  # type: ignore[override]  # uvicorn's are of one type each
        """Send what the application says; a refusal ends the handshake as well as an acceptance does."""
        await super().send(message)  # type: ignore[arg-type]
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # else the log has it for an application that said nothing

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

    def _refuse(self, reason: BaseException | None) -> None:
        """Answer in the shape of every error, and close the connection."""
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        reply = error_reply(InvalidRequest(f"This is no valid WebSocket handshake: {reason}."))
        request_id = new_request_id()
        log.info("id=%s status=%s outcome=%s", request_id, reply.status, InvalidRequest.__name__)
        headers = {**reply.headers, "connection": "close", "x-request-id": request_id}
        lines = [
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.transport.write("".join(f"{line}\r\n" for line in (*lines, "")).encode() + reply.body)
        self.transport.close()

    def _end_watch(self) -> None:
        if self._reply_watch is not None:
            self._reply_watch.end()
            self._reply_watch = None

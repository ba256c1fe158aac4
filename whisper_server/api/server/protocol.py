"""Connections, and how long each may do nothing; knows nothing of what requests are about.

Theory of operation. ASGI lets an application wait for its client, but only the owner of the socket can end
the connection, and before the headers of a request are complete there is no application that could.

    fresh --byte--> headers --complete--> request --reply sent--> between --byte--> headers

A fresh connection and its first headers share one deadline, `headers_s`; between two requests `keep_alive_s`
holds (uvicorn's own timer), from the first byte of the next headers on `headers_s` again. What comes after a
reply has been sent although its request is not over counts as headers: it does not end either. For the body
of a request the timeout is the application's (`middleware/upload_timeout.py`). A reply that is not taken is
watched in every state. There are at most `connections`: one more closes the one that has been idle for the
longest time, so that idle ones do not shut others out.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from whisper_server.api.asgi import new_request_id
from whisper_server.api.errors import error_reply
from whisper_server.api.min_rate import LINGER_S, Allowance, TransferTimeout
from whisper_server.core.config import Settings
from whisper_server.core.errors import InvalidRequest, UploadStalled, WhisperServerError

log = logging.getLogger("whisper_server.requests")

# What one connection gives the event loop to do at a time: chunks of one byte cost a hundred times as much as
# the same bytes in one piece, and meanwhile no other client is served.
READ_BYTES = 64 * 1024
TLS_HELLO = b"\x16\x03"  # how a TLS client begins: a handshake record, version 3.x (RFC 8446, section 5.1)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections may do."""

    reply_timeout: TransferTimeout  # for clients that take their reply
    headers_s: float  # from the first byte of a request, or of its connection, to the end of its headers
    keep_alive_s: float
    connections: int


def protocol_of(settings: Settings) -> type[TimeoutProtocol]:
    """Return the protocol with the operator's limits, as uvicorn wants it: a class."""

    class Limited(TimeoutProtocol):
        limits = ConnectionLimits(
            reply_timeout=TransferTimeout(settings.stall_timeout_s, settings.min_bytes_per_s),
            headers_s=settings.header_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            connections=settings.connection_limit,
        )

    return Limited


class TimeoutProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, with a timeout for everything that a client may leave undone.

    Of a reply, bytes wait in the socket's buffer; as soon as it is full, `send` waits, and the watch begins.
    A cut wakes `send`, and `receive` reports a disconnect. The watch goes on for connections that are being
    closed, which a client could hold open.
    """

    limits: ClassVar[ConnectionLimits]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.timeout_keep_alive = self.limits.keep_alive_s  # type: ignore[assignment]
        self._idle_since_s = 0.0
        self._is_over = False  # refused, or handed on: what comes now is not for us
        self._headers_deadline: asyncio.TimerHandle | None = None
        self._reply_watch: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: there is no request, and the last reply has been taken."""
        return self._awaits_headers and not self.flow.write_paused and not self.transport.is_closing()

    @property
    def _awaits_headers(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let `send` wait as soon as the socket is full, not 64 KiB later; begin to wait for a request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # asyncio's, where it reads from sockets
        self._idle_since_s = self.loop.time()
        self._await_headers()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take what came in; headers that have begun get their deadline."""
        if self._is_over:
            return
        if data.startswith(TLS_HELLO) and self._awaits_headers and not self.conn.trailing_data[0]:
            self._refuse_tls()
            return
        super().data_received(data)
        if (
            self._awaits_headers
            and self._headers_deadline is None
            and not (self._is_over or self.transport.is_closing())
        ):
            self._await_headers()

    def handle_events(self) -> None:
        """Do what came in; headers that are complete have no deadline any more."""
        super().handle_events()
        if not self._awaits_headers and not self._is_over:
            self._end_headers()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection on to a protocol that has its own deadlines."""
        self._is_over = True
        self._end_headers()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self._idle_since_s = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in the shape of every error; uvicorn has logged `msg`."""
        del msg
        self._refuse(InvalidRequest("This is no valid HTTP request, or its headers are larger than 16 KiB."))

    def pause_writing(self) -> None:
        """Begin the watch: the client has more to take than the socket holds."""
        super().pause_writing()
        self._watch_reply(Allowance(self.limits.reply_timeout))

    def resume_writing(self) -> None:
        """End the watch: it has taken all."""
        self._end_watch()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all watches."""
        self._end_headers()
        self._end_watch()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Close the connection that has been idle for the longest time, if there are too many."""
        if len(self.connections) > self.limits.connections:
            idle = [each for each in self.connections if isinstance(each, TimeoutProtocol) and each.is_idle]
            # At least this one is: where all others are at work, it is the one too many.
            min(idle, key=lambda each: each._idle_since_s).transport.close()

    def _await_headers(self) -> None:
        self._headers_deadline = self.loop.call_later(self.limits.headers_s, self._give_up_headers)

    def _give_up_headers(self) -> None:
        self._headers_deadline = None
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            limit = f"{self.limits.headers_s:g} seconds (WHISPER_HEADER_TIMEOUT_S)"
            self._refuse(UploadStalled(f"The request headers were not complete within {limit}."))
        else:
            self.transport.close()  # nothing came, or what came belongs to a request that was answered

    def _end_headers(self) -> None:
        if self._headers_deadline is not None:
            self._headers_deadline.cancel()
            self._headers_deadline = None

    def _refuse_tls(self) -> None:
        """Say in the log what a client does wrong that can read no answer but in its own protocol."""
        host = self.client[0] if self.client else "?"
        log.warning(
            "%s speaks TLS (https:// or wss://), and this port is plain HTTP: use http:// or ws://", host
        )
        # Plain HTTP, from which TLS libraries tell that the port has none: "wrong version number".
        self._refuse(InvalidRequest("This port is plain HTTP: use http://."), is_logged=False)

    def _refuse(self, error: WhisperServerError, *, is_logged: bool = True) -> None:
        """Answer in the application's place, where no reply has begun, and close the connection."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            reply, request_id = error_reply(error), new_request_id()
            headers = [*reply.headers.items(), ("connection", "close"), ("x-request-id", request_id)]
            if is_logged:
                log.info("id=%s status=%s outcome=%s", request_id, reply.status, type(error).__name__)
            reason = HTTPStatus(reply.status).phrase
            for event in (
                h11.Response(status_code=reply.status, headers=headers, reason=reason),
                h11.Data(data=reply.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if not self._awaits_headers:  # for the application, this is a disconnect
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._is_over = True
        self._end_headers()
        self._headers_deadline = self.loop.call_later(LINGER_S, self.transport.close)
        self.transport.write_eof()
        self.flow.resume_reading()

    def _watch_reply(self, allowance: Allowance) -> None:
        left_bytes = self.transport.get_write_buffer_size()
        began_s = self.loop.time()
        self._reply_watch = self.loop.call_later(
            allowance.left_s, self._look_at_reply, allowance, left_bytes, began_s
        )

    def _look_at_reply(self, allowance: Allowance, left_before_bytes: int, began_s: float) -> None:
        taken_bytes = left_before_bytes - self.transport.get_write_buffer_size()
        allowance.spend(self.loop.time() - began_s, taken_bytes)
        if allowance.is_spent:
            self.transport.abort()
        else:
            self._watch_reply(allowance)

    def _end_watch(self) -> None:
        if self._reply_watch is not None:
            self._reply_watch.cancel()
            self._reply_watch = None

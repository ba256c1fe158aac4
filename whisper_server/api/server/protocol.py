"""Connections, and how long each may do nothing; knows nothing of what requests are about.

Theory of operation. ASGI lets an application wait for its client, but only the owner of the socket can end
the connection, and before the headers of a request are complete there is no application that could.

    fresh --byte--> headers --complete--> request --reply sent--> between --byte--> headers

A fresh connection and its first headers share one deadline, `headers_s`; between two requests `keep_alive_s`
holds (uvicorn's own timer), from the first byte of the next headers on `headers_s` again. What comes after a
reply has been sent although its request is not over counts as headers: it does not end either. For the body
of a request the timeout is the application's (`middleware/upload_timeout.py`). A reply that is not taken is
watched in every state. There are at most `connections` at work and as many altogether, but for `reserved`
ones: one more closes one that has its answer and is only read on, else the one that has been idle for the
longest time. So idle ones do not shut others out; and where all are at work, there is still room for request
headers, of which those of probes are answered and others get a 429.

A client that has ended its side of the connection may wait for its reply, or be gone: both look the same. It
is told that its request is being processed (102) from time to time, which the system of one that is gone
refuses.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from whisper_server.api.asgi import Receive, Scope, Send, is_lingering
from whisper_server.api.health import PROBES
from whisper_server.api.min_rate import LINGER_S, TransferTimeout
from whisper_server.api.server.framing import framing_error
from whisper_server.api.server.refusal import refusal_of
from whisper_server.api.server.reply_watch import ReplyWatch
from whisper_server.api.server.turns import SLICE_BYTES, Turns
from whisper_server.core.config import Settings
from whisper_server.core.errors import (
    InvalidRequest,
    Overloaded,
    UploadStalled,
    WhisperServerError,
)

log = logging.getLogger("whisper_server.requests")

READ_BYTES = 64 * 1024  # of one connection at a time
TLS_HELLO = b"\x16\x03"  # how a TLS client begins: a handshake record, version 3.x (RFC 8446, section 5.1)
MAX_HEADERS = 256
# What chunks may have beside the body: one of six bytes for one byte costs a hundred times as much as that
# byte in one piece. The share is that of chunks of 64 bytes; the rest are some 10,000 small ones.
MAX_FRAMING_BYTES = 64 * 1024
MAX_FRAMING_SHARE = 0.1

# Whether a client that has ended its side is there; each wait twice as long as the one before.
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 10.0
_OLD_CLIENT_S = 1.0  # the same for HTTP/1.0, which has no 102


_PROCESSING = h11.InformationalResponse(status_code=HTTPStatus.PROCESSING, headers=[], reason=b"Processing")
_SMALL_CHUNKS = (
    "The body comes in chunks that are too small: send at least 64 bytes in each on average, or all of it"
    " with a Content-Length."
)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections may do."""

    reply_timeout: TransferTimeout  # for clients that take their reply
    headers_s: float  # from the first byte of a request, or of its connection, to the end of its headers
    keep_alive_s: float
    connections: int
    reserved: int = 0  # beside them, for request headers


def protocol_of(settings: Settings, connections: int, reserved: int) -> type[TimeoutProtocol]:
    """Return the protocol with the operator's limits, as uvicorn wants it: a class."""

    class Limited(TimeoutProtocol):
        turns = Turns()
        limits = ConnectionLimits(
            reply_timeout=TransferTimeout(settings.stall_timeout_s, settings.min_bytes_per_s),
            headers_s=settings.header_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            connections=connections,
            reserved=reserved,
        )

    return Limited


class TimeoutProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, with a timeout for everything that a client may leave undone.

    Of a reply, bytes wait in the socket's buffer; as soon as it is full, `send` waits, and the watch begins.
    A cut wakes `send`, and `receive` reports a disconnect. The watch goes on for connections that are being
    closed, which a client could hold open.
    """

    limits: ClassVar[ConnectionLimits]
    turns: ClassVar[Turns]

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
        self._reply_watch: ReplyWatch | None = None
        self._application = self.app
        self.app = self._answer
        self._unparsed = bytearray()
        self._has_turn = False
        self._n_header_lines = 0
        self._is_chunked = False  # the body of the request under way, or the last one
        self._framing_bytes = self._body_bytes = 0  # of it
        self._is_half_closed = False  # the client has ended its side

    @property
    def is_lingering(self) -> bool:
        """Whether it is over but for the moment in which its client hears why."""
        return self._is_over or (not self._awaits_headers and is_lingering(cast("Scope", self.scope)))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: there is no request, and the last reply has been taken."""
        return self._awaits_headers and not self.flow.write_paused and not self.transport.is_closing()

    @property
    def is_at_work(self) -> bool:
        """Whether a request is under way, or its reply is not taken yet."""
        return not self.is_lingering and (self.flow.write_paused or not self._awaits_headers)

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
        # Once what it has sent is read: a server that was busy accepts hundreds of connections in one round
        # of the loop, and reads of each in the next. Until then a probe among them looks as idle as the rest.
        self.loop.call_soon(self.loop.call_soon, self._make_room)

    def data_received(self, data: bytes) -> None:
        """Take what came in; headers that have begun get their deadline."""
        if self._is_over:
            return
        is_fresh = self._awaits_headers and not self._unparsed and not self.conn.trailing_data[0]
        if is_fresh and data.startswith(TLS_HELLO):
            self._refuse_tls()
            return
        self._unparsed += data
        self._parse()
        if (
            self._awaits_headers
            and self._headers_deadline is None
            and not (self._is_over or self.transport.is_closing())
        ):
            self._await_headers()

    def handle_events(self) -> None:
        """Do what came in; headers that are complete have no deadline any more."""
        last = self.cycle
        super().handle_events()
        if self.cycle is not last:
            self._n_header_lines = self._framing_bytes = self._body_bytes = 0
            self._is_chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        if not self._awaits_headers and not self._is_over:
            self._end_headers()

    def take_turn(self, n_bytes: int) -> bool:
        """Parse some of a body in chunks; return whether there is more of it here."""
        if not self._is_in_chunks or not self._unparsed:  # refused or cut off since
            self._has_turn = False
            return False
        before_bytes = len(self.cycle.body)
        piece = self._take(n_bytes)
        super().data_received(piece)
        if not (self._awaits_headers or self._is_over):  # else what is left of the body is not kept
            body_bytes = len(self.cycle.body) - before_bytes
            self._body_bytes += body_bytes
            self._framing_bytes += len(piece) - body_bytes
            if self._framing_bytes > MAX_FRAMING_BYTES + MAX_FRAMING_SHARE * self._body_bytes:
                self._refuse(InvalidRequest(_SMALL_CHUNKS))
        if self._is_in_chunks and self._unparsed:
            return True
        self._has_turn = False
        self._parse()
        return False

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as asyncio has it
        """Keep the connection of a client that may wait for its reply; others are gone."""
        if self._is_half_closed:
            return True
        if self._is_over or self._awaits_headers or self.cycle.more_body or self.cycle.response_started:
            return None
        self._is_half_closed = True
        self._look_for_client(_FIRST_LOOK_S)
        return True

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection on to a protocol that has its own deadlines."""
        self._is_over = True
        self._end_headers()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self._idle_since_s = self.loop.time()
        super().on_response_complete()
        self._parse()
        if self._is_half_closed:
            if self._awaits_headers:
                self.transport.close()
            else:
                self._look_for_client(_FIRST_LOOK_S)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in the shape of every error; uvicorn has logged `msg`."""
        del msg
        self._refuse(InvalidRequest("This is no valid HTTP request, or its headers are larger than 16 KiB."))

    def pause_writing(self) -> None:
        """Begin the watch: the client has more to take than the socket holds."""
        super().pause_writing()
        self._reply_watch = ReplyWatch(self.loop, self.transport, self.limits.reply_timeout)

    def resume_writing(self) -> None:
        """End the watch: it has taken all."""
        self._end_watch()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all watches."""
        self._unparsed.clear()
        self._end_headers()
        self._end_watch()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    @property
    def _is_in_chunks(self) -> bool:
        return self._is_chunked and self.conn.their_state is h11.SEND_BODY and not self._is_over

    def _parse(self) -> None:
        """Parse what is there, but not what has to wait for its turn, or for the reply before it."""
        while self._unparsed and not self._is_over and not self.transport.is_closing():
            if self._is_in_chunks:
                self.transport.pause_reading()
                if not self._has_turn:
                    self._has_turn = True
                    self.turns.add(self, self.loop)
                return
            if self.conn.their_state is h11.DONE and not self._awaits_headers:
                self.transport.pause_reading()
                return
            if self.conn.their_state is h11.IDLE:
                piece = self._take(SLICE_BYTES)
                self._n_header_lines += piece.count(b"\n")
            else:
                piece = self._take(SLICE_BYTES if self._awaits_headers else len(self._unparsed))
            super().data_received(piece)
            if self.conn.their_state is h11.IDLE and self._n_header_lines > MAX_HEADERS and not self._is_over:
                self._refuse(InvalidRequest(f"The request has more than {MAX_HEADERS} headers."))
        if not self.flow.read_paused:
            self.transport.resume_reading()

    def _take(self, n_bytes: int) -> bytes:
        piece = bytes(self._unparsed[:n_bytes])
        del self._unparsed[:n_bytes]
        return piece

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the application, where nothing speaks against the request."""
        error = framing_error(scope) or self._crowd_error(scope)
        if error is None:
            await self._application(scope, receive, send)
        else:
            self._refuse(error)

    def _crowd_error(self, scope: Scope) -> Overloaded | None:
        """Return what is said to a request that came in where all connections are at work, this one apart."""
        limit = self.limits.connections
        if len(self.connections) <= limit or scope["path"] in PROBES:
            return None
        n_at_work = sum(not isinstance(each, TimeoutProtocol) or each.is_at_work for each in self.connections)
        if n_at_work <= limit:
            return None
        return Overloaded(f"The server is busy: {limit} connections are at work (WHISPER_MAX_CONNECTIONS).")

    def _make_room(self) -> None:
        """Close a connection if there are too many: one that is over, or has been idle the longest."""
        limits = self.limits
        if len(self.connections) <= limits.connections:
            return
        idle, lingering = self._idle_and_lingering()
        if lingering:
            min(lingering, key=lambda each: each._idle_since_s).transport.abort()
        elif len(idle) > max(limits.reserved, limits.connections - (len(self.connections) - len(idle))):
            min(idle, key=lambda each: each._idle_since_s).transport.close()

    def _idle_and_lingering(self) -> tuple[list[TimeoutProtocol], list[TimeoutProtocol]]:
        ours = [each for each in self.connections if isinstance(each, TimeoutProtocol)]
        lingering = [each for each in ours if each.is_lingering]
        return [each for each in ours if each.is_idle and not each._is_over], lingering

    def _look_for_client(self, wait_s: float) -> None:
        """Say that the request is being processed: a client that is gone resets the connection."""
        if self.transport.is_closing() or self._awaits_headers or self.cycle.response_started:
            return  # the reply will tell
        if self.scope["http_version"] == "1.0":
            self.loop.call_later(_OLD_CLIENT_S, self._give_up_old_client, self.cycle)
            return
        self.transport.write(self.conn.send(_PROCESSING) or b"")
        self.loop.call_later(wait_s, self._look_for_client, min(2 * wait_s, _LAST_LOOK_S))

    def _give_up_old_client(self, cycle: RequestResponseCycle) -> None:
        if not cycle.response_started:
            self.transport.close()

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
            refusal = refusal_of(error, is_logged=is_logged)
            for event in (
                h11.Response(status_code=refusal.status, headers=refusal.headers, reason=refusal.reason),
                h11.Data(data=refusal.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if not self._awaits_headers:  # for the application, this is a disconnect
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._is_over = True
        self._unparsed.clear()
        self._end_headers()
        self._headers_deadline = self.loop.call_later(LINGER_S, self.transport.close)
        self.transport.write_eof()
        self.flow.resume_reading()
        self.transport.resume_reading()  # it may have waited for its turn

    def _end_watch(self) -> None:
        if self._reply_watch is not None:
            self._reply_watch.end()
            self._reply_watch = None

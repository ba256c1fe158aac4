"""WebSocket connections, what is held of events that come in, and how long a client may leave unread what it
was sent; knows nothing of events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from whisper_server.api.asgi import Arriving, Message
from whisper_server.api.min_rate import TransferTimeout
from whisper_server.api.server.refusal import refusal_of
from whisper_server.api.server.reply_watch import ReplyWatch
from whisper_server.api.server.turns import Turns
from whisper_server.core.errors import InvalidRequest, Overloaded

if TYPE_CHECKING:
    from websockets.frames import Frame
    from websockets.http11 import Request

    from whisper_server.core.config import Settings

TRY_AGAIN_LATER = 1013  # registered with IANA


def live_protocol_of(settings: Settings) -> type[LiveProtocol]:
    """Return the protocol with the operator's limits, as uvicorn wants it: a class."""

    class Limited(LiveProtocol):
        turns = Turns()
        reply_timeout = TransferTimeout(settings.stall_timeout_s, settings.min_bytes_per_s)

    return Limited


class LiveProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket, which ends connections whose client takes too little, or asks for what is none.

    A closed transport waits until its client has taken the rest: for ever, where that reads nothing. A
    handshake that the library cannot read (it takes fewer and shorter headers than requests have, and no
    body) gets no answer from it, and the connection no end.

    What is held of events that the application has not done with is counted, from their first byte on. The
    fragments of one are joined as they come: a client may send any number of empty ones.

    A frame of seven bytes takes the parser as long as one of kilobytes, so what comes in has its turn at the
    event loop (`turns`), and the connection is not read from meanwhile.
    """

    turns: ClassVar[Turns]
    reply_timeout: TransferTimeout
    _reply_watch: ReplyWatch | None = None
    _arriving: Arriving | None = None
    _waiting_bytes = 0  # of events that are complete, with the one that the application is at
    _taken_bytes = 0  # of that one

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._unparsed = bytearray()  # waits for its turn
        self._has_turn = False
        self._event = bytearray()  # what is there of one in fragments
        self._sizes: deque[int] = deque()  # of events that are complete and not taken, bytes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Watch whatever the system does not take at once."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        """Take what came in: a handshake at once, and what comes behind it in turn."""
        if self._arriving is None:
            self._parse(data)
            return
        self._unparsed += data
        self.transport.pause_reading()
        if not self._has_turn:
            self._has_turn = True
            self.turns.add(self, self.loop)

    def take_turn(self, n_bytes: int) -> bool:
        """Parse so many bytes; return whether there are more."""
        piece = bytes(self._unparsed[:n_bytes])
        del self._unparsed[:n_bytes]
        if piece:
            self._parse(piece)
        if self._unparsed and not self.transport.is_closing():
            return True
        self._has_turn = False
        if not self.read_paused:  # by events that the application has not taken
            self.transport.resume_reading()
        return False

    def handle_connect(self, event: Request) -> None:
        """Begin a session, or say what speaks against it."""
        if self.conn.accept(event).status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)
            self._arriving = Arriving(self.scope)  # type: ignore[arg-type]
        else:
            self._refuse(self.conn.handshake_exc)

    def handle_text(self, event: Frame) -> None:
        """Take an event, or the beginning of one."""
        self._begin(event, "text")

    def handle_bytes(self, event: Frame) -> None:
        """Take an event, or the beginning of one."""
        self._begin(event, "bytes")

    def handle_cont(self, event: Frame) -> None:
        """Take another fragment."""
        self._event += event.data
        if event.fin:
            whole, self._event = self._event, bytearray()
            self._pass_on(whole)

    async def receive(self) -> Any:
        """Return the next event; the application has done with the one before."""
        self._waiting_bytes -= self._taken_bytes
        self._taken_bytes = 0
        self._count()
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._taken_bytes = self._sizes.popleft()
        return message

    async def send(self, message: Message) -> None:  # type: ignore[override]  # uvicorn's are of one type each
        """Send what the application says; a refusal ends the handshake as well as an acceptance does.

        Raises:
            ClientDisconnected: the connection was ended here, and not by the application: its client has not
                answered for long, or has sent what is no frame. To uvicorn that is a bug of the application.
        """
        if self.close_sent and self.transport.is_closing():
            raise ClientDisconnected
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
        """End the watch: the client is gone, and what it has begun to send is forgotten.

        The library's circles of references would keep that until the collector comes by.
        """
        self._end_watch()
        self._forget()
        super().connection_lost(exc)

    def _parse(self, data: bytes) -> None:
        """Parse what came in; refuse a handshake that cannot be read."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse(self.conn.handshake_exc.__cause__ or self.conn.handshake_exc)
        try:
            self._count()
        except Overloaded:
            self._forget()
            self.conn.fail(TRY_AGAIN_LATER, "overloaded")
            self.handle_parser_exception()

    def _begin(self, frame: Frame, kind: Literal["text", "bytes"]) -> None:
        self.curr_msg_data_type = kind
        if frame.fin:
            self._pass_on(frame.data)
        else:
            self._event = bytearray(frame.data)

    def _pass_on(self, event: bytes | bytearray | memoryview) -> None:
        """Let the application have an event; uvicorn has it in one of two places."""
        if not self.close_sent:
            self._sizes.append(len(event))
            self._waiting_bytes += len(event)
        self.frames, self.bytes = [event], event  # type: ignore[list-item]
        self.send_receive_event_to_app()
        self.frames, self.bytes = [], b""

    def _forget(self) -> None:
        self._event, self._unparsed = bytearray(), bytearray()
        del self.conn.reader.buffer[:]

    def _count(self) -> None:
        if self._arriving is not None:
            begun = len(self._unparsed) + len(self.conn.reader.buffer) + len(self._event)
            self._arriving.tell(begun + self._waiting_bytes)

    def _refuse(self, reason: BaseException | None) -> None:
        """Answer in the shape of every error, and close the connection."""
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        refusal = refusal_of(InvalidRequest(f"This is no valid WebSocket handshake: {reason}."))
        lines = [
            f"HTTP/1.1 {refusal.status} {refusal.reason}",
            *(f"{name}: {value}" for name, value in refusal.headers),
        ]
        self.transport.write("".join(f"{line}\r\n" for line in (*lines, "")).encode() + refusal.body)
        self.transport.close()

    def _end_watch(self) -> None:
        if self._reply_watch is not None:
            self._reply_watch.end()
            self._reply_watch = None

"""Frames of WebSockets take turns at the event loop; on transports of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from tests.integration.test_handshakes import GOOD, handshake
from tests.support.connections import Transport
from whisper_server.api.server.live_protocol import LiveProtocol, live_protocol_of
from whisper_server.core.config import Settings

TINY = b"\x00\x81\x00\x00\x00\x00a"  # a fragment of one byte, masked with zeros
BEGUN = b"\x01\x81\x00\x00\x00\x00a"


class Sessions:
    """WebSockets that are accepted, and what they said."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._protocol = live_protocol_of(Settings(_env_file=None))
        self._state = ServerState()
        self._config = uvicorn.Config(
            self._app, ws="none", lifespan="off", interface="asgi3", log_config=None, ws_max_size=1 << 20
        )

    async def _app(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.heard.append(message["text"])

    async def open(self) -> tuple[LiveProtocol, Transport]:
        protocol, transport = self._protocol(self._config, self._state, {}), Transport()
        protocol.connection_made(transport)
        protocol.data_received(handshake(GOOD))
        for _ in range(5):
            await asyncio.sleep(0)
        assert transport.written.startswith(b"HTTP/1.1 101 ")
        return protocol, transport

    async def hear(self, n_events: int) -> None:
        """Let rounds of the loop pass until there are so many."""
        for _ in range(10_000):
            if len(self.heard) >= n_events:
                return
            await asyncio.sleep(0)
        raise AssertionError(self.heard)

    def end(self) -> None:
        """Lose all connections."""
        for protocol in list(self._state.connections):
            protocol.connection_lost(ConnectionResetError())  # type: ignore[arg-type]


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    made = Sessions()
    yield made
    made.end()


async def test_small_fragments_of_many_sessions_leave_the_loop_to_others(sessions: Sessions) -> None:
    """However many there are: a round of the loop parses few of them."""
    hogs = [await sessions.open() for _ in range(20)]
    for hog, transport in hogs:
        hog.data_received(BEGUN + TINY * 9_000)
        assert transport.is_paused
    parsed = []
    for _ in range(5):
        before = sum(len(hog._event) for hog, _ in hogs)
        await asyncio.sleep(0)
        parsed.append(sum(len(hog._event) for hog, _ in hogs) - before)
    assert 0 < max(parsed) < 20 * 9_000 / 10
    other, transport = await sessions.open()
    other.data_received(b"\x81\x82\x00\x00\x00\x00ok")
    await sessions.hear(1)
    assert sum(len(hog._event) for hog, _ in hogs) < 20 * 9_000 / 2


async def test_what_was_sent_is_heard_in_order(sessions: Sessions) -> None:
    """In pieces of any size, and each session's connection is read from again afterwards."""
    said = [f"{number} " + "x" * (number * 37) for number in range(100)]
    frames = b"".join(b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text.encode() for text in said)
    protocol, transport = await sessions.open()
    for place in range(0, len(frames), 777):
        protocol.data_received(frames[place : place + 777])
    await sessions.hear(len(said))
    assert sessions.heard == said
    for _ in range(5):
        await asyncio.sleep(0)
    assert not transport.is_paused


async def test_a_session_that_is_lost_has_no_turn(sessions: Sessions) -> None:
    protocol, _ = await sessions.open()
    protocol.data_received(BEGUN + TINY * 9_000)
    protocol.connection_lost(ConnectionResetError())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not protocol.turns._waiting
    assert not protocol._unparsed


@pytest.mark.parametrize("end", ["silence", "no frame"])
async def test_what_is_said_after_the_end_is_a_disconnect(sessions: Sessions, end: str) -> None:
    """A client that was given up is no bug of the application, which may be about to say something."""
    protocol, _ = await sessions.open()
    if end == "silence":
        protocol.keepalive_timeout()
    else:
        protocol.data_received(b"\xf1\x80\x00\x00\x00\x00")
        await asyncio.sleep(0)
    for message in ({"type": "websocket.send", "text": "a"}, {"type": "websocket.close"}):
        with pytest.raises(ClientDisconnected):
            await protocol.send(message)

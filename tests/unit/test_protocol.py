"""The watch over clients that read slowly, on a clock and a transport of the test's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from whisper_server.api.protocol import STALL_S, PatientProtocol


class Transport(asyncio.Transport):
    """A connection whose client takes what the test says."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.left_bytes = 0
        self.high: int | None = None
        self.is_aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.left_bytes

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        """Nothing is open."""


class Clock:
    """A loop's timers, rung by hand."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Any]] = []

    def call_later(self, delay_s: float, callback: Any, *args: Any) -> Any:
        timer = (delay_s, lambda: callback(*args))
        self.timers.append(timer)
        timers = self.timers

        class Handle:
            def cancel(self) -> None:
                if timer in timers:
                    timers.remove(timer)

        return Handle()

    def ring(self) -> None:
        delay_s, callback = self.timers.pop()
        assert delay_s == STALL_S
        callback()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def protocol(clock: Clock, transport: Transport) -> PatientProtocol:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    config = uvicorn.Config(app, http=PatientProtocol, ws="none", lifespan="off", log_config=None)
    made: Any = PatientProtocol(config, ServerState(), {}, clock)  # type: ignore[arg-type]
    made.connection_made(transport)
    return made


def test_the_watch_begins_when_the_socket_is_full(
    protocol: PatientProtocol, transport: Transport, clock: Clock
) -> None:
    assert transport.high == 0
    assert clock.timers == []
    transport.left_bytes = 100
    protocol.pause_writing()
    for left_bytes in (99, 50, 1):
        transport.left_bytes = left_bytes
        clock.ring()
        assert not transport.is_aborted
    clock.ring()  # not a byte since
    assert transport.is_aborted
    assert clock.timers == []


def test_the_watch_ends_with_what_there_is_to_take(
    protocol: PatientProtocol, transport: Transport, clock: Clock
) -> None:
    protocol.pause_writing()
    protocol.resume_writing()
    assert clock.timers == []
    protocol.pause_writing()
    protocol.connection_lost(None)
    assert clock.timers == []
    assert not transport.is_aborted

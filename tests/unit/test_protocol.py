"""The deadlines of connections, on a clock and transports of the test's own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from whisper_server.api.allowance import Patience
from whisper_server.api.protocol import LINGER_S, Limits, PatientProtocol

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Limited(PatientProtocol):
    limits = Limits(Patience(stall_s=60, min_bytes_per_s=1000), head_s=20, keep_alive_s=75, connections=3)


class Transport(asyncio.Transport):
    """A connection whose client takes what the test says."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.left_bytes = 0
        self.high: int | None = None
        self.is_aborted = False
        self.is_closed = False
        self.is_ended = False
        self.written = b""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.left_bytes

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        """Nothing comes but what the test sends."""

    def resume_reading(self) -> None:
        """See above."""

    def write_eof(self) -> None:
        self.is_ended = True

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted


class Clock:
    """A loop's clock, moved by hand; tasks run on the real loop."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now_s

    def create_task(self, work: Any, **options: Any) -> Any:
        return asyncio.get_running_loop().create_task(work, **options)

    def call_later(self, delay_s: float, callback: Any, *args: Any) -> Any:
        timer = (self.now_s + delay_s, lambda: callback(*args))
        self.timers.append(timer)
        timers = self.timers

        class Handle:
            def cancel(self) -> None:
                if timer in timers:
                    timers.remove(timer)

        return Handle()

    def move_to(self, now_s: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= now_s]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now_s = first[0]
            first[1]()
        self.now_s = now_s


class House:
    """A server's connections, all to one application."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.state = ServerState()
        self.asked = 0
        self.outcomes: list[Any] = []
        self.may_reply = asyncio.Event()
        self.may_reply.set()
        self._config = uvicorn.Config(
            self._app, http=Limited, ws="none", lifespan="off", interface="asgi3", log_config=None
        )

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        if not self.may_reply.is_set():
            self.outcomes.append((await receive())["type"])
        await self.may_reply.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def connect(self) -> tuple[Limited, Transport]:
        loop: Any = self.clock
        protocol, transport = Limited(self._config, self.state, {}, loop), Transport()
        protocol.connection_made(transport)
        return protocol, transport

    async def settle(self) -> None:
        """Let requests come to where they wait."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def house() -> House:
    return House()


@pytest.fixture
def clock(house: House) -> Clock:
    return house.clock


def status_of(transport: Transport) -> int:
    assert transport.written.startswith(b"HTTP/1.1 ")
    return int(transport.written.split()[1])


def check_refused(clock: Clock, protocol: Limited, transport: Transport) -> None:
    """No more is written, what comes is forgotten, and soon it is over."""
    assert transport.is_ended
    assert not transport.is_closed
    written = transport.written
    protocol.data_received(b"and more")
    clock.move_to(clock.now_s + LINGER_S)
    assert transport.is_closed
    assert transport.written == written
    assert clock.timers == []


def error_of(transport: Transport) -> dict[str, Any]:
    top, _, body = transport.written.partition(b"\r\n\r\n")
    assert b"connection: close" in top.lower()
    assert b"content-type: application/json" in top.lower()
    error: dict[str, Any] = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    return error


# --- heads ------------------------------------------------------------------------------------------


async def test_a_connection_that_sends_nothing_is_closed_without_a_word(house: House, clock: Clock) -> None:
    _, transport = house.connect()
    clock.move_to(19.9)
    assert not transport.is_closed
    clock.move_to(20)
    assert transport.is_closed
    assert transport.written == b""
    assert clock.timers == []


async def test_a_head_that_trickles_in_has_one_deadline(house: House, clock: Clock) -> None:
    protocol, transport = house.connect()
    for second in range(1, 20):
        clock.move_to(second)
        protocol.data_received(GET[second - 1 : second])
    assert not transport.is_closed
    clock.move_to(20)
    assert status_of(transport) == 408
    assert "20 seconds (WHISPER_HEADER_TIMEOUT_S)" in error_of(transport)["message"]
    assert house.asked == 0
    check_refused(clock, protocol, transport)


async def test_a_request_ends_the_deadline_and_the_next_one_gets_its_own(house: House, clock: Clock) -> None:
    protocol, transport = house.connect()
    clock.move_to(19)
    protocol.data_received(GET)
    await house.settle()
    assert status_of(transport) == 204
    clock.move_to(90)  # 71 s between two requests
    protocol.data_received(GET[:5])
    clock.move_to(109)
    assert not transport.is_closed
    protocol.data_received(GET[5:])
    await house.settle()
    assert house.asked == 2
    clock.move_to(183)
    assert not transport.is_closed
    clock.move_to(184)
    assert transport.is_closed


async def test_a_request_may_take_as_long_as_it_needs(house: House, clock: Clock) -> None:
    house.may_reply.clear()
    protocol, transport = house.connect()
    protocol.data_received(POST)
    await house.settle()
    assert clock.timers == []
    clock.move_to(100_000)
    assert not transport.is_closed
    house.may_reply.set()
    protocol.data_received(bytes(10))
    await house.settle()
    assert status_of(transport) == 204


async def test_a_body_that_goes_on_after_the_reply_has_a_deadline(house: House, clock: Clock) -> None:
    protocol, transport = house.connect()
    protocol.data_received(POST)
    await house.settle()
    assert status_of(transport) == 204
    for second in range(1, 9):
        clock.move_to(second)
        protocol.data_received(b"x")
    clock.move_to(20.9)
    assert not transport.is_closed
    clock.move_to(21)
    assert transport.is_closed
    assert transport.written.count(b"HTTP/1.1") == 1


async def test_requests_that_come_in_one_piece(house: House, clock: Clock) -> None:
    protocol, transport = house.connect()
    protocol.data_received(GET + GET + GET[:9])
    await house.settle()
    assert house.asked == 2
    clock.move_to(75)
    assert transport.is_closed


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\0", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\na: " + bytes(20_000)]
)
async def test_what_is_no_request_gets_an_error_of_the_usual_shape(
    house: House, clock: Clock, junk: bytes
) -> None:
    protocol, transport = house.connect()
    protocol.data_received(junk)
    assert status_of(transport) == 400
    assert "16 KiB" in error_of(transport)["message"]
    assert house.asked == 0
    check_refused(clock, protocol, transport)


async def test_a_body_that_is_no_http_ends_its_request(house: House, clock: Clock) -> None:
    house.may_reply.clear()
    protocol, transport = house.connect()
    protocol.data_received(CHUNKED)
    await house.settle()
    protocol.data_received(b"not a number\r\n")
    await house.settle()
    assert house.outcomes == ["http.disconnect"]
    house.may_reply.set()
    await house.settle()
    assert status_of(transport) == 400
    assert transport.written.count(b"HTTP/1.1") == 1
    check_refused(clock, protocol, transport)


async def test_a_body_that_is_no_http_does_not_disturb_a_reply(house: House, clock: Clock) -> None:
    protocol, transport = house.connect()
    protocol.data_received(CHUNKED)
    await house.settle()
    assert status_of(transport) == 204
    protocol.data_received(b"not a number\r\n")
    assert transport.written.count(b"HTTP/1.1") == 1
    check_refused(clock, protocol, transport)


async def test_a_body_that_is_no_http_breaks_off_a_reply_that_has_begun(house: House, clock: Clock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        house.outcomes.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"rest"})

    protocol, transport = house.connect()
    protocol.app = app
    protocol.data_received(CHUNKED + b"1\r\nx\r\n")
    await house.settle()
    protocol.data_received(b"not a number\r\n")
    await house.settle()
    assert house.outcomes == ["http.disconnect"]
    assert transport.written.endswith(b"part\r\n")
    check_refused(clock, protocol, transport)


async def test_a_websocket_is_not_ours_to_end(house: House, clock: Clock) -> None:
    class WebSockets:
        def __init__(self, **_: Any) -> None:
            """Takes over."""

        def connection_made(self, transport: Transport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert data.startswith(b"GET / HTTP/1.1\r\n")

    protocol, transport = house.connect()
    protocol.ws_protocol_class = WebSockets  # type: ignore[assignment]
    protocol.data_received(GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert isinstance(transport.protocol, WebSockets)
    assert clock.timers == []
    clock.move_to(10_000)
    assert not transport.is_closed


# --- too many ---------------------------------------------------------------------------------------


async def test_one_too_many_closes_the_one_that_has_been_idle_for_longest(house: House, clock: Clock) -> None:
    first, _ = house.connect()
    clock.move_to(0.1)
    _, second = house.connect()
    clock.move_to(0.2)
    third, _ = house.connect()
    clock.move_to(1)
    first.data_received(GET)  # it was there first, but is idle from now on only
    third.data_received(GET[:9])
    await house.settle()
    clock.move_to(2)
    _, fourth = house.connect()
    assert second.is_closed
    assert not fourth.is_closed
    assert [each.is_idle for each in (first, third)] == [True, True]


async def test_nobody_at_work_is_closed_for_one_too_many(house: House) -> None:
    house.may_reply.clear()
    connections = [house.connect() for _ in range(3)]
    for protocol, _ in connections:
        protocol.data_received(POST)
    await house.settle()
    _, late = house.connect()
    assert late.is_closed
    assert not any(transport.is_closed for _, transport in connections)


async def test_who_is_taking_a_reply_is_not_idle(house: House) -> None:
    connections = [house.connect() for _ in range(3)]
    for protocol, transport in connections:
        protocol.data_received(GET)
        await house.settle()
        transport.left_bytes = 1
        protocol.pause_writing()
    _, late = house.connect()
    assert late.is_closed


# --- replies ----------------------------------------------------------------------------------------


async def test_a_reply_that_nobody_takes_is_given_up(house: House, clock: Clock) -> None:
    protocol, transport = house.connect()
    protocol.data_received(GET)
    await house.settle()
    assert transport.high == 0
    transport.left_bytes = 100_000
    protocol.pause_writing()
    clock.move_to(59)
    assert not transport.is_aborted
    clock.move_to(60)
    assert transport.is_aborted


async def test_a_reply_that_is_taken_byte_by_byte_is_given_up(house: House, clock: Clock) -> None:
    protocol, transport = house.connect()
    transport.left_bytes = 10_000_000
    protocol.pause_writing()
    while not transport.is_aborted:
        transport.left_bytes -= 1
        clock.move_to(clock.now_s + 1)
    assert clock.now_s == 61


async def test_a_reply_may_be_taken_slowly(house: House, clock: Clock) -> None:
    protocol, transport = house.connect()
    protocol._end_head()
    transport.left_bytes = 10_000_000
    protocol.pause_writing()
    while transport.left_bytes:
        transport.left_bytes -= 40_000
        clock.move_to(clock.now_s + 40)
    assert not transport.is_aborted
    protocol.resume_writing()
    assert clock.timers == []


async def test_the_end_of_a_connection_ends_every_watch(house: House, clock: Clock) -> None:
    for error in (None, ConnectionResetError()):
        protocol, _ = house.connect()
        protocol.data_received(GET)
        await house.settle()
        protocol.data_received(GET[:1])
        protocol.pause_writing()
        protocol.connection_lost(error)
        assert clock.timers == []
    assert not house.state.connections

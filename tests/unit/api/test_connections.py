"""Too many connections, and replies that are not taken; on a clock and transports of the test's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.connections import GET, POST, Clock, House, Limited, Transport
from whisper_server.api.asgi import mark_lingering


@pytest.fixture
async def house() -> House:
    return House()


@pytest.fixture
def clock(house: House) -> Clock:
    return house.clock


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
    await house.settle()
    assert second.is_closed
    assert not fourth.is_closed
    assert [each.is_idle for each in (first, third)] == [True, True]


async def test_a_busy_connection_is_not_closed_for_one_too_many(house: House) -> None:
    house.may_reply.clear()
    connections = [house.connect() for _ in range(3)]
    for protocol, _ in connections:
        protocol.data_received(POST)
    await house.settle()
    _, late = house.connect()
    await house.settle()
    assert late.is_closed
    assert not any(transport.is_closed for _, transport in connections)


async def test_a_connection_that_takes_a_reply_is_not_idle(house: House) -> None:
    connections = [house.connect() for _ in range(3)]
    for protocol, transport in connections:
        protocol.data_received(GET)
        await house.settle()
        transport.left_bytes = 1
        protocol.pause_writing()
    _, late = house.connect()
    await house.settle()
    assert late.is_closed


async def test_of_many_at_once_each_is_read_before_one_is_closed(house: House) -> None:
    """As after a moment in which the loop did not turn; and the first one is not the newest."""
    connections = [house.connect() for _ in range(20)]
    await asyncio.sleep(0)  # the next round, in which what has come in is read
    for protocol, _ in connections[:3]:
        protocol.data_received(GET)
    await house.settle()
    assert [transport.written[:13] for _, transport in connections[:3]] == [b"HTTP/1.1 204 "] * 3
    assert sum(transport.is_closed for _, transport in connections[3:]) == 17


# --- replies ----------------------------------------------------------------------------------------


async def test_a_reply_that_is_not_taken_is_given_up(house: House, clock: Clock) -> None:
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
    house.may_reply.clear()
    protocol, transport = house.connect()
    protocol.data_received(GET)
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


# --- reserved connections ---------------------------------------------------------------------------


class Crowded(House):
    """Three connections, and two more for request headers."""

    def __init__(self) -> None:
        super().__init__(reserved=2)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            self.asked += 1
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await super()._app(scope, receive, send)

    async def fill(self, n: int = 3) -> list[tuple[Limited, Transport]]:
        self.may_reply.clear()
        busy = [self.connect() for _ in range(n)]
        for protocol, _ in busy:
            protocol.data_received(POST)
        await self.settle()
        return busy


@pytest.mark.parametrize("path", [b"/health", b"/ready"])
async def test_probes_are_answered_while_all_connections_are_at_work(path: bytes) -> None:
    house = Crowded()
    busy = await house.fill()
    protocol, transport = house.connect()
    protocol.data_received(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    await house.settle()
    assert transport.written.startswith(b"HTTP/1.1 204 ")
    assert not any(each.is_closed for _, each in busy)


async def test_other_requests_are_refused_while_all_connections_are_at_work() -> None:
    house = Crowded()
    busy = await house.fill()
    asked = house.asked
    protocol, transport = house.connect()
    protocol.data_received(GET)
    await house.settle()
    assert transport.written.startswith(b"HTTP/1.1 429 ")
    assert b"WHISPER_MAX_CONNECTIONS" in transport.written
    assert b"connection: close" in transport.written.lower()
    assert house.asked == asked
    assert protocol.is_lingering
    assert not any(each.is_closed or each.is_aborted for _, each in busy)


async def test_refused_connections_are_closed_before_all_others() -> None:
    house = Crowded()
    await house.fill()
    refused = []
    for _ in range(2):
        house.clock.move_to(house.clock.now_s + 0.01)
        refused.append(house.connect())
        refused[-1][0].data_received(GET)
    await house.settle()
    assert all(protocol.is_lingering for protocol, _ in refused)
    _, fresh = house.connect()
    await house.settle()
    assert [transport.is_aborted for _, transport in refused] == [True, False]
    assert not fresh.is_closed


async def test_what_an_application_only_reads_on_is_closed_before_all_others() -> None:
    house = Crowded()

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"no", "more_body": True})
        mark_lingering(scope)
        await house.may_reply.wait()

    house.may_reply.clear()
    _, idle_transport = house.connect()
    lingering, transport = house.connect()
    lingering.app = refuse  # type: ignore[assignment]
    lingering.data_received(POST)
    await house.settle()
    assert lingering.is_lingering
    house.connect()
    house.connect()
    await house.settle()
    assert transport.is_aborted
    assert not idle_transport.is_closed


async def test_a_crowd_of_silent_connections_takes_the_reserved_places_of_none() -> None:
    house = Crowded()
    busy = await house.fill()
    silent = []
    for _ in range(20):
        house.clock.move_to(house.clock.now_s + 0.01)
        silent.append(house.connect())
        await house.settle()
    closed = [transport.is_closed for _, transport in silent]
    assert closed == [True] * 18 + [False] * 2
    assert not any(each.is_closed for _, each in busy)

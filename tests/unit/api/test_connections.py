"""Too many connections, and replies that are not taken; on a clock and transports of the test's own."""

from __future__ import annotations

import pytest

from tests.support.connections import GET, POST, Clock, House


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
    assert late.is_closed


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

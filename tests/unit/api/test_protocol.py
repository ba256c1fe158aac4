"""Deadlines for what is, or should become, a request; on a clock and transports of the test's own."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.connections import CHUNKED, GET, POST, Clock, House, Limited, Transport
from whisper_server.api.min_rate import LINGER_S


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
    assert re.search(rb"\r\nx-request-id: req_[0-9a-f]{24}(\r\n|$)", top.lower())
    error: dict[str, Any] = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    return error


# --- headers ----------------------------------------------------------------------------------------


async def test_a_connection_that_sends_nothing_is_closed_without_a_word(house: House, clock: Clock) -> None:
    _, transport = house.connect()
    clock.move_to(19.9)
    assert not transport.is_closed
    clock.move_to(20)
    assert transport.is_closed
    assert transport.written == b""
    assert clock.timers == []


async def test_headers_that_trickle_in_have_one_deadline(house: House, clock: Clock) -> None:
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
    "junk", [b"\x16\x02\x01\x02\0", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\na: " + bytes(20_000)]
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


# --- TLS --------------------------------------------------------------------------------------------

TLS_CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(64)


async def test_a_tls_client_is_named_in_one_line(
    house: House, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    protocol, transport = house.connect()
    protocol.data_received(TLS_CLIENT_HELLO)
    assert status_of(transport) == 400  # what TLS libraries call a "wrong version number"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "speaks TLS" in record.getMessage()
    assert "use http://" in record.getMessage()
    assert "plain HTTP" in error_of(transport)["message"]
    check_refused(clock, protocol, transport)


async def test_bytes_within_a_body_are_no_tls(house: House) -> None:
    protocol, transport = house.connect()
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
    protocol.data_received(TLS_CLIENT_HELLO[:9])
    assert b"plain HTTP" not in transport.written

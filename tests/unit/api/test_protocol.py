"""Deadlines for what is, or should become, a request; on a clock and transports of the test's own."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from tests.support.connections import CHUNKED, GET, POST, Clock, House, Limited, Transport
from whisper_server.api.min_rate import LINGER_S
from whisper_server.api.server.protocol import MAX_HEADERS, READ_BYTES


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
    await house.settle()
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


# --- framing ----------------------------------------------------------------------------------------

POST_LINE = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST_LINE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
        POST_LINE + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + GET,
        POST_LINE + b"transfer-encoding: Chunked\r\ncontent-length: 1000000\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
    ],
)
async def test_two_lengths_of_one_body_are_not_believed(
    house: House, clock: Clock, request_bytes: bytes
) -> None:
    protocol, transport = house.connect()
    protocol.data_received(request_bytes)
    await house.settle()
    assert status_of(transport) == 400
    assert "Transfer-Encoding" in error_of(transport)["message"]
    assert transport.written.count(b"HTTP/1.1 ") == 1
    assert house.asked == 0
    check_refused(clock, protocol, transport)


@pytest.mark.parametrize(
    "line",
    [b"GET / HTTP/9.9", b"GET / HTTP/2.0", b"PRI * HTTP/2.0", b"POST /health HTTP/3.1", b"GET / HTTP/0.9"],
)
async def test_other_versions_of_http(house: House, clock: Clock, line: bytes) -> None:
    protocol, transport = house.connect()
    protocol.data_received(line + b"\r\nHost: x\r\n\r\nSM\r\n\r\n")
    await house.settle()
    assert status_of(transport) == 505
    error_of(transport)
    assert house.asked == 0
    check_refused(clock, protocol, transport)


@pytest.mark.parametrize("version", [b"1.0", b"1.1", b"1.2"])
async def test_versions_that_are_spoken(house: House, version: bytes) -> None:
    protocol, transport = house.connect()
    protocol.data_received(b"GET / HTTP/%b\r\nHost: x\r\n\r\n" % version)
    await house.settle()
    assert status_of(transport) == 204


@pytest.mark.parametrize(("n_headers", "status"), [(250, 204), (MAX_HEADERS + 1500, 400)])
async def test_many_headers(house: House, n_headers: int, status: int) -> None:
    protocol, transport = house.connect()
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * n_headers + b"\r\n"
    for first in range(0, len(head), 5000):
        protocol.data_received(head[first : first + 5000])
    await house.settle()
    assert status_of(transport) == status


async def test_lines_of_a_body_are_no_headers(house: House, clock: Clock) -> None:
    """Neither in a request's own time, nor where its body goes on after the reply."""
    house.may_reply.clear()
    protocol, transport = house.connect()
    body = b"\n" * 100_000
    protocol.data_received(POST_LINE + b"Content-Length: 100000\r\n\r\n" + body[:50_000])
    await house.settle()
    house.may_reply.set()
    await house.settle()
    protocol.data_received(body[50_000:])
    protocol.data_received(GET)
    await house.settle()
    assert transport.written.count(b"HTTP/1.1 204 ") == 2


# --- chunks -----------------------------------------------------------------------------------------


def chunks(n: int, size_bytes: int, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (size_bytes, extension, b"x" * size_bytes) * n


async def fed(house: House, protocol: Limited, data: bytes) -> None:
    """Send as the system does: no more than a connection is read at once, and nothing while it is paused."""
    for first in range(0, len(data), READ_BYTES):
        while protocol.transport.is_paused:  # type: ignore[attr-defined]
            await house.settle()
        protocol.data_received(data[first : first + READ_BYTES])
    await house.settle()


class Reading(House):
    """An application that reads its body."""

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        n_bytes = 0
        while True:
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        self.outcomes.append((message["type"], n_bytes))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "body",
    [chunks(30_000, 1), chunks(30_000, 8), chunks(2_000, 16, b";" + b"e" * 200), chunks(9_000, 30) * 3],
)
async def test_chunks_that_are_mostly_framing_are_refused(clock: Clock, body: bytes) -> None:
    house = Reading()
    protocol, transport = house.connect()
    await fed(house, protocol, CHUNKED + body + b"0\r\n\r\n")
    assert status_of(transport) == 400
    assert "64 bytes" in error_of(transport)["message"]
    assert [outcome for outcome, _ in house.outcomes] == ["http.disconnect"]
    check_refused(house.clock, protocol, transport)


@pytest.mark.parametrize(("n", "size_bytes"), [(10_000, 1), (30_000, 64), (2_000, 1000), (30, 100_000)])
async def test_chunks_of_clients(n: int, size_bytes: int) -> None:
    house = Reading()
    protocol, transport = house.connect()
    await fed(house, protocol, CHUNKED + chunks(n, size_bytes) + b"0\r\n\r\n" + GET)
    while len(house.outcomes) != 2:
        await house.settle()
    assert house.outcomes == [("http.request", n * size_bytes), ("http.request", 0)]
    assert transport.written.count(b"HTTP/1.1 204 ") == 2
    assert not transport.is_paused


async def test_small_chunks_of_many_connections_leave_the_loop_to_others() -> None:
    """However many there are: a round of the loop parses few of them, and the requests of others at once."""
    house = Reading(connections=1000)
    hogs = [house.connect()[0] for _ in range(50)]
    for hog in hogs:
        hog.data_received(CHUNKED + chunks(10_000, 1))
    parsed = []
    for _ in range(5):
        before = sum(len(hog._unparsed) for hog in hogs)
        await asyncio.sleep(0)
        parsed.append(before - sum(len(hog._unparsed) for hog in hogs))
    assert max(parsed) < 50 * 60_000 / 10
    other, transport = house.connect()
    other.data_received(GET)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert status_of(transport) == 204
    for hog in hogs:
        hog.connection_lost(None)
    await house.settle()
    assert not house.protocol_class.turns._waiting


async def test_a_connection_that_is_lost_has_no_turn(house: House) -> None:
    protocol, _ = house.connect()
    protocol.data_received(CHUNKED + chunks(5_000, 1))
    protocol.connection_lost(ConnectionResetError())
    await house.settle()
    assert not house.protocol_class.turns._waiting


# --- a client that ends its side --------------------------------------------------------------------


async def test_a_client_that_ends_its_side_gets_its_reply(house: House, clock: Clock) -> None:
    house.may_reply.clear()
    protocol, transport = house.connect()
    protocol.data_received(GET)
    await house.settle()
    assert protocol.eof_received() is True
    clock.move_to(3600)
    assert not transport.is_closed
    interim = transport.written
    assert set(interim.split(b"\r\n\r\n")) == {b"HTTP/1.1 102 Processing", b""}
    assert interim.count(b"102") < 400
    house.may_reply.set()
    await house.settle()
    assert transport.written.removeprefix(interim).startswith(b"HTTP/1.1 204 ")
    assert transport.is_closed
    clock.move_to(7200)
    assert transport.written.count(b"HTTP/1.1 204 ") == 1


async def test_all_requests_before_the_end_get_their_replies(house: House) -> None:
    protocol, transport = house.connect()
    protocol.data_received(GET + GET + GET)
    assert protocol.eof_received() is True
    await house.settle()
    assert transport.written.count(b"HTTP/1.1 204 ") == 3
    assert transport.is_closed


async def test_an_old_client_that_ends_its_side_gets_a_quick_reply(house: House, clock: Clock) -> None:
    """HTTP/1.0 has no 102, so nothing tells whether it is there; proxies that speak it leave like this."""
    for is_quick in (True, False):
        house.may_reply.clear()
        protocol, transport = house.connect()
        protocol.data_received(b"GET / HTTP/1.0\r\n\r\n")
        await house.settle()
        assert protocol.eof_received() is True
        if is_quick:
            house.may_reply.set()
            await house.settle()
            assert status_of(transport) == 204
        else:
            clock.move_to(clock.now_s + 2)
            assert transport.written == b""
        assert transport.is_closed


@pytest.mark.parametrize("sent", [b"", GET[:9], POST, CHUNKED + b"5\r\nab"])
async def test_a_client_that_ends_within_its_request_is_gone(house: House, sent: bytes) -> None:
    house.may_reply.clear()
    protocol, _ = house.connect()
    protocol.data_received(sent)
    await house.settle()
    assert not protocol.eof_received()

"""WebSocket handshakes that are none, on raw sockets: each has an answer, and no connection stays."""

from __future__ import annotations

import json
import socket

import pytest

from tests.conftest import Server
from tests.support.http_requests import PARTS_OF_AN_ERROR
from tests.support.waiting import HANG_S, wait_until_started

GOOD = (
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
BAD = {
    "a line of more than 8 kB": (*GOOD, "Sec-WebSocket-Extensions: " + "permessage-deflate," * 500 + "x"),
    "more than 128 headers": (*GOOD, *(f"a{number}: b" for number in range(150))),
    "a body": (*GOOD, "Content-Length: 5"),
    "a body in chunks": (*GOOD, "Transfer-Encoding: chunked"),
    "another version": (*GOOD[:-1], "Sec-WebSocket-Version: 99"),
    "no version": GOOD[:-1],
    "a key that is none": (*GOOD[:3], "Sec-WebSocket-Key: x", GOOD[4]),
    "two keys": (*GOOD, GOOD[3]),
    "a protocol that is none": (*GOOD, "Sec-WebSocket-Protocol: a;b"),
}


def handshake(lines: tuple[str, ...], path: str = "/v1/realtime") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


def answered(server: Server, data: bytes) -> bytes:
    """Send, and read until the server closes the connection; one that does not would time out."""
    with socket.create_connection(server.address, timeout=HANG_S) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    return received


@pytest.fixture
def started(server: Server) -> Server:
    wait_until_started(server)
    return server


def test_each_has_an_answer(started: Server) -> None:
    for what, lines in BAD.items():
        head, _, body = answered(started, handshake(lines)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n"), what
        assert b"connection: close" in head.lower()
        assert b"x-request-id: req_" in head
        error = json.loads(body)["error"]
        assert set(error) == PARTS_OF_AN_ERROR
        assert error["message"].startswith("This is no valid WebSocket handshake: "), what
    with socket.create_connection(started.address, timeout=HANG_S) as connection:
        connection.sendall(handshake(GOOD))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 101 ")
    assert started.stop() == 0
    assert sum("status=400 outcome=InvalidRequest" in line for line in started.lines) == len(BAD)
    assert not [line for line in started.lines if " ERROR " in line or "Traceback" in line]


def test_a_refusal_is_no_fault_of_the_application(started: Server) -> None:
    """Uvicorn would say so in the log, for every client that is refused."""
    for path in ("/v1/realtime?model=none", "/nowhere"):
        assert answered(started, handshake(GOOD, path)).startswith(b"HTTP/1.1 404 ")
    assert answered(started, handshake((*GOOD, "Origin: http://elsewhere"))).startswith(b"HTTP/1.1 403 ")
    assert started.stop() == 0
    assert [sum(f"status={code}" in line for line in started.lines) for code in (404, 403)] == [2, 1]
    assert not [line for line in started.lines if " ERROR " in line]

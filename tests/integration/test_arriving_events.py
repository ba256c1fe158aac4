"""What is held of events of live sessions that are not complete: counted, bounded, and given back."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.conftest import Server, StartServer
from tests.integration.test_handshakes import GOOD, handshake
from tests.support.http_requests import read_to_the_end
from tests.support.waiting import HANG_S, wait_until, wait_until_started

MB = 1_000_000
EVENT_BYTES = 20 * MB
TEXT, CONTINUED, CLOSE = 1, 0, 8
TRY_AGAIN_LATER = 1013


def frame(kind: int, data: bytes, *, is_last: bool = True, n_bytes: int | None = None) -> bytes:
    """Return a frame of a client, or its beginning, masked with zeros."""
    length = len(data) if n_bytes is None else n_bytes
    size = bytes([0x80 | length]) if length < 126 else b"\xff" + struct.pack(">Q", length)
    return bytes([0x80 * is_last | kind]) + size + bytes(4) + data


@pytest.fixture
def small(start_server: StartServer) -> Iterator[Server]:
    """A server that has room for 50 MiB of uploads."""
    server = start_server("--queue-mb", "50", "--max-audio-file-size-mb", "1")
    wait_until_started(server)
    yield server
    assert server.stop() == 0
    assert not [line for line in server.lines if " ERROR " in line or "Traceback" in line], server.lines


@pytest.fixture
def sessions() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def session(stack: ExitStack, server: Server) -> socket.socket:
    connection = stack.enter_context(socket.create_connection(server.address, timeout=HANG_S))
    connection.sendall(handshake(GOOD))
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 101 ")
    return connection


def counted(server: Server) -> int:
    lines = httpx.get(f"{server.url}/metrics", timeout=HANG_S).text.splitlines()
    return int(
        float(next(line for line in lines if line.startswith("whisper_queue_upload_bytes ")).split()[1])
    )


def hear(connection: socket.socket, words: bytes) -> None:
    """Wait until the server says so."""
    heard = b""
    while words not in heard:
        part = connection.recv(1 << 16)
        assert part, heard
        heard += part


def test_the_beginning_of_an_event_is_counted(small: Server, sessions: ExitStack) -> None:
    begun = frame(TEXT, b"x" * EVENT_BYTES, n_bytes=EVENT_BYTES + MB)
    first, second = session(sessions, small), session(sessions, small)
    for connection in (first, second):
        connection.sendall(begun)
    wait_until(lambda: counted(small) >= 2 * EVENT_BYTES, "count of both events")
    third = session(sessions, small)
    with suppress(ConnectionError):  # it is closed while it sends
        third.sendall(begun)
    read_to_the_end(third)
    assert counted(small) >= 2 * EVENT_BYTES
    first.close()
    second.close()
    wait_until(lambda: counted(small) == 0, "end of the sessions")
    again = session(sessions, small)
    again.sendall(frame(TEXT, b"[]"))
    hear(again, b"An event is a JSON object")


def test_one_that_is_refused_hears_why(small: Server, sessions: ExitStack) -> None:
    first, second = session(sessions, small), session(sessions, small)
    for connection in (first, second):
        connection.sendall(frame(TEXT, b"x" * EVENT_BYTES, n_bytes=EVENT_BYTES + MB))
    wait_until(lambda: counted(small) >= 2 * EVENT_BYTES, "count of both events")
    third = session(sessions, small)
    left = 50 * (1 << 20) - counted(small)
    third.sendall(frame(TEXT, b"x" * (left + 100), n_bytes=EVENT_BYTES))
    assert struct.pack(">H", TRY_AGAIN_LATER) + b"overloaded" in read_to_the_end(third)


def test_fragments_are_one_event(small: Server, sessions: ExitStack) -> None:
    """Any number of them, of any size: what is held of them is their bytes."""
    connection = session(sessions, small)
    event = json.dumps({"type": "session.update", "session": {}, "event_id": "é😀"}, ensure_ascii=False)
    data = event.encode()
    pieces = [data[place : place + 1] for place in range(len(data))]
    empty = frame(CONTINUED, b"", is_last=False) * 50_000
    connection.sendall(frame(TEXT, pieces[0], is_last=False))
    for piece in pieces[1:]:
        connection.sendall(frame(CONTINUED, piece, is_last=False))
    connection.sendall(empty)
    wait_until(lambda: counted(small) == len(data), "count of the event")
    connection.sendall(frame(CONTINUED, b""))
    hear(connection, b"session.updated")
    connection.sendall(frame(CLOSE, struct.pack(">H", 1000)))
    wait_until(lambda: counted(small) == 0, "end of the session")

"""/health and /ready while clients keep others out, and what ends a server that is stuck."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack

import httpx
import pytest

from tests.conftest import Server, StartServer
from tests.support.http_requests import URL, request_headers

pytestmark = pytest.mark.attack

UPLOAD = request_headers("Content-Type: application/json", "Content-Length: 1000000")
PROBES = 30


def probed(server: Server, n: int = PROBES) -> list[int]:
    """Return the statuses of probes, each on a connection of its own."""
    return [httpx.get(f"{server.url}/health", timeout=30).status_code for _ in range(n)]


def flood(server: Server, data: bytes, is_over: threading.Event) -> None:
    """Open connections as fast as they are accepted, send and leave them open, the last 200 of them."""
    opened: list[socket.socket] = []
    while not is_over.is_set():
        try:
            connection = socket.create_connection(server.address, timeout=30)
            opened.append(connection)
            connection.sendall(data)
        except OSError:
            pass
        while len(opened) > 200:
            opened.pop(0).close()
    for connection in opened:
        connection.close()


@pytest.mark.parametrize(
    "data",
    [UPLOAD, b"", b"GET /he", b"POST /v1/models/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"],
)
def test_probes_are_answered_in_a_flood(start_server: StartServer, data: bytes) -> None:
    server = start_server(
        "--max-connections",
        "64",
        "--queue-requests",
        "32",
        "--stall-timeout-s",
        "600",
        "--header-timeout-s",
        "600",
    )
    httpx.get(f"{server.url}/v1/models", timeout=60)
    is_over = threading.Event()
    with ExitStack() as stack:
        for _ in range(32):  # all slots
            upload = stack.enter_context(socket.create_connection(server.address, timeout=60))
            upload.sendall(UPLOAD)
        floods = [threading.Thread(target=flood, args=(server, data, is_over)) for _ in range(3)]
        for each in floods:
            each.start()
        try:
            assert probed(server) == [200] * PROBES
        finally:
            is_over.set()
            for each in floods:
                each.join()
        httpx.get(f"{server.url}/health")
    assert server.stop() == 0
    assert not any("Traceback" in line for line in server.lines)


def test_probes_are_answered_while_all_connections_are_at_work(start_server: StartServer) -> None:
    """No slot of the queue is needed to be at work: any route with a body will do."""
    server = start_server(
        "--max-connections",
        "64",
        "--queue-requests",
        "8",
        "--stall-timeout-s",
        "600",
        "--header-timeout-s",
        "600",
    )
    httpx.get(f"{server.url}/v1/models", timeout=60)
    download = (
        b"POST /v1/models/whisper-1?stream=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(200):
            each = stack.enter_context(socket.create_connection(server.address, timeout=60))
            each.sendall(UPLOAD.replace(b"application/json", b"text/plain") if _ % 2 else download)
        assert probed(server) == [200] * PROBES
        assert httpx.get(f"{server.url}/ready", timeout=30).status_code in {200, 503}


def test_a_server_that_is_stuck_says_so_and_ends_when_asked(start_server: StartServer) -> None:
    server = start_server(module="tests.support.stuck_server")
    httpx.get(f"{server.url}/v1/models", timeout=60)
    with socket.create_connection(server.address) as connection:
        connection.sendall(f"GET {URL} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: stick\r\n\r\n".encode())
        while not any("has not turned" in line for line in server.lines):
            pass
        assert server.stop() == 1
    (said,) = [line for line in server.lines if "has not turned" in line]
    assert "stuck_server.py" in said

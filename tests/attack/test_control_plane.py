"""/health and /ready while clients keep others out, and what ends a server that is stuck."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.conftest import ROOT, Server, StartServer
from tests.support.http_requests import URL, request_headers
from tests.support.waiting import HANG_S, Probe, wait_until, wait_until_started

pytestmark = pytest.mark.attack

UPLOAD = request_headers("Content-Type: application/json", "Content-Length: 1000000")
PROBES = 30


TRIES = 3  # of a probe before it counts as failed, as Kubernetes and Docker have it


def check_probes(server: Server) -> None:
    """Check that every probe is a 200, each on a connection of its own.

    One whose connection was closed before its request came may ask again: a client that a busy machine stops
    between the two is the one that has been idle for longest.
    """
    with Probe(server) as probe:
        for _ in range(PROBES):
            for left in reversed(range(TRIES)):
                try:
                    assert probe.status() == 200
                    break
                except httpx.TransportError:
                    if not left:
                        raise


@contextmanager
def flood(server: Server, data: bytes) -> Iterator[None]:
    """Let three other processes open connections as fast as they are accepted, while the context is entered.

    Processes, because threads of this one would hold its probes up and not the server.
    """
    command = [sys.executable, "-m", "tests.support.connection_flood", *map(str, server.address), data.hex()]
    with ExitStack() as stack:
        for _ in range(3):
            process = stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            assert process.stdin is not None
            assert process.stdout is not None
            stack.callback(process.stdin.close)  # ends it
            assert process.stdout.readline() == b"begun\n"
        yield


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
    wait_until_started(server)
    with ExitStack() as stack:
        for _ in range(32):  # all slots
            upload = stack.enter_context(socket.create_connection(server.address, timeout=HANG_S))
            upload.sendall(UPLOAD)
        with flood(server, data):
            check_probes(server)
        httpx.get(f"{server.url}/health", timeout=HANG_S)
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
    wait_until_started(server)
    download = (
        b"POST /v1/models/whisper-1?stream=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(200):
            each = stack.enter_context(socket.create_connection(server.address, timeout=HANG_S))
            each.sendall(UPLOAD.replace(b"application/json", b"text/plain") if _ % 2 else download)
        check_probes(server)
        with Probe(server) as probe:
            assert probe.status("/ready") in {200, 503}


def test_a_server_that_is_stuck_says_so_and_ends_when_asked(start_server: StartServer) -> None:
    server = start_server(module="tests.support.stuck_server")
    wait_until_started(server)
    with socket.create_connection(server.address) as connection:
        connection.sendall(f"GET {URL} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: stick\r\n\r\n".encode())
        wait_until(lambda: any("has not turned" in line for line in server.lines), "line of the log about it")
        assert server.stop() == 1
    (said,) = [line for line in server.lines if "has not turned" in line]
    assert "stuck_server.py" in said

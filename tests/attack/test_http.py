"""HTTP that was made to cost much: what it costs a real server, and that others are served meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import psutil
import pytest

from tests.conftest import Sample, Server, StartServer
from tests.support.http_requests import HEARD, URL, form, request_headers
from tests.support.long_audio import speak_for
from tests.support.waiting import HANG_S, Probe, wait_until, wait_until_started

pytestmark = pytest.mark.attack

CHUNKED = request_headers("Content-Type: application/json", "Transfer-Encoding: chunked")


def cpu_s(server: Server) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


def exchanged(server: Server, data: bytes) -> bytes:
    """Send all that is taken, and return what comes back, whatever becomes of the connection."""
    received = b""
    with socket.create_connection(server.address, timeout=HANG_S) as connection:
        try:
            connection.sendall(data)
            while part := connection.recv(1 << 16):
                received += part
        except ConnectionError:
            pass
    return received


@pytest.mark.parametrize("chunk", [b"1\r\nX\r\n", b"1;" + b"e" * 100 + b"\r\nX\r\n", b"000001\r\nX\r\n"])
def test_small_chunks_of_many_connections(server: Server, chunk: bytes) -> None:
    """They cost little, /health answers all the time, and each hears what is wrong."""
    wait_until_started(server)
    before_s = cpu_s(server)
    body = CHUNKED + chunk * (2_000_000 // len(chunk)) + b"0\r\n\r\n"
    with Probe(server) as probe, ThreadPoolExecutor(24) as threads:
        replies = [threads.submit(exchanged, server, body) for _ in range(24)]
        while not all(reply.done() for reply in replies):
            assert probe.status() == 200
    heard = [reply.result() for reply in replies]
    assert all(reply[:13] in {b"", b"HTTP/1.1 400 "} for reply in heard)
    assert sum(reply[:13] == b"HTTP/1.1 400 " for reply in heard) > 12
    # Parsed to the end, 17 MB of the first kind took 17 s; these are 48 MB.
    used_s = cpu_s(server) - before_s
    print(f"{used_s:.1f} s of the processor")
    assert used_s < 24


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 3_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a:\r\n" * 100_000,
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b" " * 1_000_000,
        b"GET /" + b"%" * 1_000_000,
        b"\r\n" * 500_000,
        b"\n" * 1_000_000,
    ],
)
def test_headers_of_many_connections(server: Server, head: bytes) -> None:
    wait_until_started(server)
    before_s = cpu_s(server)
    with ThreadPoolExecutor(48) as threads:
        replies = [threads.submit(exchanged, server, head) for _ in range(48)]
        assert httpx.get(f"{server.url}/health", timeout=HANG_S).status_code == 200
        statuses = {reply.result().split(b" ")[1:2][0] if reply.result() else b"" for reply in replies}
    assert statuses <= {b"400", b""}
    assert cpu_s(server) - before_s < 6


def ended(server: Server, data: bytes, then: Callable[[socket.socket], None]) -> bytes:
    received = b""
    with socket.create_connection(server.address, timeout=HANG_S) as connection:
        connection.sendall(data)
        then(connection)
        while part := connection.recv(1 << 16):
            received += part
    return received


def test_a_client_that_ends_its_side_gets_its_transcript(server: Server, speech: Sample) -> None:
    """As `nc -N` does: the reply, and before it at most a word that the request is being processed."""
    request = httpx.Request("POST", f"{server.url}{URL}", **form(speech.data))
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    data = f"POST {URL} HTTP/1.1\r\n{head}\r\n".encode() + request.read()
    reply = ended(server, data, lambda connection: connection.shutdown(socket.SHUT_WR))
    last = reply[reply.rindex(b"HTTP/1.1 ") :]
    assert last.startswith(b"HTTP/1.1 200 ")
    assert HEARD.search(last.decode())


def test_a_client_that_leaves_is_noticed_while_others_end_their_side(start_server: StartServer) -> None:
    """Both end the connection in the same way; one of them is there to hear that its request is processed."""
    server = start_server(module="tests.support.gated_server", pipe=-1)
    request = httpx.Request("POST", f"{server.url}{URL}", **form(speak_for(30)))
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    data = f"POST {URL} HTTP/1.1\r\n{head}\r\n".encode() + request.read()

    wait_until_started(server)

    def inside() -> int:
        return int(httpx.get(f"{server.url}/ready", timeout=HANG_S).json()["queue"]["requests"])

    with ExitStack() as stack:
        stays, leaves = (
            stack.enter_context(socket.create_connection(server.address, HANG_S)) for _ in range(2)
        )
        for connection in (stays, leaves):
            connection.sendall(data)
        wait_until(lambda: inside() == 2, "sign of both requests")
        stays.shutdown(socket.SHUT_WR)
        leaves.close()
        wait_until(lambda: inside() == 1, "end of the request whose client has left")
        assert server.process.stdin is not None
        server.process.stdin.close()  # opens the gate
        received = b""
        while part := stays.recv(1 << 16):
            received += part
    assert received[received.rindex(b"HTTP/1.1 ") :].startswith(b"HTTP/1.1 200 ")


def test_the_rest_of_an_ambiguous_request_is_no_request(server: Server) -> None:
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = request_headers("Content-Length: 4", "Transfer-Encoding: chunked")
    for body in (b"0\r\n\r\n" + smuggled, b"5\r\nabcde\r\n0\r\n\r\n" + smuggled):
        reply = exchanged(server, head + body)
        assert reply.count(b"HTTP/1.1 ") == 1
        assert reply.startswith(b"HTTP/1.1 400 ")


def test_nothing_is_left_behind(start_server: StartServer) -> None:
    """After a storm of all kinds of broken requests there are as many threads and connections as before."""
    # What ends those that send no end of line, of a header or of a chunk.
    server = start_server("--header-timeout-s", "2", "--stall-timeout-s", "2")
    wait_until_started(server)
    process = psutil.Process(server.process.pid)
    threads, files = process.num_threads(), process.num_fds()
    kinds = [
        CHUNKED + b"1\r\nX\r\n" * 20_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 1000,
        CHUNKED + b"zz",
    ]
    storm = [threading.Thread(target=exchanged, args=(server, kind)) for kind in kinds * 10]
    for each in storm:
        each.start()
    for each in storm:
        each.join()
    wait_until(lambda: process.num_fds() <= files, "end of the last connections")
    assert process.num_threads() <= threads
    assert not any("Traceback" in line for line in server.lines)

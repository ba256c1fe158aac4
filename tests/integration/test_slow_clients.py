"""Clients that send too slowly or not at all, and clients that do not read what they asked for."""

from __future__ import annotations

import asyncio
import re
import select
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import uvicorn

from tests.conftest import Sample, Server, StartServer
from tests.support.asgi_client import Uploading
from tests.support.http_requests import HEARD, URL, error_in, form, read_to_the_end, upload_begun
from tests.support.in_process import OpenClient
from tests.support.long_audio import speak_for
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.min_rate import TransferTimeout
from whisper_server.api.replies.sse import EventStream
from whisper_server.api.server.protocol import ConnectionLimits, TimeoutProtocol
from whisper_server.services.model_files.downloads import Download

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

# --- in the process ---------------------------------------------------------------------------------


async def test_an_upload_that_stops_frees_its_place(
    open_client: OpenClient, speech: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose network is gone does not hang up."""
    monkeypatch.setattr("whisper_server.api.middleware.body_limit.LINGER_S", 0.05)
    async with open_client(queue_requests=1, stall_timeout_s=0.05) as client:
        for arguments in (form(speech.data), {"json": {"audio": ""}}):
            stopped = Uploading(client.build_request("POST", URL, **arguments))
            stopped.say(b"-")
            await stopped.run(client.app)
            assert stopped.status == 408
            assert stopped.headers[b"connection"] == b"close"
            assert b"WHISPER_STALL_TIMEOUT_S" in stopped.parts[0]
            assert client.app.state.services.admission.state().requests == 0


@pytest.mark.parametrize(
    ("query", "has_begun"), [("", False), ("?stream=true", False), ("?stream=true", True)]
)
async def test_a_body_that_is_not_read_has_a_timeout_too(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, query: str, has_begun: bool
) -> None:
    """A route that only waits for its client to leave, also when its reply is on its way."""
    monkeypatch.setattr("whisper_server.api.middleware.body_limit.LINGER_S", 0.05)
    async with open_client(stall_timeout_s=0.05) as client:
        services = client.app.state.services
        download = Download(services.catalog.resolve("whisper-1"))
        monkeypatch.setattr(services.downloads, "start", lambda _: download)
        if has_begun:
            download.arrived(1, 2)
        silent = Uploading(client.build_request("POST", f"/v1/models/whisper-1{query}", content=b"x"))
        await silent.run(client.app)
        assert silent.status == (200 if has_begun else 408)
        assert b"WHISPER_STALL_TIMEOUT_S" in silent.parts[-1]
        assert silent.is_complete


class Hasty(TimeoutProtocol):
    """Does not wait a minute."""

    limits = ConnectionLimits(
        TransferTimeout(stall_s=0.05, min_bytes_per_s=1000), headers_s=60, keep_alive_s=60, connections=9
    )


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    """Its stream ends, its connection is gone, and no more was made for it than the socket holds."""
    ended: asyncio.Future[type[BaseException]] = asyncio.get_running_loop().create_future()
    made: list[int] = []

    async def frames() -> AsyncGenerator[bytes, None]:
        while True:
            made.append(1 << 20)
            yield b"x" * (1 << 20)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()  # the request, which has no body
        try:
            await EventStream(frames())(scope, receive, send)
        except ClientDisconnected as error:
            ended.set_result(type(error))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=Hasty, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve(sockets=[listening]))
        client = socket.create_connection(listening.getsockname())
        with client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await asyncio.wait_for(ended, 60) is ClientDisconnected
            assert not server.server_state.connections
        server.should_exit = True
        await serving
    assert sum(made) < 64 << 20  # what the two kernels' buffers hold, and one more


# --- a real server and raw sockets ------------------------------------------------------------------

# Not in a test's way: longer than any test takes.
LONG = ("--stall-timeout-s", "600", "--header-timeout-s", "600", "--keep-alive-s", "600")


def connected(server: Server) -> socket.socket:
    return socket.create_connection(server.address, timeout=60)


def trickle(connection: socket.socket, data: Iterator[int]) -> None:
    """Send byte by byte until the server says something or closes the connection."""
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return
        if select.select([connection], [], [], 0.02)[0]:
            return


def forever(byte: int) -> Iterator[int]:
    while True:
        yield byte


def queued(server: Server) -> int:
    """How many requests are inside, from /metrics: /ready is a 503 while all places are taken."""
    found = re.search(r"^whisper_queue_requests (\d+)", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    assert found
    return int(found[1])


def test_an_upload_that_trickles_in_loses_its_place(start_server: StartServer, speech: Sample) -> None:
    """Each byte comes long before the server would stop waiting for the next one."""
    server = start_server("--queue-requests", "1", "--stall-timeout-s", "0.5")
    with upload_begun(server.address, 1 << 20) as upload:
        assert httpx.get(f"{server.url}/ready").status_code == 503
        trickle(upload, forever(ord(" ")))
        assert queued(server) == 0
        assert HEARD.fullmatch(httpx.post(f"{server.url}{URL}", **form(speech.data)).json()["text"])
        status, error = error_in(upload)
        assert status == "HTTP/1.1 408 Request Timeout"
        assert error["type"] == "invalid_request_error"
        assert "1000 bytes per second (WHISPER_MIN_BYTES_PER_S)" in error["message"]


def test_headers_that_trickle_in_are_answered_at_their_deadline(start_server: StartServer) -> None:
    server = start_server("--header-timeout-s", "0.5")
    with connected(server) as slow, connected(server) as idle:
        trickle(slow, iter(GET[:20] + b"x" * 10_000))
        status, error = error_in(slow)
        assert status == "HTTP/1.1 408 Request Timeout"
        assert "0.5 seconds (WHISPER_HEADER_TIMEOUT_S)" in error["message"]
        assert read_to_the_end(idle) == b""
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_connections_between_requests_are_closed(start_server: StartServer) -> None:
    server = start_server(*LONG, "--keep-alive-s", "0.2")
    with connected(server) as connection:
        connection.sendall(GET)
        assert read_to_the_end(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_without_end_after_its_answer(start_server: StartServer) -> None:
    server = start_server(*LONG, "--header-timeout-s", "0.2")
    with connected(server) as connection:
        connection.sendall(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000000\r\n\r\n"))
        reply = b""
        while not reply.endswith(b"}"):
            reply += connection.recv(1 << 16)
        trickle(connection, forever(ord("x")))
        read_to_the_end(connection)


def test_many_idle_connections_do_not_keep_others_out(start_server: StartServer, speech: Sample) -> None:
    """No deadline helps here: those that have been idle for the longest time make room."""
    server = start_server(*LONG, "--max-connections", "8", "--queue-requests", "4")
    with ExitStack() as stack:
        working = stack.enter_context(upload_begun(server.address))
        idle = [stack.enter_context(connected(server)) for _ in range(50)]
        for connection in idle[::2]:
            connection.sendall(GET[:9])
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert HEARD.fullmatch(httpx.post(f"{server.url}{URL}", **form(speech.data)).json()["text"])
        for connection in idle[: 50 - 8]:
            assert read_to_the_end(connection) == b""
        working.sendall(b"{}")
        assert working.recv(1 << 16).startswith(b"HTTP/1.1 400 ")  # it had its place all the time


@pytest.mark.long
def test_a_client_that_does_not_read_its_stream_loses_its_place(start_server: StartServer) -> None:
    server = start_server("--stall-timeout-s", "0.3")
    # Events of several kilobytes: every letter of the keywords, which the fake engine says, has its logprob.
    fields = {"stream": "true", "include[]": "logprobs", "keywords[]": "k" * 200}
    request = httpx.Request("POST", f"{server.url}{URL}", **form(speak_for(300), **fields))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it connects
        client.settimeout(60)
        client.connect(server.address)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        client.sendall(f"POST {URL} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        while queued(server):
            pass
        assert b"transcript.text.done" not in read_to_the_end(client)
    page = httpx.get(f"{server.url}/metrics").text
    assert 'whisper_clients_gone_total{stage="reply"} 1.0' in page

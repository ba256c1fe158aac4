"""The end of a real process while it works: what has begun finishes, what waits is refused."""

from __future__ import annotations

import errno
import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import NANO, Sample, Server, StartServer
from tests.support.gated_server import LIMIT_S, let_through, open_gate, wait_for_batch
from tests.support.http_requests import PARTS_OF_AN_ERROR, URL, b64, error_in, form, upload_begun
from tests.support.long_audio import speak_for

pytestmark = pytest.mark.long

StartGated = Callable[..., Server]


@pytest.fixture
def start_gated(start_server: StartServer) -> StartGated:
    """Start servers with the fake engine whose device waits for `let_through`."""
    return lambda *flags: start_server(*flags, module="tests.support.gated_server", pipe=subprocess.PIPE)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def post(server: Server, data: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}{URL}", timeout=LIMIT_S, **form(data))


def check_refusal(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"].isdecimal()
    assert response.headers["connection"] == "close"
    assert set(response.json()["error"]) == PARTS_OF_AN_ERROR
    assert "shutting down" in response.json()["error"]["message"]


def check_end(server: Server, code: int = 0) -> None:
    assert server.process.wait(timeout=LIMIT_S) == code
    assert not [line for line in server.lines if "Traceback" in line or "Exception" in line]


def terminate(server: Server, watching: httpx.Client) -> None:
    """Send SIGTERM, and return once it has been heard; `watching` keeps its connection."""
    assert watching.get("/health").json()["status"] == "ok"
    server.process.terminate()
    while watching.get("/health").json()["status"] != "stopping":
        assert server.process.poll() is None


@contextmanager
def stream_begun(server: Server, data: bytes) -> Iterator[Iterator[str]]:
    """Open a stream whose first window has been decoded; yield its lines."""
    let_through(server, 1)
    with httpx.stream(
        "POST", f"{server.url}{URL}", timeout=LIMIT_S, **form(data, stream="true", language="en")
    ) as reply:
        assert reply.status_code == 200
        wait_for_batch(server)
        yield reply.iter_lines()


def events_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The rest of a stream of events."""
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_what_runs_finishes_and_what_waits_is_refused(
    start_gated: StartGated, pool: ThreadPoolExecutor, speech: Sample
) -> None:
    server = start_gated()
    running = pool.submit(post, server, speech.data)
    wait_for_batch(server)
    body = json.dumps({"audio": b64(speech.data)}).encode()
    with (
        httpx.Client(base_url=server.url, timeout=LIMIT_S) as one,
        httpx.Client(base_url=server.url, timeout=LIMIT_S) as other,
        upload_begun(server.address, len(body)) as uploading,
        upload_begun(server.address, len(body)) as queued,
    ):
        queued.sendall(body)
        for client in (one, other):
            assert client.get("/ready").status_code == 200
        server.process.terminate()
        # The device is held, so this can only be a refusal; the signal has arrived when it is there.
        status, error = error_in(queued)
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert set(error) == PARTS_OF_AN_ERROR
        health = one.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "stopping")
        check_refusal(one.get("/ready"))
        check_refusal(other.post(URL, **form(speech.data)))
        uploading.sendall(body)
        assert error_in(uploading)[0] == "HTTP/1.1 503 Service Unavailable"
    assert not running.done()
    wait_until_the_port_is_closed(server)
    open_gate(server)
    assert running.result().status_code == 200
    assert "heard" in running.result().json()["text"]
    check_end(server)


def wait_until_the_port_is_closed(server: Server) -> None:
    """Knock until the port is free for a successor."""
    answer = 0
    while answer != errno.ECONNREFUSED:
        with socket.socket() as knocking:
            answer = knocking.connect_ex(server.address)


async def test_a_stream_that_has_begun_says_everything(
    start_gated: StartGated, client: httpx.AsyncClient
) -> None:
    talk = speak_for(240)
    whole = (await client.post(URL, **form(talk))).json()["text"]
    server = start_gated()
    with stream_begun(server, talk) as lines, httpx.Client(base_url=server.url, timeout=LIMIT_S) as watching:
        wait_for_batch(server)  # the next one, of windows that follow
        terminate(server, watching)
        open_gate(server)
        events = events_of(lines)
    assert events[-1]["type"] == "transcript.text.done"
    assert events[-1]["text"] == whole
    check_end(server)


def test_a_real_stream_that_has_begun_says_everything(start_server: StartServer, nano_cache: Path) -> None:
    server = start_server(
        *("--model", str(NANO), "--threads", "1", "--beam-size", "1", "--shutdown-grace-s", "3600"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
    )
    talk = form(speak_for(40), stream="true")
    with httpx.stream("POST", f"{server.url}{URL}", timeout=LIMIT_S, **talk) as reply:
        lines = reply.iter_lines()
        first = next(lines)
        server.process.terminate()
        *deltas, done = events_of([first, *lines])
    assert done["type"] == "transcript.text.done"
    assert "apple people coffee mountain" in done["text"]
    assert "".join(delta["delta"] for delta in deltas) == done["text"]
    check_end(server)


def test_what_cannot_finish_in_time_is_told_so(
    start_gated: StartGated, pool: ThreadPoolExecutor, speech: Sample
) -> None:
    server = start_gated("--shutdown-grace-s", "1")
    running = pool.submit(post, server, speech.data)
    wait_for_batch(server)
    server.process.terminate()  # the device is held for good
    assert running.result().status_code == 503
    assert "shutting down" in running.result().json()["error"]["message"]
    check_end(server)


def test_a_stream_that_cannot_finish_in_time_is_told_so(start_gated: StartGated) -> None:
    server = start_gated("--shutdown-grace-s", "1")
    with stream_begun(server, speak_for(240)) as lines:
        wait_for_batch(server)
        server.process.terminate()
        last = events_of(lines)[-1]
    assert last["type"] == "error"
    assert set(last["error"]) == PARTS_OF_AN_ERROR
    assert "shutting down" in last["error"]["message"]
    check_end(server)


def test_a_second_signal_ends_it(start_gated: StartGated, pool: ThreadPoolExecutor, speech: Sample) -> None:
    server = start_gated()
    running = pool.submit(post, server, speech.data)
    wait_for_batch(server)
    with httpx.Client(base_url=server.url, timeout=LIMIT_S) as watching:
        terminate(server, watching)
    server.process.terminate()
    check_end(server, -signal.SIGTERM)
    assert isinstance(running.exception(), httpx.RemoteProtocolError)

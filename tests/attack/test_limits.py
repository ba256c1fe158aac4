"""Memory that the system refuses, from less than the server needs to begin to a little more than it needs."""

from __future__ import annotations

import base64
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import NANO, Sample, Server, server_command, server_environment
from tests.support.audio_files import large_wav
from tests.support.hostile_media import script_tags
from tests.support.http_requests import URL, error_of, form, request_headers
from tests.support.waiting import HANG_S, wait_until

pytestmark = [
    pytest.mark.attack,
    pytest.mark.skipif(sys.platform != "linux", reason="only there a limit on data counts what is mapped"),
]


N_ANSWERS = 5
GROUPS = (  # of Linux, version 1 and 2: where they are, and what bounds them
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


def post(server: Server, data: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}{URL}", timeout=HANG_S, **form(data))


def answers(server: Server, speech: Sample) -> list[int]:
    """Return the statuses of requests, the first and the last without audio; fewer where the server ends."""
    found: list[int] = []
    with suppress(httpx.TransportError):
        found.append(httpx.get(f"{server.url}/v1/models", timeout=HANG_S).status_code)
        for _ in range(N_ANSWERS - 2):
            found.append(post(server, speech.data).status_code)  # noqa: PERF401  (what there is at an error)
        found.append(httpx.get(f"{server.url}/health", timeout=HANG_S).status_code)
    return found


@contextmanager
def limited_server(folder: Path, prepare: str, *flags: str, **variables: str) -> Iterator[Server]:
    """Start a server from a shell that does something before; its address is "" where it could not begin."""
    command = f"{prepare}; exec {shlex.join(server_command('--port', '0', *flags))}"
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=folder,
        env=server_environment(**variables),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        server = Server(process, "")
        for line in process.stderr:
            server.lines.append(line)
            if line.startswith("listening on "):
                server.url = line.split()[-1]
                break
        reader = threading.Thread(target=lambda: server.lines.extend(process.stderr or ()))
        reader.start()
        try:
            yield server
        finally:
            process.kill()
            reader.join()
    assert not any("outcome=bug" in line for line in server.lines), server.lines


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """Make a group of processes that may have so much memory together; skips where that is not allowed."""
    for home, limit in GROUPS:
        group = home / f"whisper-attack-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
            (group / limit).write_text(str(limit_bytes))
            break
        with suppress(OSError):
            group.rmdir()
    else:
        pytest.skip("needs the right to make control groups with a limit on memory")
    try:
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "end of the processes of the group")
        group.rmdir()


@contextmanager
def nano_server_in_group(folder: Path, cache: Path, limit_bytes: int) -> Iterator[Server]:
    """Start a server with the nano model in a group that may have so much memory."""
    with (
        memory_group(limit_bytes) as group,
        limited_server(
            folder,
            f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))}",
            *("--model", str(NANO), "--threads", "1"),
            WHISPER_ENGINE="ctranslate2",
            WHISPER_CACHE_DIR=str(cache),
        ) as server,
    ):
        yield server


@pytest.mark.parametrize("limit_mb", [150, 200, 250, 300, 350])
def test_it_serves_or_refuses_or_ends(tmp_path: Path, speech: Sample, limit_mb: int) -> None:
    """Never a hang, nor a fault of ours: a 503, a process that has ended, or one that ends when asked."""
    with limited_server(tmp_path, f"ulimit -d {limit_mb * 1000}") as server:
        statuses = answers(server, speech) if server.url else []
        assert set(statuses) <= {200, 503}, statuses
        if len(statuses) == N_ANSWERS and statuses[0] == 200:
            assert statuses[-1] == 200
            server.process.terminate()
            assert server.process.wait(timeout=HANG_S) == 0
        else:  # it could not begin, or a library ended it
            assert server.process.wait(timeout=HANG_S) != 0


def test_the_system_ends_decoders_and_not_the_server(
    tmp_path: Path, nano_cache: Path, speech: Sample
) -> None:
    """In a container whose memory does not hold two hungry files, these are a 503 and others go on."""
    hungry = script_tags(1_200_000)
    with nano_server_in_group(tmp_path, nano_cache, 300_000_000) as server:
        with ThreadPoolExecutor(2) as pool:
            replies = list(pool.map(lambda _: post(server, hungry), range(2)))
        for reply in replies:
            if reply.status_code != 429:  # beside the other there may be no memory for reading it
                assert "for want of memory" in error_of(reply, 503)
        assert any(reply.status_code == 503 for reply in replies)
        reply = post(server, speech.data)
        assert reply.json()["text"] == speech.text
        assert any("decoder process ended" in line for line in server.lines)
        server.process.terminate()
        assert server.process.wait(timeout=HANG_S) == 0


def upload_at_once(server: Server, n: int) -> list[bytes]:
    """Send so many of the largest uploads at once, as JSON, and return the statuses."""
    body = json.dumps({"audio": base64.b64encode(large_wav(25_000_000)).decode()}).encode()
    request = request_headers("Content-Type: application/json", f"Content-Length: {len(body)}") + body
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(server.address, timeout=HANG_S)) for _ in range(n)
        ]
        for connection in connections:
            connection.sendall(request)
        return [connection.recv(13).split()[1] for connection in connections]


@pytest.mark.parametrize(("engine", "limit_mb"), [("fake", 400), ("fake", 450), ("ctranslate2", 500)])
def test_no_memory_for_uploads_is_no_fault_of_the_server(
    tmp_path: Path, nano_cache: Path, speech: Sample, engine: str, limit_mb: int
) -> None:
    """Where uploads do not find room they may come again, and the server goes on."""
    with limited_server(
        tmp_path,
        f"ulimit -d {limit_mb * 1000}",
        *("--model", str(NANO), "--threads", "1"),
        WHISPER_ENGINE=engine,
        WHISPER_CACHE_DIR=str(nano_cache),
    ) as server:
        statuses = upload_at_once(server, 10)
        assert set(statuses) <= {b"200", b"429", b"503"}, statuses
        assert post(server, speech.data).status_code == 200
        server.process.terminate()
        assert server.process.wait(timeout=HANG_S) == 0


def test_uploads_are_fitted_to_the_memory_of_the_container(
    tmp_path: Path, nano_cache: Path, speech: Sample
) -> None:
    """WHISPER_QUEUE_MB allows more than twice what there is, and the system would end the server."""
    with nano_server_in_group(tmp_path, nano_cache, 400_000_000) as server:
        for _ in range(2):
            statuses = upload_at_once(server, 16)
            assert set(statuses) == {b"200", b"429"}, statuses
            assert post(server, speech.data).json()["text"] == speech.text
        server.process.terminate()
        assert server.process.wait(timeout=HANG_S) == 0

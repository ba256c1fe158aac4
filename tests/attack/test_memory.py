"""Memory of a real server while requests wait: what is held is what is counted."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import Server, StartServer
from tests.support.audio_files import CLIP_S, large_wav
from tests.support.frugal_server import KEPT_BYTES
from tests.support.gated_server import open_gate, wait_for_batch
from tests.support.http_requests import request_headers
from tests.support.waiting import HANG_S, wait_until

pytestmark = [pytest.mark.attack, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux")]

SPEECH = Path(__file__).parents[2] / "models" / "nano-whisper" / "samples" / "en-plain-000.flac"
MB = 1_000_000
OTHER_BYTES = 60 * MB  # a decoder's answers, windows, connections
N = 6


def as_json(**fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


CLIP = base64.b64encode(SPEECH.read_bytes()).decode()
BODIES: dict[str, Callable[[], bytes]] = {
    "an ignored text with one emoji": lambda: as_json(audio=CLIP, x="x" * 24_000_000 + "😀"),
    "ignored texts of emoji": lambda: as_json(audio=CLIP, x="😀" * 3_000_000, y=["😀" * 3_000_000]),
    "plain base64": lambda: as_json(audio=base64.b64encode(large_wav(18 * MB)).decode()),
    "base64 with escapes": lambda: as_json(audio=base64.b64encode(large_wav(18 * MB)).decode()).replace(
        b"AA", b"\\u0041A", 100_000
    ),
    "many ignored values": lambda: as_json(audio=CLIP, x=[["a" * 1000] * 9 for _ in range(900)]),
    "a conversation": lambda: as_json(
        audio=CLIP, messages=[{"role": "user", "content": [{"type": "text", "text": "é" * 9_000_000}]}]
    ),
}


def rss(server: Server) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


def begin(stack: ExitStack, server: Server, body: bytes, *lines: str) -> socket.socket:
    connection = stack.enter_context(socket.create_connection(server.address, timeout=HANG_S))
    connection.sendall(request_headers(*lines, f"Content-Length: {len(body)}") + body)
    return connection


def queue(server: Server) -> tuple[int, float]:
    """Return what is counted inside: bytes of uploads, and seconds of audio that were found in them."""
    found = httpx.get(f"{server.url}/metrics", timeout=HANG_S).text

    def of(name: str) -> float:
        return float(next(line for line in found.splitlines() if line.startswith(name + " ")).split()[1])

    return int(of("whisper_queue_upload_bytes")), of("whisper_queue_audio_seconds")


@pytest.mark.parametrize("kind", [*BODIES, "a form"])
@pytest.mark.parametrize("is_frugal", [True, False], ids=["held", "held and kept"])
def test_what_is_held_is_what_is_counted(start_server: StartServer, is_frugal: bool, kind: str) -> None:
    """What the allocator keeps of freed memory, by chance more or less, is measured apart."""
    server = start_server(
        *("--max-audio-file-size-mb", "26"),
        module="tests.support.gated_server",
        pipe=subprocess.PIPE,
        **({"FRUGAL": "1"} if is_frugal else {}),
    )
    with ExitStack() as stack:
        lines = ("Content-Type: application/json",)
        if kind == "a form":
            request = httpx.Request(
                "POST", server.url, files={"file": large_wav(18 * MB), "x": (None, "y" * 60_000)}
            )
            body, lines = request.read(), (f"Content-Type: {request.headers['content-type']}",)
        else:
            body = BODIES[kind]()
        first = begin(stack, server, as_json(audio=CLIP), "Content-Type: application/json")
        wait_for_batch(server)  # everything is imported and started
        before = rss(server)
        held = [begin(stack, server, body, *lines) for _ in range(N)]
        seen = [before]

        def is_read() -> bool:
            seen.append(rss(server))
            return queue(server)[1] > (N + 0.5) * CLIP_S

        for _ in range(5):  # and it stays so
            wait_until(is_read, "state in which all uploads are read")
        counted, peak = queue(server)[0], max(seen)
        kept = 0 if is_frugal else KEPT_BYTES
        print(
            f"{(rss(server) - before) / MB:.0f} MB for {counted / MB:.0f}, {(peak - before) / MB:.0f} before"
        )
        assert rss(server) - before <= 1.5 * counted + OTHER_BYTES + kept
        # While bodies are parsed: those that have come in, twice what two threads work on, and what is made
        # of it.
        assert peak - before <= N * len(body) + 2 * 2.5 * len(body) + OTHER_BYTES + kept
        open_gate(server)
        for connection in (first, *held):
            assert connection.recv(13) == b"HTTP/1.1 200 "

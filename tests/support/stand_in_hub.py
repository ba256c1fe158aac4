"""A stand-in for the model hub on the loopback: slow, broken off, damaged, refusing or silent, as told."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from whisper_server.core.types import ModelSource

ROOT = Path(__file__).parents[2]
NANO = ROOT / "models" / "nano-whisper"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = ModelSource("nano", repo="someone/nano")
NEEDED = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
BLOCK_BYTES = 100_000
NEVER = {"pytorch_model.bin": b"pickle", "README.md": b"hello", "flax_model.msgpack": b"x"}


class Hub(http.server.ThreadingHTTPServer):
    """What huggingface_hub asks for: a listing, and files with ETag, commit and ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {name: (NANO / name).read_bytes() for name in NEEDED} | NEVER
        self.seen: list[tuple[str, str]] = []  # method, file or "listing"
        self.refuse: int | None = None  # status of every answer
        self.error_code = ""  # X-Error-Code
        self.break_after: int | None = None  # bytes of the weights that are sent, then the connection ends
        self.refuse_files_after_break = False
        self.damage = False
        self.knows_ranges = True
        self.ranges: list[str] = []  # asked for
        self.gate: threading.Semaphore | None = None  # each block of the weights waits for one
        self.sent = threading.Semaphore(0)  # blocks of the weights that went out while there is a gate

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloaded(self) -> list[str]:
        return [name for method, name in self.seen if method == "GET" and name != "listing"]

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, data in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
            if name.endswith(".safetensors"):
                sha = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"size": len(data), "sha256": sha, "pointerSize": 134}
            siblings.append(entry)
        return {"id": "someone/nano", "modelId": "someone/nano", "sha": COMMIT, "siblings": siblings}


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        is_listing = parts[:2] == ["api", "models"]
        name = "listing" if is_listing else parts[-1]
        self.server.seen.append((self.command, name))
        if self.server.refuse is not None:
            self.answer(self.server.refuse, b"{}", {"X-Error-Code": self.server.error_code})
        elif is_listing:
            body = json.dumps(self.server.listing()).encode()
            self.answer(200, body, {"Content-Type": "application/json"})
        elif parts[2:4] == ["resolve", COMMIT] and name in self.server.files:
            self.send_file(self.server.files[name], is_weights=name.endswith(".safetensors"))
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def send_file(self, data: bytes, *, is_weights: bool) -> None:
        headers = {"ETag": f'"{blob_id(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = 0
        if (wanted := self.headers.get("Range")) and self.server.knows_ranges:
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if is_weights and self.server.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        body, cut = data[start:], self.server.break_after
        if cut is None or not is_weights or self.command == "HEAD":
            self.answer(206 if start else 200, body, headers, gate=self.server.gate if is_weights else None)
            return
        self.server.break_after = None
        if self.server.refuse_files_after_break:
            self.server.refuse = 500
        self.answer(206 if start else 200, body, headers, send=body[:cut])
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        send: bytes | None = None,
        gate: threading.Semaphore | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        data = body if send is None else send
        if gate is None:
            self.wfile.write(data)
            return
        with contextlib.suppress(OSError):  # the client has left
            for start in range(0, len(data), BLOCK_BYTES):
                gate.acquire()
                self.wfile.write(data[start : start + BLOCK_BYTES])
                self.server.sent.release()


def blob_id(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        if server.gate is not None:
            server.gate.release(1000)  # requests that still wait for it
        server.shutdown()
        thread.join()


@pytest.fixture
def silent_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield

"""Downloads with the real huggingface_hub, from a stand-in for the hub on the loopback."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from whisper_server.core.errors import ModelUnavailable, ShuttingDown
from whisper_server.services import hub
from whisper_server.services.catalog import ModelSource
from whisper_server.services.hub_files import choose

NANO = Path(__file__).parents[2] / "models" / "nano-whisper"
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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> list[str]:
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
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if is_weights and self.server.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        body, cut = data[start:], self.server.break_after
        if cut is None or not is_weights or self.command == "HEAD":
            self.answer(206 if start else 200, body, headers)
            return
        self.server.break_after = None
        if self.server.refuse_files_after_break:
            self.server.refuse = 500
        self.answer(206 if start else 200, body, headers, send=body[:cut])
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, body: bytes, headers: dict[str, str], send: bytes | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if send is None else send)


def blob_id(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def silent_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


def nothing_looks_whole(cache: Path) -> bool:
    return not list(cache.glob("hub/*/*.json"))


def forbid_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_first_use_downloads_what_is_needed(
    stand_in: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "whisper_server")
    progress: list[tuple[int, int]] = []
    folder = hub.fetch(SOURCE, tmp_path, on_progress=lambda done, total: progress.append((done, total)))
    assert {path.name for path in folder.iterdir() if path.is_file()} == NEEDED
    for name in NEEDED:
        assert (folder / name).read_bytes() == stand_in.files[name]
    assert sorted(stand_in.fetched()) == sorted(NEEDED)
    total = sum(len(stand_in.files[name]) for name in NEEDED)
    assert progress[-1] == (total, total)
    assert progress == sorted(progress)
    lines = [record.getMessage() for record in caplog.records if record.name == "whisper_server.services.hub"]
    assert lines[0] == f"downloading someone/nano: 6 files, {total / 1e6:.1f} MB"
    assert "downloading someone/nano: 100 %" in lines
    assert lines[-1].startswith("downloaded someone/nano in ")
    assert capfd.readouterr().err == ""


def test_second_use_opens_no_socket(stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.fetch(SOURCE, tmp_path)
    asked = len(stand_in.seen)
    forbid_sockets(monkeypatch)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetch(SOURCE, tmp_path) == folder
    assert hub.fetch(SOURCE, tmp_path, offline=True) == folder
    assert len(stand_in.seen) == asked


def test_lost_file_is_noticed_and_only_that_is_fetched_again(stand_in: Hub, tmp_path: Path) -> None:
    folder = hub.fetch(SOURCE, tmp_path)
    (folder / "config.json").unlink()
    stand_in.seen.clear()
    with pytest.raises(ModelUnavailable, match="WHISPER_OFFLINE"):
        hub.fetch(SOURCE, tmp_path, offline=True)
    assert hub.fetch(SOURCE, tmp_path) == folder
    assert stand_in.fetched() == ["config.json"]


def test_revision_is_asked_for_and_kept_apart(stand_in: Hub, tmp_path: Path) -> None:
    source = ModelSource("nano", repo="someone/nano", revision="refs/pr/1")
    hub.fetch(source, tmp_path)
    assert [path.name for path in tmp_path.glob("hub/*/*.json")] == ["refs%2Fpr%2F1.json"]
    with pytest.raises(ModelUnavailable):
        hub.fetch(SOURCE, tmp_path, offline=True)


def test_offline_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_sockets(monkeypatch)
    with pytest.raises(ModelUnavailable, match=r"'nano'.*WHISPER_OFFLINE"):
        hub.fetch(SOURCE, tmp_path, offline=True)


def test_unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(ModelUnavailable, match=r"'nano'.*does not answer.*HF_ENDPOINT") as caught:
        hub.fetch(SOURCE, tmp_path)
    assert "secret" not in caught.value.message
    assert nothing_looks_whole(tmp_path)


def test_hanging_hub(silent_port: None, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"'nano'.*does not answer.*Timeout"):
        hub.fetch(SOURCE, tmp_path, timeout_s=0.05)
    assert nothing_looks_whole(tmp_path)


def test_download_that_breaks_off_once_goes_on(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.break_after = 1_000_000
    with contextlib.suppress(ModelUnavailable):  # huggingface_hub before 1.0 does not go on by itself
        hub.fetch(SOURCE, tmp_path)
    folder = hub.fetch(SOURCE, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == stand_in.files["model.safetensors"]


def test_half_a_download_is_not_taken_for_whole(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.break_after = 1_000_000
    stand_in.refuse_files_after_break = True
    with pytest.raises(ModelUnavailable, match="'nano'"):
        hub.fetch(SOURCE, tmp_path)
    assert nothing_looks_whole(tmp_path)
    assert not list(tmp_path.glob("hub/*/*/model.safetensors"))
    with pytest.raises(ModelUnavailable):
        hub.fetch(SOURCE, tmp_path, offline=True)
    stand_in.refuse = None
    folder = hub.fetch(SOURCE, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == stand_in.files["model.safetensors"]


def test_damaged_file_is_thrown_away(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.damage = True
    with pytest.raises(ModelUnavailable, match="damaged"):
        hub.fetch(SOURCE, tmp_path)
    assert nothing_looks_whole(tmp_path)
    assert not list(tmp_path.glob("hub/*/*/model.safetensors"))
    stand_in.damage = False
    folder = hub.fetch(SOURCE, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == stand_in.files["model.safetensors"]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "does not exist or is private"),
        (401, "RepoNotFound", "does not exist or is private"),
        (403, "GatedRepo", "gated.*HF_TOKEN"),
        (404, "RevisionNotFound", "no revision"),
        (500, "", "does not answer properly"),
        (503, "", "does not answer properly"),
    ],
)
def test_refusals_say_what_to_do(stand_in: Hub, tmp_path: Path, status: int, code: str, words: str) -> None:
    stand_in.refuse, stand_in.error_code = status, code
    with pytest.raises(ModelUnavailable, match=f"'nano'.*{words}") as caught:
        hub.fetch(SOURCE, tmp_path)
    assert caught.value.status == 503
    assert "\n" not in caught.value.message


def test_hub_that_talks_nonsense(stand_in: Hub, tmp_path: Path) -> None:
    stand_in.refuse = 200
    with pytest.raises(ModelUnavailable):
        hub.fetch(SOURCE, tmp_path)


def test_repository_with_pickles_only(stand_in: Hub, tmp_path: Path) -> None:
    del stand_in.files["model.safetensors"]
    with pytest.raises(ModelUnavailable, match="pickled ones are never loaded"):
        hub.fetch(SOURCE, tmp_path)
    assert stand_in.fetched() == []


def test_cache_that_cannot_be_written(stand_in: Hub, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ModelUnavailable, match="WHISPER_CACHE_DIR cannot be written"):
        hub.fetch(SOURCE, blocked)


def test_disk_without_room(stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = stand_in.listing()
    listing["siblings"][list(stand_in.files).index("model.safetensors")]["size"] = 1 << 60
    monkeypatch.setattr(stand_in, "listing", lambda: listing)
    with pytest.raises(ModelUnavailable, match="MB in WHISPER_CACHE_DIR"):
        hub.fetch(SOURCE, tmp_path)
    assert stand_in.fetched() == []


def test_progress_may_end_the_download(stand_in: Hub, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise ShuttingDown("The server is shutting down.")

    with pytest.raises(ShuttingDown):
        hub.fetch(SOURCE, tmp_path, on_progress=stop)
    assert nothing_looks_whole(tmp_path)


def test_two_at_once(stand_in: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: hub.fetch(SOURCE, tmp_path), range(2))
    assert first == second
    assert (first / "model.safetensors").read_bytes() == stand_in.files["model.safetensors"]


def test_commit_that_is_a_path_is_refused(
    stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in, "listing", lambda: {"id": "x", "sha": "../../../out", "siblings": []})
    with pytest.raises(ModelUnavailable, match="no commit"):
        hub.fetch(SOURCE, tmp_path)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (  # openai/whisper-large-v3
            "config.json flax_model.msgpack model.fp32-00001-of-00002.safetensors"
            " model.fp32-00002-of-00002.safetensors model.safetensors model.safetensors.index.fp32.json"
            " pytorch_model.bin pytorch_model.fp32-00001-of-00002.bin",
            "config.json model.safetensors",
        ),
        (
            "config.json model.safetensors.index.json model-00001-of-00002.safetensors"
            " model-00002-of-00002.safetensors model.fp16-00001-of-00002.safetensors",
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors"
            " model.safetensors.index.json",
        ),
        (  # Systran/faster-whisper-tiny
            "config.json model.bin tokenizer.json vocabulary.txt README.md",
            "config.json model.bin tokenizer.json vocabulary.txt",
        ),
        ("config.json model.bin tokenizer.json", ""),
        ("config.json pytorch_model.bin", ""),
        ("model.safetensors", ""),
        ("config.json model.safetensors ../config.json sub/tokenizer.json", "config.json model.safetensors"),
    ],
)
def test_choice_of_files(names: str, chosen: str) -> None:
    assert choose(names.split()) == chosen.split()

"""What becomes of converted models: power cuts, rot, kills, and files that vanish under a loaded model."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.attack.conftest import LIMIT_S, check_serves
from tests.conftest import NANO, Sample, Server, StartServer
from tests.support.http_requests import URL, form
from tests.support.model_folders import damage

KINDS = ("zeros", "garbage", "one bit", "header")


def start(start_server: StartServer) -> Server:
    return start_server("--model", str(NANO), "--threads", "1", WHISPER_ENGINE="ctranslate2")


def converted_in(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "cache" / "converted").iterdir()
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_rots(start_server: StartServer, tmp_path: Path, speech: Sample, kind: str) -> None:
    server = start(start_server)
    check_serves(server, speech)
    folder = converted_in(tmp_path)
    for path in sorted(folder.iterdir()):
        damage(path, kind)
        httpx.delete(f"{server.url}/v1/models/nano-whisper", timeout=LIMIT_S)
        check_serves(server, speech)
        assert any("is damaged; it is converted again" in line for line in server.lines), path.name
        server.lines.clear()
    assert server.stop() == 0


def test_files_that_are_cut_under_a_loaded_model(
    start_server: StartServer, tmp_path: Path, speech: Sample
) -> None:
    server = start(start_server)
    check_serves(server, speech)
    for path in converted_in(tmp_path).iterdir():
        os.truncate(path, 0)
    check_serves(server, speech)
    httpx.delete(f"{server.url}/v1/models/nano-whisper", timeout=LIMIT_S)
    check_serves(server, speech)
    assert server.stop() == 0


def test_kills_in_conversions_leave_nothing_for_long(
    start_server: StartServer, tmp_path: Path, speech: Sample
) -> None:
    home = tmp_path / "cache" / "converted"
    for _ in range(3):
        server = start(start_server)
        killer = threading.Thread(target=kill_in_conversion, args=(server, home))
        killer.start()
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{server.url}{URL}", timeout=LIMIT_S, **form(speech.data))
        killer.join()
        server.process.wait()
    server = start(start_server)
    httpx.get(f"{server.url}/ready", timeout=LIMIT_S)
    assert list(home.glob(".tmp-*")) == []
    check_serves(server, speech)
    assert server.stop() == 0


def kill_in_conversion(server: Server, home: Path) -> None:
    """Kill the server as soon as its conversion has begun."""
    deadline = time.monotonic() + LIMIT_S
    while not list(home.glob(".tmp-*/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGKILL)

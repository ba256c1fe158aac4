"""What becomes of converted models: power cuts, rot, kills, and files that vanish under a loaded model."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import httpx
import psutil

from tests.attack.conftest import LIMIT_S, check_serves
from tests.conftest import NANO, Sample, Server, StartServer
from tests.support.http_requests import URL, form
from tests.support.model_folders import damage
from tests.support.waiting import HANG_S, wait_until, wait_until_started

KINDS = ("zeros", "garbage", "one bit", "header")


def start(start_server: StartServer) -> Server:
    return start_server("--model", str(NANO), "--threads", "1", WHISPER_ENGINE="ctranslate2")


def converted_in(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "cache" / "converted").iterdir()
    return folder


def test_every_file_rots(start_server: StartServer, tmp_path: Path, speech: Sample) -> None:
    """One after the other, in one way each; each conversion after it takes a second or two."""
    server = start(start_server)
    check_serves(server, speech)
    folder = converted_in(tmp_path)
    for path, kind in zip(sorted(folder.iterdir()), cycle(KINDS), strict=False):
        damage(path, kind)
        httpx.delete(f"{server.url}/v1/models/nano-whisper", timeout=LIMIT_S)
        check_serves(server, speech)
        assert any("is damaged; it is converted again" in line for line in server.lines), (path.name, kind)
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
    n_left_behind = 0
    for _ in range(30):
        server = start(start_server)
        killer = threading.Thread(target=kill_in_conversion, args=(server, home))
        killer.start()
        # Sometimes the reply is sooner: then this one was not killed in its conversion.
        with suppress(httpx.HTTPError):
            httpx.post(f"{server.url}{URL}", timeout=HANG_S, **form(speech.data))
        killer.join()
        n_left_behind += any(home.glob(".tmp-*"))
        if n_left_behind == 3:
            break
        for converted in home.glob("[!.]*"):
            shutil.rmtree(converted)
    assert n_left_behind == 3
    server = start(start_server)
    wait_until_started(server)
    assert list(home.glob(".tmp-*")) == []
    check_serves(server, speech)
    assert server.stop() == 0


def kill_in_conversion(server: Server, home: Path) -> None:
    """Kill the server as soon as its conversion has begun; wait for the end of the process that converts."""
    wait_until(lambda: any(home.glob(".tmp-*/*")) or any(home.glob("[!.]*/*")), "file of a conversion")
    process = psutil.Process(server.process.pid)
    children = process.children(recursive=True)
    process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(children, timeout=HANG_S)
    assert not alive

"""A machine that is not as it should be: no room, no right to write, no home, names that are not ASCII."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import NANO, ROOT, Sample, servers
from tests.support.http_requests import URL, error_of, form
from tests.support.in_process import MakeSettings, client_of
from tests.support.stand_in_hub import SOURCE, Hub
from whisper_server.core.errors import ModelUnavailable
from whisper_server.core.settings.types import default_cache_dir
from whisper_server.services.model_files.hub.fetch import download_repository
from whisper_server.services.model_files.hub.transfer import part_of

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /sys, /dev/full and limits of processes")
UNAVAILABLE = {"param": "model", "code": "model_unavailable"}


@on_linux
async def test_a_cache_that_cannot_be_written(settings: MakeSettings, speech: Sample) -> None:
    """Nobody may make a folder in /sys, root neither."""
    async with client_of(settings(engine="ctranslate2", model=str(NANO), cache_dir="/sys/whisper")) as client:
        for _ in range(2):
            reply = await client.post(URL, **form(speech.data))
            assert "WHISPER_CACHE_DIR" in error_of(reply, 503, **UNAVAILABLE)
        health = (await client.get("/health")).json()
        assert (health["status"], health["models"]) == ("ok", [])


@pytest.mark.long
@on_linux
def test_a_disk_that_is_full_in_the_middle_of_a_conversion(tmp_path: Path, speech: Sample) -> None:
    """A process that may write no large files gets the same error in the same place; then there is room."""
    with servers(tmp_path) as start:
        server = start(WHISPER_MODEL=str(NANO), WHISPER_ENGINE="ctranslate2")
        process = psutil.Process(server.process.pid)
        unlimited = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        reply = httpx.post(f"{server.url}{URL}", timeout=60, **form(speech.data))
        assert "WHISPER_CACHE_DIR" in error_of(reply, 503, **UNAVAILABLE)
        assert list((tmp_path / "cache" / "converted").iterdir()) == []
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
        process.rlimit(psutil.RLIMIT_FSIZE, unlimited)
        reply = httpx.post(f"{server.url}{URL}", timeout=60, **form(speech.data))
        assert reply.json()["text"] == speech.text
        assert server.stop() == 0


@on_linux
def test_a_disk_that_is_full_in_the_middle_of_a_download(stand_in: Hub, tmp_path: Path) -> None:
    weights = download_repository(SOURCE, tmp_path) / "model.safetensors"
    weights.unlink()
    part_of(weights).symlink_to("/dev/full")
    with pytest.raises(ModelUnavailable, match="the disk of WHISPER_CACHE_DIR is full"):
        download_repository(SOURCE, tmp_path)
    part_of(weights).unlink()
    assert (download_repository(SOURCE, tmp_path) / "model.safetensors").stat().st_size


def test_the_command_line_says_so_in_one_line(tmp_path: Path, speech: Sample) -> None:
    clip, blocked = tmp_path / "clip.flac", tmp_path / "file"
    clip.write_bytes(speech.data)
    blocked.write_text("not a folder")
    done = subprocess.run(
        [sys.executable, str(ROOT / "whisper_server.py"), "--model", str(NANO), str(clip)],
        env={**os.environ, "WHISPER_CACHE_DIR": str(blocked / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert "WHISPER_CACHE_DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the user's folder has another source")
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_uid: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert default_cache_dir().name == "whisper-server"
    assert default_cache_dir().is_absolute()


def test_paths_beyond_ascii_in_a_bare_environment(
    tmp_path: Path, speech: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a desktop app in another language starts it: no home, no locale."""
    for name in ("HOME", "XDG_CACHE_HOME", "LANG", "PYTHONUTF8"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "zwölf Töne 音 🎵"
    shutil.copytree(NANO, folder / "Modell ü", ignore=shutil.ignore_patterns("samples"))
    with servers(folder) as start:
        server = start("--model", str(folder / "Modell ü"), WHISPER_ENGINE="ctranslate2", LC_ALL="C")
        reply = httpx.post(f"{server.url}{URL}", timeout=60, **form(speech.data))
        assert reply.json()["text"] == speech.text
        (model,) = httpx.get(f"{server.url}/health").json()["models"]
        assert model["name"] == "Modell ü"
        assert list((folder / "cache" / "converted").iterdir())
        assert server.stop() == 0

"""The one-file program: built, started, asked, ended; nothing of it stays behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import NANO, ROOT, SAMPLES, Sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("PyInstaller") is None, reason="needs PyInstaller: pip install pyinstaller"
    ),
]
HEALTH_S = (
    3.0  # what desktop apps wait; a clock in a test, because unpacking is what this program can get wrong
)
SIZE_MB = 250


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it once, away from build/ and dist/."""
    folder = tmp_path_factory.mktemp("executable")
    flags = (
        "--noconfirm",
        "--log-level",
        "WARN",
        "--distpath",
        f"{folder}/dist",
        "--workpath",
        f"{folder}/build",
    )
    command = [sys.executable, "-m", "PyInstaller", *flags, "whisper_api_server.spec"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1200)
    return folder / "dist" / "whisper_api_server"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of its own, with the folder that the program unpacks itself into."""
    folder = tmp_path / "zwölf Töne"
    (folder / "tmp").mkdir(parents=True)
    return folder


def environment(home: Path) -> dict[str, str]:
    """Nothing that would find this repository or an interpreter, only what a bare session has."""
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "WHISPER_CACHE_DIR": str(home / "cache"),
        "WHISPER_MODELS": f"nano={NANO}",
        "WHISPER_OFFLINE": "true",
    }


@contextmanager
def served(executable: Path, home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the server in a process group of its own; yield it and its address; leave nothing running."""
    process = subprocess.Popen(
        [str(executable), "--port", "0", "--log-level", "error"],
        cwd=home,
        env=environment(home),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline().split()[-1]
    finally:
        for left in group(process.pid):
            left.kill()
        process.communicate()


def group(leader: int) -> list[psutil.Process]:
    """Return who runs in a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def left_in(home: Path) -> list[str]:
    """Return what is left of the folders that the program unpacks itself into."""
    return [path.name for path in (home / "tmp").glob("_MEI*")]


def test_it_stays_small(executable: Path) -> None:
    assert executable.stat().st_size < SIZE_MB * 1e6


def test_it_serves_at_once_and_leaves_nothing(executable: Path, home: Path, speech: Sample) -> None:
    started_s = time.monotonic()
    with served(executable, home) as (process, url):
        assert httpx.get(f"{url}/health").status_code == 200
        assert time.monotonic() - started_s < HEALTH_S
        reply = httpx.post(
            f"{url}/v1/audio/transcriptions", files={"file": speech.data}, data={"model": "nano"}, timeout=60
        )
        assert (reply.status_code, reply.json()["text"]) == (200, speech.text)
        process.terminate()
        assert process.wait(timeout=60) == 0
        assert group(process.pid) == []
        assert left_in(home) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_one_signal(
    executable: Path, home: Path, number: signal.Signals
) -> None:
    with served(executable, home) as (process, url):
        assert httpx.get(f"{url}/v1/models", timeout=60).status_code == 200
        os.killpg(process.pid, number)
        assert process.wait(timeout=60) == 0
        assert group(process.pid) == []
        assert left_in(home) == []


def test_transcribe_is_the_command_line(executable: Path, home: Path, speech: Sample) -> None:
    command = [str(executable), "transcribe", "--model", str(NANO), str(SAMPLES / speech.name)]
    done = subprocess.run(
        command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{speech.text}\n"), done.stderr
    assert left_in(home) == []


def test_it_needs_no_standard_streams(executable: Path, home: Path, speech: Sample) -> None:
    target = home / "out"
    audio = SAMPLES / speech.name
    command = f'exec "$0" transcribe --model "{NANO}" --output "{target}" "{audio}" <&- >&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", command, str(executable)], cwd=home, env=environment(home), timeout=60, check=False
    )
    assert done.returncode == 0
    assert (target / f"{audio.stem}.txt").read_text(encoding="utf-8") == f"{speech.text}\n"

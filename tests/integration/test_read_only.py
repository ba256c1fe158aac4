"""Where nothing can be written or read: it works all the same, or says in one line what is missing.

Processes are started without the right of an administrator to pass over the modes of files, or the tests
would prove nothing where they run as one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import NANO, ROOT, SAMPLES, Sample, server_environment
from tests.support.stand_in_hub import SOURCE, Hub
from whisper_server.services.model_files.hub.fetch import download_repository

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux"),
]

CLIP = SAMPLES / "en-plain-000.flac"
HEARD = "house left tree\n"
CLI = str(ROOT / "whisper_server.py")
SERVER = str(ROOT / "whisper_api_server.py")
# PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: fails, as it may, for all but administrators.
OBEYING_MODES = [
    sys.executable,
    "-c",
    "import ctypes, os, sys; prctl = ctypes.CDLL(None).prctl;"
    "[prctl(24, capability, 0, 0, 0) for capability in (1, 2)]; os.execv(sys.argv[1], sys.argv[1:])",
    sys.executable,
]


@pytest.fixture
def read_only() -> Iterator[ExitStack]:
    """Makes folders read-only, and back again at the end."""
    with ExitStack() as stack:
        yield stack


def lock(stack: ExitStack, folder: Path) -> Path:
    """Make the folder and what is below it read-only."""
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode & ~0o222)
        stack.callback(path.chmod, mode)
    return folder


@pytest.fixture
def cell(tmp_path: Path, read_only: ExitStack) -> Path:
    """A working directory in which nothing can be written."""
    folder = tmp_path / "cell"
    folder.mkdir()
    return lock(read_only, folder)


def variables(cache: Path, **more: str) -> dict[str, str]:
    names = {"WHISPER_ENGINE": "ctranslate2", "WHISPER_THREADS": "1", "WHISPER_OFFLINE": "true"}
    return server_environment(**{**names, "WHISPER_CACHE_DIR": str(cache), **more})


def run(
    *arguments: str, cwd: Path, cache: Path, stdin: bytes = b"", **more: str
) -> subprocess.CompletedProcess[str]:
    command = [*OBEYING_MODES, *arguments]
    done = subprocess.run(
        command,
        cwd=cwd,
        env=variables(cache, **more),
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_the_modes_hold(cell: Path, nano_cache: Path) -> None:
    """What the other tests stand on."""
    done = run("-c", "open('file', 'w')", cwd=cell, cache=nano_cache)
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


def test_a_read_only_folder_to_work_in(cell: Path, nano_cache: Path) -> None:
    done = run(CLI, "--model", str(NANO), str(CLIP), "-", cwd=cell, cache=nano_cache, stdin=CLIP.read_bytes())
    assert (done.returncode, done.stdout, done.stderr) == (0, HEARD * 2, "")


def test_a_read_only_folder_for_the_output(cell: Path, nano_cache: Path) -> None:
    done = run(CLI, "--model", str(NANO), "--output", "out", str(CLIP), cwd=cell, cache=nano_cache)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["error: [Errno 13] Permission denied: 'out'"]


@pytest.fixture
def filled(stand_in: Hub, tmp_path: Path, read_only: ExitStack) -> Path:
    """A cache with a downloaded and converted model, in which nothing can be written any more."""
    cache = tmp_path / "cache"
    download_repository(SOURCE, cache)
    models = {"WHISPER_MODELS": "theirs=someone/nano"}
    done = run(SERVER, "models", "pull", "theirs", cwd=tmp_path, cache=cache, **models)
    assert done.returncode == 0, done.stderr
    return lock(read_only, cache)


def test_a_server_with_a_read_only_cache(filled: Path, cell: Path, speech: Sample) -> None:
    """Started and used with nowhere to write; a model that is not there is refused in one line."""
    environment = variables(filled, WHISPER_MODELS=f"theirs=someone/nano,mine={NANO}")
    with subprocess.Popen(
        [*OBEYING_MODES, SERVER, "--port", "0"],
        cwd=cell,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            url = next(line for line in process.stderr if line.startswith("listening on ")).split()[-1]
            replies = {
                name: httpx.post(
                    f"{url}/v1/audio/transcriptions",
                    files={"file": speech.data},
                    data={"model": name},
                    timeout=120,
                )
                for name in ("theirs", "mine")
            }
        finally:
            process.terminate()
            rest = process.stderr.read()
    assert (replies["theirs"].status_code, replies["theirs"].json()["text"]) == (200, speech.text)
    assert replies["mine"].status_code == 503
    assert "WHISPER_CACHE_DIR must be a folder" in replies["mine"].json()["error"]["message"]
    assert process.returncode == 0
    assert "Traceback" not in rest


def test_the_command_line_with_a_read_only_cache(filled: Path, cell: Path) -> None:
    models = {"WHISPER_MODELS": f"theirs=someone/nano,mine={NANO}"}
    done = run(CLI, "--model", "theirs", str(CLIP), cwd=cell, cache=filled, **models)
    assert (done.returncode, done.stdout, done.stderr) == (0, HEARD, "")
    done = run(SERVER, "models", "pull", "theirs", cwd=cell, cache=filled, **models)
    assert done.returncode == 0, done.stderr
    done = run(CLI, "--model", "mine", str(CLIP), cwd=cell, cache=filled, **models)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {CLIP}: The model folder 'nano-whisper' cannot be converted: Permission")
    done = run(SERVER, "models", "remove", "theirs", cwd=cell, cache=filled, **models)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: The files of the model 'theirs' cannot be deleted: Permission denied")


def test_closed_standard_input(tmp_path: Path, nano_cache: Path) -> None:
    """As a service or a desktop app may start it."""
    for names, code in ((("-",), 2), ((str(CLIP),), 0)):
        shell = 'exec "$0" "$@" <&-'
        done = subprocess.run(
            ["sh", "-c", shell, sys.executable, CLI, "--model", str(NANO), *names],
            cwd=tmp_path,
            env=variables(nano_cache),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert done.stdout == ("" if code else HEARD)
        said = ["error: standard input is closed; nothing can be read from it"] if code else []
        assert done.stderr.splitlines() == said


def test_nothing_temporary_can_be_written(tmp_path: Path, nano_cache: Path) -> None:
    """As in a container whose root is read-only: the model loads, by the way that is right everywhere."""
    program = (
        "import sys, tempfile; from whisper_server.cli.transcribe import main;"
        "tempfile.tempdir = '/dev/null/x';"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = run("-c", program, "--model", str(NANO), str(CLIP), cwd=tmp_path, cache=nano_cache)
    assert (done.returncode, done.stdout) == (0, HEARD), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("nothing temporary can be written")

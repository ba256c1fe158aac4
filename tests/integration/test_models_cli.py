"""`models list | pull | remove | path`, as an operator runs them, against the stand-in hub."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import NANO, ROOT, forget_settings
from tests.support.stand_in_hub import Hub
from whisper_server.cli.models import main
from whisper_server.services.model_files.names import HOSTED

Run = Callable[..., tuple[int, str, str]]
SCRIPT = str(ROOT / "whisper_api_server.py")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, a repository and a folder, for this process and those it starts."""
    forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WHISPER_MODELS", f"theirs=someone/nano,again=someone/nano,mine={NANO}")
    return tmp_path / "cache"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return (code, *capfd.readouterr())

    return call


def state_of(run: Run, name: str) -> dict[str, object]:
    code, out, _ = run("list", "--json")
    assert code == 0
    return next(one for one in json.loads(out) if one["name"] == name)


def test_life_of_a_model(
    stand_in: Hub,
    cache: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = state_of(run, "theirs")
    assert (before["state"], before["size_bytes"], before["aliases"]) == ("absent", 0, ["again"])
    assert run("path", "again")[0] == 1

    code, out, err = run("pull", "again")
    assert code == 0, err
    folder = Path(out.strip())
    assert (folder / "model.safetensors").read_bytes() == (NANO / "model.safetensors").read_bytes()
    assert "downloading someone/nano: 100 %" in caplog.messages  # no terminal: lines for a log
    assert run("path", "theirs") == (0, out, "")

    after = state_of(run, "theirs")
    assert (after["state"], after["folder"]) == ("downloaded", str(folder))
    conversions = [Path(str(path)) for path in after["conversions"]]  # type: ignore[attr-defined]
    assert [path.parent for path in conversions] == [cache / "converted"]
    on_disk = [path for where in (folder, *conversions) for path in where.rglob("*") if path.is_file()]
    assert after["size_bytes"] == sum(path.stat().st_size for path in on_disk)

    asked = len(stand_in.seen)
    monkeypatch.setenv("WHISPER_OFFLINE", "true")
    assert run("pull", "theirs")[0] == 0  # what is there needs no network
    assert len(stand_in.seen) == asked

    code, out, err = run("remove", "theirs")
    assert (code, out) == (0, "")
    assert f"{int(str(after['size_bytes'])) / 1e6:.0f} MB freed" in err
    assert not folder.exists()
    assert list((cache / "converted").iterdir()) == []
    assert state_of(run, "theirs")["state"] == "absent"
    assert run("remove", "theirs") == (0, "", "theirs is not downloaded\n")


def test_list_for_people(run: Run) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:4] == ["NAME", "STATE", "CONVERTED", "MB"]
    (tiny,) = (line for line in lines if line[0] == "whisper-tiny")
    assert tiny[1:6] == ["-", "-", "-", "openai/whisper-tiny", "whisper-1,"]
    assert ["mine", "your", "folder", "-", "-", str(NANO)] in lines


def test_hosted_names_are_listed_with_the_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_MODEL", "mine")
    assert set(HOSTED) <= set(state_of(run, "mine")["aliases"])  # type: ignore[arg-type]
    monkeypatch.setenv("WHISPER_ALIASES", "none")
    assert state_of(run, "mine")["aliases"] == []


def test_half_a_download_is_shown_gone_on_with_or_removed(stand_in: Hub, cache: Path, run: Run) -> None:
    for end in ("pull", "remove"):
        stand_in.break_after, stand_in.refuse_files_after_break = 1_000_000, True
        code, out, err = run("pull", "theirs")
        assert (code, out) == (1, "")
        assert "error: The model 'theirs' cannot be downloaded" in err
        partial = state_of(run, "theirs")
        assert (partial["state"], partial["folder"]) == ("partial", None)
        assert int(str(partial["size_bytes"])) > 1_000_000
        stand_in.refuse = None
        stand_in.ranges.clear()
        assert run(end, "theirs")[0] == 0
        assert stand_in.ranges == (["bytes=1000000-"] if end == "pull" else [])
        assert state_of(run, "theirs")["state"] == ("downloaded" if end == "pull" else "absent")
        run("remove", "theirs")
    assert not list(cache.glob("hub/*/*/*"))


def test_a_folder_of_ones_own_is_converted_and_never_deleted(run: Run, cache: Path) -> None:
    assert state_of(run, "mine")["conversions"] == []
    assert run("pull", "mine")[:2] == (0, f"{NANO}\n")
    assert len(state_of(run, "mine")["conversions"]) == 1  # type: ignore[arg-type]
    code, _, err = run("remove", "mine")
    assert code == 1
    assert "your own folder" in err
    assert (NANO / "model.safetensors").exists()
    assert run("path", "mine") == (0, f"{NANO}\n", "")


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "words"),
    [
        (("pull", "whisper-9"), {}, 2, "This server knows whisper-tiny"),
        (("pull", "someone/else"), {}, 2, "does not exist"),  # it is not configured
        (("remove", "../.."), {}, 2, "does not exist"),
        (("list",), {"WHISPER_MODELS": "x"}, 2, "WHISPER_MODELS"),
        (("pull", "theirs"), {"WHISPER_OFFLINE": "1"}, 1, "WHISPER_OFFLINE forbids"),
        (("pull", "theirs"), {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "check the network and HF_ENDPOINT"),
        (("pull", "mine"), {"WHISPER_CACHE_DIR": "/dev/null/x"}, 1, "WHISPER_CACHE_DIR"),
    ],
)
def test_failures_are_one_line_and_a_code(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    code: int,
    words: str,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("arguments", [(), ("fetch", "x"), ("pull",)])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_the_script_knows_the_word_and_needs_no_web_framework() -> None:
    watch = (
        "import sys, runpy; sys.argv[1:] = ['models', 'list', '--json']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print({'fastapi', 'uvicorn', 'ctranslate2', 'av'} & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", f"import sys; sys.argv[0] = {SCRIPT!r}\n{watch}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert "whisper-tiny" in [one["name"] for one in json.loads(done.stdout)]


def test_the_script_without_the_word_is_the_server() -> None:
    command = [sys.executable, SCRIPT, "--port", "many"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 2
    assert "WHISPER_SERVER_PORT" in done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_the_bar_at_a_terminal(stand_in: Hub) -> None:
    stand_in.gate = threading.Semaphore(5)
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, SCRIPT, "models", "pull", "theirs"]
    env = {**environment(), "TQDM_MININTERVAL": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=env) as process:
        os.close(terminal)
        shown = b""
        while b"B/s]" not in shown:  # drawn while the hub holds the rest back
            shown += os.read(controller, 1000)
        stand_in.gate.release(1000)
        with contextlib.suppress(OSError):  # the terminal has lost its last user
            while True:
                shown += os.read(controller, 1000)
        assert process.stdout is not None
        assert process.stdout.read().strip().endswith(b"0123456789abcdef0123456789abcdef01234567")
    os.close(controller)
    assert process.returncode == 0
    last = shown.decode().split("\r")
    bar = next(line for line in last if "B/s]" in line)
    assert "theirs:" in bar
    assert "%|" in bar
    assert "<" in bar  # elapsed < left
    assert b"downloading" not in shown  # the bar says it

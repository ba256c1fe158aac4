"""Files of people: names made to deceive, texts that must not replace anything, a command that is killed."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, SAMPLES

CLIP = SAMPLES / "en-plain-000.flac"
NAMES = (
    *(
        "\x1b[2J",
        "\x1b]0;owned\x07",
        "a\nb",
        "a\rb",
        "\x9b2J",
        "\x7f\x08\x08",
        "\u202egnp",
        "\u2066x",
        "-v",
        "--",
    ),
    *("y" * 250, "é" * 120, " ", "'", '"', "$(id)", "CON", "a..b", "a.", "🎵", "\udcff\udcfe"),
)


def run(*arguments: str, cwd: Path, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(ROOT / "whisper_server.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "WHISPER_ENGINE": "fake", "WHISPER_CACHE_DIR": str(cwd / "cache")},
        capture_output=True,
        check=False,
        timeout=120,
        **more,  # type: ignore[call-overload]
    )


def test_names_that_deceive(tmp_path: Path) -> None:
    talks = tmp_path / "talks"
    talks.mkdir()
    for name in NAMES:
        shutil.copy(CLIP, talks / f"{name}.wav")
    done = run("--output", "out", "talks", cwd=tmp_path)
    assert b"Traceback" not in done.stderr
    assert not set(done.stderr) & (set(range(32)) - {10} | {127})
    assert len(done.stderr.splitlines()) == len(NAMES)
    assert len(list((tmp_path / "out").iterdir())) == len(NAMES)
    assert all((talks / f"{name}.wav").read_bytes() == CLIP.read_bytes() for name in NAMES)


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize("extension", ["txt", "json", "srt", "vtt"])
def test_no_input_is_ever_replaced(tmp_path: Path, extension: str, overwrite: tuple[str, ...]) -> None:
    kinds = {"txt": "text", "json": "json", "srt": "srt", "vtt": "vtt"}
    for name in ("plain", "linked", "hard"):
        shutil.copy(CLIP, tmp_path / f"{name}.flac")
    shutil.copy(CLIP, tmp_path / f"same.{extension}")
    (tmp_path / f"linked.{extension}").symlink_to("linked.flac")
    (tmp_path / f"hard.{extension}").hardlink_to(tmp_path / "hard.flac")
    inputs = [f"same.{extension}", "plain.flac", "linked.flac", "hard.flac"]
    done = run("--output", ".", "--format", kinds[extension], *overwrite, *inputs, cwd=tmp_path)
    assert done.returncode == 1
    for name in inputs:
        assert (tmp_path / name).read_bytes() == CLIP.read_bytes()
    assert (tmp_path / f"plain.{extension}").stat().st_size > 0
    assert (tmp_path / f"linked.{extension}").is_symlink()


def test_a_disk_without_room_leaves_the_old_text(tmp_path: Path) -> None:
    old = tmp_path / "out" / f"{CLIP.stem}.txt"
    old.parent.mkdir()
    old.write_text("old")

    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3, 3))

    done = run("--output", "out", "--overwrite", str(CLIP), cwd=tmp_path, preexec_fn=no_room)
    assert done.returncode == 1
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert old.read_text() == "old"


def test_kills_leave_the_old_text_or_the_new_one(tmp_path: Path) -> None:
    old = tmp_path / "out" / f"{CLIP.stem}.txt"
    old.parent.mkdir()
    old.write_text("old")
    moments = random.Random(3)
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, str(ROOT / "whisper_server.py"), "--output", "out", "--overwrite", str(CLIP)],
            cwd=tmp_path,
            env={**os.environ, "WHISPER_ENGINE": "fake"},
            stderr=subprocess.PIPE,
        ) as process:
            time.sleep(moments.uniform(0.1, 2.0))
            process.kill()
        assert old.read_text() == "old" or old.read_text().startswith("heard ")


def test_ctrl_c_at_any_moment(tmp_path: Path) -> None:
    """Once Python itself has started, which has its own words for it before."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "whisper_server.py"), str(CLIP)]
    moments = random.Random(4)
    for _ in range(20):
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "WHISPER_ENGINE": "fake"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None
            while b"whisper_server.commands" not in (line := process.stderr.readline()):
                assert line
            time.sleep(moments.uniform(0.02, 1.0))
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
        assert process.returncode in {0, 130}
        assert b"Traceback" not in rest

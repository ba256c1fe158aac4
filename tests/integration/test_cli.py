"""The command line: files, folders and standard input to text, through the real engine or the fake one."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest

from whisper_server import __version__
from whisper_server.cli.transcribe import main

ROOT = Path(__file__).parents[2]
NANO = ROOT / "models" / "nano-whisper"
SAMPLES = NANO / "samples"
CLIP = SAMPLES / "en-plain-000.flac"  # "house left tree"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings with the fake engine, read from nowhere but here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_ENGINE", "fake")


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch, nano_cache: Path) -> None:
    """Settings with the nano model."""
    monkeypatch.setenv("WHISPER_MODEL", str(NANO))
    monkeypatch.setenv("WHISPER_CACHE_DIR", str(nano_cache))


@pytest.mark.usefixtures("nano")
def test_prints_the_words_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(CLIP)]) == 0
    out, err = capfd.readouterr()
    assert out == "house left tree\n"
    assert err == ""


@pytest.mark.usefixtures("nano")
def test_several_files_in_order_and_one_failure_does_not_stop_the_rest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "notes.txt"
    broken.write_text("this is not audio")
    missing = tmp_path / "missing.wav"
    assert main([str(CLIP), str(broken), str(missing), str(SAMPLES / "fr-plain-009.flac")]) == 1
    out, err = capfd.readouterr()
    first, second = out.splitlines()
    assert first == "house left tree"
    assert second == next(c["text"] for c in _clips() if c["file"] == "fr-plain-009.flac")
    complaints = err.splitlines()
    assert len(complaints) == 2
    assert complaints[0].startswith(f"error: {broken}: Invalid file format")
    assert complaints[1].startswith(f"error: {missing}: ")


@pytest.mark.usefixtures("nano")
def test_language_and_translation(capfd: pytest.CaptureFixture[str]) -> None:
    clip = next(c for c in _clips() if c["kind"] == "translate" and c["robust"])
    assert main(["--task", "translate", "--language", clip["language"], str(SAMPLES / clip["file"])]) == 0
    assert capfd.readouterr().out.strip() == clip["translation"]


@pytest.mark.usefixtures("nano")
def test_word_timestamps(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--format", "verbose_json", "--word-timestamps", str(CLIP)]) == 0
    body = json.loads(capfd.readouterr().out)
    clip = next(c for c in _clips() if c["file"] == CLIP.name)
    assert [word["word"] for word in body["words"]] == [word for word, _, _ in clip["words"]]
    for word, (_, start_s, end_s) in zip(body["words"], clip["words"], strict=True):
        assert word["start"] < end_s
        assert word["end"] > start_s


@pytest.mark.usefixtures("nano")
def test_standard_input(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(CLIP.read_bytes())))
    assert main(["-"]) == 0
    assert capfd.readouterr().out == "house left tree\n"


@pytest.mark.usefixtures("fake")
def test_a_folder_means_the_audio_in_it_and_below(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    talks = tmp_path / "talks"
    for name in ("b.flac", "a/c.FLAC", ".hidden/d.flac", "notes.txt"):
        (talks / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIP, talks / name)
    assert main([str(talks), "--output", str(tmp_path / "out"), "--format", "srt"]) == 0
    assert capfd.readouterr().out == ""
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.srt", "c.srt"]
    assert (tmp_path / "out" / "b.srt").read_text().startswith("1\n00:00:00,")


@pytest.mark.usefixtures("fake")
def test_an_empty_folder_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(CLIP)]) == 1
    out, err = capfd.readouterr()
    assert "no audio files" in err
    assert out.startswith("heard ")


@pytest.mark.usefixtures("fake")
def test_inputs_of_the_same_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    names = []
    for folder, suffix in (("x", "flac"), ("y", "flac"), ("z", "flac"), ("x", "ogg")):
        path = tmp_path / folder / f"talk.{suffix}"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(CLIP, path)
        names.append(str(path))
    out = tmp_path / "out"
    assert main([*names, "--output", str(out)]) == 0
    written = sorted(p.name for p in out.iterdir())
    assert written == ["talk.flac.2.txt", "talk.flac.txt", "talk.ogg.txt", "talk.txt"]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("name", ["text", "json", "verbose_json", "srt", "vtt"])
def test_every_format(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--format", name, str(CLIP)]) == 0
    out = capfd.readouterr().out
    assert out.endswith("\n")
    assert "heard " in out
    if name in {"json", "verbose_json"}:
        assert len(out.splitlines()) == 1
        assert json.loads(out)["text"].startswith("heard ")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--language", "klingon", "x.wav"], "Unknown language"),
        (["--model", "whisper-9", "x.wav"], "whisper-9"),
        (["--seed", "lucky", "x.wav"], "--seed"),
        (["--seed", "9223372036854775808", "x.wav"], "seed is too large"),
        (["--word-timestamps", "x.wav"], "--format verbose_json"),
        (["--format", "yaml", "x.wav"], "invalid choice"),
        ([], "required"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    out, err = capfd.readouterr()
    assert code == 2
    assert message in err
    assert out == ""


@pytest.mark.usefixtures("fake")
def test_a_bad_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHISPER_THREADS", "many")
    assert main([str(CLIP)]) == 2
    assert capfd.readouterr().err.startswith("error: WHISPER_THREADS: ")


@pytest.mark.usefixtures("fake")
def test_an_own_file_may_be_larger_than_an_upload(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAX_AUDIO_SECONDS", "1")
    assert main([str(CLIP)]) == 0
    assert capfd.readouterr().out.startswith("heard ")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_that_is_no_folder(output: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main([str(CLIP), "--output", str(tmp_path / output)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("fake")
def test_ctrl_c_while_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Interrupted()))
    assert main(["-"]) == 130


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "2>&- >&-"])
def test_a_process_without_streams_still_works(closed: str, tmp_path: Path) -> None:
    command = f'"$0" "$1" "$2" --output out {closed}'
    subprocess.run(
        ["bash", "-c", command, sys.executable, str(ROOT / "whisper_server.py"), str(CLIP)],
        env={**os.environ, "WHISPER_ENGINE": "fake"},
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "out" / "en-plain-000.txt").read_text().startswith("heard ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


def test_the_script_shows_progress_on_a_terminal_only(tmp_path: Path) -> None:
    environment = {**os.environ, "WHISPER_ENGINE": "fake"}
    command = [sys.executable, str(ROOT / "whisper_server.py"), str(CLIP)]
    piped = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=True)
    assert piped.stdout.startswith(b"heard ")
    assert piped.stderr == b""

    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    shown = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=side, env=environment, cwd=tmp_path, check=True
    )
    seen = os.read(terminal, 65536).decode()
    os.close(side)
    os.close(terminal)
    assert shown.stdout == piped.stdout
    assert CLIP.name in seen
    assert "/3 s [" in seen  # audio seconds done of all, then speed and time left
    assert "left]" in seen


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    environment = {**os.environ, "WHISPER_ENGINE": "fake"}
    command = [sys.executable, str(ROOT / "whisper_server.py"), *[str(CLIP)] * 3]
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, check=False
    )
    os.close(writer)
    assert b"Traceback" not in process.stderr
    assert process.returncode == 1


def _clips() -> list[dict[str, object]]:
    clips: list[dict[str, object]] = json.loads((SAMPLES / "clips.json").read_text())
    return clips


@pytest.mark.usefixtures("fake")
def test_the_input_is_never_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    audio = Path(shutil.copy(CLIP, tmp_path / "audio.txt"))
    other = Path(shutil.copy(CLIP, tmp_path / "other.flac"))
    assert main(["--output", str(tmp_path), "--overwrite", str(audio), str(other)]) == 1
    assert audio.read_bytes() == CLIP.read_bytes()
    assert (tmp_path / "other.txt").read_text().startswith("heard ")
    assert capfd.readouterr().err.splitlines()[0] == (
        f"error: {audio}: {audio} is the input {audio}; choose another --output or --format"
    )


@pytest.mark.usefixtures("fake")
def test_a_second_run_replaces_only_what_it_may(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "out" / f"{CLIP.stem}.txt"
    assert main(["--output", str(text.parent), str(CLIP)]) == 0
    text.write_text("edited by hand")
    assert main(["--output", str(text.parent), str(CLIP)]) == 1
    assert text.read_text() == "edited by hand"
    assert "--overwrite replaces it" in capfd.readouterr().err
    assert main(["--output", str(text.parent), "--overwrite", str(CLIP)]) == 0
    assert text.read_text().startswith("heard ")


@pytest.mark.usefixtures("fake")
def test_a_name_that_is_too_long_fails_one_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["x" * 5000, str(CLIP)]) == 1
    assert capfd.readouterr().out.startswith("heard ")
    longest = tmp_path / ("y" * 255)
    shutil.copy(CLIP, longest)
    assert main(["--output", str(tmp_path / "out"), str(longest), str(CLIP)]) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{CLIP.stem}.txt"]


@pytest.mark.usefixtures("fake")
def test_names_cannot_control_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = tmp_path / "a\x1b[2J\nerror: b.flac"
    shutil.copy(CLIP, name)
    assert main(["--output", str(tmp_path / "out"), str(name), str(name) + "\x9b.wav"]) == 1
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 2
    assert err.replace("\n", "").isprintable()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the stream")
@pytest.mark.parametrize("arguments", [f"whisper_server.py {CLIP}", "whisper_api_server.py models list"])
def test_a_closed_standard_output_is_a_failure(arguments: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} {ROOT}/{arguments} >&-"],
        env={**os.environ, "WHISPER_ENGINE": "fake", "WHISPER_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send")
def test_ctrl_c_while_it_imports() -> None:
    """The signal comes as soon as the first of our modules is imported."""
    program = (
        "import signal, sys, os; from whisper_server.core.system.process import end_at_interrupt;"
        " end_at_interrupt(); os.kill(os.getpid(), signal.SIGINT); import whisper_server.cli.transcribe"
    )
    done = run_program(program)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send")
def test_ctrl_c_when_all_is_done() -> None:
    """The texts are out, and the interpreter is being torn down."""
    program = (
        "import atexit, os, signal; from whisper_server.core.system.process import hear_interrupts, leave;"
        " hear_interrupts(); atexit.register(os.kill, os.getpid(), signal.SIGINT); print('text'); leave(3)"
    )
    done = run_program(program)
    assert (done.returncode, done.stdout, done.stderr) == (3, "text\n", "")

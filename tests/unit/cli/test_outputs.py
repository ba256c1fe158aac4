"""Where texts are written, and what they never replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whisper_server.cli.inputs import Input
from whisper_server.cli.outputs import Outputs, Refused
from whisper_server.cli.terminal import LINES, printable


def outputs(*inputs: Path, overwrite: bool = False) -> Outputs:
    return Outputs([Input(str(path), None) for path in inputs], overwrite=overwrite)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "talk.txt"
    path.write_bytes(b"audio")
    return path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["itself", "symlink", "hard link", "through a folder"])
def test_an_input_is_never_replaced(tmp_path: Path, audio: Path, kind: str, overwrite: bool) -> None:
    target = tmp_path / "out.txt"
    if kind == "itself":
        target = audio
    elif kind == "symlink":
        target.symlink_to(audio)
    elif kind == "hard link":
        target.hardlink_to(audio)
    else:
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        target = tmp_path / "link" / audio.name
    with pytest.raises(Refused, match="is the input"):
        outputs(audio, overwrite=overwrite).write(target, "text")
    assert audio.read_bytes() == b"audio"


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path, audio: Path) -> None:
    target = tmp_path / "edited.srt"
    target.write_text("by hand")
    target.chmod(0o640)
    with pytest.raises(Refused, match="--overwrite"):
        outputs(audio).write(target, "text")
    assert target.read_text() == "by hand"
    outputs(audio, overwrite=True).write(target, "text")
    assert target.read_text() == "text"
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edited.srt", "talk.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_through_a_link(tmp_path: Path, audio: Path, overwrite: bool) -> None:
    private, target = tmp_path / "private", tmp_path / "out.txt"
    private.write_text("private")
    target.symlink_to(private)
    if overwrite:
        outputs(audio, overwrite=True).write(target, "text")
        assert not target.is_symlink()
    else:
        with pytest.raises(Refused):
            outputs(audio).write(target, "text")
    assert private.read_text() == "private"


def test_a_link_to_nothing_is_something(tmp_path: Path, audio: Path) -> None:
    target = tmp_path / "out.txt"
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused):
        outputs(audio).write(target, "text")
    assert not (tmp_path / "elsewhere").exists()


def test_folders_and_pipes_are_no_files(tmp_path: Path, audio: Path) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("out", "pipe"):
        with pytest.raises(Refused):
            outputs(audio, overwrite=True).write(tmp_path / name, "text")


def test_new_files_are_as_readable_as_the_system_says(tmp_path: Path, audio: Path) -> None:
    before = os.umask(0o027)
    try:
        outputs(audio).write(tmp_path / "new.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "new.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, audio: Path, overwrite: bool) -> None:
    target = tmp_path / "out.txt"
    if overwrite:
        target.write_text("before")
    with pytest.raises(UnicodeEncodeError):
        outputs(audio, overwrite=overwrite).write(target, "text \ud800")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt"] * overwrite + ["talk.txt"]
    assert not overwrite or target.read_text() == "before"


def test_what_comes_there_meanwhile_stays(tmp_path: Path, audio: Path) -> None:
    found = outputs(audio)
    found.check(tmp_path / "out.txt")
    (tmp_path / "out.txt").write_text("theirs")
    with pytest.raises(Refused):
        found.write(tmp_path / "out.txt", "text")
    assert (tmp_path / "out.txt").read_text() == "theirs"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J", "?]0;title??[2J"),
        ("a\nerror: b\r", "a?error: b?"),
        ("\x9b31m\x7f", "?31m?"),
        ("\u202egpj.exe", "?gpj.exe"),
        ("\udcff", "?"),
        ("zwölf 音 🎵 é", "zwölf 音 🎵 é"),
    ],
)
def test_nothing_that_a_terminal_would_obey(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_texts_keep_their_lines() -> None:
    assert printable("one\n\ttwo\x1b\n", LINES) == "one\n\ttwo?\n"

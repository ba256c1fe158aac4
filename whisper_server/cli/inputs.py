"""What the command line is to transcribe, and where each text goes."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from whisper_server.core.errors import InvalidRequest

STDIN = "-"
# What is taken from a folder; a file that is named is tried whatever it is called.
AUDIO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3gp", "aac", "aif", "aiff", "amr", "au", "avi", "caf", "flac", "m4a", "m4b", "mka", "mkv", "mov"),
        *("mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "opus", "wav", "webm", "wma"),
    )
)
_STDIN_IN_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to transcribe and where its text goes; None: standard output."""

    name: str
    target: Path | None


def audio_in(folder: Path) -> Iterator[str]:
    """Return the audio files of a folder and the folders below it, sorted, hidden ones left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not hidden:
            yield str(path)


def with_targets(names: Sequence[str], folder: Path | None, extension: str) -> Iterator[Input]:
    """Give each input its own file in the folder: `talk.srt`, or `talk.mp3.srt`, `talk.mp3.2.srt`, ...

    Names that differ in upper and lower case only are one name: on some systems they are one file.
    """
    taken: set[str] = set()
    for name in names:
        if folder is None:
            yield Input(name, None)
            continue
        path = Path("stdin" if name == STDIN else name)
        target = folder / f"{path.stem}.{extension}"
        number = 1
        while str(target).casefold() in taken:
            suffix = "" if number == 1 else f".{number}"
            target = folder / f"{path.name}{suffix}.{extension}"
            number += 1
        taken.add(str(target).casefold())
        yield Input(name, target)


@contextlib.contextmanager
def standard_input() -> Iterator[BinaryIO]:
    """Lend what comes in as a file that can be rewound; a large one lies on disk meanwhile.

    Raises:
        InvalidRequest: nothing can come in.
    """
    if sys.stdin is None:
        raise InvalidRequest("standard input is closed; nothing can be read from it")
    with tempfile.SpooledTemporaryFile(max_size=_STDIN_IN_MEMORY_BYTES) as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.seek(0)
        yield cast("BinaryIO", kept)

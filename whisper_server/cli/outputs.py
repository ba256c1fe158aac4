"""Files that texts are written to: never an input, nothing that is there already, unless that is wanted.

A text is written beside its place and gets its name when it is whole, so a full disk or a kill leaves what
was there before.
"""

from __future__ import annotations

import os
import stat
import sys
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from whisper_server.cli.inputs import STDIN, Input
from whisper_server.cli.terminal import LINES, printable, say


class Refused(Exception):
    """A text that is not written, and why."""


class Outputs:
    """Knows every input, so that none is written over."""

    def __init__(self, inputs: Iterable[Input], *, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._inputs = {found: each.name for each in inputs if (found := _identity(each.name)) is not None}

    def check(self, target: Path) -> None:
        """Check that a text may go there.

        Raises:
            Refused: an input, or something that is to stay, is there.
            OSError: nothing can be there, as with a name that is too long.
        """
        try:
            there = target.lstat()
        except FileNotFoundError:
            return
        owner = self._inputs.get(_identity(str(target)) or (0, 0))
        if owner is not None:
            raise Refused(f"{target} is the input {owner}; choose another --output or --format")
        if not self._overwrite:
            raise Refused(f"{target} exists already; --overwrite replaces it")
        if not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
            raise Refused(f"{target} is no file")

    def write(self, target: Path, body: str) -> None:
        """Write a text; raises as `check`, and where it cannot be written."""
        self.check(target)
        temporary = target.with_name(f".whisper-{uuid.uuid4().hex[:12]}.tmp")
        try:
            with temporary.open("x", encoding="utf-8", newline="\n") as file:
                file.write(body)
            if self._overwrite:
                _copy_mode(target, temporary)
                temporary.replace(target)
            else:
                _give_new_name(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def deliver(body: str, target: Path | None, outputs: Outputs) -> None:
    """Write the transcript to its file, or to standard output; a terminal gets nothing that it would obey."""
    if not body.endswith("\n"):
        body += "\n"
    if target is not None:
        outputs.write(target, body)
        say(f"{target} written")
        return
    if sys.stdout.isatty():
        body = printable(body, LINES)
    sys.stdout.buffer.write(body.encode())
    sys.stdout.flush()


def _give_new_name(temporary: Path, target: Path) -> None:
    """Name the file so that nothing that has come there meanwhile is lost."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError as error:
        raise Refused(f"{target} exists already; --overwrite replaces it") from error
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise Refused(f"{target} exists already; --overwrite replaces it") from None
        temporary.rename(target)


def _copy_mode(target: Path, temporary: Path) -> None:
    """Let a file that replaces another one be as readable as that was."""
    with suppress(OSError):  # there is none, or the file system has no such rights
        found = target.lstat()
        if stat.S_ISREG(found.st_mode):
            temporary.chmod(stat.S_IMODE(found.st_mode))


def _identity(name: str) -> tuple[int, int] | None:
    """Return what names of the same file have in common, through links of both kinds; None for no file."""
    if name == STDIN:
        return None
    try:
        found = Path(name).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino

"""A lock that several processes share or one has alone; the system gives it back however a process ends.

A lock tells the living from the dead where neither the age of a file nor the number of a process does: clocks
jump, numbers come again, and those of another container mean nothing here.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_REGION_BYTES = 1 << 30  # that a lock alone covers on Windows, where a shared one covers one byte of it


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold the lock with others, as long as nobody has it alone, which is never for long; blocks.

    Where the file system has no locks, nothing is locked. Raises OSError where the file cannot be made.
    """
    descriptor = _open(path)
    try:
        with suppress(OSError):
            _share(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_alone(path: Path) -> Iterator[bool]:
    """Hold the lock alone; tell whether it could be had at once.

    Raises OSError where the file cannot be made.
    """
    descriptor = _open(path)
    try:
        try:
            _take_alone(descriptor)
        except OSError:  # others have it, or the file system has no locks: who is there is not known
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)


if sys.platform == "win32":
    import msvcrt

    def _share(descriptor: int) -> None:
        os.lseek(descriptor, random.randrange(_REGION_BYTES), os.SEEK_SET)  # noqa: S311  (any free byte will do)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)

    def _take_alone(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, _REGION_BYTES)

else:
    import fcntl

    def _share(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_SH)

    def _take_alone(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

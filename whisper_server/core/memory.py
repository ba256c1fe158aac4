"""Memory that is free goes back to the system, where an allocator would rather keep it."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable

# Of glibc's malloc.h.
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

_ARENAS = 2
_MAPPED_BYTES = 4 << 20


def tune_allocator() -> None:
    """Keep freed memory from piling up; for threads that have not allocated anything yet.

    glibc gives every thread an arena of its own, up to eight per core. Here a dozen threads hold megabytes
    for milliseconds each: what one has freed another could use, and each arena keeps its own peak.

    It also learns to keep ever larger pieces, up to 32 MiB, in those arenas, and what an encoder works with
    leaves holes there: pieces from 4 MiB on are mapped and handed back. From 1 MiB on it cost tiny time
    (seen with a bare encoder on two threads; no command here repeats it).
    """
    tune = _libc("mallopt")
    if tune is not None:
        tune(_ARENA_MAX, _ARENAS)
        tune(_MMAP_THRESHOLD, _MAPPED_BYTES)


def return_memory() -> None:
    """Collect garbage and hand free memory back; blocks for some milliseconds, and everybody with it."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Hand free memory back; blocks for some milliseconds, but not other threads' Python.

    glibc keeps what was freed in pieces below its threshold for mapping: most of a small model, and some of
    what its batches take beside it. Other allocators do as they like.
    """
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def _libc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):  # another libc
        return None
    return function

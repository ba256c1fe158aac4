"""Memory that is free goes back to the system, where an allocator would rather keep it."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable

_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h
_ARENAS = 2


def limit_arenas() -> None:
    """Let threads share what memory is free; for those that have not allocated anything yet.

    glibc gives every thread an arena of its own, up to eight per core. Here a dozen threads hold megabytes
    for milliseconds each: what one has freed another could use, and each arena keeps its own peak.
    """
    limit = _libc("mallopt")
    if limit is not None:
        limit(_ARENA_MAX, _ARENAS)


def return_memory() -> None:
    """Collect garbage and hand free memory back; blocks for some milliseconds, and everybody with it."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Hand free memory back; blocks for some milliseconds, but not other threads' Python.

    glibc keeps what was freed in pieces below its threshold for mapping, which grows up to 32 MiB: most of a
    small model, and what its batches take beside it. Other allocators do as they like.
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

"""Hands free memory back to the system, where glibc would keep it."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import threading
from collections.abc import Callable

# Of glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

_ARENAS = 2
_MAPPED_BYTES = 10 << 20
# What each arena keeps of what was freed at its end: this part of what is free at the start, within bounds.
_KEPT_PART = 32
_LEAST_KEPT_BYTES, _MOST_KEPT_BYTES = 4 << 20, 64 << 20
_CUT_BYTES = 128 << 10  # glibc's own trim threshold

_kept_bytes: list[int] = []  # by each arena of this process, once that was set


def tune_allocator(free_bytes: int | None = None) -> None:
    """Bound the freed memory that glibc keeps, and keep working memory mapped; call it before threads start.

    `free_bytes` is how much memory the process may take, None where nobody knows.

    glibc gives every thread an arena of its own, up to eight per core. Here a dozen threads hold megabytes
    for milliseconds each: one could use what another has freed, but each arena keeps its own peak.

    glibc also raises its threshold for mapping up to 32 MiB, and leaves holes where such pieces were: here
    pieces beyond 10 MiB are mapped and handed back. Smaller ones must not be, since the system clears every
    page that it gives: a model of width 768 takes hundreds of pieces of 4.4 MiB for a window, and is slower
    where they are mapped (bench/experiments/allocator.py has by how much). With that limit set, glibc would
    hand back the end of its arena with every piece that is freed there, so how much of it stays is set too:
    less in a small container, whose system would end the process for want of what is kept.
    """
    tune = _libc("mallopt")
    if tune is not None:
        tune(_ARENA_MAX, _ARENAS)
        tune(_MMAP_THRESHOLD, _MAPPED_BYTES)
        kept_bytes = _MOST_KEPT_BYTES
        if free_bytes is not None:
            kept_bytes = max(_LEAST_KEPT_BYTES, min(free_bytes // _KEPT_PART, _MOST_KEPT_BYTES))
        tune(_TRIM_THRESHOLD, kept_bytes)
        _kept_bytes[:] = [kept_bytes]


def return_memory() -> None:
    """Collect garbage and hand free memory back; blocks all Python threads for some milliseconds."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Hand free memory back; blocks for some milliseconds, but not other threads' Python.

    glibc keeps what was freed in pieces below its threshold for mapping: most of a small model, and some of
    what its batches take beside it. Other allocators are left alone.
    """
    trim, tune = _libc("malloc_trim"), _libc("mallopt")
    if trim is not None:
        trim(0)  # first: it joins what small pieces kept apart, and some of it becomes the end of an arena
        if tune is not None and _kept_bytes:
            _cut_ends(tune, *_kept_bytes)


def _cut_ends(tune: Callable[..., int], kept_bytes: int) -> None:
    """Hand back the free end of every arena, where malloc_trim cuts only the first one's.

    An arena looks at its end when a piece of more than 64 KiB is freed in it (glibc's `heap_trim`), and new
    threads get the arenas in rotation (`reused_arena`).
    """
    tune(_TRIM_THRESHOLD, _CUT_BYTES)
    try:
        for _ in range(_ARENAS):
            thread = threading.Thread(target=bytes, args=(_CUT_BYTES,))
            thread.start()
            thread.join()
    except RuntimeError:  # no more threads: the ends stay until the next idle trim
        pass
    finally:
        tune(_TRIM_THRESHOLD, kept_bytes)


@functools.cache
def _libc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):  # another libc
        return None
    return function

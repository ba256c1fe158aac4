"""Memory that is free goes back to the system, where an allocator would rather keep it."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable


def return_memory() -> None:
    """Collect garbage and hand free memory back; blocks for some milliseconds.

    glibc keeps what was freed in pieces below its threshold for mapping, which grows up to 32 MiB: most of a
    small model. Other allocators do as they like.
    """
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another libc
        return None
    return trim

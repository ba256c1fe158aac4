"""Freed memory: kept at hand for work, and given back at rest from every arena of the C library."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do as they like")

PIECE = 4 << 20
MORE = 64 << 10  # of every piece: pages of something else may go while the arenas fill
PIECES = 11  # less than an arena's heap, which is given back whole once it is empty

# As many threads as there are arenas, each in its own, take pieces at once and free them; then there is rest,
# in which they are gone or wait for more work.
PROGRAM = f"""
import json, sys, threading
from whisper_server.core.system import allocator

allocator.tune_allocator(int(sys.argv[2]))
are_full, are_done, may_end = (threading.Barrier(3) for _ in range(3))
lives_on = []

def work():
    lives_on.append(b"x" * 1000)
    pieces = [b"x" * {PIECE + MORE} for _ in range({PIECES})]
    are_full.wait()
    del pieces
    are_done.wait()
    if sys.argv[1] == "waiting":
        may_end.wait()

def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Anonymous:"))

before = resident()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
are_full.wait()
full = resident()
are_done.wait()
if sys.argv[1] == "gone":
    for thread in threads:
        thread.join()
kept = resident()
allocator.trim_heap()
left = resident()
if sys.argv[1] == "waiting":
    may_end.wait()
print(json.dumps([each - before for each in (full, kept, left)]))
"""


def resident(threads: str, free_bytes: int) -> list[int]:
    """Return what the process has when its arenas are full, when they are free, and at rest."""
    command = [sys.executable, "-c", PROGRAM, threads, str(free_bytes)]
    found: list[int] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def test_less_is_kept_where_there_is_less() -> None:
    """In a container of 500 MB what two arenas keep would be a quarter of it.

    One may have a piece of something else at its end, which then stays where it is.
    """
    _, kept, _ = resident("waiting", 512 << 20)
    assert kept <= (PIECES + 1) * (PIECE + MORE) + (16 << 20)


@pytest.mark.parametrize("threads", ["gone", "waiting"])
def test_at_rest_every_arena_gives_back_what_is_free(threads: str) -> None:
    full, kept, left = resident(threads, 32 << 30)
    assert full >= 2 * PIECES * PIECE
    assert kept >= PIECES * PIECE  # else there would be nothing to give back
    assert left < PIECE

"""Freed memory: kept at hand for work, and given back at rest from every arena of the C library."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do as they like")

PIECE = 4 << 20
PIECES = 11  # less than an arena's heap, which is given back whole once it is empty

# As many threads as there are arenas, each in its own, take pieces at once and free them; then there is rest.
PROGRAM = f"""
import json, threading
from whisper_server.core import memory

memory.tune_allocator()
are_full, may_end = threading.Barrier(3), threading.Barrier(3)
lives_on = []

def work():
    lives_on.append(b"x" * 1000)
    pieces = [b"x" * {PIECE} for _ in range({PIECES})]
    are_full.wait()
    del pieces
    may_end.wait()

def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Anonymous:"))

before = resident()
for _ in range(2):
    threading.Thread(target=work).start()
are_full.wait()
full = resident()
may_end.wait()
kept = resident()
memory.trim_heap()
print(json.dumps([each - before for each in (full, kept, resident())]))
"""


def test_at_rest_every_arena_gives_back_what_is_free() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    full, kept, left = json.loads(run.stdout)
    assert full >= 2 * PIECES * PIECE
    assert kept >= PIECES * PIECE  # else there would be nothing to give back
    assert left < PIECE

"""Watching another process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from whisper_server.core.system.process_watch import PollingWatch, Watch, open_parent_watch, open_watch

OPENERS = [open_watch, partial(PollingWatch, every_s=0.001)]


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when its stdin is closed."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process


@pytest.mark.parametrize("look", OPENERS)
async def test_it_tells_once(other: subprocess.Popen[bytes], look: Callable[[int], Watch]) -> None:
    watch = look(other.pid)
    is_over = asyncio.Event()
    calls: list[int] = []

    def on_end() -> None:
        calls.append(1)
        is_over.set()

    watch.start(on_end)
    assert not is_over.is_set()
    other.communicate()
    await is_over.wait()
    for _ in range(9):
        await asyncio.sleep(0)
    assert calls == [1]
    watch.stop()
    with pytest.raises(ProcessLookupError):
        look(other.pid)


@pytest.mark.parametrize("look", OPENERS)
async def test_an_end_before_it_looks_is_told_too(
    other: subprocess.Popen[bytes], look: Callable[[int], Watch]
) -> None:
    watch = look(other.pid)
    other.communicate()
    is_over = asyncio.Event()
    watch.start(is_over.set)
    await is_over.wait()
    watch.stop()


@pytest.mark.parametrize("look", OPENERS)
async def test_it_can_look_away(other: subprocess.Popen[bytes], look: Callable[[int], Watch]) -> None:
    unused = look(other.pid)
    unused.stop()
    watch, witness = look(other.pid), look(other.pid)
    is_over, calls = asyncio.Event(), list[int]()
    watch.start(lambda: calls.append(1))
    witness.start(is_over.set)  # looks after the other one, so that this one would have told first
    watch.stop()
    other.communicate()
    await is_over.wait()
    witness.stop()
    assert calls == []


@pytest.mark.parametrize("look", [open_parent_watch, PollingWatch])
async def test_our_parent_is_there(look: Callable[[int], Watch]) -> None:
    watch = look(os.getppid())
    calls: list[int] = []
    watch.start(lambda: calls.append(1))
    for _ in range(9):
        await asyncio.sleep(0)
    watch.stop()
    assert calls == []


@pytest.mark.parametrize("look", [open_watch, open_parent_watch])
def test_the_first_process_of_a_container_has_no_parent(look: Callable[[int], Watch]) -> None:
    with pytest.raises(ProcessLookupError):
        look(0)


def test_somebody_else_is_not_our_parent(other: subprocess.Popen[bytes]) -> None:
    with pytest.raises(ProcessLookupError):
        open_parent_watch(other.pid)

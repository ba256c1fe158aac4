"""A loop that does not turn: noticed, said once, and ended where somebody asks for it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from whisper_server.core.system import loop_watch
from whisper_server.core.system.loop_watch import LoopWatch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


def block_until(event: threading.Event) -> None:
    assert event.wait(30)


async def test_a_loop_that_does_not_turn_is_said_once_with_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = LoopWatch([signal.SIGUSR1], pytest.fail, stuck_s=1.0)
    watch.start()
    deadline = time.monotonic() + 30
    while not watch.is_stuck and time.monotonic() < deadline:
        pass  # the loop does not turn
    while not caplog.records and time.monotonic() < deadline:
        pass
    await asyncio.sleep(0.6)
    assert not watch.is_stuck
    watch.stop()
    (record,) = caplog.records
    message = record.getMessage()
    assert "\n" not in message
    assert "has not turned for 1 s" in message
    assert "test_loop_watch.py" in message


async def test_a_signal_ends_a_process_whose_loop_does_not_turn() -> None:
    ended = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    watch = LoopWatch([signal.SIGUSR1], ended.set, stuck_s=1.0)
    watch.start()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        block_until(ended)  # on the loop's thread
        assert watch.is_stuck
    finally:
        watch.stop()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


async def test_a_signal_does_not_end_a_process_whose_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "_LOOK_EVERY_S", 0.1)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    watch = LoopWatch([signal.SIGUSR1], lambda: pytest.fail("ended"), stuck_s=2.0)
    watch.start()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(60):  # 3 s: longer than it may be stuck
            await asyncio.sleep(0.05)
        assert watch._is_asked
        assert not watch.is_stuck
    finally:
        watch.stop()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

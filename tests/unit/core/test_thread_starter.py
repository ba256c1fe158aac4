"""Threads are started by another one, so that none who wants one waits where no memory is left."""

from __future__ import annotations

import threading

import pytest

from whisper_server.core.system.process import ThreadStarter

LIMIT_S = 30.0


class Stuck(threading.Thread):
    """A thread whose start lasts until the gate opens, as one does that ended before it had begun."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.begun, self.gate = threading.Event(), threading.Event()

    def start(self) -> None:
        self.begun.set()
        self.gate.wait(LIMIT_S)


def test_a_start_that_does_not_end_holds_up_no_caller_and_is_known() -> None:
    starter = ThreadStarter(timeout_s=0.0)
    stuck, ran = Stuck(), threading.Event()
    starter.start(stuck, pytest.fail)
    assert stuck.begun.wait(LIMIT_S)
    starter.start(threading.Thread(target=ran.set), pytest.fail)
    with pytest.raises(RuntimeError, match="no thread"):
        starter.check()
    stuck.gate.set()
    assert ran.wait(LIMIT_S)


def test_a_thread_that_cannot_start_is_told_and_the_next_one_starts() -> None:
    starter = ThreadStarter()
    failed, ran = threading.Event(), threading.Event()
    started = threading.Thread(target=lambda: None)
    started.start()  # a second start is a RuntimeError
    starter.start(started, lambda _: failed.set())
    starter.start(threading.Thread(target=ran.set), pytest.fail)
    assert failed.wait(LIMIT_S)
    assert ran.wait(LIMIT_S)


def test_who_waits_for_a_thread_to_begin_does_not_wait_for_ever() -> None:
    starter = ThreadStarter(timeout_s=0.05)
    ran = threading.Event()
    starter.begin(threading.Thread(target=ran.set))
    assert ran.wait(LIMIT_S)
    stuck = Stuck()
    for thread in (stuck, threading.Thread(target=pytest.fail)):  # the next one is refused at once
        with pytest.raises(RuntimeError, match="no thread"):
            starter.begin(thread)
    stuck.gate.set()


def test_who_waits_for_a_thread_hears_that_it_cannot_start() -> None:
    started = threading.Thread(target=lambda: None)
    started.start()  # a second start is a RuntimeError
    with pytest.raises(RuntimeError, match="no thread"):
        ThreadStarter().begin(started)

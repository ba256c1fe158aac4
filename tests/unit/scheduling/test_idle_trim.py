"""When the crew rests: once after its work, and never while somebody has some."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from whisper_server.core.events import Events
from whisper_server.core.types import Decoded, DecodeOptions, Placed, Window, WindowJob
from whisper_server.services.scheduling.batch import Job
from whisper_server.services.scheduling.fair_queue import BatchLimit, Flow
from whisper_server.services.scheduling.workers import Crew

PATIENCE_S = 30  # only ever reached where the code under test hangs
WINDOW = WindowJob(Window(np.zeros((80, 3000), np.float32), 1.0, (Placed(0.0, 0.0, 1.0),)), "en")
DECODED = Decoded((1,), "en", 1.0, 0.0, 0.0, 1.0, 0.0, is_silence=False)


class Office:
    """Two workers, the jobs that wait for them, and a count of their rests."""

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.gates: list[threading.Event] = []
        self.entered = threading.Semaphore(0)
        self.rested = threading.Semaphore(0)
        self.busy_at_rest: list[int] = []
        self.n_busy = 0
        self.crew = Crew(
            self.decode,
            self.take,
            lambda error: None,
            revive=None,
            patience_s=math.inf,
            limit=BatchLimit(1),
            events=Events(),
            name="test",
            rest=self.rest,
            rest_s=0.0,
        )
        self.crew.start(2)

    def take(self, n_idle: int) -> list[Job]:
        return [self.waiting.pop(0)] if self.waiting and n_idle else []

    def decode(self, jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: object) -> list[Decoded]:
        with self.crew.lock:
            self.n_busy += 1
            gate = self.gates.pop(0)
        self.entered.release()
        assert gate.wait(PATIENCE_S)
        with self.crew.lock:
            self.n_busy -= 1
        return [DECODED] * len(jobs)

    def rest(self) -> None:
        self.busy_at_rest.append(self.n_busy)
        assert self.crew.lock.acquire(timeout=PATIENCE_S)  # the lock is free for whoever has work
        self.crew.lock.release()
        self.rested.release()

    def submit(self, gate: threading.Event) -> Job:
        job = Job(WINDOW, DecodeOptions(), Flow(1), 0.0)
        with self.crew.lock:
            assert job.start()
            self.gates.append(gate)
            self.waiting.append(job)
            self.crew.wake()
        return job


@pytest.fixture
def office() -> Iterator[Office]:
    office = Office()
    yield office
    office.crew.close()


def test_it_rests_once_after_its_work(office: Office) -> None:
    opened = threading.Event()
    opened.set()
    for n_rests in (1, 2, 3):
        assert office.submit(opened).future.result(PATIENCE_S) is DECODED
        assert office.rested.acquire(timeout=PATIENCE_S)
        assert len(office.busy_at_rest) == n_rests  # never before there was work, nor twice after it


def test_it_does_not_rest_while_one_is_busy(office: Office) -> None:
    long, short = threading.Event(), threading.Event()
    first = office.submit(long)
    assert office.entered.acquire(timeout=PATIENCE_S)
    for _ in range(5):
        short.set()
        assert office.submit(short).future.result(PATIENCE_S) is DECODED
    assert office.busy_at_rest == []
    long.set()
    assert first.future.result(PATIENCE_S) is DECODED
    assert office.rested.acquire(timeout=PATIENCE_S)
    assert office.busy_at_rest == [0]

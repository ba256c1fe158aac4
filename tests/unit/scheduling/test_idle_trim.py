"""When the heap is trimmed: once after the work of the pool, and never while a worker is busy."""

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
from whisper_server.services.scheduling.workers import WorkerPool

TIMEOUT_S = 30  # only ever reached where the code under test hangs
WINDOW = WindowJob(Window(np.zeros((80, 3000), np.float32), 1.0, (Placed(0.0, 0.0, 1.0),)), "en")
DECODED = Decoded((1,), "en", 1.0, 0.0, 0.0, 1.0, 0.0, is_silence=False)


class Harness:
    """A pool of two workers, the jobs that wait for them, and how often the heap was trimmed."""

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.gates: list[threading.Event] = []
        self.entered = threading.Semaphore(0)
        self.trimmed = threading.Semaphore(0)
        self.busy_at_trim: list[int] = []
        self.n_busy = 0
        self.lock = threading.Lock()
        self.pool = WorkerPool(
            self.decode,
            self.take,
            lambda error: None,
            reload=None,
            batch_timeout_s=math.inf,
            limit=BatchLimit(1),
            events=Events(),
            name="test",
            idle_trim=self.trim,
            idle_trim_s=0.0,
        )
        self.pool.start(2)

    def take(self, n_idle: int) -> list[Job]:
        with self.lock:
            return [self.waiting.pop(0)] if self.waiting and n_idle else []

    def decode(self, jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: object) -> list[Decoded]:
        with self.lock:
            self.n_busy += 1
            gate = self.gates.pop(0)
        self.entered.release()
        assert gate.wait(TIMEOUT_S)
        with self.lock:
            self.n_busy -= 1
        return [DECODED] * len(jobs)

    def trim(self) -> None:
        self.busy_at_trim.append(self.n_busy)
        waking = threading.Thread(target=self.pool.wake, daemon=True)  # needs the pool's lock
        waking.start()
        waking.join(TIMEOUT_S)
        if not waking.is_alive():
            self.trimmed.release()

    def submit(self, gate: threading.Event) -> Job:
        job = Job(WINDOW, DecodeOptions(), Flow(1), 0.0)
        with self.lock:
            assert job.start()
            self.gates.append(gate)
            self.waiting.append(job)
        self.pool.wake()
        return job


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    harness.pool.close()


def test_it_trims_once_after_its_work(harness: Harness) -> None:
    opened = threading.Event()
    opened.set()
    for n_trims in (1, 2, 3):
        assert harness.submit(opened).future.result(TIMEOUT_S) is DECODED
        assert harness.trimmed.acquire(timeout=TIMEOUT_S)
        assert len(harness.busy_at_trim) == n_trims  # never before there was work, nor twice after it


def test_it_does_not_trim_while_one_is_busy(harness: Harness) -> None:
    long, short = threading.Event(), threading.Event()
    first = harness.submit(long)
    assert harness.entered.acquire(timeout=TIMEOUT_S)
    for _ in range(5):
        short.set()
        assert harness.submit(short).future.result(TIMEOUT_S) is DECODED
    assert harness.busy_at_trim == []
    long.set()
    assert first.future.result(TIMEOUT_S) is DECODED
    assert harness.trimmed.acquire(timeout=TIMEOUT_S)
    assert harness.busy_at_trim == [0]

"""A device under a scheduler that a test holds in its hand, jobs for it, and events that count."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from whisper_server.core.errors import DeviceOutOfMemory
from whisper_server.core.events import Events
from whisper_server.core.types import Decoded, DecodeOptions, Placed, Window, WindowJob
from whisper_server.services.scheduling.scheduler import Scheduler

PLAIN, WARM = DecodeOptions(), DecodeOptions(temperatures=(0.7,))
MEL = np.zeros((80, 3000), np.float32)
TIMEOUT_S = 30  # only ever reached where the code under test hangs


def job(name: str) -> WindowJob:
    return WindowJob(Window(MEL, 1.0, (Placed(0.0, 0.0, 1.0),)), "en", prompt=name)


def answer(name: str) -> Decoded:
    return Decoded((len(name),), name, 1.0, 0.0, 0.0, 1.0, 0.0, is_silence=False)


class Device:
    """Answers with the name of the job; may be held shut, and fails on names it is told to."""

    def __init__(self, fails: dict[str, BaseException] | None = None, *, most: int = 99) -> None:
        self.batches: list[list[str]] = []
        self.fails = fails or {}
        self.most = most
        self.unwanted: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def decode(
        self,
        jobs: Sequence[WindowJob],
        options: DecodeOptions,
        is_wanted: Callable[[int], bool] = lambda _row: True,
    ) -> list[Decoded]:
        names = [job.prompt for job in jobs]
        self.batches.append(names)
        self.entered.release()
        assert self.gate.wait(TIMEOUT_S)
        if len(jobs) > self.most:
            raise DeviceOutOfMemory("too many")
        self.unwanted += [name for row, name in enumerate(names) if not is_wanted(row)]
        for name in names:
            if name in self.fails:
                raise self.fails[name]
        return [answer(name) for name in names]


class Counted(Events):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def window_waited(self, wait_s: float) -> None:
        assert wait_s >= 0
        self.counts["waited"] += 1

    def batch_done(self, n_windows: int, audio_s: float, wall_s: float) -> None:
        assert (audio_s, wall_s >= 0) == (n_windows * 1.0, True)
        self.counts["batches"] += 1

    def windows_cancelled(self, n: int) -> None:
        self.counts["cancelled"] += n

    def windows_failed(self, n: int) -> None:
        self.counts["failed"] += n

    def worker_replaced(self) -> None:
        self.counts["replaced"] += 1


def submit(scheduler: Scheduler, name: str, options: DecodeOptions = PLAIN) -> Future[Decoded]:
    """Queue a window of a request of its own."""
    return scheduler.open_stream().submit(job(name), options)


def said(future: Future[Decoded]) -> str:
    return future.result(TIMEOUT_S).language


def hold(scheduler: Scheduler, device: Device, name: str = "held") -> Future[Decoded]:
    """Occupy the device with one job, so that what comes next has to wait."""
    device.gate.clear()
    future = submit(scheduler, name)
    assert device.entered.acquire(timeout=TIMEOUT_S)
    return future

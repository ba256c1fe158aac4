"""The threads that talk to the device: each runs one batch at a time, and a lost one is replaced.

Owns the threads, the engine's decode function and the making of another one. Which windows a batch has
is the scheduler's business: `take` tells.

Theory of operation. A worker is idle (waits for work), busy (its jobs are set, and a deadline) or lost.
It is lost when its engine dies of no ordinary exception or is silent beyond its deadline: its jobs fail,
and another worker starts, which makes the engine anew before it takes work. A thread that hangs inside
a library cannot be ended; it is left alone, and ends by itself if it ever comes back. An engine that
cannot be made anew breaks the crew for good; whoever owns it is told why. Where nobody has had work for
a while, one of them rests: what the batches left in the allocator's hands goes back to the system.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from whisper_server.core.errors import EngineFailure, ModelUnavailable, WhisperServerError
from whisper_server.core.memory import trim_heap
from whisper_server.core.process import THREAD_PREFIX
from whisper_server.core.watcher import Watcher
from whisper_server.services.batch import DecodeBatch, Job, run_batch
from whisper_server.services.fair_queue import BatchLimit

log = logging.getLogger(__name__)

Revive = Callable[[], DecodeBatch]

# Without work, then the memory goes back. Clients that send one clip after the other come sooner, and need
# not wait for the pages again, which cost them some milliseconds.
REST_S = 1.0


@dataclass(eq=False, slots=True)
class _Worker:
    """One place in the crew."""

    jobs: list[Job] = field(default_factory=list)  # of the batch that runs
    deadline_s: float = math.inf  # when it is given up, if the batch still runs then
    is_lost: bool = False
    thread: threading.Thread | None = None


class Crew:
    """A number of workers on one device; thread-safe."""

    def __init__(
        self,
        decode: DecodeBatch,
        take: Callable[[int], list[Job]],
        on_broken: Callable[[WhisperServerError], None],
        *,
        revive: Revive | None,
        patience_s: float,
        limit: BatchLimit,
        watcher: Watcher,
        name: str,
        rest: Callable[[], None] = trim_heap,
        rest_s: float = REST_S,
    ) -> None:
        """Take what makes batches: `take` is asked with the lock held, and told how many are idle.

        `revive` makes an engine anew (None: the old one is used on), `on_broken` hears when it cannot.
        `rest` is called once whenever none of them has had work for `rest_s` seconds.
        """
        self._decode = decode
        self._take = take
        self._on_broken = on_broken
        self._revive = revive
        self._patience_s = patience_s
        self._limit = limit
        self._watcher = watcher
        self._name = name
        self._rest = rest
        self._rest_s = rest_s
        self._n_batches = 0  # taken so far
        self._n_at_rest = 0  # taken when the last rest was
        self.lock = threading.RLock()  # the scheduler's as well: one lock guards queue and crew
        self._work = threading.Condition(self.lock)
        self._began = threading.Condition(self.lock)
        self._workers: set[_Worker] = set()
        self._threads: set[threading.Thread] = set()  # all but those that hang
        self._n_reviving = 0
        self._is_closing = False

    @property
    def is_degraded(self) -> bool:
        """Whether a lost worker is being replaced."""
        return self._n_reviving > 0

    def start(self, n_workers: int) -> None:
        """Start the threads."""
        with self.lock:
            for _ in range(n_workers):
                self._add_worker(revives=False)
            if self._patience_s < math.inf:
                self._start(self._supervise)

    def wake(self) -> None:
        """Tell that there is work."""
        with self.lock:
            self._work.notify()

    def close(self) -> None:
        """Let the workers finish their batches and end; blocks."""
        with self.lock:
            self._is_closing = True
            self._work.notify_all()
            self._began.notify_all()
            threads = tuple(self._threads)
        for thread in threads:
            thread.join()

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        name = f"{THREAD_PREFIX}scheduler-{self._name}"
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        self._threads = {each for each in self._threads if each.is_alive()} | {thread}
        return thread

    def _add_worker(self, *, revives: bool) -> None:
        worker = _Worker()
        self._workers.add(worker)
        worker.thread = self._start(self._be_worker, worker, revives)

    def _be_worker(self, worker: _Worker, revives: bool) -> None:
        """Run batches until the end, or until one of them is this worker's end."""
        try:
            if revives and not self._make_anew():
                return
            while batch := self._next_batch(worker):
                self._run(worker, batch)
                del batch  # the loop must not keep audio alive while it waits for the next job
        except BaseException as error:  # noqa: BLE001  (an engine may raise anything; its jobs are waited for)
            self._lose(worker, error)
        finally:
            with self.lock:
                self._workers.discard(worker)

    def _next_batch(self, worker: _Worker) -> list[Job]:
        """Wait for work and take this worker's share of it; [] once there will be no more."""
        while (batch := self._wait_for_batch(worker)) is None:
            self._rest()  # without the lock, which the event loop takes as well
        return batch

    def _wait_for_batch(self, worker: _Worker) -> list[Job] | None:
        """Return what `_next_batch` does, or None when it is time to rest."""
        with self.lock:
            while not worker.is_lost:
                idle = sum(not each.jobs for each in self._workers)
                worker.jobs = self._take(idle)
                if worker.jobs:
                    self._n_batches += 1
                    worker.deadline_s = time.monotonic() + self._patience_s
                    self._began.notify()
                    return worker.jobs
                if self._is_closing:
                    break
                n_batches = self._n_batches
                may_rest = idle == len(self._workers) and n_batches > self._n_at_rest
                is_woken = self._work.wait(self._rest_s if may_rest else None)
                if not is_woken and n_batches == self._n_batches > self._n_at_rest:
                    self._n_at_rest = n_batches
                    return None
            return []

    def _run(self, worker: _Worker, batch: list[Job]) -> None:
        started_s = time.monotonic()
        for job in batch:
            self._watcher.window_waited(started_s - job.submitted_s)
        run_batch(batch, self._decode, self._limit, self._watcher)
        audio_s = sum(job.window.window.duration_s for job in batch)
        self._watcher.batch_done(len(batch), audio_s, time.monotonic() - started_s)
        with self.lock:
            worker.jobs, worker.deadline_s = [], math.inf

    def _supervise(self) -> None:
        """Give up workers whose batch takes too long."""
        with self.lock:
            while not self._is_closing:
                now_s = time.monotonic()
                for worker in [each for each in self._workers if each.deadline_s <= now_s]:
                    late = EngineFailure(f"The engine gave no answer within {self._patience_s:g} s.")
                    if worker.thread is not None:
                        self._threads.discard(worker.thread)
                    self._lose(worker, late)
                next_s = min((each.deadline_s for each in self._workers), default=math.inf)
                self._began.wait(None if next_s == math.inf else max(0.0, next_s - now_s))

    def _lose(self, worker: _Worker, error: BaseException) -> None:
        """Fail what the worker had, and put another one with a new engine in its place."""
        with self.lock:
            if worker.is_lost:
                return
            worker.is_lost = True
            jobs, worker.jobs, worker.deadline_s = worker.jobs, [], math.inf
            self._workers.discard(worker)
            is_replaced = not self._is_closing
            if is_replaced:
                self._n_reviving += 1
                self._add_worker(revives=True)
        log.error("a worker of model %s is lost", self._name, exc_info=error)
        failure = EngineFailure("The engine failed on this audio.")
        failure.__cause__ = error
        for job in jobs:
            job.fail(failure)
        self._watcher.windows_failed(len(jobs))
        if is_replaced:
            self._watcher.worker_replaced()

    def _make_anew(self) -> bool:
        """Replace the engine that a worker was lost with; return whether that worked."""
        error: BaseException | None = None
        try:
            if self._revive is not None:
                self._decode = self._revive()
        except BaseException as raised:  # whatever it is, the queue must be answered
            log.exception("the engine of model %s cannot be made anew", self._name)
            error = raised
        with self.lock:
            self._n_reviving -= 1
        if error is None:
            return True
        if not isinstance(error, WhisperServerError):
            cause, error = error, ModelUnavailable(f"The model {self._name!r} stopped working; try again.")
            error.__cause__ = cause
        self._on_broken(error)
        return False

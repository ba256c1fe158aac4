"""The threads that talk to the device: each runs one batch at a time, and a lost one is replaced.

Owns the threads, the engine's decode function and the making of another one. Which windows a batch has
is the scheduler's business: `take` tells.

Theory of operation. A worker is idle (waits for work), busy (its jobs are set, and a deadline) or lost.
It is lost when its engine dies of no ordinary exception or is silent beyond its deadline: its jobs fail,
and another worker starts, which makes the engine anew, by a deadline as well, before it takes work. A
thread that hangs inside a library cannot be ended; it is left alone, and ends by itself if it ever comes
back. An engine that cannot be made anew, or not in time, breaks the crew for good; whoever owns it is
told why. `close` waits for busy workers no longer than their deadlines. Where nobody has had work for a
while, one of them rests: what the batches left in the allocator's hands goes back to the system.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from whisper_server.core.errors import EngineFailure, ModelUnavailable, WhisperServerError
from whisper_server.core.events import Events
from whisper_server.core.system.allocator import trim_heap
from whisper_server.core.system.process import THREAD_PREFIX
from whisper_server.services.scheduling.batch import DecodeBatch, Job, run_batch
from whisper_server.services.scheduling.fair_queue import BatchLimit

log = logging.getLogger(__name__)

Revive = Callable[[], DecodeBatch]

# Without work, then the memory goes back. Clients that send one clip after the other come sooner, and need
# not wait for the pages again, which cost them some milliseconds.
REST_S = 1.0


@dataclass(eq=False, slots=True)
class _Worker:
    """One place in the crew."""

    jobs: list[Job] = field(default_factory=list)  # of the batch that runs
    deadline_s: float = math.inf  # when it is given up, if it has not answered by then
    is_reviving: bool = False
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
        events: Events,
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
        self._events = events
        self._name = name
        self._rest = rest
        self._rest_s = rest_s
        self._n_batches = 0  # taken so far
        self._n_at_rest = 0  # taken when the last rest was
        self.lock = threading.RLock()  # the scheduler's as well: one lock guards queue and crew
        self._work = threading.Condition(self.lock)
        self._changed = threading.Condition(self.lock)  # a worker has a new deadline, or is gone
        self._workers: set[_Worker] = set()
        self._threads: set[threading.Thread] = set()  # all but those that hang
        self._n_reviving = 0
        self._is_closing = False

    @property
    def is_degraded(self) -> bool:
        """Whether a lost worker is being replaced."""
        return self._n_reviving > 0

    def start(self, n_workers: int) -> None:
        """Start the threads, or none where one of them cannot be started (RuntimeError)."""
        try:
            with self.lock:
                for _ in range(n_workers):
                    self._add_worker()
                if self._patience_s < math.inf:
                    self._start(self._supervise)
        except RuntimeError:
            self.close()
            raise

    def wake(self) -> None:
        """Tell that there is work."""
        with self.lock:
            self._work.notify()

    def close(self) -> None:
        """Let the workers finish their batches and end; blocks, until the last deadline at most."""
        with self.lock:
            self._is_closing = True
            self._work.notify_all()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._workers)
        for thread in tuple(self._threads):
            thread.join()

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        name = f"{THREAD_PREFIX}scheduler-{self._name}"
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        self._threads = {each for each in self._threads if each.is_alive()} | {thread}
        return thread

    def _add_worker(self, *, revives: bool = False) -> None:
        worker = _Worker(is_reviving=revives)
        worker.thread = self._start(self._be_worker, worker)  # it waits for the lock, which is held here
        self._workers.add(worker)

    def _be_worker(self, worker: _Worker) -> None:
        """Run batches until the end, or until one of them is this worker's end."""
        try:
            if worker.is_reviving and not self._make_anew(worker):
                return
            while batch := self._next_batch(worker):
                self._run(worker, batch)
                del batch  # the loop must not keep audio alive while it waits for the next job
        except BaseException as error:  # noqa: BLE001  (an engine may raise anything; its jobs are waited for)
            self._lose(worker, error)
        finally:
            self._dismiss(worker)

    def _dismiss(self, worker: _Worker) -> None:
        with self.lock:
            self._workers.discard(worker)
            self._changed.notify_all()

    def _set_deadline(self, worker: _Worker) -> None:  # needs the lock
        worker.deadline_s = time.monotonic() + self._patience_s
        self._changed.notify_all()

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
                    self._set_deadline(worker)
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
            self._events.window_waited(started_s - job.submitted_s)
        run_batch(batch, self._decode, self._limit, self._events)
        audio_s = sum(job.window.window.duration_s for job in batch)
        self._events.batch_done(len(batch), audio_s, time.monotonic() - started_s)
        with self.lock:
            worker.jobs, worker.deadline_s = [], math.inf

    def _supervise(self) -> None:
        """Give up workers who take too long, to the last one."""
        with self.lock:
            while self._workers or not self._is_closing:
                now_s = time.monotonic()
                late = [each for each in self._workers if each.deadline_s <= now_s]
                for worker in late:
                    self._expire(worker)
                if not late:
                    next_s = min((each.deadline_s for each in self._workers), default=math.inf)
                    self._changed.wait(min(next_s - now_s, threading.TIMEOUT_MAX))

    def _expire(self, worker: _Worker) -> None:
        """Take a worker for one that hangs; needs the lock."""
        if worker.thread is not None:
            self._threads.discard(worker.thread)
        lose = self._give_up if worker.is_reviving else self._lose
        lose(worker, TimeoutError(f"no answer within {self._patience_s:g} s"))

    def _lose(self, worker: _Worker, error: BaseException) -> None:
        """Fail what the worker had, and put another one with a new engine in its place."""
        with self.lock:
            if worker.is_lost:
                return
            worker.is_lost = True
            jobs, worker.jobs, worker.deadline_s = worker.jobs, [], math.inf
            self._n_reviving += 1  # before anybody hears of it, so that /health never says less
        log.error("a worker of model %s is lost", self._name, exc_info=error)
        failure = EngineFailure("The engine failed on this audio.")
        failure.__cause__ = error
        self._events.windows_failed(sum([job.fail(failure) for job in jobs]))
        self._replace(worker)

    def _replace(self, lost: _Worker) -> None:
        """Start another worker, unless this is the end; the lost one counts until then."""
        with self.lock:
            self._dismiss(lost)
            if self._is_closing:
                self._n_reviving -= 1
                return
            try:
                self._add_worker(revives=True)
            except RuntimeError as error:  # no thread can be started
                self._break(error)
                return
        self._events.worker_replaced()

    def _make_anew(self, worker: _Worker) -> bool:
        """Replace the engine that a worker was lost with; return whether that worked."""
        with self.lock:
            self._set_deadline(worker)
        try:
            decode = self._decode if self._revive is None else self._revive()
        except BaseException as error:  # noqa: BLE001  (whatever it is, the queue must be answered)
            self._give_up(worker, error)
            return False
        with self.lock:
            if not worker.is_lost:  # else it came too late
                self._decode = decode
                worker.is_reviving, worker.deadline_s = False, math.inf
                self._n_reviving -= 1
            return not worker.is_lost

    def _give_up(self, worker: _Worker, error: BaseException) -> None:
        """Take the engine for gone: it was not made anew."""
        with self.lock:
            if not worker.is_lost:
                worker.is_lost = True
                self._dismiss(worker)
                self._break(error)

    def _break(self, error: BaseException) -> None:
        """Tell the owner that there is no engine any more; needs the lock."""
        log.error("the engine of model %s cannot be made anew", self._name, exc_info=error)
        if not isinstance(error, WhisperServerError):
            cause, error = error, ModelUnavailable(f"The model {self._name!r} stopped working; try again.")
            error.__cause__ = cause
        self._on_broken(error)
        self._n_reviving -= 1  # last, so that it is never taken for well

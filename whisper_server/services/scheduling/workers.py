"""The threads that talk to the device: each runs one batch at a time, and a lost one is replaced.

Owns the threads, the engine's decode function and its reload. Which windows a batch has is the scheduler's
decision, which `take` returns.

Theory of operation. A worker is idle (waits for work), busy (its jobs are set, and a deadline) or lost.
It is lost when its engine raises no ordinary exception or does not return by its deadline: its jobs fail,
and another worker starts, which reloads the engine, by a deadline as well, before it takes work. A thread
that hangs inside a library cannot be ended; it is left alone, and ends by itself if the call ever returns.
An engine that cannot be reloaded, or not in time, breaks the pool for good; `on_broken` is told why. `close`
waits for busy workers no longer than their deadlines. After a while in which all workers were idle, one of
them trims the heap: what the batches left in the allocator's hands goes back to the system.

Locks. The pool's lock is its own. It is held while `take` and `on_broken` run, so these may take locks of
their owner, and the owner calls the pool without them.
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
from whisper_server.core.system.process import THREAD_PREFIX, begin_thread
from whisper_server.services.scheduling.batch import DecodeBatch, Job, run_batch
from whisper_server.services.scheduling.fair_queue import BatchLimit

log = logging.getLogger(__name__)

Reload = Callable[[], DecodeBatch]

# Without work, before memory goes back. Clients that send one clip after the other come sooner, and need not
# wait for the pages again, which cost them some milliseconds.
IDLE_TRIM_S = 1.0


@dataclass(eq=False, slots=True)
class _Worker:
    """One worker of the pool."""

    jobs: list[Job] = field(default_factory=list)  # of the batch that runs
    deadline_s: float = math.inf  # when it is given up, if it has not answered by then
    is_reloading: bool = False
    is_lost: bool = False
    thread: threading.Thread | None = None


class WorkerPool:
    """A number of workers on one device; thread-safe."""

    def __init__(
        self,
        decode: DecodeBatch,
        take: Callable[[int], list[Job]],
        on_broken: Callable[[WhisperServerError], None],
        *,
        reload: Reload | None,
        batch_timeout_s: float,
        limit: BatchLimit,
        events: Events,
        name: str,
        idle_trim: Callable[[], None] = trim_heap,
        idle_trim_s: float = IDLE_TRIM_S,
    ) -> None:
        """Take what makes batches: `take` is given the number of idle workers, one call at a time.

        `reload` loads another engine (None: the old one is used on); `on_broken` is called when it fails.
        `idle_trim` is called once after each stretch of work, when none has come for `idle_trim_s` seconds.
        """
        self._decode = decode
        self._take = take
        self._on_broken = on_broken
        self._reload = reload
        self._batch_timeout_s = batch_timeout_s
        self._limit = limit
        self._events = events
        self._name = name
        self._idle_trim = idle_trim
        self._idle_trim_s = idle_trim_s
        self._n_batches = 0  # taken so far
        self._n_at_trim = 0  # taken when the heap was trimmed last
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)  # a worker has a new deadline, or is gone
        self._workers: set[_Worker] = set()
        self._threads: set[threading.Thread] = set()  # all but those that hang
        self._n_reloading = 0
        self._is_closing = False

    @property
    def is_degraded(self) -> bool:
        """Whether a lost worker is being replaced."""
        return self._n_reloading > 0

    def start(self, n_workers: int) -> None:
        """Start the threads, or none where one of them cannot be started (RuntimeError)."""
        try:
            with self._lock:
                for _ in range(n_workers):
                    self._add_worker()
                if self._batch_timeout_s < math.inf:
                    self._start(self._supervise)
        except RuntimeError:
            self.close()
            raise

    def wake(self) -> None:
        """Tell that there is work."""
        with self._lock:
            self._work.notify()

    def close(self) -> None:
        """Let the workers finish their batches and end; blocks, until the last deadline at most."""
        with self._lock:
            self._is_closing = True
            self._work.notify_all()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._workers)
        for thread in tuple(self._threads):
            thread.join()

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        name = f"{THREAD_PREFIX}scheduler-{self._name}"
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        begin_thread(thread)
        self._threads = {each for each in self._threads if each.is_alive()} | {thread}
        return thread

    def _add_worker(self, *, reloads: bool = False) -> None:
        worker = _Worker(is_reloading=reloads)
        worker.thread = self._start(self._run_worker, worker)  # it waits for the lock, which is held here
        self._workers.add(worker)

    def _run_worker(self, worker: _Worker) -> None:
        """Run batches until the pool closes or this worker is lost."""
        try:
            if worker.is_reloading and not self._reload_engine(worker):
                return
            while batch := self._next_batch(worker):
                self._run_batch(worker, batch)
                del batch  # the loop must not keep audio alive while it waits for the next job
        except BaseException as error:  # noqa: BLE001  (an engine may raise anything; its jobs must be answered)
            self._lose(worker, error)
        finally:
            self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
            self._changed.notify_all()

    def _set_deadline(self, worker: _Worker) -> None:  # needs the lock
        worker.deadline_s = time.monotonic() + self._batch_timeout_s
        self._changed.notify_all()

    def _next_batch(self, worker: _Worker) -> list[Job]:
        """Wait for work and take this worker's share of it; [] once there will be no more."""
        while (batch := self._wait_for_batch(worker)) is None:
            self._idle_trim()  # without the lock, which the event loop takes as well
        return batch

    def _wait_for_batch(self, worker: _Worker) -> list[Job] | None:
        """Return what `_next_batch` does, or None when it is time to trim the heap."""
        with self._lock:
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
                may_trim = idle == len(self._workers) and n_batches > self._n_at_trim
                is_woken = self._work.wait(self._idle_trim_s if may_trim else None)
                if not is_woken and n_batches == self._n_batches > self._n_at_trim:
                    self._n_at_trim = n_batches
                    return None
            return []

    def _run_batch(self, worker: _Worker, batch: list[Job]) -> None:
        started_s = time.monotonic()
        for job in batch:
            self._events.window_waited(started_s - job.submitted_s)
        run_batch(batch, self._decode, self._limit, self._events)
        audio_s = sum(job.window.window.duration_s for job in batch)
        self._events.batch_done(len(batch), audio_s, time.monotonic() - started_s)
        with self._lock:
            worker.jobs, worker.deadline_s = [], math.inf

    def _supervise(self) -> None:
        """Give up workers that pass their deadlines, until the last one has ended."""
        with self._lock:
            while self._workers or not self._is_closing:
                now_s = time.monotonic()
                late = [each for each in self._workers if each.deadline_s <= now_s]
                for worker in late:
                    self._expire(worker)
                if not late:
                    next_s = min((each.deadline_s for each in self._workers), default=math.inf)
                    self._changed.wait(min(next_s - now_s, threading.TIMEOUT_MAX))

    def _expire(self, worker: _Worker) -> None:
        """Treat a worker as hanging; needs the lock."""
        if worker.thread is not None:
            self._threads.discard(worker.thread)
        lose = self._give_up if worker.is_reloading else self._lose
        lose(worker, TimeoutError(f"no answer within {self._batch_timeout_s:g} s"))

    def _lose(self, worker: _Worker, error: BaseException) -> None:
        """Fail what the worker had, and put another one with a new engine in its place."""
        with self._lock:
            if worker.is_lost:
                return
            worker.is_lost = True
            jobs, worker.jobs, worker.deadline_s = worker.jobs, [], math.inf
            self._n_reloading += 1  # before the jobs fail, so that /health never says less
        log.error("a worker of model %s is lost", self._name, exc_info=error)
        failure = EngineFailure("The engine failed on this audio.")
        failure.__cause__ = error
        self._events.windows_failed(sum([job.fail(failure) for job in jobs]))
        self._replace(worker)

    def _replace(self, lost: _Worker) -> None:
        """Start another worker, unless this is the end; the lost one counts until then."""
        with self._lock:
            self._remove(lost)
            if self._is_closing:
                self._n_reloading -= 1
                return
            try:
                self._add_worker(reloads=True)
            except RuntimeError as error:  # no thread can be started
                self._break(error)
                return
        self._events.worker_replaced()

    def _reload_engine(self, worker: _Worker) -> bool:
        """Replace the engine that was lost with a worker; return whether that worked."""
        with self._lock:
            self._set_deadline(worker)
        try:
            decode = self._decode if self._reload is None else self._reload()
        except BaseException as error:  # noqa: BLE001  (whatever it is, the queue must be answered)
            self._give_up(worker, error)
            return False
        with self._lock:
            if not worker.is_lost:  # else it came too late
                self._decode = decode
                worker.is_reloading, worker.deadline_s = False, math.inf
                self._n_reloading -= 1
            return not worker.is_lost

    def _give_up(self, worker: _Worker, error: BaseException) -> None:
        """Break the pool: the engine was not reloaded."""
        with self._lock:
            if not worker.is_lost:
                worker.is_lost = True
                self._remove(worker)
                self._break(error)

    def _break(self, error: BaseException) -> None:
        """Report that there is no engine any more; needs the lock."""
        log.error("the engine of model %s cannot be reloaded", self._name, exc_info=error)
        if not isinstance(error, WhisperServerError):
            cause, error = error, ModelUnavailable(f"The model {self._name!r} stopped working; try again.")
            error.__cause__ = cause
        self._on_broken(error)
        self._n_reloading -= 1  # last, so that it never looks well in between

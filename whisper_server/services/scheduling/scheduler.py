"""One per loaded model: takes windows of all requests and hands them to the workers in fair batches.

Owns the queue, its lock, and whether it is open. The order is `fair_queue`'s decision, how a batch is
answered `batch`'s, on which thread `workers`'. Knows nothing of audio, files or HTTP.

Theory of operation. A request opens a stream and submits its windows there. A job is in one of three
states: waiting (in the queue; cancelled at once when its stream closes), running (in a worker's batch; when
its stream closes it is given up at the next step) or answered (its future is resolved and no reference to it
is left here). An idle worker takes what waits at once and does not delay a batch to fill it; batches grow
while all workers are busy. `close` answers what waits with `ShuttingDown`, so no future is left behind.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from types import TracebackType

from whisper_server.core.errors import ShuttingDown, WhisperServerError
from whisper_server.core.events import Events
from whisper_server.core.shutdown import SHUTTING_DOWN, Phase, Shutdown
from whisper_server.core.types import Decoded, DecodeOptions, Priority, WindowJob
from whisper_server.services.scheduling.batch import DecodeBatch, Job
from whisper_server.services.scheduling.fair_queue import BatchLimit, FairQueue, Flow, share
from whisper_server.services.scheduling.workers import Reload, WorkerPool

WEIGHTS: dict[Priority, int] = {"interactive": 16, "normal": 4, "background": 1}
LIVE_SHARE = 4  # times the weight: a turn that has ended goes before drafts of turns that go on


class WindowStream:
    """The windows of one request; a context manager."""

    def __init__(self, scheduler: Scheduler, flow: Flow[Job]) -> None:
        self._scheduler = scheduler
        self._flow = flow
        self._jobs: dict[Future[Decoded], Job] = {}  # those that are not answered yet

    @property
    def ahead(self) -> int:
        """How many windows to have ready: two batches for every worker, shared among all streams."""
        return self._scheduler.ahead

    def submit(self, window: WindowJob, options: DecodeOptions) -> Future[Decoded]:
        """Queue one window.

        Raises:
            ShuttingDown: no new work is taken.
            ModelUnavailable: the engine was lost and could not be reloaded.
        """
        job = self._scheduler.add(self._flow, window, options)
        self._jobs[job.future] = job
        # Futures keep their callbacks: one that knew the job would keep its audio, in a circle with it.
        job.future.add_done_callback(self._jobs.pop)
        return job.future

    def close(self) -> None:
        """Cancel every window that is not answered yet."""
        self._scheduler.leave(self._flow, tuple(self._jobs.values()))

    def __enter__(self) -> WindowStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Scheduler:
    """Runs `decode` on fair batches of waiting windows; thread-safe."""

    def __init__(
        self,
        decode: DecodeBatch,
        *,
        max_batch: int,
        workers: int = 1,
        reload: Reload | None = None,
        batch_timeout_s: float = math.inf,
        name: str = "model",
        events: Events | None = None,
        shutdown: Shutdown | None = None,
    ) -> None:
        """Take `decode`, called by `workers` threads at once, and `reload`, which loads another one.

        A batch that takes longer than `batch_timeout_s` fails, and its worker is replaced.
        """
        self._events = events or Events()
        self._lock = threading.Lock()  # never held while the pool is called, which holds its own here
        self._limit = BatchLimit(max_batch)
        self._budget = 2 * max_batch * workers
        self._queue: FairQueue[Job] = FairQueue()
        self._streams: set[Flow[Job]] = set()
        self._shutdown = Shutdown(shutdown)  # this one may be closed long before the process
        self._failure: WhisperServerError | None = None
        self._pool = WorkerPool(
            decode,
            self._take,
            self._break,
            reload=reload,
            batch_timeout_s=batch_timeout_s,
            limit=self._limit,
            events=self._events,
            name=name,
        )
        self._pool.start(workers)

    @property
    def ahead(self) -> int:
        """Windows that a stream should have ready: two batches for every worker, shared among the streams."""
        return math.ceil(self._budget / max(1, len(self._streams)))

    @property
    def is_degraded(self) -> bool:
        """Whether a lost worker is being replaced."""
        return self._pool.is_degraded

    @property
    def is_broken(self) -> bool:
        """Whether the engine was lost and could not be reloaded; nothing is decoded here any more."""
        return self._failure is not None

    def open_stream(self, priority: Priority = "normal", *, is_live: bool = False) -> WindowStream:
        """Open a stream for one request; close it when its windows are no longer wanted.

        A live one is for the turns of a session. It has begun before its first window: while the server
        drains, it goes on.

        Raises:
            ShuttingDown: no new work is taken.
            ModelUnavailable: the engine was lost and could not be reloaded.
        """
        flow: Flow[Job] = Flow(WEIGHTS[priority] * (LIVE_SHARE if is_live else 1))
        flow.has_begun = is_live and not self._shutdown.is_draining
        with self._lock:
            self._check_open(flow)
            self._streams.add(flow)
        return WindowStream(self, flow)

    def add(self, flow: Flow[Job], window: WindowJob, options: DecodeOptions) -> Job:
        """Queue one window of a stream; see `WindowStream.submit`."""
        job = Job(window, options, flow, time.monotonic())
        with self._lock:
            self._check_open(flow)
            self._queue.add(flow, job, options)
        self._pool.wake()
        return job

    def leave(self, flow: Flow[Job], jobs: Iterable[Job]) -> None:
        """Close a stream: what waits is cancelled, what runs is given up at the next step."""
        waiting: list[Job] = []
        n_running = 0
        with self._lock:
            self._streams.discard(flow)
            for job in jobs:
                if self._queue.remove(flow, job):
                    waiting.append(job)
                elif not job.future.done():
                    job.is_abandoned = True
                    n_running += 1
        for job in waiting:
            job.future.cancel()
        if waiting or n_running:
            self._events.windows_cancelled(len(waiting) + n_running)

    def drain(self) -> None:
        """Refuse every request that has not begun; what has begun goes on to its end."""
        self._shutdown.drain()
        with self._lock:
            refused = self._queue.clear(begun=False)
        _fail(refused, ShuttingDown(SHUTTING_DOWN))

    def close(self) -> None:
        """Finish the running batches, refuse what waits, end the threads; blocks."""
        self._shutdown.close()
        with self._lock:
            refused = self._queue.clear()
        _fail(refused, ShuttingDown(SHUTTING_DOWN))
        self._pool.close()

    def _check_open(self, flow: Flow[Job]) -> None:
        if self._failure is not None:
            raise self._failure
        phase = self._shutdown.phase
        if phase is Phase.CLOSED or (phase is Phase.DRAINING and not flow.has_begun):
            raise ShuttingDown(SHUTTING_DOWN)

    def _take(self, n_idle: int) -> list[Job]:
        """Return a batch for one of `n_idle` workers; [] where nothing waits."""
        with self._lock:
            while len(self._queue):
                taken = self._queue.take(share(len(self._queue), n_idle, self._limit.value))
                if batch := [job for job in taken if job.start()]:
                    return batch
        return []

    def _break(self, error: WhisperServerError) -> None:
        """Answer all that wait once the engine is lost for good."""
        with self._lock:
            self._failure = error
            waiting = self._queue.clear()
        _fail(waiting, error)


def _fail(jobs: Iterable[Job], error: WhisperServerError) -> None:
    for job in jobs:
        if job.start():
            job.fail(error)

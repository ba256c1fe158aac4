"""One per loaded model: takes windows of all requests, forms batches, answers every job exactly once.

Owns the one thread that talks to the device. Knows nothing of audio, files or HTTP.

A job is in one of three places: waiting (in the queue, may be cancelled), running (in the batch, a
cancel is noticed when the batch is done) or answered (its future is resolved and nobody here holds
it). `close` answers what waits with `ShuttingDown`, so no future is ever left behind; `drain` does so
for requests that have not begun and lets the others finish.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from whisper_server.core.errors import EngineFailure, InvalidRequest, ShuttingDown, WhisperServerError
from whisper_server.core.process import THREAD_PREFIX
from whisper_server.core.types import Decoded, DecodeOptions, WindowJob

log = logging.getLogger(__name__)

DecodeBatch = Callable[[Sequence[WindowJob], DecodeOptions], list[Decoded]]


@dataclass(eq=False, slots=True)
class _Entry:
    """A job and the promise of its answer."""

    job: WindowJob
    options: DecodeOptions
    begins: bool = False  # the first window of its request
    future: Future[Decoded] = field(default_factory=Future)


class Scheduler:
    """Runs `decode` on batches of waiting windows, oldest first; thread-safe."""

    def __init__(self, decode: DecodeBatch, *, max_batch: int, name: str = "model") -> None:
        self._decode = decode
        self._max_batch = max_batch
        self._waiting: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._draining = False
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name=f"{THREAD_PREFIX}scheduler-{name}", daemon=True
        )
        self._thread.start()

    def submit(self, job: WindowJob, options: DecodeOptions, *, begins: bool = False) -> Future[Decoded]:
        """Queue one window; the future may be cancelled as long as its batch has not started.

        Take `begins` where it is the first of its request.

        Raises:
            ShuttingDown: no new work is taken.
        """
        entry = _Entry(job, options, begins)
        with self._changed:
            if self._closing:
                raise ShuttingDown("The model is being unloaded; try again.")
            if self._draining and begins:
                raise _shutting_down()
            self._waiting.append(entry)
            self._changed.notify()
        return entry.future

    def drain(self) -> None:
        """Refuse requests that have not begun, now and from now on; go on with the others. Idempotent."""
        with self._changed:
            self._draining = True
            refused = [entry for entry in self._waiting if entry.begins]
            self._waiting = deque(entry for entry in self._waiting if not entry.begins)
        _refuse(refused)

    def close(self) -> None:
        """Finish the running batch, refuse what waits, end the thread; blocks."""
        with self._changed:
            self._closing = True
            refused = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        _refuse(refused)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            running = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            if running:
                self._answer(running)
            # The loop must not keep audio alive while it waits for the next job.
            del batch, running

    def _next_batch(self) -> list[_Entry] | None:
        """Wait for work; None once there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            return _take_batch(self._waiting, self._max_batch)

    def _answer(self, batch: Sequence[_Entry]) -> None:
        """Decode a batch and resolve each of its futures, in halves where the whole fails."""
        try:
            results = self._decode([entry.job for entry in batch], batch[0].options)
            if len(results) != len(batch):
                raise EngineFailure(f"{len(results)} results for {len(batch)} windows")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001  whatever it is, somebody waits for an answer
            if len(batch) > 1:
                half = len(batch) // 2
                self._answer(batch[:half])
                self._answer(batch[half:])
            else:
                batch[0].future.set_exception(_as_ours(error))
            return
        for entry, result in zip(batch, results, strict=True):
            entry.future.set_result(result)


def _refuse(entries: Sequence[_Entry]) -> None:
    for entry in entries:
        if entry.future.set_running_or_notify_cancel():
            entry.future.set_exception(_shutting_down())


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The server is shutting down; try again later.")


def _take_batch(waiting: deque[_Entry], max_batch: int) -> list[_Entry]:
    """Take the oldest entry and, in order, those that can share its batch; the others keep their turn."""
    first = waiting.popleft()
    batch, rest = [first], list[_Entry]()
    while waiting and len(batch) < max_batch:
        entry = waiting.popleft()
        (batch if entry.options == first.options else rest).append(entry)
    waiting.extendleft(reversed(rest))
    return batch


def _as_ours(error: Exception) -> Exception:
    """Pass our own errors on; log and wrap what nobody foresaw."""
    if isinstance(error, WhisperServerError):
        if not isinstance(error, InvalidRequest):
            log.error("A window failed: %s", error)
        return error
    log.error("A window failed unexpectedly.", exc_info=error)
    wrapped = EngineFailure("The engine failed on this audio.")
    wrapped.__cause__ = error
    return wrapped

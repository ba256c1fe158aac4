"""Windows that run together: every job of a batch is answered exactly once, whatever the engine does.

Owns jobs and how a failing batch is taken apart; must not know where batches come from or on which
thread they run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from whisper_server.core.errors import DeviceOutOfMemory, EngineFailure, InvalidRequest, WhisperServerError
from whisper_server.core.events import Events
from whisper_server.core.types import Decoded, DecodeOptions, WindowJob
from whisper_server.services.scheduling.fair_queue import BatchLimit, Flow

log = logging.getLogger(__name__)

IsWanted = Callable[[int], bool]  # whether the result of this row of the batch is still wanted


class DecodeBatch(Protocol):
    """Decodes windows that share options; blocks. Result i belongs to job i."""

    def __call__(
        self, jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: IsWanted = ...
    ) -> list[Decoded]:
        """Decode; a row that is no longer wanted may be given up half-way, with any result."""
        ...


@dataclass(eq=False, slots=True)
class Job:
    """A window, the future of its answer, and the request that it belongs to."""

    window: WindowJob
    options: DecodeOptions
    flow: Flow[Job]
    submitted_s: float  # on the scheduler's clock
    future: Future[Decoded] = field(default_factory=Future)
    is_abandoned: bool = False  # running, but its stream has closed

    def start(self) -> bool:
        """Mark it as running; return whether it is still wanted."""
        return self.future.set_running_or_notify_cancel()

    def succeed(self, result: Decoded) -> None:
        """Answer; a second answer is dropped (a hanging worker that was given up may return)."""
        with suppress(InvalidStateError):
            self.future.set_result(result)

    def fail(self, error: BaseException) -> bool:
        """Answer with an error, once as well; return whether this was the answer."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return False
        return True


def run_batch(jobs: Sequence[Job], decode: DecodeBatch, limit: BatchLimit, events: Events) -> None:
    """Decode a batch and answer each of its jobs, in halves where the whole fails; blocks.

    Only what is no `Exception` passes through, with jobs unanswered: the thread is to die of it.
    """
    wanted = [job for job in jobs if not job.is_abandoned]
    for job in jobs:
        if job.is_abandoned:
            job.fail(EngineFailure("This window is not wanted any more."))
    if not wanted:
        return
    try:
        results = decode(
            [job.window for job in wanted], wanted[0].options, lambda row: not wanted[row].is_abandoned
        )
        if len(results) != len(wanted):
            raise EngineFailure(f"{len(results)} results for {len(wanted)} windows")  # noqa: TRY301
    except Exception as error:  # noqa: BLE001  whatever it is, the jobs must be answered
        if isinstance(error, (DeviceOutOfMemory, MemoryError)):
            limit.failed(len(wanted))
        if all(job.is_abandoned for job in wanted):  # nobody has lost anything
            for job in wanted:
                job.fail(EngineFailure("This window is not wanted any more."))
            return
        if len(wanted) == 1:
            events.windows_failed(int(wanted[0].fail(as_ours(error))))
            return
        half = len(wanted) // 2
        run_batch(wanted[:half], decode, limit, events)
        run_batch(wanted[half:], decode, limit, events)
        return
    limit.succeeded(len(wanted))
    for job, result in zip(wanted, results, strict=True):
        job.succeed(result)


def as_ours(error: BaseException) -> Exception:
    """Return our own errors as they are; log and wrap all others."""
    if isinstance(error, MemoryError):  # of the host, between two calls to the engine
        cause, error = error, DeviceOutOfMemory("There is no memory for this audio now; try again later.")
        error.__cause__ = cause
    if isinstance(error, WhisperServerError):
        if not isinstance(error, InvalidRequest):
            log.error("A window failed: %s", error)
        return error
    log.error("A window failed unexpectedly.", exc_info=error)
    wrapped = EngineFailure("The engine failed on this audio.")
    wrapped.__cause__ = error
    return wrapped

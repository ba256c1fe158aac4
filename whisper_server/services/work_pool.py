"""A bounded pool of threads for CPU work: reading audio, voice activity, spectrograms, word times.

Owns its threads; keeps blocking work off the event loop and bounds how much of it runs at once. There are
more threads than that, for those that wait for something else than a processor.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from threading import Barrier, BrokenBarrierError
from typing import Any, TypeVar, cast

from whisper_server.core.system.process import THREAD_PREFIX

START_TIMEOUT_S = 10.0

S = TypeVar("S")
T = TypeVar("T")
_END = object()


class WorkPool:
    """Threads for blocking functions, of which a fixed number works at once."""

    def __init__(self, workers: int, waiters: int = 0) -> None:
        """Let `workers` threads work, and so many more wait under `waiting`."""
        self._executor = ThreadPoolExecutor(workers + waiters, thread_name_prefix=f"{THREAD_PREFIX}audio")
        self._workers = workers
        self._turns = threading.Semaphore(workers)
        self._thread = threading.local()
        self._running: set[Future[Any]] = set()
        _start_threads(self._executor, workers + waiters)

    async def run(
        self, function: Callable[..., T], *args: object, unclaimed: Callable[[T], None] | None = None
    ) -> T:
        """Run the function on a pool thread.

        A function that has started when the caller is cancelled still finishes; `unclaimed` takes its result.
        """
        future = self._submit(function, *args)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if unclaimed is not None:
                future.add_done_callback(lambda done: _hand_over(done, unclaimed))
            raise

    async def run_at_once(self, function: Callable[[], object]) -> None:
        """Run the function on as many threads as may work, all at the same time; the pool must be idle."""
        all_there = Barrier(self._workers)

        def begin() -> None:
            with suppress(BrokenBarrierError):  # where threads could not be started
                all_there.wait(START_TIMEOUT_S)
            function()

        await asyncio.gather(*(self.run(begin) for _ in range(self._workers)))

    async def iterate(
        self, generator: Generator[T, None, None], before: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[T]:
        """Run the generator step by step on pool threads, one step at a time.

        `before` is awaited ahead of each step: what it waits for keeps no thread.

        Takes ownership: the generator is closed when the iteration ends, is cancelled or fails, and
        never while a step of it is still running. Use it under `contextlib.aclosing`.
        """
        step: Future[object] | None = None
        try:
            while True:
                if before is not None:
                    await before()
                step = self._submit(next, generator, _END)
                item = await asyncio.wrap_future(step)
                if item is _END:
                    return
                yield cast("T", item)
        finally:
            if step is None or not step.running():
                generator.close()
            else:
                step.add_done_callback(lambda _: generator.close())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let another thread work while this one waits in the block; does nothing on other threads."""
        if not getattr(self._thread, "has_turn", False):
            yield
            return
        self._turns.release()
        try:
            yield
        finally:
            self._turns.acquire()

    def close(self, timeout_s: float) -> None:
        """Drop what has not started and wait for what has, at most `timeout_s`; blocks."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        wait(tuple(self._running), timeout_s)

    def _submit(self, function: Callable[..., S], *args: object) -> Future[S]:
        future = self._executor.submit(self._in_turn, function, *args)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def _in_turn(self, function: Callable[..., S], *args: object) -> S:
        with self._turns:
            self._thread.has_turn = True
            return function(*args)


def _start_threads(executor: ThreadPoolExecutor, workers: int) -> None:
    """Start all threads now: for one that finds no memory, whoever starts it waits for ever.

    Later that would be the event loop, which submits.
    """
    all_there = Barrier(workers + 1)
    for _ in range(workers):
        executor.submit(all_there.wait, START_TIMEOUT_S)
    with suppress(BrokenBarrierError):  # those that are there will do
        all_there.wait(START_TIMEOUT_S)


def _hand_over(done: Future[T], unclaimed: Callable[[T], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        unclaimed(done.result())

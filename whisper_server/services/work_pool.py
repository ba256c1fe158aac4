"""A bounded pool of threads for CPU work: reading audio, voice activity, spectrograms, word times.

Owns its threads; keeps blocking work off the event loop and bounds how much of it runs at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar, cast

from whisper_server.core.system.process import THREAD_PREFIX

S = TypeVar("S")
T = TypeVar("T")
_END = object()


class WorkPool:
    """A fixed number of threads for blocking functions."""

    def __init__(self, workers: int) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f"{THREAD_PREFIX}audio")
        self._running: set[Future[Any]] = set()

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

    def close(self, timeout_s: float) -> None:
        """Drop what has not started and wait for what has, at most `timeout_s`; blocks."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        wait(tuple(self._running), timeout_s)

    def _submit(self, function: Callable[..., S], *args: object) -> Future[S]:
        future = self._executor.submit(function, *args)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future


def _hand_over(done: Future[T], unclaimed: Callable[[T], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        unclaimed(done.result())

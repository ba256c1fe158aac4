"""Generators run step by step off the event loop and are closed exactly once, never while they run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from contextlib import aclosing

import pytest

from whisper_server.services.work_pool import WorkPool

PATIENCE_S = 30


@pytest.fixture
def pool() -> Iterator[WorkPool]:
    pool = WorkPool(2)
    yield pool
    pool.close(PATIENCE_S)


async def test_run_returns_and_raises(pool: WorkPool) -> None:
    assert await pool.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)


async def test_all_threads_work_at_once(pool: WorkPool) -> None:
    both, seen = threading.Barrier(2), set()

    def work() -> None:
        both.wait(PATIENCE_S)
        seen.add(threading.get_ident())

    await pool.run_at_once(work)
    assert len(seen) == 2


async def test_iterate_yields_everything_and_closes(pool: WorkPool) -> None:
    closed: list[bool] = []

    def numbers() -> Generator[int, None, None]:
        try:
            yield from range(3)
        finally:
            closed.append(True)

    async with aclosing(pool.iterate(numbers())) as items:
        assert [item async for item in items] == [0, 1, 2]
    assert closed == [True]


async def test_leaving_early_closes(pool: WorkPool) -> None:
    closed = threading.Event()

    def numbers() -> Generator[int, None, None]:
        try:
            yield from range(100)
        finally:
            closed.set()

    async with aclosing(pool.iterate(numbers())) as items:
        async for _ in items:
            break
    assert closed.wait(PATIENCE_S)


async def test_errors_of_a_step_reach_the_caller(pool: WorkPool) -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise ValueError("bad block")

    async with aclosing(pool.iterate(broken())) as items:
        assert await anext(items) == 1
        with pytest.raises(ValueError, match="bad block"):
            await anext(items)


async def test_a_cancel_during_a_step_closes_after_the_step(pool: WorkPool) -> None:
    entered, leave, closed = threading.Event(), threading.Event(), threading.Event()
    events: list[str] = []

    def slow() -> Generator[int, None, None]:
        try:
            entered.set()
            assert leave.wait(PATIENCE_S)
            events.append("stepped")
            yield 1
        finally:
            events.append("closed")
            closed.set()

    async def consume() -> None:
        async with aclosing(pool.iterate(slow())) as items:
            async for _ in items:
                pass

    task = asyncio.create_task(consume())
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == []
    leave.set()
    assert await asyncio.to_thread(closed.wait, PATIENCE_S)
    assert events == ["stepped", "closed"]


async def test_the_result_of_a_cancelled_run_is_handed_over(pool: WorkPool) -> None:
    entered, leave, handed = threading.Event(), threading.Event(), threading.Event()
    unclaimed: list[str] = []

    def open_something() -> str:
        entered.set()
        assert leave.wait(PATIENCE_S)
        return "opened"

    def close_it(result: str) -> None:
        unclaimed.append(result)
        handed.set()

    task = asyncio.create_task(pool.run(open_something, unclaimed=close_it))
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    leave.set()
    assert await asyncio.to_thread(handed.wait, PATIENCE_S)
    assert unclaimed == ["opened"]


async def test_a_run_that_is_cancelled_before_it_starts_does_not_happen(pool: WorkPool) -> None:
    leave, ran = threading.Event(), []
    busy = [asyncio.create_task(pool.run(leave.wait, PATIENCE_S)) for _ in range(2)]
    waiting = asyncio.create_task(pool.run(ran.append, 1, unclaimed=ran.append))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    leave.set()
    await asyncio.gather(*busy)
    assert await pool.run(len, ran) == 0

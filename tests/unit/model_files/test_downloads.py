"""Downloads: one per model, told to all who ask, ended by a shutdown. No network, no sleep."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from whisper_server.core.errors import ModelUnavailable, ShuttingDown
from whisper_server.core.types import ModelSource
from whisper_server.services.model_files.downloads import Download, Downloads
from whisper_server.services.model_files.hub.fetch import OnProgress

LIMIT_S = 30.0
A, B = ModelSource("a", repo="x/a"), ModelSource("b", repo="x/b")


class Hub:
    """Moves on only when told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.steps: dict[str, threading.Semaphore] = {
            "a": threading.Semaphore(0),
            "b": threading.Semaphore(0),
        }
        self.done = threading.Semaphore(0)
        self.error: BaseException | None = None

    def __call__(self, source: ModelSource, on_progress: OnProgress) -> None:
        self.calls.append(source.name)
        try:
            for step in range(1, 4):
                assert self.steps[source.name].acquire(timeout=LIMIT_S)
                on_progress(step, 3)
            if self.error is not None:
                raise self.error
        finally:
            self.done.release()


@pytest.fixture
def hub() -> Hub:
    return Hub()


async def seen_by(download: Download, then: Callable[[tuple[int, int]], None]) -> list[tuple[int, int]]:
    seen = []
    async for state in download.progress():
        seen.append(state)
        then(state)
    return seen


async def test_everybody_sees_it_come(hub: Hub) -> None:
    downloads = Downloads(hub)
    download = downloads.start(A)
    assert downloads.start(A) is download
    both = [asyncio.create_task(seen_by(download, lambda _: None)) for _ in range(2)]
    own = asyncio.create_task(seen_by(download, lambda _: hub.steps["a"].release()))
    hub.steps["a"].release()
    seen = await asyncio.wait_for(own, LIMIT_S)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for others in await asyncio.gather(*both):
        assert others == sorted(set(others))
    assert hub.calls == ["a"]
    hub.steps["a"].release(3)
    downloads.start(A).outcome.result(LIMIT_S)  # a later one is a new one
    assert hub.calls == ["a", "a"]


async def test_models_come_side_by_side(hub: Hub) -> None:
    downloads = Downloads(hub)
    first, second = downloads.start(A), downloads.start(B)
    hub.steps["b"].release(3)
    second.outcome.result(LIMIT_S)
    assert not first.outcome.done()
    hub.steps["a"].release(3)
    first.outcome.result(LIMIT_S)


@pytest.mark.parametrize("error", [ModelUnavailable("Away."), RuntimeError("secret"), SystemExit(1)])
async def test_failure_reaches_everybody_and_the_next_one_tries_again(hub: Hub, error: BaseException) -> None:
    downloads = Downloads(hub)
    hub.error = error
    hub.steps["a"].release(3)
    download = downloads.start(A)
    caught = download.outcome.exception(LIMIT_S)
    assert isinstance(caught, ModelUnavailable)
    assert "secret" not in caught.message
    with pytest.raises(ModelUnavailable):
        await seen_by(download, lambda _: None)
    hub.error = None
    hub.steps["a"].release(3)
    downloads.start(A).outcome.result(LIMIT_S)


async def test_a_shutdown_answers_at_once_and_ends_the_download(hub: Hub) -> None:
    downloads = Downloads(hub)
    download = downloads.start(A)
    reading = asyncio.create_task(seen_by(download, lambda _: None))
    await asyncio.sleep(0)
    downloads.drain()
    downloads.drain()
    with pytest.raises(ShuttingDown):
        await asyncio.wait_for(reading, LIMIT_S)
    with pytest.raises(ShuttingDown):
        downloads.start(B)
    assert not hub.done.acquire(blocking=False)  # the hub had sent nothing meanwhile
    hub.steps["a"].release()
    assert hub.done.acquire(timeout=LIMIT_S)  # after one step of three
    assert hub.calls == ["a"]


async def test_who_stops_looking_is_forgotten(hub: Hub) -> None:
    download = Downloads(hub).start(A)
    hub.steps["a"].release()
    reading = download.progress()
    assert await asyncio.wait_for(anext(reading), LIMIT_S) == (1, 3)
    await reading.aclose()
    assert download.listeners == 0
    hub.steps["a"].release(2)
    download.outcome.result(LIMIT_S)

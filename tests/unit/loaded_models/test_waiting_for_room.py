"""Requests that find no room for their model: they wait in turn, and no model keeps another one out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.stand_in_models import LIMIT_S, Loader, Model, named
from whisper_server.core.errors import NoRoomForModel, ShuttingDown
from whisper_server.services.loaded_models import table as table_module
from whisper_server.services.model_manager import ModelManager


def make(
    load: Callable[..., Model], places: int, *, timeout_s: float = LIMIT_S, max_bytes: int = 0
) -> ModelManager[Model]:
    return ModelManager(load, places, max_bytes=max_bytes, room_timeout_s=timeout_s, tidy=lambda: None)


class User:
    """Somebody who has a model until they are told to leave."""

    def __init__(self, manager: ModelManager[Model], name: str) -> None:
        self.has = asyncio.Event()
        self.leaves = asyncio.Event()
        self.task = asyncio.create_task(self._use(manager, name))

    async def _use(self, manager: ModelManager[Model], name: str) -> None:
        async with manager.lease(named(name)) as model:
            assert model.name == name
            self.has.set()
            await self.leaves.wait()

    async def came(self) -> User:
        await asyncio.wait_for(self.has.wait(), LIMIT_S)
        return self

    async def end(self) -> None:
        self.leaves.set()
        await asyncio.wait_for(self.task, LIMIT_S)


async def turn_of_the_loop() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_third_model_gets_the_place_of_the_first_that_is_unused() -> None:
    manager = make(Loader(), 2)
    a, b = await User(manager, "a").came(), await User(manager, "b").came()
    c = User(manager, "c")
    later = [User(manager, "a"), User(manager, "b")]
    await turn_of_the_loop()
    assert not c.has.is_set()
    assert not any(each.has.is_set() for each in later)  # or there would always be one that uses them
    await b.end()
    await c.came()
    await later[0].came()  # its model was there all the time
    assert not later[1].has.is_set()
    await c.end()
    await later[1].came()
    for each in (a, *later):
        await each.end()


async def test_models_in_long_use_are_lent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "HELD_BACK_S", 0.0)
    manager = make(Loader(), 1)
    a = await User(manager, "a").came()
    c = User(manager, "c")
    other = await User(manager, "a").came()
    assert not c.has.is_set()
    await a.end()
    await other.end()
    await c.came()
    await c.end()


async def test_who_waits_too_long_is_told() -> None:
    manager = make(Loader(), 1, timeout_s=0.05)
    a = await User(manager, "a").came()
    with pytest.raises(NoRoomForModel, match="WHISPER_MAX_MODELS"):
        await User(manager, "b").task
    await a.end()
    b = await User(manager, "b").came()
    await b.end()


async def test_who_leaves_the_queue_lets_the_next_one_in() -> None:
    manager = make(Loader(), 1)
    a = await User(manager, "a").came()
    b, other = User(manager, "b"), User(manager, "a")
    await turn_of_the_loop()
    b.task.cancel()
    await other.came()
    await a.end()
    await other.end()
    assert [(one.name, one.leases) for one in manager.loaded()] == [("a", 0)]


async def test_a_shutdown_answers_all_that_wait() -> None:
    manager = make(Loader(), 1)
    a = await User(manager, "a").came()
    waiting = [User(manager, name) for name in "bca"]
    await turn_of_the_loop()
    manager.drain()
    for each in waiting:
        with pytest.raises(ShuttingDown):
            await each.task
    await a.end()


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_WAITING", 3)
    manager = make(Loader(), 1)
    a = await User(manager, "a").came()
    waiting = [User(manager, "b") for _ in range(3)]
    await turn_of_the_loop()
    with pytest.raises(NoRoomForModel):
        await User(manager, "b").task
    await a.end()
    for each in waiting:
        await each.came()
        await each.end()


async def test_a_model_that_turns_out_larger_waits_for_memory() -> None:
    """How much it takes is only known once it is loaded; then it waits, and is not refused."""
    loader = Loader()
    manager = make(loader, 8, max_bytes=10)  # each takes 7
    a = await User(manager, "a").came()
    b = User(manager, "b")
    loader.wait_begun()
    await asyncio.to_thread(loader.wait_begun)
    await turn_of_the_loop()
    await a.end()
    await b.came()
    await b.end()


async def test_many_users_of_three_models_in_two_places() -> None:
    manager = make(Loader(), 2)
    done: list[str] = []

    async def use(name: str) -> None:
        async with manager.lease(named(name)) as model:
            await turn_of_the_loop()
            done.append(model.name)

    await asyncio.wait_for(asyncio.gather(*[use("abc"[n % 3]) for n in range(90)]), LIMIT_S)
    assert {name: done.count(name) for name in "abc"} == dict.fromkeys("abc", 30)

"""Room by bytes and idle unloading; what is waited for is an event, never a length of time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.support.stand_in_models import LIMIT_S, NAMES, Loader, Model, named, states, use_each
from whisper_server.core.errors import ModelTooLarge, Unavailable
from whisper_server.core.system.process import THREAD_PREFIX
from whisper_server.core.types import ModelSource
from whisper_server.services.loaded_models.eviction import Room
from whisper_server.services.loaded_models.table import ModelTable
from whisper_server.services.model_manager import ModelManager

MB = 2**20
SIZES = {"a": 10, "b": 20, "c": 30, "d": 100, "e": 101}  # MB
TINY_S = 1e-6


class SizedLoader(Loader):
    def __call__(self, source: ModelSource) -> Model:
        model = super().__call__(source)
        model.memory_bytes = SIZES[source.name] * MB
        return model


def make(
    loader: Callable[[ModelSource], Model],
    *,
    expect: Callable[[ModelSource], int] = lambda _: 0,
    idle_unload_s: float = -1.0,
    max_models: int = 8,
    max_mb: int = 0,
) -> ModelManager[Model]:
    return ModelManager(
        loader,
        max_models,
        max_bytes=max_mb * MB,
        expect_bytes=expect,
        idle_unload_s=idle_unload_s,
        tidy=lambda: None,
        room_timeout_s=0.0,
    )


def on_disk(source: ModelSource) -> int:
    return SIZES[source.name] * MB


@pytest.fixture
def loader() -> SizedLoader:
    return SizedLoader()


@pytest.mark.parametrize("expect", [on_disk, lambda _: 0], ids=["known", "unknown"])
def test_least_recently_used_go_until_the_bytes_fit(
    loader: SizedLoader, expect: Callable[[ModelSource], int]
) -> None:
    manager = make(loader, expect=expect, max_mb=60)
    use_each(manager, "abc")
    assert set(loader.alive) == {"a", "b", "c"}  # 60 of 60
    manager.acquire(named("a")).release()
    manager.unload(named("c"))
    loader.made[2].closed.wait(LIMIT_S)
    use_each(manager, "c")  # there is room for it again
    assert set(loader.alive) == {"a", "b", "c"}
    manager.unload(named("a"))
    use_each(manager, "a")
    assert set(loader.alive) == {"a", "b", "c"}


def test_what_is_expected_is_made_room_for_before_the_load() -> None:
    alive_at_load: list[list[str]] = []
    loader = SizedLoader()

    def load(source: ModelSource) -> Model:
        alive_at_load.append(loader.alive)
        return loader(source)

    use_each(make(load, expect=on_disk, max_mb=50), "bcac")
    # "b" leaves when "a" comes, and "c" finds its own place again.
    assert alive_at_load == [[], ["b"], ["c"]]


def test_one_that_is_larger_than_all_room_is_refused(loader: SizedLoader) -> None:
    manager = make(loader, expect=on_disk, max_mb=100)
    use_each(manager, "ad")
    with pytest.raises(ModelTooLarge, match=r"'e' takes 101 MiB.*WHISPER_MAX_MODEL_MEMORY_MB.*100") as caught:
        manager.acquire(named("e"))
    assert (caught.value.status, caught.value.retry_helps) == (503, False)
    assert loader.calls == ["a", "d"]
    assert set(states(manager)) == {"d"}


def test_one_that_turns_out_too_large_goes_and_is_not_loaded_again(loader: SizedLoader) -> None:
    manager = make(loader, max_mb=100)
    use_each(manager, "a")
    for _ in range(2):
        with pytest.raises(ModelTooLarge):
            manager.acquire(named("e"))
    assert loader.calls == ["a", "e"]
    assert loader.made[1].closed.wait(LIMIT_S)
    assert loader.alive == ["a"]  # no model went for it


def test_room_taken_by_models_in_use_is_a_503_for_now(loader: SizedLoader) -> None:
    manager = make(loader, max_mb=100)
    with manager.acquire(named("a")):
        with pytest.raises(Unavailable, match="WHISPER_MAX_MODEL_MEMORY_MB") as caught:
            manager.acquire(named("d"))
        assert not isinstance(caught.value, ModelTooLarge)
        with pytest.raises(Unavailable):
            manager.acquire(named("d"))
        assert loader.calls == ["a", "d"]  # the second time its size was known
        assert loader.made[1].closed.wait(LIMIT_S)
    with manager.acquire(named("d")):
        assert loader.alive == ["d"]


def test_without_a_limit_nothing_goes(loader: SizedLoader) -> None:
    use_each(make(loader), NAMES)
    assert set(loader.alive) == set(NAMES)


def test_idle_models_leave_and_come_back(loader: SizedLoader) -> None:
    manager = make(loader, idle_unload_s=TINY_S)
    for _ in range(3):
        with manager.acquire(named("a")) as lease:
            assert not lease.model.closed.is_set()
        assert lease.model.closed.wait(LIMIT_S)
    assert loader.calls == ["a"] * 3


def test_idle_time_0_is_at_once_and_needs_no_thread(loader: SizedLoader) -> None:
    manager = make(loader, idle_unload_s=0.0)
    first, second = manager.acquire(named("a")), manager.acquire(named("a"))
    first.release()
    assert states(manager) == {"a": ("ready", 1)}
    second.release()
    assert "ready" not in [state for state, _ in states(manager).values()]
    assert second.model.closed.wait(LIMIT_S)
    assert not [thread for thread in threading.enumerate() if "watch_idle" in thread.name]
    use_each(manager, "a")
    assert loader.made[1].closed.wait(LIMIT_S)


def test_a_model_in_use_is_not_idle_however_long(loader: SizedLoader) -> None:
    manager = make(loader, idle_unload_s=TINY_S)
    with manager.acquire(named("a")) as held:
        for name in "bc":  # as long as it takes others to come, idle, and go
            with manager.acquire(named(name)) as lease:
                pass
            assert lease.model.closed.wait(LIMIT_S)
        assert not held.model.closed.is_set()
    assert held.model.closed.wait(LIMIT_S)


def test_use_restarts_the_idle_time() -> None:
    """The watch asks again after each sleep; here it is asked by hand, at chosen times."""
    clock = iter([1.0, 2.0, 3.0])  # when a lease is given back
    table: ModelTable[Model] = ModelTable(Room(8), tidy=lambda: None, clock=lambda: next(clock))
    for name in "ab":
        turn = table.reserve(named(name), lambda _: None)
        table.keep(table.entry_of(turn), Model(name))
        table.leave(turn)
    assert table.unload_idle(0.0) == 1.0
    held = table.reserve(named("a"), lambda _: None)
    assert table.unload_idle(1.0) == 2.0  # held: not idle at all
    table.leave(held)
    assert table.unload_idle(2.0) == 3.0
    assert [one.name for one in table.states() if one.state == "ready"] == ["a"]
    assert table.unload_idle(3.0) is None


def test_never_is_the_default(loader: SizedLoader) -> None:
    before = set(threading.enumerate())
    manager = make(loader)
    use_each(manager, "a")
    assert not [thread for thread in set(threading.enumerate()) - before if "watch_idle" in thread.name]
    assert loader.alive == ["a"]


async def test_a_load_that_every_waiter_left_becomes_idle(loader: SizedLoader) -> None:
    manager = make(loader, idle_unload_s=TINY_S)
    loader.gate.clear()

    async def use() -> None:
        async with manager.lease(named("a")):
            pass

    only = asyncio.create_task(use())
    await asyncio.to_thread(loader.wait_begun)
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    loader.gate.set()
    while not loader.made:
        threading.Event().wait(0)
    assert await asyncio.to_thread(loader.made[0].closed.wait, LIMIT_S)


@pytest.mark.parametrize("idle_unload_s", [0.0, TINY_S])
def test_a_crowd_never_sees_a_closed_model(loader: SizedLoader, idle_unload_s: float) -> None:
    manager = make(loader, idle_unload_s=idle_unload_s, max_models=2, max_mb=40)

    def work(seed: int) -> int:
        served = 0
        for turn in range(40):
            with suppress(Unavailable), manager.acquire(named("abc"[(seed + turn) % 3])) as lease:
                assert not lease.model.closed.is_set()
                served += 1
        return served

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) > 0
    manager.close(LIMIT_S)
    assert loader.alive == []


def test_close_ends_the_watch(loader: SizedLoader) -> None:
    manager = make(loader, idle_unload_s=3600.0)
    use_each(manager, "a")
    name = f"{THREAD_PREFIX}watch_idle"
    while not (found := [thread for thread in threading.enumerate() if thread.name == name]):
        threading.Event().wait(0)
    (watch,) = found
    manager.close(LIMIT_S)
    watch.join(LIMIT_S)
    assert not watch.is_alive()
    assert loader.alive == []

"""Leases, eviction and single-flight loading, with threads that meet at events instead of sleeping."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stand_in_models import (
    LIMIT_S,
    NAMES,
    Loader,
    Model,
    named,
    states,
    use_each,
)
from whisper_server.core.errors import (
    ModelNotFound,
    ModelUnavailable,
    NoRoomForModel,
    ShuttingDown,
    Unavailable,
)
from whisper_server.core.types import ModelSource
from whisper_server.services.model_manager import Lease, ModelManager, ModelState


def make(loader: Callable[[ModelSource], Model], max_models: int = 2) -> ModelManager[Model]:
    # These models hold no memory; to collect the garbage of the whole process after each would take minutes.
    return ModelManager(loader, max_models, room_timeout_s=0.0, tidy=lambda: None)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def test_second_use_does_not_load(loader: Loader) -> None:
    manager = make(loader)
    with manager.acquire(named("a")) as lease:
        first = lease.model
    with manager.acquire(named("a")) as lease:
        assert lease.model is first
    assert manager.loaded() == [ModelState("a", "ready", 0, 7, {"engine": "none"})]
    assert loader.calls == ["a"]


def test_names_of_one_model_share_it(loader: Loader) -> None:
    manager = make(loader)
    with manager.acquire(named("a")) as one, manager.acquire(named("alias")) as other:
        assert one.model is other.model
        assert states(manager) == {"a": ("ready", 2)}
    assert manager.unload(named("alias"))


def test_unknown_name_comes_before_everything(loader: Loader) -> None:
    manager = make(loader)
    manager.close(0)
    for call in (manager.acquire, manager.unload):
        with pytest.raises(ModelNotFound):
            call(named("../.."))
    assert loader.calls == []


def test_many_first_requests_are_one_load(loader: Loader, pool: ThreadPoolExecutor) -> None:
    manager = make(loader)
    loader.gate.clear()
    meet = threading.Barrier(8)

    def request() -> Model:
        meet.wait(LIMIT_S)
        with manager.acquire(named("a")) as lease:
            return lease.model

    waiting = [pool.submit(request) for _ in range(8)]
    loader.wait_begun()
    loader.gate.set()
    assert len({future.result(LIMIT_S) for future in waiting}) == 1
    assert loader.calls == ["a"]
    assert states(manager) == {"a": ("ready", 0)}


def test_loads_of_different_models_run_side_by_side() -> None:
    meet = threading.Barrier(2)

    def load(source: ModelSource) -> Model:
        meet.wait(LIMIT_S)  # only passes where both loads run at once
        return Model(source.name)

    manager = make(load)
    with ThreadPoolExecutor(2) as two:
        leases = list(two.map(manager.acquire, map(named, "ab")))
    assert [lease.model.name for lease in leases] == ["a", "b"]


def test_least_recently_used_goes_first(loader: Loader) -> None:
    manager = make(loader, 3)
    use_each(manager, "abc")
    manager.acquire(named("a")).release()
    manager.acquire(named("d")).release()
    assert set(loader.alive) == {"a", "c", "d"}
    manager.acquire(named("e")).release()
    assert set(loader.alive) == {"a", "d", "e"}


def test_end_of_use_counts_as_use(loader: Loader) -> None:
    manager = make(loader)
    lease = manager.acquire(named("a"))
    manager.acquire(named("b")).release()
    lease.release()
    manager.acquire(named("c")).release()
    assert set(loader.alive) == {"a", "c"}


def test_what_is_held_is_not_evicted(loader: Loader) -> None:
    manager = make(loader)
    with manager.acquire(named("a")) as lease:
        use_each(manager, "bcde")
        assert not lease.model.closed.is_set()
        assert set(loader.alive) == {"a", "e"}


def test_evicted_model_is_closed_before_the_next_one_loads() -> None:
    alive_at_load: list[list[str]] = []
    made: list[Model] = []

    def load(source: ModelSource) -> Model:
        alive_at_load.append([model.name for model in made if not model.closed.is_set()])
        made.append(Model(source.name))
        return made[-1]

    use_each(make(load, 1), "abcab")
    assert alive_at_load == [[]] * 5


def test_full_table_in_use_is_a_503_that_says_so(loader: Loader) -> None:
    manager = make(loader, 2)
    with manager.acquire(named("a")), manager.acquire(named("b")):
        with pytest.raises(Unavailable, match="WHISPER_MAX_MODELS") as caught:
            manager.acquire(named("c"))
        assert caught.value.status == 503
        assert "'c'" in caught.value.message
        assert set(states(manager)) == {"a", "b"}
    manager.acquire(named("c")).release()
    assert loader.calls == ["a", "b", "c"]


def test_loading_models_take_up_places(loader: Loader, pool: ThreadPoolExecutor) -> None:
    manager = make(loader, 1)
    loader.gate.clear()
    waiting = pool.submit(manager.acquire, named("a"))
    loader.wait_begun()
    assert states(manager) == {"a": ("loading", 1)}
    with pytest.raises(Unavailable):
        manager.acquire(named("b"))
    loader.gate.set()
    waiting.result(LIMIT_S).release()


def test_fifty_switches_leave_one_model(loader: Loader) -> None:
    manager = make(loader, 1)
    for turn in range(50):
        with manager.acquire(named(NAMES[turn % 2])) as lease:
            assert not lease.model.closed.is_set()
    assert len(loader.made) == 50
    assert len(loader.alive) == 1
    last = loader.made[-1]
    loader.made.clear()
    gc.collect()
    kept = [thing for thing in gc.get_objects() if isinstance(thing, Model)]
    assert kept == [last]


def test_releasing_twice_is_harmless(loader: Loader) -> None:
    manager = make(loader)
    first, second = manager.acquire(named("a")), manager.acquire(named("a"))
    first.release()
    first.release()
    assert states(manager) == {"a": ("ready", 1)}
    second.release()


def test_unload_in_use_waits_for_the_last_lease(loader: Loader) -> None:
    manager = make(loader)
    first, second = manager.acquire(named("a")), manager.acquire(named("a"))
    assert manager.unload(named("a"))
    assert not manager.unload(named("a"))
    assert states(manager) == {"a": ("unloading", 2)}
    with manager.acquire(named("a")) as fresh:
        assert fresh.model is not first.model
    first.release()
    assert not first.model.closed.is_set()
    second.release()
    assert first.model.closed.wait(LIMIT_S)
    assert loader.alive == ["a"]


def test_unloading_models_in_use_keeps_nobody_out_and_has_an_end(loader: Loader) -> None:
    """They take no place of others, but a client cannot fill the memory with copies."""
    manager = make(loader, 1)
    first = manager.acquire(named("a"))
    manager.unload(named("a"))
    second = manager.acquire(named("a"))
    manager.unload(named("a"))
    with pytest.raises(NoRoomForModel):
        manager.acquire(named("b"))
    first.release()
    manager.acquire(named("b")).release()
    second.release()


def test_unload_while_loading_serves_those_who_wait(loader: Loader, pool: ThreadPoolExecutor) -> None:
    manager = make(loader)
    loader.gate.clear()
    waiting = pool.submit(manager.acquire, named("a"))
    loader.wait_begun()
    assert manager.unload(named("a"))
    loader.gate.set()
    lease = waiting.result(LIMIT_S)
    assert not lease.model.closed.is_set()
    lease.release()
    assert lease.model.closed.wait(LIMIT_S)


def test_unload_of_what_is_not_there(loader: Loader) -> None:
    assert not make(loader).unload(named("a"))


@pytest.mark.parametrize("error", [RuntimeError("secret /path"), MemoryError(), SystemExit(3)])
def test_failed_load_reaches_every_waiter_and_leaves_nothing(
    loader: Loader, pool: ThreadPoolExecutor, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make(loader, 1)
    loader.gate.clear()
    loader.error = error
    waiting = [pool.submit(manager.acquire, named("a")) for _ in range(4)]
    loader.wait_begun()
    loader.gate.set()
    for future in waiting:
        caught = future.exception(LIMIT_S)
        assert isinstance(caught, ModelUnavailable)
        assert "'a'" in caught.message
        assert "secret" not in caught.message
        assert caught.__cause__ is error
    assert manager.loaded() == []
    assert "loading model a failed" in caplog.text
    loader.error = None
    with manager.acquire(named("b")):
        pass


def test_our_own_errors_pass_unchanged(loader: Loader) -> None:
    manager = make(loader)
    loader.error = ModelUnavailable("The hub is away.")
    with pytest.raises(ModelUnavailable) as caught:
        manager.acquire(named("a"))
    assert caught.value is loader.error
    loader.error = None
    manager.acquire(named("a")).release()
    assert loader.calls == ["a", "a"]


def test_model_whose_close_fails_is_gone_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Model):
        def close(self) -> None:
            raise RuntimeError("no")

    manager = make(lambda source: Stubborn(source.name), 1)
    use_each(manager, "ab")
    assert set(states(manager)) == {"b"}
    assert "closing model a failed" in caplog.text


def test_drain_lends_no_more_and_lets_leases_go_on(loader: Loader) -> None:
    manager = make(loader)
    use_each(manager, "ab")
    lease = manager.acquire(named("a"))
    manager.unload(named("a"))  # in use, so it stays until released: drained all the same
    manager.drain()
    manager.drain()
    assert manager.shutdown.is_draining
    assert [model.drains for model in loader.made] == [2, 2]
    with pytest.raises(ShuttingDown):
        manager.acquire(named("b"))
    assert states(manager) == {"a": ("unloading", 1), "b": ("ready", 0)}
    assert not lease.model.closed.is_set()
    lease.release()
    assert lease.model.closed.wait(LIMIT_S)


def test_drain_answers_who_waits_for_a_load(loader: Loader, pool: ThreadPoolExecutor) -> None:
    manager = make(loader)
    loader.gate.clear()
    waiting: Future[Lease[Model]] = pool.submit(manager.acquire, named("a"))
    loader.wait_begun()
    manager.drain()
    assert isinstance(waiting.exception(LIMIT_S), ShuttingDown)
    loader.gate.set()
    manager.close(LIMIT_S)


def test_close_closes_what_is_idle_and_refuses_the_rest(loader: Loader) -> None:
    manager = make(loader)
    use_each(manager, "ab")
    manager.close(LIMIT_S)
    assert loader.alive == []
    assert manager.loaded() == []
    with pytest.raises(ShuttingDown):
        manager.acquire(named("a"))
    manager.close(LIMIT_S)


def test_close_waits_for_those_in_use(loader: Loader, pool: ThreadPoolExecutor) -> None:
    manager = make(loader)
    lease = manager.acquire(named("a"))
    closing = pool.submit(manager.close, LIMIT_S)
    while states(manager) != {"a": ("unloading", 1)}:
        threading.Event().wait(0)
    assert not lease.model.closed.is_set()
    assert not closing.done()
    lease.release()
    closing.result(LIMIT_S)
    assert lease.model.closed.is_set()


def test_close_gives_up_on_a_lease_that_stays(loader: Loader, caplog: pytest.LogCaptureFixture) -> None:
    manager = make(loader)
    lease = manager.acquire(named("a"))
    manager.close(0)
    assert "models still in use at shutdown: a" in caplog.text
    assert not lease.model.closed.is_set()
    lease.release()
    assert lease.model.closed.wait(LIMIT_S)


def test_close_answers_waiters_and_does_not_wait_for_loads(loader: Loader, pool: ThreadPoolExecutor) -> None:
    manager = make(loader)
    loader.gate.clear()
    waiting: Future[Lease[Model]] = pool.submit(manager.acquire, named("a"))
    loader.wait_begun()
    manager.close(LIMIT_S)
    assert isinstance(waiting.exception(LIMIT_S), ShuttingDown)
    assert loader.made == []
    loader.gate.set()
    while not loader.made:
        threading.Event().wait(0)
    assert loader.made[0].closed.wait(LIMIT_S)


async def test_async_lease_lends_and_gives_back(loader: Loader) -> None:
    manager = make(loader)
    async with manager.lease(named("a")) as model:
        assert model.name == "a"
        assert states(manager) == {"a": ("ready", 1)}
    async with manager.lease(named("alias")) as again:
        assert again is model
    assert states(manager) == {"a": ("ready", 0)}
    with pytest.raises(ModelNotFound):
        async with manager.lease(named("nobody")):
            pass


async def test_loop_runs_while_a_model_loads(loader: Loader) -> None:
    manager = make(loader)
    loader.gate.clear()

    async def use() -> Model:
        async with manager.lease(named("a")) as model:
            return model

    users = [asyncio.create_task(use()) for _ in range(3)]
    await asyncio.sleep(0)  # every task reserves in its first step
    assert states(manager) == {"a": ("loading", 3)}
    loader.gate.set()
    assert len(set(await asyncio.wait_for(asyncio.gather(*users), LIMIT_S))) == 1
    assert loader.calls == ["a"]


async def test_cancelled_waiter_leaves_no_lease_and_the_load_goes_on(loader: Loader) -> None:
    manager = make(loader, 1)
    loader.gate.clear()

    async def use() -> str:
        async with manager.lease(named("a")) as model:
            return model.name

    gone, stays = asyncio.create_task(use()), asyncio.create_task(use())
    await asyncio.sleep(0)  # every task reserves in its first step
    assert states(manager) == {"a": ("loading", 2)}
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert states(manager) == {"a": ("loading", 1)}
    loader.gate.set()
    assert await asyncio.wait_for(stays, LIMIT_S) == "a"
    assert loader.calls == ["a"]
    async with manager.lease(named("b")):  # evicts "a", which has no lease
        assert set(states(manager)) == {"b"}


async def test_load_that_everybody_left_still_ends_well(loader: Loader) -> None:
    manager = make(loader, 1)
    loader.gate.clear()

    async def use() -> None:
        async with manager.lease(named("a")):
            pass

    only = asyncio.create_task(use())
    await asyncio.to_thread(loader.wait_begun)
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    loader.gate.set()
    async with manager.lease(named("a")) as model:
        assert not model.closed.is_set()
    assert loader.calls == ["a"]


async def test_error_inside_the_block_gives_the_lease_back(loader: Loader) -> None:
    manager = make(loader)
    with pytest.raises(ZeroDivisionError):
        async with manager.lease(named("a")):
            raise ZeroDivisionError
    assert states(manager) == {"a": ("ready", 0)}


async def test_failed_load_reaches_every_async_waiter(loader: Loader) -> None:
    manager = make(loader)
    loader.error = OSError("gone")
    loader.gate.clear()

    async def use() -> None:
        async with manager.lease(named("a")):
            pass

    users = [asyncio.create_task(use()) for _ in range(3)]
    await asyncio.sleep(0)  # every task reserves in its first step
    assert states(manager) == {"a": ("loading", 3)}
    loader.gate.set()
    results = await asyncio.wait_for(asyncio.gather(*users, return_exceptions=True), LIMIT_S)
    assert [type(result) for result in results] == [ModelUnavailable] * 3
    assert manager.loaded() == []


@settings(max_examples=60, deadline=None)
@given(
    max_models=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from(["acquire", "release", "unload"]), st.sampled_from(NAMES)), max_size=40
    ),
)
def test_any_order_of_calls_keeps_the_rules(max_models: int, steps: list[tuple[str, str]]) -> None:
    loader = Loader()
    manager = make(loader, max_models)
    held: dict[str, list[Lease[Model]]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        for step, name in steps:
            if step == "acquire":
                try:
                    held[name].append(stack.enter_context(manager.acquire(named(name))))
                except Unavailable:
                    in_use = {lease.model for leases in held.values() for lease in leases}
                    assert len(in_use) >= max_models
            elif step == "release" and held[name]:
                held[name].pop().release()
            elif step == "unload":
                manager.unload(named(name))
            assert all(not lease.model.closed.is_set() for leases in held.values() for lease in leases)
            assert sum(one.state != "unloading" for one in manager.loaded()) <= max_models
    manager.close(LIMIT_S)
    assert loader.alive == []
    assert manager.loaded() == []


def test_threads_in_a_crowd_never_see_a_closed_model(loader: Loader, pool: ThreadPoolExecutor) -> None:
    manager = make(loader, 2)

    def work(seed: int) -> int:
        served = 0
        for turn in range(60):
            try:
                with manager.acquire(named(NAMES[(seed * 7 + turn * (seed + 1)) % 5])) as lease:
                    assert not lease.model.closed.is_set()
                    served += 1
            except Unavailable:
                pass
            if turn % 20 == seed:
                manager.unload(named(NAMES[seed % 5]))
        return served

    assert sum(pool.map(work, range(8))) > 0
    manager.close(LIMIT_S)
    assert loader.alive == []

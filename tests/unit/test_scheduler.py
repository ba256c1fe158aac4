"""Every job is answered exactly once, whatever the engine does; the test holds the device in its hand."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.core.errors import DeviceOutOfMemory, EngineFailure, InvalidRequest, ShuttingDown
from whisper_server.core.types import Decoded, DecodeOptions, Placed, Window, WindowJob
from whisper_server.services.scheduler import Scheduler, _Entry, _take_batch

PLAIN, WORDS = DecodeOptions(), DecodeOptions(word_timestamps=True)
MEL = np.zeros((80, 3000), np.float32)
PATIENCE_S = 30  # only ever reached where the code under test hangs


def job(name: str) -> WindowJob:
    return WindowJob(Window(MEL, 1.0, (Placed(0.0, 0.0, 1.0),)), "en", prompt=name)


def answer(name: str) -> Decoded:
    return Decoded((len(name),), name, 1.0, 0.0, 0.0, 1.0, 0.0, is_silence=False)


class Device:
    """Answers with the name of the job; may be held shut, and fails on names it is told to."""

    def __init__(self, fails: dict[str, Exception] | None = None, *, most: int = 99) -> None:
        self.batches: list[list[str]] = []
        self.fails = fails or {}
        self.most = most
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def decode(self, jobs: Sequence[WindowJob], options: DecodeOptions) -> list[Decoded]:
        names = [job.prompt for job in jobs]
        self.batches.append(names)
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        if len(jobs) > self.most:
            raise DeviceOutOfMemory("too many")
        for name in names:
            if name in self.fails:
                raise self.fails[name]
        return [answer(name) for name in names]


@pytest.fixture
def start() -> Callable[..., Scheduler]:
    running: list[tuple[Scheduler, Device]] = []

    def _start(device: Device, max_batch: int = 4) -> Scheduler:
        scheduler = Scheduler(device.decode, max_batch=max_batch)
        running.append((scheduler, device))
        return scheduler

    yield _start  # type: ignore[misc]
    for scheduler, device in running:
        device.gate.set()
        scheduler.close()
        assert not scheduler._thread.is_alive()


def said(future: Future[Decoded]) -> str:
    return future.result(PATIENCE_S).language


def hold(scheduler: Scheduler, device: Device) -> Future[Decoded]:
    """Occupy the device with one job, so that what comes next has to wait."""
    device.gate.clear()
    future = scheduler.submit(job("held"), PLAIN)
    assert device.entered.acquire(timeout=PATIENCE_S)
    return future


def test_results_belong_to_their_jobs_and_batches_are_shared(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    held = hold(scheduler, device)
    futures = {name: scheduler.submit(job(name), PLAIN) for name in "abcdef"}
    device.gate.set()
    assert said(held) == "held"
    assert {name: said(future) for name, future in futures.items()} == {name: name for name in "abcdef"}
    assert device.batches == [["held"], ["a", "b", "c", "d"], ["e", "f"]]


def test_drain_refuses_what_has_not_begun_and_finishes_the_rest(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    held = hold(scheduler, device)
    later = scheduler.submit(job("later window"), PLAIN)
    first = scheduler.submit(job("first window"), PLAIN, begins=True)
    scheduler.drain()
    assert isinstance(first.exception(PATIENCE_S), ShuttingDown)
    with pytest.raises(ShuttingDown):
        scheduler.submit(job("new"), PLAIN, begins=True)
    last = scheduler.submit(job("last window"), PLAIN)
    device.gate.set()
    assert [said(future) for future in (held, later, last)] == ["held", "later window", "last window"]


def test_different_options_never_share_a_batch_and_keep_their_turn(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    hold(scheduler, device)
    futures = [scheduler.submit(job(n), WORDS if n in "bd" else PLAIN) for n in "abcd"]
    device.gate.set()
    assert [said(future) for future in futures] == list("abcd")
    assert device.batches[1:] == [["a", "c"], ["b", "d"]]


def test_one_bad_window_harms_one_client(start: Callable[..., Scheduler]) -> None:
    device = Device({"c": RuntimeError("boom")})
    scheduler = start(device)
    hold(scheduler, device)
    futures = {name: scheduler.submit(job(name), PLAIN) for name in "abcd"}
    device.gate.set()
    assert [said(futures[name]) for name in "abd"] == ["a", "b", "d"]
    with pytest.raises(EngineFailure, match="failed on this audio") as caught:
        futures["c"].result(PATIENCE_S)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert said(scheduler.submit(job("next"), PLAIN)) == "next"


def test_out_of_memory_is_retried_in_halves(start: Callable[..., Scheduler]) -> None:
    device = Device(most=1)
    scheduler = start(device)
    hold(scheduler, device)
    futures = [scheduler.submit(job(name), PLAIN) for name in "abc"]
    device.gate.set()
    assert [said(future) for future in futures] == ["a", "b", "c"]


def test_our_own_errors_pass_unchanged(start: Callable[..., Scheduler]) -> None:
    refusal = InvalidRequest("no such language", param="language")
    scheduler = start(Device({"a": refusal}))
    with pytest.raises(InvalidRequest) as caught:
        scheduler.submit(job("a"), PLAIN).result(PATIENCE_S)
    assert caught.value is refusal


@pytest.mark.parametrize("results", [[], [answer("a"), answer("b")]])
def test_a_wrong_number_of_results_is_an_error_and_no_hang(results: list[Decoded]) -> None:
    scheduler = Scheduler(lambda _jobs, _options: results, max_batch=4)
    with pytest.raises(EngineFailure):
        scheduler.submit(job("a"), PLAIN).result(PATIENCE_S)
    scheduler.close()


def test_a_cancelled_job_is_never_decoded(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    hold(scheduler, device)
    futures = {name: scheduler.submit(job(name), PLAIN) for name in "abc"}
    assert futures["b"].cancel()
    device.gate.set()
    assert (said(futures["a"]), said(futures["c"])) == ("a", "c")
    assert device.batches[1:] == [["a", "c"]]


def test_a_batch_of_cancelled_jobs_does_not_reach_the_device(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    hold(scheduler, device)
    future = scheduler.submit(job("a"), PLAIN)
    future.cancel()
    device.gate.set()
    assert said(scheduler.submit(job("b"), PLAIN)) == "b"
    assert ["a"] not in device.batches


def test_close_finishes_what_runs_and_refuses_what_waits() -> None:
    device = Device()
    scheduler = Scheduler(device.decode, max_batch=4)
    held = hold(scheduler, device)
    waiting = scheduler.submit(job("waits"), PLAIN)
    cancelled = scheduler.submit(job("gone"), PLAIN)
    cancelled.cancel()
    closer = threading.Thread(target=scheduler.close)
    closer.start()
    with pytest.raises(ShuttingDown):
        waiting.result(PATIENCE_S)
    device.gate.set()
    closer.join(PATIENCE_S)
    assert said(held) == "held"
    with pytest.raises(CancelledError):
        cancelled.result(PATIENCE_S)
    with pytest.raises(ShuttingDown):
        scheduler.submit(job("late"), PLAIN)
    scheduler.close()


@given(st.lists(st.sampled_from([PLAIN, WORDS]), min_size=1, max_size=12), st.integers(1, 5))
def test_batches_lose_nothing_and_keep_the_order(options: list[DecodeOptions], most: int) -> None:
    entries = [_Entry(job(str(number)), option) for number, option in enumerate(options)]
    waiting, batches = deque(entries), []
    while waiting:
        oldest = waiting[0]
        batch = _take_batch(waiting, most)
        assert batch[0] is oldest
        assert 1 <= len(batch) <= most
        assert len({entry.options for entry in batch}) == 1
        batches += batch
    assert sorted(map(id, batches)) == sorted(map(id, entries))
    for option in (PLAIN, WORDS):
        kept = [entry for entry in batches if entry.options == option]
        assert kept == [entry for entry in entries if entry.options == option]

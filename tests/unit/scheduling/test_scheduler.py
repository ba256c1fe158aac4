"""Every job is answered exactly once, whatever the engine does; the test holds the device in its hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from tests.support.held_device import (
    PLAIN,
    TIMEOUT_S,
    WARM,
    Counted,
    Device,
    answer,
    hold,
    job,
    said,
    submit,
)
from whisper_server.core.errors import (
    DeviceOutOfMemory,
    EngineFailure,
    InvalidRequest,
    ModelUnavailable,
    ShuttingDown,
)
from whisper_server.core.types import Decoded
from whisper_server.services.scheduling.batch import DecodeBatch
from whisper_server.services.scheduling.scheduler import Scheduler


@pytest.fixture
def start() -> Iterator[Callable[..., Scheduler]]:
    running: list[tuple[Scheduler, Device]] = []

    def _start(device: Device, max_batch: int = 4, **options: Any) -> Scheduler:
        scheduler = Scheduler(device.decode, max_batch=max_batch, name="tested", **options)
        running.append((scheduler, device))
        return scheduler

    yield _start
    for scheduler, device in running:
        device.gate.set()
        scheduler.close()
    for thread in threading.enumerate():
        if thread.name.endswith("-tested"):  # one that hung is not waited for by `close`
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def test_results_belong_to_their_jobs_and_batches_are_shared(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    held = hold(scheduler, device)
    futures = {name: submit(scheduler, name) for name in "abcdef"}
    device.gate.set()
    assert said(held) == "held"
    assert {name: said(future) for name, future in futures.items()} == {name: name for name in "abcdef"}
    assert device.batches == [["held"], ["a", "b", "c", "d"], ["e", "f"]]


def test_different_options_never_share_a_batch_and_keep_their_turn(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    hold(scheduler, device)
    futures = [submit(scheduler, n, WARM if n in "bd" else PLAIN) for n in "abcd"]
    device.gate.set()
    assert [said(future) for future in futures] == list("abcd")
    assert device.batches[1:] == [["a", "c"], ["b", "d"]]


def test_one_bad_window_harms_one_client(start: Callable[..., Scheduler]) -> None:
    device = Device({"c": RuntimeError("boom")})
    scheduler = start(device)
    hold(scheduler, device)
    futures = {name: submit(scheduler, name) for name in "abcd"}
    device.gate.set()
    assert [said(futures[name]) for name in "abd"] == ["a", "b", "d"]
    with pytest.raises(EngineFailure, match="failed on this audio") as caught:
        futures["c"].result(TIMEOUT_S)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert said(submit(scheduler, "next")) == "next"


def test_out_of_memory_is_retried_in_halves(start: Callable[..., Scheduler]) -> None:
    device = Device(most=1)
    scheduler = start(device)
    hold(scheduler, device)
    futures = [submit(scheduler, name) for name in "abc"]
    device.gate.set()
    assert [said(future) for future in futures] == ["a", "b", "c"]


def test_a_host_without_memory_is_no_fault_of_the_audio(start: Callable[..., Scheduler]) -> None:
    device = Device({"c": MemoryError()})
    scheduler = start(device)
    hold(scheduler, device)
    futures = {name: submit(scheduler, name) for name in "abcd"}
    device.gate.set()
    assert [said(futures[name]) for name in "abd"] == ["a", "b", "d"]
    with pytest.raises(DeviceOutOfMemory) as caught:
        futures["c"].result(TIMEOUT_S)
    assert caught.value.retry_helps


def test_our_own_errors_pass_unchanged(start: Callable[..., Scheduler]) -> None:
    refusal = InvalidRequest("no such language", param="language")
    scheduler = start(Device({"a": refusal}))
    with pytest.raises(InvalidRequest) as caught:
        submit(scheduler, "a").result(TIMEOUT_S)
    assert caught.value is refusal


@pytest.mark.parametrize("results", [[], [answer("a"), answer("b")]])
def test_a_wrong_number_of_results_is_an_error_and_no_hang(results: list[Decoded]) -> None:
    scheduler = Scheduler(lambda _jobs, _options, _is_wanted: results, max_batch=4)
    with pytest.raises(EngineFailure):
        submit(scheduler, "a").result(TIMEOUT_S)
    scheduler.close()


def test_a_cancelled_job_is_never_decoded(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    hold(scheduler, device)
    futures = {name: submit(scheduler, name) for name in "abc"}
    assert futures["b"].cancel()
    device.gate.set()
    assert (said(futures["a"]), said(futures["c"])) == ("a", "c")
    assert device.batches[1:] == [["a", "c"]]


def test_a_batch_of_cancelled_jobs_does_not_reach_the_device(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    hold(scheduler, device)
    future = submit(scheduler, "a")
    future.cancel()
    device.gate.set()
    assert said(submit(scheduler, "b")) == "b"
    assert ["a"] not in device.batches


def test_close_finishes_what_runs_and_refuses_what_waits() -> None:
    device = Device()
    scheduler = Scheduler(device.decode, max_batch=4)
    held = hold(scheduler, device)
    waiting = submit(scheduler, "waits")
    cancelled = submit(scheduler, "gone")
    cancelled.cancel()
    closer = threading.Thread(target=scheduler.close)
    closer.start()
    with pytest.raises(ShuttingDown):
        waiting.result(TIMEOUT_S)
    device.gate.set()
    closer.join(TIMEOUT_S)
    assert said(held) == "held"
    with pytest.raises(CancelledError):
        cancelled.result(TIMEOUT_S)
    with pytest.raises(ShuttingDown):
        submit(scheduler, "late")
    scheduler.close()


def test_two_workers_share_what_waits_and_run_at_once(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device, workers=2)
    first = hold(scheduler, device, "a")
    second = submit(scheduler, "b")
    assert device.entered.acquire(timeout=TIMEOUT_S)  # while the first is held
    waiting = [submit(scheduler, name) for name in "cdef"]
    device.gate.set()
    assert [said(future) for future in (first, second, *waiting)] == list("abcdef")
    assert all(len(batch) <= 4 for batch in device.batches)


def test_a_stream_that_closes_cancels_its_windows(start: Callable[..., Scheduler]) -> None:
    device, events = Device(), Counted()
    scheduler = start(device, events=events, max_batch=1)
    device.gate.clear()
    with scheduler.open_stream() as stream:
        futures = [stream.submit(job(name), PLAIN) for name in ("runs", "waits")]
        assert device.entered.acquire(timeout=TIMEOUT_S)
    assert futures[1].cancelled()
    device.gate.set()
    assert said(submit(scheduler, "next")) == "next"
    assert device.unwanted == ["runs"]
    assert device.batches == [["runs"], ["next"]]
    assert events.counts["cancelled"] == 2


def test_windows_ahead_are_shared_among_the_streams(start: Callable[..., Scheduler]) -> None:
    scheduler = start(Device(), max_batch=4, workers=2)
    assert scheduler.ahead == 16
    streams = [scheduler.open_stream() for _ in range(5)]
    assert scheduler.ahead == streams[0].ahead == 4
    streams += [scheduler.open_stream() for _ in range(95)]
    assert scheduler.ahead == 1
    for stream in streams:
        stream.close()
    assert scheduler.ahead == 16


def test_out_of_memory_makes_the_next_batches_smaller(start: Callable[..., Scheduler]) -> None:
    device = Device(most=2)
    scheduler = start(device)
    hold(scheduler, device)
    futures = [submit(scheduler, name) for name in "abcdefgh"]
    device.gate.set()
    assert [said(future) for future in futures] == list("abcdefgh")
    assert [len(batch) for batch in device.batches] == [1, 4, 2, 2, 2, 2]


def test_draining_refuses_what_has_not_begun_and_finishes_what_has(start: Callable[..., Scheduler]) -> None:
    device = Device()
    scheduler = start(device)
    device.gate.clear()
    begun = scheduler.open_stream()
    first = begun.submit(job("first"), PLAIN)
    assert device.entered.acquire(timeout=TIMEOUT_S)
    second, waiting = begun.submit(job("second"), PLAIN), submit(scheduler, "waits")
    idle = scheduler.open_stream()
    scheduler.drain()
    for refused in (
        waiting.result,
        lambda _: scheduler.open_stream(),
        lambda _: idle.submit(job("late"), PLAIN),
    ):
        with pytest.raises(ShuttingDown):
            refused(TIMEOUT_S)
    third = begun.submit(job("third"), PLAIN)
    device.gate.set()
    assert [said(future) for future in (first, second, third)] == ["first", "second", "third"]


def test_a_dead_worker_is_replaced_and_what_waits_goes_on(start: Callable[..., Scheduler]) -> None:
    broken, fresh, events = Device({"kills": SystemExit("died")}), Device(), Counted()
    held = threading.Event()
    fresh_asked = threading.Event()

    def reload() -> DecodeBatch:
        fresh_asked.set()
        assert held.wait(TIMEOUT_S)
        return fresh.decode

    scheduler = start(broken, reload=reload, events=events, max_batch=1)
    hold(scheduler, broken)
    killed, waiting = submit(scheduler, "kills"), submit(scheduler, "waits")
    broken.gate.set()
    with pytest.raises(EngineFailure):
        killed.result(TIMEOUT_S)
    assert fresh_asked.wait(TIMEOUT_S)
    assert scheduler.is_degraded
    held.set()
    assert said(waiting) == "waits"
    assert not scheduler.is_degraded
    assert (broken.batches, fresh.batches) == ([["held"], ["kills"]], [["waits"]])
    assert events.counts["replaced"] == events.counts["failed"] == 1


def test_a_hanging_worker_is_replaced_and_its_late_answer_dropped(start: Callable[..., Scheduler]) -> None:
    hanging, fresh = Device(), Device()
    hanging.gate.clear()
    scheduler = start(hanging, reload=lambda: fresh.decode, batch_timeout_s=3.0)
    late = submit(scheduler, "hangs")
    with pytest.raises(EngineFailure):
        late.result(TIMEOUT_S)
    assert said(submit(scheduler, "next")) == "next"
    assert fresh.batches == [["next"]]
    hanging.gate.set()
    assert said(submit(scheduler, "last")) == "last"
    assert isinstance(late.exception(), EngineFailure)


@pytest.mark.parametrize("error", [ModelUnavailable("files gone"), ValueError("bug"), SystemExit()])
def test_an_engine_that_is_lost_for_good_answers_every_job(
    start: Callable[..., Scheduler], error: BaseException
) -> None:
    def reload() -> DecodeBatch:
        raise error

    device = Device({"kills": SystemExit()})
    scheduler = start(device, reload=reload, max_batch=1)
    hold(scheduler, device)
    futures = [submit(scheduler, name) for name in ("kills", "waits")]
    device.gate.set()
    with pytest.raises(EngineFailure):
        futures[0].result(TIMEOUT_S)
    with pytest.raises(ModelUnavailable):
        futures[1].result(TIMEOUT_S)
    assert scheduler.is_broken
    assert not scheduler.is_degraded
    with pytest.raises(ModelUnavailable):
        scheduler.open_stream()

"""Workers that are lost for good: every wait ends, for an answer and for the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.support.held_device import PLAIN, TIMEOUT_S, Counted, Device, hold, job, said, submit
from whisper_server.core.errors import EngineFailure, ModelUnavailable
from whisper_server.core.types import Decoded, DecodeOptions
from whisper_server.services.scheduling.batch import DecodeBatch
from whisper_server.services.scheduling.scheduler import Scheduler

HANGS_S = 0.05  # the timeout of a batch, where the engine hangs; it never is a race with one that works


def close(scheduler: Scheduler) -> None:
    """Close it, or fail: the suite must not hang with the code under test."""
    closing = threading.Thread(target=scheduler.close, daemon=True)
    closing.start()
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()


def hanging(reloads: Callable[[], DecodeBatch] | None = None) -> tuple[Scheduler, Device]:
    """Return a scheduler whose device does not answer, and the device."""
    device = Device()
    device.gate.clear()
    return Scheduler(
        device.decode, max_batch=4, batch_timeout_s=HANGS_S, reload=reloads, name="tested"
    ), device


def test_a_hang_that_its_client_has_left_does_not_hold_up_the_end() -> None:
    """A model without leases is closed, and the load of the next one waits for that."""
    fresh = Device()
    scheduler, device = hanging(lambda: fresh.decode)
    with scheduler.open_stream() as stream:
        late = stream.submit(job("hangs"), PLAIN)
        assert device.entered.acquire(timeout=TIMEOUT_S)
    close(scheduler)
    assert isinstance(late.exception(TIMEOUT_S), EngineFailure)
    assert fresh.batches == []
    device.gate.set()


def test_a_reload_that_hangs_is_given_up_too() -> None:
    loads, fresh = threading.Event(), Device()

    def reload() -> DecodeBatch:
        assert loads.wait(TIMEOUT_S)
        return fresh.decode

    scheduler, device = hanging(reload)
    futures = [submit(scheduler, "hangs")]
    assert device.entered.acquire(timeout=TIMEOUT_S)
    futures.append(submit(scheduler, "waits"))
    with pytest.raises(EngineFailure):
        futures[0].result(TIMEOUT_S)
    with pytest.raises(ModelUnavailable):
        futures[1].result(TIMEOUT_S)
    assert scheduler.is_broken
    loads.set()  # it comes too late
    close(scheduler)
    device.gate.set()
    with pytest.raises(ModelUnavailable):
        scheduler.open_stream()
    assert fresh.batches == []


def test_where_no_thread_can_be_started_every_job_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    device, events = Device({"kills": SystemExit("died")}), Counted()
    scheduler = Scheduler(device.decode, max_batch=1, events=events, name="tested")
    hold(scheduler, device)
    killed, waiting = submit(scheduler, "kills"), submit(scheduler, "waits")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        device.gate.set()
        with pytest.raises(EngineFailure):
            killed.result(TIMEOUT_S)
        with pytest.raises(ModelUnavailable):
            waiting.result(TIMEOUT_S)
    close(scheduler)
    assert scheduler.is_broken
    assert not scheduler.is_degraded
    assert (events.counts["failed"], events.counts["replaced"]) == (1, 0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            Scheduler(device.decode, max_batch=1, name="tested")


def test_a_window_fails_once_however_often_it_is_failed() -> None:
    """Half of the batch is answered when the engine dies; the failures that are counted are the answers."""
    device, events = Device({"b": RuntimeError("raises"), "d": SystemExit("dies")}), Counted()
    scheduler = Scheduler(device.decode, max_batch=4, events=events, name="tested")
    hold(scheduler, device)
    futures = {name: submit(scheduler, name) for name in "abcd"}
    device.gate.set()
    assert said(futures["a"]) == "a"
    for name in "bcd":
        with pytest.raises(EngineFailure):
            futures[name].result(TIMEOUT_S)
    assert said(submit(scheduler, "next")) == "next"
    close(scheduler)
    assert (events.counts["failed"], events.counts["replaced"]) == (3, 1)


def test_a_late_failure_is_not_counted_again() -> None:
    events, begun, ends = Counted(), threading.Event(), threading.Event()

    def hangs_and_raises(*_: object) -> list[Decoded]:
        begun.set()
        assert ends.wait(TIMEOUT_S)
        raise RuntimeError("late")

    fresh = Device()
    scheduler = Scheduler(
        hangs_and_raises,
        max_batch=1,
        batch_timeout_s=HANGS_S,
        reload=lambda: fresh.decode,
        events=events,
        name="tested",
    )
    (hangs,) = [thread for thread in threading.enumerate() if thread.name.endswith("-tested")][:1]
    with pytest.raises(EngineFailure):
        submit(scheduler, "hangs", DecodeOptions()).result(TIMEOUT_S)
    assert begun.is_set()
    ends.set()
    hangs.join(TIMEOUT_S)
    close(scheduler)
    assert events.counts["failed"] == 1

"""Which job is next, as tables: arrivals and departures in, batches out; no thread, no clock, no device."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.services.scheduling.fair_queue import BatchLimit, FairQueue, Flow, share


def queue_of(**windows: int) -> tuple[FairQueue[str], dict[str, Flow[str]]]:
    """Return a queue in which each name has so many windows, `a0`, `a1`, ..."""
    queue: FairQueue[str] = FairQueue()
    flows: dict[str, Flow[str]] = {name: Flow() for name in windows}
    for name, n_windows in windows.items():
        for number in range(n_windows):
            queue.add(flows[name], f"{name}{number}", "kind")
    return queue, flows


def drained(queue: FairQueue[str], limit: int) -> list[list[str]]:
    batches = []
    while batch := queue.take(limit):
        batches.append(batch)
    return batches


@pytest.mark.parametrize(
    ("windows", "limit", "batches"),
    [
        ({"a": 5}, 4, [["a0", "a1", "a2", "a3"], ["a4"]]),
        ({"a": 2, "b": 2, "c": 2}, 3, [["a0", "b0", "c0"], ["a1", "b1", "c1"]]),
        ({"a": 4, "b": 1}, 2, [["a0", "b0"], ["a1", "a2"], ["a3"]]),
        ({}, 4, []),
    ],
)
def test_requests_are_interleaved_by_window(
    windows: dict[str, int], limit: int, batches: list[list[str]]
) -> None:
    queue, _ = queue_of(**windows)
    assert drained(queue, limit) == batches


def test_a_clip_behind_a_long_file_is_in_the_next_batch() -> None:
    queue, flows = queue_of(long=400)
    for _ in range(50):
        queue.take(4)
    clip: Flow[str] = Flow()
    queue.add(clip, "clip", "kind")
    assert "clip" in queue.take(4)
    assert flows["long"].has_begun


def test_of_those_that_come_together_the_heavier_is_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for name, weight in (("draft", 16), ("file", 4), ("turn", 64), ("other turn", 64)):
        queue.add(Flow(weight), name, "kind")
    assert drained(queue, 1) == [["turn"], ["other turn"], ["draft"], ["file"]]


def test_a_flow_that_was_away_has_no_claim_on_the_past() -> None:
    queue, flows = queue_of(a=1, b=100)
    queue.take(2)
    for _ in range(40):
        queue.take(1)
    for number in range(1, 50):
        queue.add(flows["a"], f"a{number}", "kind")
    taken = Counter(queue.take(1)[0][0] for _ in range(20))
    assert abs(taken["a"] - taken["b"]) <= 2


def test_weights_are_shares_and_no_flow_starves() -> None:
    queue: FairQueue[str] = FairQueue()
    flows = {"interactive": Flow[str](16), "normal": Flow[str](4), "background": Flow[str](1)}
    for name, flow in flows.items():
        for _ in range(210):
            queue.add(flow, f"{name}{len(flow)}", "kind")
    taken = Counter(queue.take(1)[0].rstrip("0123456789") for _ in range(210))
    assert taken == {"interactive": 160, "normal": 40, "background": 10}


def test_only_one_kind_in_a_batch_and_the_other_kind_has_its_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    warm, cold = Flow[str](), Flow[str]()
    for number in range(3):
        queue.add(cold, f"c{number}", 0.0)
        queue.add(warm, f"w{number}", 0.7)
    assert drained(queue, 2) == [["c0", "c1"], ["w0", "w1"], ["c2"], ["w2"]]


def test_what_is_not_wanted_is_removed() -> None:
    queue, flows = queue_of(a=2, b=1)
    assert queue.remove(flows["a"], "a0")
    assert not queue.remove(flows["a"], "a0")
    assert not queue.remove(flows["b"], "a1")
    assert len(queue) == 2
    assert drained(queue, 4) == [["a1", "b0"]]


def test_what_has_not_begun_can_be_cleared_alone() -> None:
    queue, _ = queue_of(a=3, b=2)
    assert queue.take(1) == ["a0"]
    assert queue.clear(begun=False) == ["b0", "b1"]
    assert drained(queue, 9) == [["a1", "a2"]]
    queue, _ = queue_of(a=1, b=1)
    assert queue.clear() == ["a0", "b0"]
    assert not len(queue)


Step = tuple[str, int]  # what, and to which flow or how many


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "remove"]), st.integers(0, 5)), max_size=60))
def test_nothing_is_lost_doubled_or_out_of_order(steps: list[Step]) -> None:
    queue: FairQueue[int] = FairQueue()
    flows = [Flow[int](weight) for weight in (1, 1, 1, 4, 4, 16)]
    owner: dict[int, int] = {}
    waiting: list[int] = []
    for what, number in steps:
        if what == "add":
            job = len(owner)
            owner[job] = number
            queue.add(flows[number], job, number % 2)
            waiting.append(job)
        elif what == "take":
            batch = queue.take(number)
            assert len(batch) <= number
            assert bool(batch) == (bool(waiting) and number > 0)
            assert len({owner[job] % 2 for job in batch}) <= 1
            for job in batch:
                assert job == min(each for each in waiting if owner[each] == owner[job])
                waiting.remove(job)
        elif mine := [job for job in waiting if owner[job] == number]:
            assert queue.remove(flows[number], mine[-1])
            waiting.remove(mine[-1])
        assert len(queue) == len(waiting)


@pytest.mark.parametrize(
    ("waiting", "idle", "limit", "taken"),
    [(1, 1, 4, 1), (4, 1, 4, 4), (4, 2, 4, 2), (5, 2, 4, 3), (99, 2, 4, 4), (1, 0, 4, 1), (0, 2, 4, 0)],
)
def test_idle_workers_share_what_waits(waiting: int, idle: int, limit: int, taken: int) -> None:
    assert share(waiting, idle, limit) == taken


def test_out_of_memory_halves_the_batch_for_a_while() -> None:
    limit = BatchLimit(8)
    limit.failed(8)
    assert limit.value == 4
    limit.failed(3)  # smaller than allowed: other workers use memory too
    assert limit.value == 1
    for _ in range(BatchLimit.RECOVERY_BATCHES - 1):
        limit.succeeded(1)
    assert limit.value == 1
    limit.succeeded(1)
    assert limit.value == 2
    for _ in range(BatchLimit.RECOVERY_BATCHES * 9):
        limit.succeeded(1)
    assert limit.value == 2, "a batch of one says nothing about a batch of two"
    for _ in range(BatchLimit.RECOVERY_BATCHES * 9):
        limit.succeeded(limit.value)
    assert limit.value == 8

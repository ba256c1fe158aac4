"""The arithmetic of the limits: who is let in, what is inside, when a client is told to come back."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from whisper_server.core.errors import Overloaded
from whisper_server.services.admission import (
    FORM_READING_FACTOR,
    LEAST_BYTES,
    LOOK_AHEAD_BYTES,
    MAX_RETRY_S,
    MEASURED_FOR_S,
    NEW_BYTES,
    NEW_FOR_S,
    OWN_BYTES,
    READING_FACTOR,
    REFILL_BYTES,
    SPARE_ALONE_BYTES,
    SPARE_BYTES,
    Admission,
    Limits,
    Slot,
    Throughput,
    steps_of,
)

MIB = 1 << 20
LIMITS = Limits(requests=3, audio_s=100.0, upload_bytes=10 * MIB)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def inside(admission: Admission) -> tuple[int, float, int]:
    state = admission.state()
    return state.requests, state.audio_s, state.upload_bytes


@pytest.mark.parametrize("n_requests", [1, 2, 3])
def test_as_many_requests_as_the_limit(n_requests: int) -> None:
    admission = Admission(Limits(n_requests, 100.0, MIB), Clock())
    slots = [admission.enter() for _ in range(n_requests)]
    assert admission.state().is_full
    with pytest.raises(Overloaded, match=f"no more than {n_requests} requests") as caught:
        admission.enter()
    assert isinstance(caught.value.retry_after_s, int)
    slots[0].leave()
    assert not admission.state().is_full
    admission.enter()


@pytest.mark.parametrize(
    ("others_s", "mine_s", "fits"),
    [
        ((), 100.0, True),
        ((), 1000.0, True),  # alone: longer than all that may wait, and never refused for ever
        ((0.0, 0.0), 1000.0, True),  # beside requests that are still uploading
        ((40.0,), 60.0, True),
        ((40.0,), 60.1, False),
        ((50.0, 49.0), 1.0, True),
        ((50.0, 49.0), 2.0, False),
        ((99.0,), 0.0, True),  # a header that claims nothing
    ],
)
def test_audio_beside_that_of_others(others_s: tuple[float, ...], mine_s: float, fits: bool) -> None:
    admission = Admission(LIMITS, Clock())
    for other_s in others_s:
        admission.enter().expect(other_s)
    mine = admission.enter()
    if fits:
        mine.expect(mine_s)
        assert admission.state().audio_s == sum(others_s) + mine_s
    else:
        with pytest.raises(Overloaded, match="seconds that may wait"):
            mine.expect(mine_s)
        assert admission.state().audio_s == sum(others_s)
    mine.leave()
    assert admission.state().audio_s == sum(others_s)


def test_no_request_enters_beside_as_much_audio_as_the_limit() -> None:
    admission = Admission(LIMITS, Clock())
    long = admission.enter()
    long.expect(150.0)
    assert admission.state().is_full
    with pytest.raises(Overloaded, match="100 seconds of waiting audio"):
        admission.enter()
    long.progress(60.0)
    assert admission.state().audio_s == 90.0
    admission.enter()


def test_audio_that_goes_on_for_longer_than_its_header_says() -> None:
    admission = Admission(LIMITS, Clock())
    slot = admission.enter()
    slot.expect(10.0)
    slot.progress(30.0, read_s=150.0)  # two minutes are read ahead
    assert admission.state().audio_s == 120.0
    slot.progress(20.0)  # what is done stays done
    assert admission.state().audio_s == 120.0
    slot.progress(150.0, read_s=150.0)
    assert inside(admission) == (1, 0.0, 0)
    slot.leave()
    assert inside(admission) == (0, 0.0, 0)


def test_audio_without_a_length_is_counted_as_it_is_read() -> None:
    admission = Admission(Limits(requests=9, audio_s=1000.0, upload_bytes=MIB), Clock())
    slots = [admission.enter() for _ in range(4)]
    for slot in slots:
        slot.expect(0.0)
    refused = set()
    for read_s in range(0, 3000, 50):
        for slot in slots:
            if slot not in refused:
                try:
                    slot.progress(0.0, read_s)
                except Overloaded:
                    refused.add(slot)
                    slot.leave()
    assert len(refused) == 3  # the last one is alone, and may be as long as it will
    assert admission.state().audio_s == 2950.0
    with pytest.raises(Overloaded):
        admission.enter()


def test_a_little_more_than_the_header_says_is_never_refused() -> None:
    admission = Admission(Limits(requests=9, audio_s=100.0, upload_bytes=MIB), Clock())
    slots = [admission.enter() for _ in range(2)]
    for slot in slots:
        slot.expect(50.0)
    for slot in slots:
        slot.progress(0.0, 50.5)
    assert admission.state().audio_s == 101.0


def test_bytes_declared_and_counted() -> None:
    admission = Admission(LIMITS, Clock())
    declared = admission.enter(7 * MIB)
    assert inside(admission) == (1, 0.0, LOOK_AHEAD_BYTES)  # not all of it: it has not come yet
    declared.receive(1 * MIB)
    assert inside(admission) == (1, 0.0, MIB + LOOK_AHEAD_BYTES)
    declared.receive(6 * MIB)  # it comes as it was declared: no more room is taken
    with pytest.raises(Overloaded, match="no more than 10 MiB of uploads"):
        admission.enter(5 * MIB)
    counted = admission.enter()
    counted.receive(3 * MIB)
    assert admission.state().is_full
    with pytest.raises(Overloaded, match="no more than 10 MiB"):
        counted.receive(1)
    assert inside(admission) == (2, 0.0, 10 * MIB)
    declared.keep(2 * MIB)  # what was decoded of it
    assert inside(admission) == (2, 0.0, 5 * MIB)
    declared.leave()
    assert inside(admission) == (1, 0.0, 3 * MIB)


@pytest.mark.parametrize(
    ("audio_s", "steps"), [(0.0, 0), (0.1, 1), (3.0, 1), (30.0, 1), (30.1, 2), (3600.0, 120)]
)
def test_a_short_clip_is_a_whole_step(audio_s: float, steps: int) -> None:
    assert steps_of(audio_s) == steps


@pytest.mark.parametrize(
    ("steps_per_s", "steps", "wait_s"),
    [(2.0, 10, 5), (2.0, 0, 1), (0.5, 10, 20), (100.0, 1, 1), (0.1, 100, MAX_RETRY_S)],
)
def test_the_wait_follows_the_measured_speed(steps_per_s: float, steps: int, wait_s: int) -> None:
    throughput = Throughput()
    for _ in range(1000):
        throughput.spend(1 / steps_per_s)
        throughput.gain(1)
    assert throughput.retry_after_s(steps) == pytest.approx(wait_s, abs=1)
    assert 1 <= throughput.retry_after_s(steps) <= MAX_RETRY_S


def test_the_wait_before_anything_was_measured() -> None:
    assert Throughput().retry_after_s(3) == 3


def test_where_nothing_gets_done_the_wait_is_the_longest() -> None:
    throughput = Throughput()
    throughput.spend(1e9)
    assert throughput.retry_after_s(1) == MAX_RETRY_S


def test_a_speed_of_long_ago_is_forgotten() -> None:
    throughput = Throughput()
    throughput.gain(10_000)
    for _ in range(1000):
        throughput.spend(1.0)
        throughput.gain(1)
    assert throughput.retry_after_s(30) in (29, 30, 31)


def test_time_without_work_is_not_counted() -> None:
    """A server that did a clip a second, and nothing all night, still does a clip a second."""
    clock = Clock()
    admission = Admission(Limits(1, 100.0, MIB), clock)
    for now_s in (0.0, 1.0, 50_000.0):
        clock.now_s = now_s
        slot = admission.enter()
        slot.expect(3.0)
        clock.now_s = now_s + 1.0
        slot.progress(3.0)
        if now_s < 50_000.0:
            slot.leave()
    clock.now_s = 90_000.0
    slot.leave()  # it stayed, with nothing to do
    admission.enter()
    with pytest.raises(Overloaded) as caught:
        admission.enter()
    assert caught.value.retry_after_s == 1


def test_those_who_come_later_are_told_a_later_time() -> None:
    """One slot becomes free at a time: a crowd that is told the same second would come back in vain."""
    admission = Admission(Limits(2, 10_000.0, MIB), Clock())
    slots = [admission.enter(), admission.enter()]
    for slot in slots:
        slot.expect(300.0)  # ten steps, at a step a second

    def told() -> int | None:
        with pytest.raises(Overloaded) as caught:
            admission.enter()
        return caught.value.retry_after_s

    assert [told() for _ in range(7)] == [10, 20, 30, 40, 50, 60, 60]
    slots.pop().leave()
    slots.append(admission.enter())
    assert told() == 39  # behind six others, at 5.5 steps a slot
    for slot in slots:
        slot.leave()
    admission.enter()
    admission.enter()
    assert told() == 1  # who has not come back by now is forgotten


def test_clients_that_declare_much_and_send_little_keep_few_bytes() -> None:
    """What nobody has sent takes no memory, so it must not take the room of those who send."""
    limits = Limits(requests=128, audio_s=100.0, upload_bytes=1024 * MIB)
    admission = Admission(limits, Clock())
    for _ in range(127):
        admission.enter(26 * MIB)
    assert admission.state().upload_bytes <= limits.upload_bytes // 2
    honest = admission.enter(26 * MIB)
    honest.receive(26 * MIB)


def test_events_of_live_sessions_are_counted_while_they_come_in() -> None:
    admission = Admission(LIMITS, Clock())
    live, upload = admission.enter(), admission.enter()
    live.hold(1 * MIB)
    live.arrive(4 * MIB)
    upload.receive(3 * MIB)
    assert inside(admission)[2] == 8 * MIB
    with pytest.raises(Overloaded, match="10 MiB of uploads"):
        live.arrive(7 * MIB)
    with pytest.raises(Overloaded, match="10 MiB of uploads"):
        live.hold(4 * MIB)
    assert inside(admission)[2] == 8 * MIB
    live.hold(2 * MIB)
    live.arrive(0)
    assert inside(admission)[2] == 5 * MIB
    live.leave()
    assert inside(admission)[2] == 3 * MIB


def test_a_slot_is_given_back_whatever_happens() -> None:
    admission = Admission(LIMITS, Clock())
    for error in (ValueError, KeyboardInterrupt, GeneratorExit):
        with contextlib.suppress(error), admission.enter(5) as slot:
            slot.receive(7)
            slot.expect(30.0)
            slot.progress(10.0, 40.0)
            state = admission.state()
            assert (state.requests, state.audio_s, state.upload_bytes) == (1, 30.0, 7)
            raise error
        state = admission.state()
        assert (state.requests, state.audio_s, state.upload_bytes) == (0, 0.0, 0)


def test_no_room_for_bytes_is_none_for_an_upload_that_does_not_say_its_size() -> None:
    admission = Admission(LIMITS, Clock())
    admission.enter().receive(LIMITS.upload_bytes)
    assert admission.state().is_full
    with pytest.raises(Overloaded, match="MiB of uploads"):
        admission.enter()


class Memory:
    """What is free, which others take and give back."""

    def __init__(self, free_bytes: int | None) -> None:
        self.free_bytes = free_bytes

    def __call__(self) -> int | None:
        return self.free_bytes


def admission_with(memory: Memory) -> tuple[Admission, Clock]:
    clock = Clock()
    return Admission(Limits(9, 1000.0, 1000 * MIB), clock, free_bytes=memory), clock


def receive(slot: Slot, n_bytes: int) -> None:
    for _ in range(n_bytes // MIB):
        slot.receive(MIB)


def test_uploads_beside_others_need_memory_for_what_is_coming() -> None:
    memory = Memory(SPARE_BYTES + 30 * READING_FACTOR * MIB)
    admission, clock = admission_with(memory)
    first = admission.enter(30 * MIB)
    receive(first, 30 * MIB)
    with pytest.raises(Overloaded, match="no more than there is memory for"):
        admission.enter(30 * MIB)
    first.keep(20 * MIB)  # it is read: what it takes is taken
    clock.now_s += 1.0
    second = admission.enter(30 * MIB)
    receive(second, 20 * MIB)
    with pytest.raises(Overloaded, match="memory"):
        receive(second, 10 * MIB)


def test_reading_a_form_takes_less_than_reading_json() -> None:
    memory = Memory(SPARE_ALONE_BYTES + (1 + FORM_READING_FACTOR) * 30 * MIB)
    admission, _ = admission_with(memory)
    with admission.enter(30 * MIB, FORM_READING_FACTOR) as slot:
        receive(slot, 30 * MIB)
    with pytest.raises(Overloaded, match="memory"), admission.enter(30 * MIB) as slot:
        receive(slot, 30 * MIB)


def test_an_upload_beside_no_other_needs_less_to_spare() -> None:
    admission, _ = admission_with(Memory(SPARE_ALONE_BYTES + (1 + READING_FACTOR) * 50 * MIB))
    admission.enter()  # brings nothing yet
    receive(admission.enter(50 * MIB), 46 * MIB)
    alone, _ = admission_with(Memory(SPARE_ALONE_BYTES))
    with pytest.raises(Overloaded, match="memory"):
        receive(alone.enter(50 * MIB), 50 * MIB)


def test_small_uploads_and_live_sessions_find_room_beside_large_ones() -> None:
    """These leave some; who is small may have it, also who does not say so."""
    memory = Memory(SPARE_BYTES + (1 + READING_FACTOR) * 30 * MIB)
    admission, clock = admission_with(memory)
    receive(admission.enter(30 * MIB), 30 * MIB)
    memory.free_bytes = SPARE_BYTES + READING_FACTOR * 30 * MIB
    clock.now_s += 1.0
    with pytest.raises(Overloaded, match="memory"):
        admission.enter(30 * MIB)
    receive(admission.enter(2 * MIB), 2 * MIB)
    live, untold = admission.enter(), admission.enter()
    live.arrive(MIB)
    live.hold(2 * MIB)
    receive(untold, OWN_BYTES)
    with pytest.raises(Overloaded, match="memory"):
        receive(untold, 2 * MIB)


def test_what_is_kept_is_handed_back_when_work_is_done_and_memory_is_short() -> None:
    """So that the next one finds room; where there is enough, what is kept saves time."""
    calls: list[int] = []
    memory, clock = Memory(REFILL_BYTES), Clock()
    admission = Admission(
        Limits(9, 1000.0, 1000 * MIB), clock, free_bytes=memory, reclaim=lambda: calls.append(1)
    )
    admission.enter(20 * MIB).leave()
    assert not calls
    memory.free_bytes = REFILL_BYTES - 1
    for _ in range(30):
        clock.now_s += 0.1
        admission.enter(1).leave()
    assert 2 <= len(calls) <= 3


def test_beside_others_even_small_uploads_are_refused_where_nothing_is_left() -> None:
    """One alone is let in: what is measured may be wrong."""
    admission, _ = admission_with(Memory(LEAST_BYTES - 1))
    first = admission.enter(MIB)
    receive(first, MIB)
    with pytest.raises(Overloaded, match="memory"):
        admission.enter(MIB)
    first.leave()
    admission.enter(MIB)


def test_what_is_kept_is_handed_back_where_memory_is_short_and_not_all_the_time() -> None:
    calls: list[float] = []
    clock = Clock()
    admission = Admission(
        Limits(9, 1000.0, 1000 * MIB),
        clock,
        free_bytes=Memory(0),
        reclaim=lambda: calls.append(clock.now_s),
    )
    for _ in range(40):
        clock.now_s += 0.1
        with pytest.raises(Overloaded, match="memory"):
            receive(admission.enter(20 * MIB), 20 * MIB)
    assert 3 <= len(calls) <= 4


def test_small_uploads_are_let_in_with_little_free() -> None:
    admission, clock = admission_with(Memory(LEAST_BYTES))
    for _ in range(8):
        receive(admission.enter(2 * MIB), 2 * MIB)
        clock.now_s += 2 * NEW_FOR_S
    with pytest.raises(Overloaded, match="memory"):
        admission.enter(1)


def test_a_burst_is_let_in_as_far_as_it_will_find_memory() -> None:
    """All of it comes before the first has taken anything."""
    admission, clock = admission_with(Memory(LEAST_BYTES + 2 * NEW_BYTES))
    for _ in range(3):
        admission.enter()
    with pytest.raises(Overloaded, match="memory"):
        admission.enter()
    clock.now_s += 2 * NEW_FOR_S
    admission.enter()  # what those inside have taken is measured


def test_where_nobody_knows_what_is_free_the_limit_holds_alone() -> None:
    admission, _ = admission_with(Memory(None))
    for _ in range(9):
        receive(admission.enter(100 * MIB), 100 * MIB)
    assert admission.state().upload_bytes == 900 * MIB


def test_memory_is_measured_again_soon() -> None:
    memory = Memory(1000 * MIB)
    admission, clock = admission_with(memory)
    receive(admission.enter(20 * MIB), 20 * MIB)
    memory.free_bytes = 0
    clock.now_s += 2 * MEASURED_FOR_S
    with pytest.raises(Overloaded, match="memory"):
        admission.enter(MIB)


class Crowd(RuleBasedStateMachine):
    """Any order of arrivals, uploads, headers, windows and departures, beside a model of the sums."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.admission = Admission(LIMITS, self.clock)
        self.slots: list[Slot] = []
        self.grown = False  # a request was let in alone, or its audio went on beyond its header

    @rule(n_bytes=st.integers(0, 10 * MIB), wait_s=st.floats(0, 100))
    def arrive(self, n_bytes: int, wait_s: float) -> None:
        self.clock.now_s += wait_s
        before = self.admission.state()
        try:
            self.slots.append(self.admission.enter(n_bytes))
        except Overloaded:
            assert before == self.admission.state()
            assert (
                before.is_full or before.upload_bytes + min(n_bytes, LOOK_AHEAD_BYTES) > LIMITS.upload_bytes
            )
        else:
            assert not before.is_full

    @precondition(lambda self: self.slots)
    @rule(data=st.data(), n_bytes=st.integers(0, 10 * MIB))
    def upload(self, data: st.DataObject, n_bytes: int) -> None:
        slot = data.draw(st.sampled_from(self.slots))
        try:
            slot.receive(n_bytes)
        except Overloaded:
            self.depart_with(slot)

    @precondition(lambda self: self.slots)
    @rule(data=st.data(), audio_s=st.floats(0, 300))
    def read_header(self, data: st.DataObject, audio_s: float) -> None:
        slot = data.draw(st.sampled_from(self.slots))
        if slot.expected_s > 0:
            return
        others_s = self.admission.state().audio_s
        try:
            slot.expect(audio_s)
        except Overloaded:
            assert others_s > 0
            assert others_s + audio_s > LIMITS.audio_s
            self.depart_with(slot)
        else:
            self.grown |= others_s == 0 and audio_s > LIMITS.audio_s

    @precondition(lambda self: self.slots)
    @rule(data=st.data(), done_s=st.floats(0, 400), ahead_s=st.floats(0, 120), took_s=st.floats(0, 10))
    def decode(self, data: st.DataObject, done_s: float, ahead_s: float, took_s: float) -> None:
        slot = data.draw(st.sampled_from(self.slots))
        goes_on = done_s + ahead_s > slot.expected_s
        self.clock.now_s += took_s
        try:
            slot.progress(done_s, done_s + ahead_s)
        except Overloaded:
            assert goes_on
            assert len(self.slots) > 1
            self.depart_with(slot)
        else:
            self.grown |= goes_on

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        self.depart_with(data.draw(st.sampled_from(self.slots)))

    def depart_with(self, slot: Slot) -> None:
        slot.leave()
        self.slots.remove(slot)

    @invariant()
    def within_the_limits(self) -> None:
        state = self.admission.state()
        assert state.requests == len(self.slots) <= LIMITS.requests
        assert 0 <= state.upload_bytes <= LIMITS.upload_bytes
        assert math.isfinite(state.audio_s)
        assert state.audio_s >= 0
        assert self.grown or state.audio_s <= LIMITS.audio_s * (1 + 1e-9)
        assert all(slot.left_steps >= 0 for slot in self.slots)
        assert 1 <= self.admission.retry_after_s() <= MAX_RETRY_S

    def teardown(self) -> None:
        for slot in [*self.slots]:
            self.depart_with(slot)
        assert inside(self.admission) == (0, 0.0, 0)


TestCrowd = Crowd.TestCase

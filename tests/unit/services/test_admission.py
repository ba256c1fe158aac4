"""The arithmetic of the limits: who is let in, what is inside, when a client is told to come back."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from whisper_server.core.errors import Overloaded
from whisper_server.services.admission import Admission, Backlog, Limits, Place
from whisper_server.services.pace import MAX_RETRY_S, Pace, steps_of

MIB = 1 << 20
LIMITS = Limits(requests=3, audio_s=100.0, upload_bytes=10 * MIB)


def inside(backlog: Backlog) -> tuple[int, float, int]:
    state = backlog.state()
    return state.requests, state.audio_s, state.upload_bytes


@pytest.mark.parametrize("n_requests", [1, 2, 3])
def test_as_many_requests_as_the_limit(n_requests: int) -> None:
    backlog = Backlog(Limits(n_requests, 100.0, MIB))
    places = [backlog.enter(0.0) for _ in range(n_requests)]
    assert backlog.state().is_full
    with pytest.raises(Overloaded, match=f"no more than {n_requests} requests") as caught:
        backlog.enter(0.0)
    assert isinstance(caught.value.retry_after_s, int)
    backlog.leave(places[0], 1.0)
    assert not backlog.state().is_full
    backlog.enter(1.0)


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
    backlog = Backlog(LIMITS)
    for other_s in others_s:
        backlog.expect(backlog.enter(0.0), 0.0, other_s)
    mine = backlog.enter(0.0)
    if fits:
        backlog.expect(mine, 0.0, mine_s)
        assert backlog.state().audio_s == sum(others_s) + mine_s
    else:
        with pytest.raises(Overloaded, match="seconds that may wait"):
            backlog.expect(mine, 0.0, mine_s)
        assert backlog.state().audio_s == sum(others_s)
    backlog.leave(mine, 0.0)
    assert backlog.state().audio_s == sum(others_s)


def test_nobody_enters_beside_as_much_audio_as_the_limit() -> None:
    backlog = Backlog(LIMITS)
    long = backlog.enter(0.0)
    backlog.expect(long, 0.0, 150.0)
    assert backlog.state().is_full
    with pytest.raises(Overloaded, match="100 seconds of waiting audio"):
        backlog.enter(0.0)
    backlog.progress(long, 10.0, 60.0)
    assert backlog.state().audio_s == 90.0
    backlog.enter(10.0)


def test_audio_that_goes_on_for_longer_than_its_header_says() -> None:
    backlog = Backlog(LIMITS)
    place = backlog.enter(0.0)
    backlog.expect(place, 0.0, 10.0)
    backlog.progress(place, 1.0, 30.0, read_s=150.0)  # two minutes are read ahead
    assert backlog.state().audio_s == 120.0
    backlog.progress(place, 2.0, 20.0)  # what is done stays done
    assert backlog.state().audio_s == 120.0
    backlog.progress(place, 3.0, 150.0, read_s=150.0)
    assert inside(backlog) == (1, 0.0, 0)
    backlog.leave(place, 4.0)
    assert inside(backlog) == (0, 0.0, 0)


def test_bytes_declared_and_counted() -> None:
    backlog = Backlog(LIMITS)
    declared = backlog.enter(0.0, 6 * MIB)
    backlog.hold(declared, 0.0, 6 * MIB)  # it comes as it was declared: no more room is taken
    with pytest.raises(Overloaded, match="no more than 10 MiB of uploads"):
        backlog.enter(0.0, 5 * MIB)
    counted = backlog.enter(0.0)
    backlog.hold(counted, 0.0, 4 * MIB)
    assert backlog.state().is_full
    with pytest.raises(Overloaded, match="no more than 10 MiB"):
        backlog.hold(counted, 0.0, 4 * MIB + 1)
    assert inside(backlog) == (2, 0.0, 10 * MIB)
    backlog.leave(declared, 0.0)
    assert inside(backlog) == (1, 0.0, 4 * MIB)


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
    pace = Pace()
    for _ in range(1000):
        pace.spend(1 / steps_per_s)
        pace.gain(1)
    assert pace.retry_after_s(steps) == pytest.approx(wait_s, abs=1)
    assert 1 <= pace.retry_after_s(steps) <= MAX_RETRY_S


def test_the_wait_before_anything_was_measured() -> None:
    assert Pace().retry_after_s(3) == 3


def test_where_nothing_gets_done_the_wait_is_the_longest() -> None:
    pace = Pace()
    pace.spend(1e9)
    assert pace.retry_after_s(1) == MAX_RETRY_S


def test_a_speed_of_long_ago_is_forgotten() -> None:
    pace = Pace()
    pace.gain(10_000)
    for _ in range(1000):
        pace.spend(1.0)
        pace.gain(1)
    assert pace.retry_after_s(30) in (29, 30, 31)


def test_time_without_work_is_not_counted() -> None:
    """A server that did a clip a second, and nothing all night, still does a clip a second."""
    backlog = Backlog(Limits(1, 100.0, MIB))
    for now_s in (0.0, 1.0, 50_000.0):
        place = backlog.enter(now_s)
        backlog.expect(place, now_s, 3.0)
        backlog.progress(place, now_s + 1.0, 3.0)
        if now_s < 50_000.0:
            backlog.leave(place, now_s + 1.0)
    backlog.leave(place, 90_000.0)  # it stayed, with nothing to do
    backlog.enter(90_000.0)
    with pytest.raises(Overloaded) as caught:
        backlog.enter(90_000.0)
    assert caught.value.retry_after_s == 1


def test_those_who_come_later_are_told_a_later_time() -> None:
    """One place becomes free at a time: a crowd that is told the same second would come back in vain."""
    backlog = Backlog(Limits(2, 10_000.0, MIB))
    places = [backlog.enter(0.0), backlog.enter(0.0)]
    for place in places:
        backlog.expect(place, 0.0, 300.0)  # ten steps, at a step a second

    def told() -> int | None:
        with pytest.raises(Overloaded) as caught:
            backlog.enter(0.0)
        return caught.value.retry_after_s

    assert [told() for _ in range(7)] == [10, 20, 30, 40, 50, 60, 60]
    backlog.leave(places.pop(), 0.0)
    places.append(backlog.enter(0.0))
    assert told() == 39  # behind six others, at 5.5 steps a place
    for place in places:
        backlog.leave(place, 0.0)
    backlog.enter(0.0)
    backlog.enter(0.0)
    assert told() == 1  # who has not come back by now is forgotten


def test_a_place_is_given_back_whatever_happens() -> None:
    admission = Admission(LIMITS, clock=lambda: 0.0)
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
    backlog = Backlog(LIMITS)
    backlog.enter(0.0, LIMITS.upload_bytes)
    assert backlog.state().is_full
    with pytest.raises(Overloaded, match="MiB of uploads"):
        backlog.enter(0.0)


class Crowd(RuleBasedStateMachine):
    """Any order of arrivals, uploads, headers, windows and departures, beside a model of the sums."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(LIMITS)
        self.now_s = 0.0
        self.places: list[Place] = []
        self.grown = False  # a request was let in alone, or its audio went on beyond its header

    @rule(n_bytes=st.integers(0, 10 * MIB), wait_s=st.floats(0, 100))
    def arrive(self, n_bytes: int, wait_s: float) -> None:
        self.now_s += wait_s
        before = self.backlog.state()
        try:
            self.places.append(self.backlog.enter(self.now_s, n_bytes))
        except Overloaded:
            assert before == self.backlog.state()
            assert before.is_full or before.upload_bytes + n_bytes > LIMITS.upload_bytes
        else:
            assert not before.is_full

    @precondition(lambda self: self.places)
    @rule(data=st.data(), n_bytes=st.integers(0, 10 * MIB))
    def upload(self, data: st.DataObject, n_bytes: int) -> None:
        place = data.draw(st.sampled_from(self.places))
        try:
            self.backlog.hold(place, self.now_s, n_bytes)
        except Overloaded:
            self.depart_with(place)

    @precondition(lambda self: self.places)
    @rule(data=st.data(), audio_s=st.floats(0, 300))
    def read_header(self, data: st.DataObject, audio_s: float) -> None:
        place = data.draw(st.sampled_from(self.places))
        if place.expected_s > 0:
            return
        others_s = self.backlog.state().audio_s
        try:
            self.backlog.expect(place, self.now_s, audio_s)
        except Overloaded:
            assert others_s > 0
            assert others_s + audio_s > LIMITS.audio_s
            self.depart_with(place)
        else:
            self.grown |= others_s == 0 and audio_s > LIMITS.audio_s

    @precondition(lambda self: self.places)
    @rule(data=st.data(), done_s=st.floats(0, 400), ahead_s=st.floats(0, 120), took_s=st.floats(0, 10))
    def decode(self, data: st.DataObject, done_s: float, ahead_s: float, took_s: float) -> None:
        place = data.draw(st.sampled_from(self.places))
        self.grown |= max(done_s, done_s + ahead_s) > place.expected_s
        self.now_s += took_s
        self.backlog.progress(place, self.now_s, done_s, done_s + ahead_s)

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        self.depart_with(data.draw(st.sampled_from(self.places)))

    def depart_with(self, place: Place) -> None:
        self.backlog.leave(place, self.now_s)
        self.places.remove(place)

    @invariant()
    def within_the_limits(self) -> None:
        state = self.backlog.state()
        assert state.requests == len(self.places) <= LIMITS.requests
        assert 0 <= state.upload_bytes <= LIMITS.upload_bytes
        assert math.isfinite(state.audio_s)
        assert state.audio_s >= 0
        assert self.grown or state.audio_s <= LIMITS.audio_s * (1 + 1e-9)
        assert all(place.left_steps >= 0 for place in self.places)
        assert 1 <= self.backlog.retry_after_s() <= MAX_RETRY_S

    def teardown(self) -> None:
        for place in [*self.places]:
            self.depart_with(place)
        assert inside(self.backlog) == (0, 0.0, 0)


TestCrowd = Crowd.TestCase

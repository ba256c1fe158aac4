"""Spans become windows of at most 30 s whose times lead back into the file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_server.core.types import SAMPLE_RATE, WINDOW_SAMPLES, Span
from whisper_server.services.speech.log_mel import log_mel, silence_beside
from whisper_server.services.speech.windows import pack, part


def span(start_s: float, seconds: float, seed: int = 0) -> Span:
    n = round(seconds * SAMPLE_RATE)
    return Span(start_s, np.random.default_rng(seed).standard_normal(n).astype(np.float32) / 10)


def test_consecutive_spans_share_a_window() -> None:
    spans = [span(1, 10, 1), span(20, 10, 2), span(40, 10, 3), span(60, 5, 4)]
    first, second = pack(spans, 80)
    assert first.duration_s == 30
    assert [(p.window_start_s, p.file_start_s, p.duration_s) for p in first.places] == [
        (0, 1, 10),
        (10, 20, 10),
        (20, 40, 10),
    ]
    assert (second.start_s, second.duration_s) == (60, 5)
    np.testing.assert_array_equal(first.mel, log_mel(np.concatenate([s.samples for s in spans[:3]]), 80))


def test_times_lead_back_into_the_file() -> None:
    (window,) = pack([span(1, 10), span(20, 10)], 80)
    assert window.file_time(3.5) == 4.5
    assert window.file_time(10, is_end=True) == 11
    assert window.file_time(10) == 20
    assert window.file_time(99) == 30


def test_nothing_is_packed_from_nothing() -> None:
    assert list(pack([], 80)) == []


def test_a_window_is_yielded_as_soon_as_the_next_span_does_not_fit() -> None:
    taken = []

    def source() -> Iterator[Span]:
        for at in (0, 20, 40, 60):
            taken.append(at)
            yield span(at, 20)

    windows = pack(source(), 80)
    assert taken == []
    next(windows)
    assert taken == [0, 20]


@pytest.mark.parametrize("n_mels", [80, 128])
def test_a_full_span_is_a_full_window(n_mels: int) -> None:
    (window,) = pack([span(0, 30)], n_mels)
    assert window.mel.shape == (n_mels, 3000)
    assert window.n_frames == 3000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, WINDOW_SAMPLES), min_size=1, max_size=6), st.integers(0, 100_000))
def test_no_sample_is_lost_and_order_is_kept(lengths: list[int], gap: int) -> None:
    spans, at = [], 0
    for length in lengths:
        spans.append(Span(at / SAMPLE_RATE, np.full(length, 0.1, np.float32)))
        at += length + gap
    windows = list(pack(spans, 80))
    places = [place for window in windows for place in window.places]
    assert [place.file_start_s for place in places] == [s.start_s for s in spans]
    assert [round(place.duration_s * SAMPLE_RATE) for place in places] == lengths
    for window in windows:
        assert 0 < window.duration_s <= 30
        assert window.duration_s == pytest.approx(sum(place.duration_s for place in window.places))


# A part of a window.


def voiced(start_s: float, seconds: float) -> Span:
    n_frames = round(seconds * SAMPLE_RATE / 512)
    samples = np.random.default_rng(n_frames).standard_normal(512 * n_frames).astype(np.float32) / 10
    return Span(start_s, samples, tuple(frame / n_frames for frame in range(n_frames)))


def test_voice_lies_under_its_sound() -> None:
    spans = [voiced(1, 8), voiced(20, 8)]
    (window,) = pack(spans, 80)
    assert window.voice == spans[0].voice + spans[1].voice


def test_a_part_has_the_sound_the_times_and_the_voice_of_its_stretch() -> None:
    (window,) = pack([voiced(1, 8), voiced(20, 8)], 80)
    rest = part(window, 6.0, 12.0)
    assert rest.duration_s == 6.0
    np.testing.assert_array_equal(rest.mel[:, :600], window.mel[:, 600:1200])
    assert (rest.mel[:, 600:] == silence_beside(window.mel)).all()
    assert rest.file_time(0.0) == pytest.approx(window.file_time(6.0)) == pytest.approx(7.0)
    assert rest.file_time(5.0) == pytest.approx(window.file_time(11.0)) == pytest.approx(23.0)
    assert rest.file_time(99.0) == pytest.approx(24.0)
    assert len(rest.voice) == pytest.approx(6.0 / 0.032, abs=1)
    assert rest.voice == window.voice[188 : 188 + len(rest.voice)]


def test_a_part_to_the_end_is_silent_behind_it() -> None:
    (window,) = pack([voiced(1, 8)], 80)
    rest = part(window, 6.0, window.duration_s)
    assert rest.duration_s == pytest.approx(2.0)
    assert rest.file_time(rest.duration_s, is_end=True) == pytest.approx(9.0)
    assert (rest.mel[:, 210:] == silence_beside(window.mel)).all()


def test_a_part_of_a_part_lies_in_the_same_file() -> None:
    (window,) = pack([voiced(1, 8), voiced(20, 8)], 80)
    rest = part(part(window, 6.0, 16.0), 4.0, 10.0)
    assert rest.start_s == pytest.approx(window.file_time(10.0))

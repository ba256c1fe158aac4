"""Spans become windows of at most 30 s whose times lead back into the file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_server.core.types import SAMPLE_RATE, WINDOW_SAMPLES, Span
from whisper_server.services.speech.log_mel import log_mel
from whisper_server.services.speech.windows import pack


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

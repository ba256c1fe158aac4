"""Timestamp tokens and alignments become segments and words in file time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.core.types import Decoded, Placed, TokenTime, Window
from whisper_server.services.decoding import segments
from whisper_server.services.engines.fake import build_tokenizer
from whisper_server.services.engines.tokenizer import Tokenizer

MEL = np.zeros((80, 3000), np.float32)
# 4 s that start at 10 s of the file, then 6 s that start at 60 s.
WINDOW = Window(MEL, 10.0, (Placed(0.0, 10.0, 4.0), Placed(4.0, 60.0, 6.0)))
TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return TOKENIZER


def decoded(*parts: float | str) -> Decoded:
    """Make a result: numbers are timestamps, strings are text."""
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += TOKENIZER.encode(part)
        else:
            tokens.append(TOKENIZER.first_timestamp + round(part / 0.02))
    return Decoded(tuple(tokens), "en", 1.0, 0.0, -0.2, 1.0, 0.0, is_silence=False)


def shape(result: Decoded, window: Window = WINDOW) -> list[tuple[float, float, str]]:
    return [(round(s.start_s, 3), round(s.end_s, 3), s.text) for s in segments.of(window, result, TOKENIZER)]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (decoded(0.5, " one", 1.5), [(10.5, 11.5, " one")]),
        (decoded(0.5, " one", 1.5, 2.0, " two", 3.0), [(10.5, 11.5, " one"), (12.0, 13.0, " two")]),
        # A phrase over the seam keeps its first and last word's places.
        (decoded(3.0, " one two", 5.0), [(13.0, 61.0, " one two")]),
        # On the seam: the end of the left span, the start of the right one.
        (decoded(0.0, " one", 4.0, 4.0, " two", 9.0), [(10.0, 14.0, " one"), (60.0, 65.0, " two")]),
        # An empty phrase on the seam is on one side of it.
        (decoded(4.0, " one", 4.0), [(60.0, 60.0, " one")]),
        # No closing timestamp: up to the end of the audio.
        (decoded(5.0, " one"), [(61.0, 66.0, " one")]),
        # No timestamps at all.
        (decoded(" one"), [(10.0, 66.0, " one")]),
        # One timestamp between two phrases closes and opens.
        (decoded(0.0, " one", 2.0, " two", 3.0), [(10.0, 12.0, " one"), (12.0, 13.0, " two")]),
        # Times beyond the audio and times that run backwards.
        (decoded(1.0, " one", 29.0), [(11.0, 66.0, " one")]),
        (decoded(2.0, " one", 1.0, 0.5, " two", 3.0), [(12.0, 12.0, " one"), (12.0, 13.0, " two")]),
        # Nothing said between the timestamps.
        (decoded(0.0, 1.0), []),
        (decoded(0.0, " ", 1.0, 1.0, " one", 2.0), [(11.0, 12.0, " one")]),
        (decoded(), []),
    ],
)
def test_phrases(result: Decoded, expected: list[tuple[float, float, str]]) -> None:
    assert shape(result) == expected


def test_silence_has_no_segments() -> None:
    assert shape(replace(decoded(0.0, " thanks for watching", 3.0), is_silence=True)) == []


def test_seek_is_the_windows_start_in_frames() -> None:
    assert segments.of(WINDOW, decoded(0.5, " one", 1.5), TOKENIZER)[0].seek_frames == 1000


def test_words_take_their_tokens_times_and_stay_in_their_segment() -> None:
    result = decoded(0.0, " one two", 4.0, 4.0, " six", 9.0)
    text = TOKENIZER.text_tokens(result.tokens)
    times = tuple(TokenTime(t, 0.5 * i, 0.5 * i + 0.5, 0.5) for i, t in enumerate(text))
    first, second = segments.of(WINDOW, replace(result, token_times=times), TOKENIZER)
    assert [(w.text, w.start_s, w.end_s) for w in first.words] == [("one", 10.0, 12.0), ("two", 12.0, 14.0)]
    assert [(w.text, w.start_s, w.end_s) for w in second.words] == [("six", 60.0, 65.0)]
    assert first.words[0].probability == 0.5


def test_scores_are_the_text_tokens_in_order_with_their_bytes() -> None:
    result = decoded(0.0, " é", 4.0)
    times = tuple(
        TokenTime(t, 0.0, 1.0, p)
        for t, p in zip(TOKENIZER.text_tokens(result.tokens), (1.0, 0.5, 0.0), strict=True)
    )
    (segment,) = segments.of(WINDOW, replace(result, token_times=times), TOKENIZER)
    assert [(score.text, score.data) for score in segment.scores] == [
        (" ", b" "),
        ("", b"\xc3"),
        ("é", b"\xa9"),
    ]
    assert [score.logprob for score in segment.scores] == pytest.approx([0.0, -0.693, -23.026], abs=1e-3)


@given(st.lists(st.one_of(st.floats(0, 30), st.sampled_from([" one", " two", " ", "é"])), max_size=20))
def test_whatever_the_model_writes_times_run_forward_inside_the_speech(parts: list[float | str]) -> None:
    previous = 0.0
    for start, end, text in shape(decoded(*parts)):
        assert previous <= start <= end
        assert 10.0 <= start <= 14.0 or 60.0 <= start <= 66.0
        assert 10.0 <= end <= 14.0 or 60.0 <= end <= 66.0
        assert text.strip()
        previous = end


@given(
    st.lists(
        st.one_of(st.floats(3.9, 4.1), st.floats(0, 10), st.sampled_from([" one", " two"])), max_size=12
    ),
    st.lists(st.floats(0, 10), min_size=60, max_size=60),
    st.floats(3.99, 4.01),
    st.sets(st.integers(0, 999), max_size=4),
)
def test_words_stay_in_their_segment_and_in_one_stretch_of_speech(
    parts: list[float | str], times: list[float], seam_s: float, edges: set[int]
) -> None:
    mel = MEL.copy()
    for edge in edges | {400}:
        mel[:, edge:] = 0.7 - mel[:, edge:]
    window = Window(mel, 10.0, (Placed(0.0, 10.0, seam_s), Placed(seam_s, 60.0, 10.0 - seam_s)))
    result = decoded(*parts)
    text = TOKENIZER.text_tokens(result.tokens)
    times = sorted(times)
    token_times = tuple(TokenTime(t, times[i], times[i + 1], 0.5) for i, t in enumerate(text[:59]))
    previous_s = 0.0
    for segment in segments.of(window, replace(result, token_times=token_times), TOKENIZER):
        for word in segment.words:
            assert max(previous_s, segment.start_s) <= word.start_s <= word.end_s <= segment.end_s
            assert word.end_s <= 10.0 + seam_s or word.start_s >= 60.0
            previous_s = word.end_s


@given(st.floats(0, 10))
def test_file_time_is_exact(window_time_s: float) -> None:
    expected = 10.0 + window_time_s if window_time_s < 4.0 else 60.0 + (window_time_s - 4.0)
    assert WINDOW.file_time(window_time_s) == pytest.approx(expected, abs=1e-9)

"""Words are placed where the sound is, near the alignment, forward and apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.core.types import Placed, Window
from whisper_server.services.decoding import word_times

SILENT, LOUD = -0.7, 0.6


def window(*sounds: tuple[int, int], n_frames: int = 400, seam: int | None = None) -> Window:
    """Make a window with sound in these frames."""
    mel = np.full((80, 3000), SILENT, np.float32)
    for start, end in sounds:
        mel[:, start:end] = LOUD
    seconds = n_frames / 100
    if seam is None:
        return Window(mel, seconds, (Placed(0.0, 0.0, seconds),))
    left = Placed(0.0, 0.0, seam / 100)
    return Window(mel, seconds, (left, Placed(seam / 100, 60.0, seconds - seam / 100)))


def place(heard: Window, start: int, end: int, aligned: list[int], texts: list[str]) -> list[tuple[int, int]]:
    phrase = word_times.Phrase(start, end, aligned, texts)
    return word_times.place(word_times.loudness(heard), [phrase])[0]


def test_one_word_is_trimmed_to_its_sound() -> None:
    assert place(window((50, 90)), 20, 200, [], ["one"]) == [(50, 90)]


@pytest.mark.parametrize(
    ("sounds", "expected"),
    [
        ([(50, 62), (100, 140)], (100, 140)),  # a noise before the word
        ([(50, 90), (150, 155), (190, 195)], (50, 90)),  # the next phrase begins before the timestamp
        ([(50, 80), (110, 130), (160, 195)], (50, 195)),  # a number, digit by digit
        ([(50, 90), (100, 105)], (50, 105)),  # a closure is no pause
    ],
)
def test_what_is_short_and_lies_beyond_a_pause_is_not_of_the_word(
    sounds: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    assert place(window(*sounds), 40, 200, [], ["word"]) == [expected]


def test_words_are_the_sounds_between_pauses_however_early_the_alignment_moves_on() -> None:
    sounds = [(50, 90), (100, 140), (180, 230), (300, 340)]
    assert place(window(*sounds), 40, 360, [70, 105, 190], ["tree", "left", "house", "open"]) == sounds


def test_a_short_closure_stays_inside_its_word() -> None:
    heard = window((50, 110), (114, 140), (155, 200))
    assert place(heard, 40, 210, [120], ["always"] * 2) == [(50, 140), (155, 200)]


@pytest.mark.parametrize("between", [SILENT, 0.0, LOUD])
def test_without_any_gap_the_alignment_stays(between: float) -> None:
    heard = window((50, 250))
    heard.mel[:, :50] = between
    heard.mel[:, 250:400] = between
    aligned = [92, 140, 205]
    found = place(heard, 50, 250, aligned, ["some", "word", "words", "more"])
    assert [start for start, _ in found[1:]] == aligned
    assert [end for _, end in found[:-1]] == aligned


def test_a_pause_within_a_stretch_of_steady_noise_is_none() -> None:
    heard = window()
    rng = np.random.default_rng(1)
    heard.mel[:, :400] = rng.normal(0.0, 0.05, (80, 400))
    found = place(heard, 10, 390, [130, 260], ["noise"] * 3)
    assert [start for start, _ in found] == pytest.approx([10, 130, 260], abs=10)


def test_no_word_lies_across_a_seam() -> None:
    heard = window((120, 150), (150, 200), (240, 280), seam=150)
    assert place(heard, 100, 300, [210], ["one", "two"]) == [(150, 200), (240, 280)]


def test_silence_leaves_the_words_where_the_alignment_has_them() -> None:
    assert place(window((350, 390)), 40, 200, [110], ["one", "two"]) == [(40, 110), (110, 200)]


@pytest.mark.parametrize("lag", [-15, -8, 8, 15])
def test_an_alignment_that_is_always_early_or_late_is_set_right_where_no_gap_shows_it(lag: int) -> None:
    heard = window((20, 380), n_frames=600)
    starts = [60, 100, 140, 180, 220, 260, 300, 340]
    valleys = [start for start in starts if start != 180]
    for start in valleys:
        heard.mel[:, start] = -0.2
    found = place(heard, 20, 380, [start + lag for start in starts], ["word"] * 9)
    assert [start for start, _ in found[1:] if start in valleys] == valleys
    assert abs(found[4][0] - 180) < abs(lag) / 2


def test_phrases_of_a_window_tell_together_how_early_the_alignment_is() -> None:
    heard = window((20, 380), n_frames=600)
    starts = [60, 100, 140, 180, 220, 260]
    for start in starts:
        heard.mel[:, start] = -0.2
    loud = word_times.loudness(heard)
    long = word_times.Phrase(20, 290, [start - 15 for start in starts], ["word"] * 7)
    short = word_times.Phrase(290, 380, [315], ["word"] * 2)
    (alone,) = word_times.place(loud, [short])
    _, together = word_times.place(loud, [long, short])
    assert alone[1][0] == 315
    assert 320 < together[1][0] < 330


def test_a_phrase_without_words_has_none() -> None:
    assert place(window((50, 90)), 20, 200, [], []) == []


@given(
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 399)), max_size=8),
    st.integers(0, 450),
    st.integers(0, 450),
    st.lists(st.integers(-10, 500), max_size=40),
    st.one_of(st.none(), st.integers(1, 399)),
)
def test_whatever_is_heard_words_run_forward_and_stay_apart(
    sounds: list[tuple[int, int]], start: int, length: int, aligned: list[int], seam: int | None
) -> None:
    heard = window(*sounds, seam=seam)
    found = place(heard, start, start + length, sorted(aligned), ["word"] * (len(aligned) + 1))
    assert len(found) == len(aligned) + 1
    for first, last in found:
        assert min(start, 400) <= first <= last <= min(start + length, 400)
        assert seam is None or not first < seam < last
    for (_, left_end), (right_start, _) in pairwise(found):
        assert left_end <= right_start


def test_the_shortest_window() -> None:
    assert place(window(n_frames=1), 0, 1, [0, 1], ["a", "b", "c"]) == [(0, 0), (0, 1), (1, 1)]

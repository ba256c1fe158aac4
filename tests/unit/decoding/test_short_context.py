"""How much of a window the encoder gets, and which texts are heard again over all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.core.types import WINDOW_FRAMES, Decoded, DecodeOptions, Placed, Window, WindowJob
from whisper_server.services.decoding.leftover import CUT_OFF_TOKENS
from whisper_server.services.decoding.short_context import ContextDecoder, frames_of, is_trusted
from whisper_server.services.engines.base import IsWanted
from whisper_server.services.engines.model_shape import FRAMES_PER_POSITION, STEP_FRAMES

OPTIONS = DecodeOptions()
GOOD = Decoded(
    (7,) * 10, "en", 1.0, 0.0, avg_logprob=-0.3, compression_ratio=1.2, no_speech_prob=0.0, is_silence=False
)
MEL = np.zeros((80, WINDOW_FRAMES), np.float32)


def window(duration_s: float) -> Window:
    return Window(MEL, duration_s, (Placed(0.0, 0.0, duration_s),))


def jobs(*durations_s: float) -> list[WindowJob]:
    return [WindowJob(window(duration_s), "en") for duration_s in durations_s]


class Recorded:
    """Answers with what the test says for a length of sound, and remembers what it was asked."""

    def __init__(self, short: dict[float, Decoded] | None = None) -> None:
        self.short = short or {}
        self.asked: list[tuple[int, list[float], DecodeOptions]] = []

    def __call__(
        self, jobs: Sequence[WindowJob], options: DecodeOptions, is_wanted: IsWanted, n_frames: int
    ) -> list[Decoded]:
        durations = [job.window.duration_s for job in jobs]
        self.asked.append((n_frames, durations, options))
        if n_frames < WINDOW_FRAMES:
            return [replace(self.short.get(one, GOOD), language_probability=one) for one in durations]
        return [replace(GOOD, language_probability=one, temperature=0.2) for one in durations]

    @property
    def lengths(self) -> list[tuple[int, list[float]]]:
        return [(n_frames, durations) for n_frames, durations, _ in self.asked]


@given(st.floats(0.01, 30.0), st.floats(0.0, 30.0))
def test_sound_and_silence_fit_and_positions_divide(duration_s: float, silence_s: float) -> None:
    n_frames = frames_of(window(duration_s), silence_s)
    assert n_frames % STEP_FRAMES == 0
    assert STEP_FRAMES <= n_frames <= WINDOW_FRAMES
    assert n_frames >= min(WINDOW_FRAMES, 100 * duration_s + 100 * silence_s - 1)
    assert n_frames < 100 * duration_s + 100 * silence_s + STEP_FRAMES + 2


def test_positions_are_never_as_many_as_mel_bands() -> None:
    """CTranslate2 takes a tensor [batch, n_mels, ...] for a spectrogram."""
    lengths = range(STEP_FRAMES, WINDOW_FRAMES + 1, STEP_FRAMES)
    assert not {n // FRAMES_PER_POSITION for n in lengths} & {80, 128}


def test_each_length_is_a_call_and_answers_keep_their_order() -> None:
    decode = Recorded()
    found = ContextDecoder(decode, 5.0).decode(jobs(1.0, 28.0, 8.0, 0.5), OPTIONS)
    assert decode.lengths == [(600, [1.0, 0.5]), (1500, [8.0]), (3000, [28.0])]
    assert [one.language_probability for one in found] == [1.0, 28.0, 8.0, 0.5]


def test_whole_windows_are_decoded_as_they_were() -> None:
    decode = Recorded()
    ContextDecoder(decode, 30.0).decode(jobs(1.0, 8.0), OPTIONS)
    assert decode.asked == [(3000, [1.0, 8.0], OPTIONS)]


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, compression_ratio=2.5),
        replace(GOOD, avg_logprob=-1.1),
        replace(GOOD, avg_logprob=-1.1, no_speech_prob=0.9, is_silence=True),
        replace(GOOD, tokens=(7,) * 100),
    ],
    ids=["loop", "improbable", "improbable silence", "too much for a second"],
)
def test_what_is_not_trusted_is_decoded_again_in_full(bad: Decoded) -> None:
    decode = Recorded({1.0: bad})
    found = ContextDecoder(decode, 5.0).decode(jobs(0.5, 1.0), OPTIONS)
    assert decode.lengths == [(600, [0.5, 1.0]), (3000, [1.0])]
    assert [one.temperature for one in found] == [0.0, 0.2]
    short, whole = (options for _, _, options in decode.asked)
    assert short.temperatures == (0.0,)
    assert short.compression_ratio_threshold == math.inf  # no loop is cut before it is seen
    assert whole == OPTIONS


def test_a_text_without_an_end_is_not_trusted() -> None:
    text = replace(GOOD, tokens=tuple(range(CUT_OFF_TOKENS)))
    assert not is_trusted(text, window(19.0), OPTIONS)
    assert is_trusted(replace(GOOD, tokens=tuple(range(CUT_OFF_TOKENS - 1))), window(19.0), OPTIONS)


def test_what_is_not_wanted_is_not_decoded_again() -> None:
    decode = Recorded({1.0: replace(GOOD, avg_logprob=-3.0), 2.0: replace(GOOD, avg_logprob=-3.0)})
    ContextDecoder(decode, 5.0).decode(jobs(4.0, 1.0, 2.0), OPTIONS, lambda row: row != 1)
    assert decode.lengths == [(900, [4.0, 2.0]), (600, [1.0]), (3000, [2.0])]

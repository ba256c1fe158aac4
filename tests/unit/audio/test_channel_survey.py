"""Whether channels differ, and which is only an echo of another."""

from __future__ import annotations

import numpy as np
import pytest

from whisper_server.core.errors import InvalidAudio
from whisper_server.services.audio.channel_survey import Survey

RATE = 16_000
NOISE = np.random.default_rng(3).standard_normal((2, 4 * RATE)).astype(np.float32) / 10


def surveyed(planes: np.ndarray, piece: int = 12_345) -> Survey:
    survey = Survey(len(planes))
    for first in range(0, planes.shape[1], piece):
        survey.add(planes[:, first : first + piece])
    survey.finish()
    return survey


def test_channels_that_carry_the_same() -> None:
    left, right = NOISE
    assert surveyed(np.stack([left, left])).is_one_signal
    assert surveyed(np.stack([left, left + 0.005 * right])).is_one_signal
    assert not surveyed(np.stack([left, right])).is_one_signal
    assert not surveyed(np.stack([left, left, right])).is_one_signal
    assert surveyed(np.stack([left, 0.5 * left])).is_one_signal
    assert surveyed(np.stack([left, -left])).is_one_signal
    assert not surveyed(np.stack([left, 0 * left])).is_one_signal
    assert not surveyed(np.zeros((2, RATE), np.float32)).is_one_signal
    assert not Survey(2).is_one_signal


def test_an_echo_is_far_below_its_source_at_that_time() -> None:
    left, right = NOISE.copy()
    left[2 * RATE :] = 0
    right[: 2 * RATE] = 0.03 * left[: 2 * RATE]
    survey = surveyed(np.stack([left, right]))
    assert survey.is_bleed(1, 0.0, 2.0)
    assert survey.is_bleed(1, 0.51, 0.52)
    assert not survey.is_bleed(1, 2.0, 4.0)
    assert not survey.is_bleed(0, 0.0, 2.0)
    assert not survey.is_bleed(1, 9.0, 10.0)
    assert not Survey(2).is_bleed(1, 0.0, 1.0)


def test_the_number_of_channels_must_not_change() -> None:
    survey = Survey(2)
    with pytest.raises(InvalidAudio, match="changes"):
        survey.add(NOISE[:1])

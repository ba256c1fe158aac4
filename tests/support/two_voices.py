"""A talk of two voices, made of the nano model's clips; the second voice is the first one slowed down."""

from __future__ import annotations

import numpy as np

from tests.conftest import SAMPLES
from tests.support.audio_files import samples_of
from tests.support.speaker_networks import RATE

FIRST, SECOND = "en-plain-003.flac", "en-plain-000.flac"


def low(samples: np.ndarray) -> np.ndarray:
    """The same words in another voice, two thirds as fast."""
    places = np.arange(0, len(samples) - 1, 2 / 3)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def clip(name: str) -> np.ndarray:
    return samples_of((SAMPLES / name).read_bytes())


def talk() -> np.ndarray:
    """One voice, another, and the first again, half a second apart."""
    pause = np.zeros(RATE // 2, np.float32)
    return np.concatenate([clip(FIRST), pause, low(clip(FIRST)), pause, clip(SECOND)])

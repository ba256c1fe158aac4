"""Measures loudness, and normalises samples without knowing the whole file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import SAMPLE_RATE, AudioLevels

if TYPE_CHECKING:
    from whisper_server.core.types import Samples

LOOK_AHEAD_BLOCKS = 4  # of 30 s each, 120 s: shorter files get one gain, that of their peak
TARGET_PEAK = 10 ** (-1 / 20)  # -1 dBFS
MAX_GAIN = 10 ** (30 / 20)  # 30 dB: the noise of an empty room stays noise


class Meter:
    """Measures samples as they pass."""

    def __init__(self) -> None:
        self._n_samples = 0
        self._peak = 0.0
        self._sum_squares = 0.0

    def add(self, samples: Samples) -> None:
        """Count the next samples, float32 [n], n > 0."""
        self._n_samples += len(samples)
        self._peak = max(self._peak, peak_of(samples))
        # float64: a file of floats may hold values whose squares float32 cannot.
        self._sum_squares += float(np.square(samples, dtype=np.float64).sum())

    def levels(self) -> AudioLevels:
        """Return the levels of all samples so far."""
        rms = math.sqrt(self._sum_squares / max(1, self._n_samples))
        return AudioLevels(self._n_samples / SAMPLE_RATE, _dbfs(self._peak), _dbfs(rms))


def normalised(blocks: Iterable[Samples], look_ahead: int = LOOK_AHEAD_BLOCKS) -> Iterator[Samples]:
    """Scale blocks so that the highest peak is at -1 dBFS, looking some ahead; may change them in place.

    The gain is TARGET_PEAK / (highest peak so far, look-ahead included), at most 30 dB: it never rises,
    nothing clips, and digital silence stays what it is. Where it falls, it does so along one whole
    block, whose samples the higher gain was still made for: no click.
    """
    held: deque[Samples] = deque()
    peak, last_gain = 0.0, None
    source = iter(blocks)
    while True:
        block = next(source, None)
        if block is not None:
            held.append(block)
            peak = max(peak, peak_of(block))
            if len(held) <= look_ahead:
                continue
        if not held:
            return
        gain = min(MAX_GAIN, TARGET_PEAK / peak) if peak else 1.0
        scaled = held.popleft()
        if last_gain is None or last_gain == gain:
            scaled *= np.float32(gain)
        else:
            scaled *= np.linspace(last_gain, gain, len(scaled), dtype=np.float32)
        last_gain = gain
        yield scaled


def peak_of(samples: Samples) -> float:
    """Return the largest absolute value of float32 [n], n > 0."""
    return max(float(samples.max()), -float(samples.min()))


def _dbfs(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf

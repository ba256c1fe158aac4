"""The mix of a stereo recording, or its louder side while the two cancel each other.

One side of a cable wired the wrong way round, a "karaoke" effect, a microphone in the other's shadow: left
and right then carry the same sound with opposite signs, and their mix is silence, or only what the two do not
have in common. Owns the decision, half a second at a time, and the fade from one to the other. Must not
know of files or processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisper_server.core.types import Samples

STRETCH_SAMPLES = SAMPLE_RATE // 2  # about two words; shorter ones would follow single waves of music
FADE_SAMPLES = SAMPLE_RATE // 50  # 20 ms, a period of 50 Hz: no click

# Of two sides that have nothing in common the mix has a quarter of the energy of both. With half of that,
# most of what is heard stands in both with opposite signs (a correlation of -0.5), and the mix lacks it.
CANCELLED = 1 / 8
LOUDER = 2.0  # 3 dB: sides that are about as loud do not take turns

_MIX = np.array([1, 0, 0], np.float32)  # weights of mix, left, right
_LEFT = np.array([0, 1, 0], np.float32)
# With its sign turned it is what the left is, so that a fade between the two does not cancel them.
_RIGHT = np.array([0, 0, -1], np.float32)


class Downmix:
    """Follows one recording; the result depends on its samples alone, not on how they are cut into pieces."""

    def __init__(self) -> None:
        self._held: list[Samples] = []  # each float32 [3, n]: mix, left, right
        self._n_held = 0
        self._weights = _MIX

    def add(self, planes: Samples) -> Iterator[Samples]:
        """Take mix, left and right, float32 [3, n]; yield the stretches that are complete, float32 [n]."""
        self._held.append(planes)
        self._n_held += planes.shape[1]
        if self._n_held < STRETCH_SAMPLES:
            return
        joined = np.concatenate(self._held, axis=1)
        whole = self._n_held // STRETCH_SAMPLES * STRETCH_SAMPLES
        for start in range(0, whole, STRETCH_SAMPLES):
            yield self._stretch(joined[:, start : start + STRETCH_SAMPLES])
        self._held = [joined[:, whole:].copy()]
        self._n_held -= whole

    def finish(self) -> Iterator[Samples]:
        """Yield what is left."""
        if self._n_held:
            yield self._stretch(np.concatenate(self._held, axis=1))
        self._held, self._n_held = [], 0

    def _stretch(self, planes: Samples) -> Samples:
        before, self._weights = self._weights, self._chosen(planes)
        if self._weights is _MIX and before is _MIX:
            mono: Samples = planes[0].copy()
            return mono
        mono = self._weights @ planes
        if before is not self._weights:
            n_faded = min(FADE_SAMPLES, len(mono))
            share = np.linspace(1, 0, n_faded, endpoint=False, dtype=np.float32)
            mono[:n_faded] += share * (before @ planes[:, :n_faded] - mono[:n_faded])
        return mono

    def _chosen(self, planes: Samples) -> NDArray[np.float32]:
        """Return what to hear of a stretch; silence changes nothing."""
        wide = planes.astype(np.float64)  # a file of floats may hold values whose squares float32 cannot
        mix, left, right = np.einsum("ij,ij->i", wide, wide)
        if not left + right:
            return self._weights
        if mix >= CANCELLED * (left + right):
            return _MIX
        if self._weights is _RIGHT:
            return _LEFT if left > LOUDER * right else _RIGHT
        if self._weights is _LEFT:
            return _RIGHT if right > LOUDER * left else _LEFT
        return _LEFT if left >= right else _RIGHT

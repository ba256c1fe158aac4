"""The mix of a recording's channels, or the loudest of them while they cancel each other.

One side of a cable wired the wrong way round, a "karaoke" effect, a microphone in the other's shadow: left
and right then carry the same sound with opposite signs, and their mix is silence, or only what the two do not
have in common. The same happens to four microphones and to the surround channels of a film. Owns the
decision, half a second at a time, and the fade from one to the other. Must not know of files or processes.
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

# Of the energy that the mix has if the channels have nothing in common. Under half of that, most of what is
# heard stands in two of them with opposite signs (two equal sides: a correlation of -0.5): the mix lacks it.
CANCELLED = 1 / 2
LOUDER = 2.0  # 3 dB: channels that are about as loud do not take turns


class Downmix:
    """Follows one recording; the result depends on its samples alone, not on how they are cut into pieces."""

    def __init__(self, gains: NDArray[np.float32]) -> None:
        """Take by how much each channel counts in the mix, [c]; one that does not (bass) is never heard."""
        self.n_channels = len(gains)
        self._gains = gains.astype(np.float64)
        self._held: list[Samples] = []  # each float32 [1 + c, n]: the mix, then the channels
        self._n_held = 0
        self._mix = self._weights_of(-1)
        self._weights = self._mix  # of the mix and each channel, in what is heard
        self._loudest = self._weights_of(0)  # the channel that was chosen last

    def add(self, planes: Samples) -> Iterator[Samples]:
        """Take the mix and all channels, float32 [1 + c, n]; yield what is complete, float32 [n]."""
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
        if self._weights is self._mix and before is self._mix:
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
        mix, *channels = np.einsum("ij,ij->i", wide, wide)
        energies = np.where(self._gains != 0, channels, 0.0)
        if not energies.any():
            return self._weights
        if mix >= CANCELLED * (self._gains**2 @ energies):
            return self._mix
        loudest = int(np.argmax(energies))
        if energies[loudest] > LOUDER * (self._loudest[1:] ** 2 @ energies) or self._weights is self._mix:
            # With the sign of what was chosen before it, so that a fade between the two does not cancel them.
            is_opposite = (self._loudest @ wide) @ wide[1 + loudest] < 0
            self._loudest = self._weights_of(loudest) * (-1 if is_opposite else 1)
        return self._loudest

    def _weights_of(self, channel: int) -> NDArray[np.float32]:
        weights = np.zeros(1 + self.n_channels, np.float32)
        weights[1 + channel] = 1.0
        return weights

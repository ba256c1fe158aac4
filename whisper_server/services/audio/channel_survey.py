"""What the channels of a file have in common: one signal or several, and which is only an echo of another.

Owns the energy of every channel, 100 ms at a time. Must not know of speakers, models or requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.errors import InvalidAudio
from whisper_server.core.types import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisper_server.core.types import Samples

STEP_SAMPLES = SAMPLE_RATE // 10  # 100 ms: shorter than a word
SAME_ENERGY = 1e-4  # -40 dB: what a lossy codec makes different of two equal channels
BLEED_ENERGY = 0.0025  # -26 dB: further below the other channel than two people on one call are


class Survey:
    """Measures the channels of a whole file: 100 ms at a time, and how far they differ."""

    def __init__(self, n_channels: int) -> None:
        self._rest: Samples = np.zeros((n_channels, 0), dtype=np.float32)
        self._steps: list[NDArray[np.float32]] = []
        self._energy = np.zeros(n_channels)
        self._common = np.zeros(n_channels)  # product of each channel with the first
        self._n_samples = 0

    def add(self, planes: Samples) -> None:
        """Take the next samples, float32 [n_channels, n].

        Raises:
            InvalidAudio: the number of channels is another one now.
        """
        if len(planes) != len(self._rest):
            raise InvalidAudio("The number of channels changes within the recording.")
        self._n_samples += planes.shape[1]
        self._energy += np.square(planes, dtype=np.float64).sum(axis=1)
        self._common += (planes * planes[0]).sum(axis=1, dtype=np.float64)
        samples = np.concatenate([self._rest, planes], axis=1)
        whole = samples.shape[1] // STEP_SAMPLES * STEP_SAMPLES
        self._rest = samples[:, whole:].copy()
        steps = samples[:, :whole].reshape(len(samples), -1, STEP_SAMPLES)
        self._steps.append(np.square(steps).mean(axis=2))

    def finish(self) -> None:
        """Join what was measured; call it once, after the last samples."""
        self._steps = [np.concatenate(self._steps, axis=1)] if self._steps else []

    @property
    def duration_s(self) -> float:
        """Seconds that were measured so far."""
        return self._n_samples / SAMPLE_RATE

    @property
    def is_one_signal(self) -> bool:
        """Whether all channels carry the same sound, louder or softer; silence carries none.

        What is left of a channel when its share of the first is taken out has `rest` of its energy.
        """
        if not self._energy.all():
            return False
        rest = 1.0 - self._common**2 / (self._energy * self._energy[0])
        return bool((rest <= SAME_ENERGY).all())

    def is_bleed(self, channel: int, start_s: float, end_s: float) -> bool:
        """Tell whether another channel is so much louder then that this one only picks it up."""
        if not self._steps:
            return False
        first = int(start_s * SAMPLE_RATE / STEP_SAMPLES)
        last = max(first + 1, round(end_s * SAMPLE_RATE / STEP_SAMPLES))
        steps = self._steps[0][:, first:last]
        if not steps.size:
            return False
        energies = steps.mean(axis=1)
        return bool(energies[channel] < BLEED_ENERGY * energies.max())

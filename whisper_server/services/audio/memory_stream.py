"""Samples that are in memory already, as the pipeline takes a file: with one gain, and read once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from whisper_server.core.types import SAMPLE_RATE, AudioInfo
from whisper_server.services.audio.loudness import normalised

if TYPE_CHECKING:
    from whisper_server.core.types import Samples

BLOCK_SAMPLES = 30 * SAMPLE_RATE


class MemoryStream:
    """An open recording whose samples, float32 [n] at 16 kHz mono, are all there; they are not changed."""

    def __init__(self, samples: Samples) -> None:
        self._samples: Samples | None = samples
        self.position_s = 0.0  # seconds read so far
        self.info = AudioInfo(
            "pcm", "", "pcm_f32le", SAMPLE_RATE, 1, samples.nbytes, len(samples) / SAMPLE_RATE
        )

    def close(self) -> None:
        """Let go of the samples; may be called twice."""
        self._samples = None

    async def ready(self) -> None:
        """Return at once: all samples are there."""

    def settle(self) -> Iterator[None]:
        """Yield nothing: there is one track."""
        return iter(())

    def blocks(self) -> Iterator[Samples]:
        """Yield float32 [n], 0 < n <= BLOCK_SAMPLES, normalised as a file's; use it once."""
        return normalised(self._blocks())

    def _blocks(self) -> Iterator[Samples]:
        samples, self._samples = self._samples, None
        if samples is None:
            raise ValueError("I/O operation on closed audio")
        for first in range(0, len(samples), BLOCK_SAMPLES):
            block = samples[first : first + BLOCK_SAMPLES].copy()
            self.position_s += len(block) / SAMPLE_RATE
            yield block

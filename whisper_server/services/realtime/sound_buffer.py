"""The samples of a session that may still be needed, addressed by their position in it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import SAMPLE_RATE

if TYPE_CHECKING:
    from whisper_server.core.types import Samples

# Blocks of one size, whatever the size of what is appended: a client may append samples one by one.
BLOCK_SAMPLES = SAMPLE_RATE


class SoundBuffer:
    """Float32 samples at 16 kHz from `first` to `end`, which are positions in the session."""

    def __init__(self) -> None:
        self.first = 0
        self.end = 0
        self._blocks: deque[Samples] = deque()
        self._first_block = 0  # its number; block n has the positions from n * BLOCK_SAMPLES on

    @property
    def n_bytes(self) -> int:
        """Bytes that are held."""
        return len(self._blocks) * BLOCK_SAMPLES * 4

    def append(self, samples: Samples) -> None:
        """Take the next samples, float32 [n], n >= 0."""
        while len(samples):
            at = self.end % BLOCK_SAMPLES
            if at == 0 or not self._blocks:
                self._blocks.append(np.empty(BLOCK_SAMPLES, np.float32))
                self._first_block = self.end // BLOCK_SAMPLES - len(self._blocks) + 1
            taken = samples[: BLOCK_SAMPLES - at]
            self._blocks[-1][at : at + len(taken)] = taken
            self.end += len(taken)
            samples = samples[len(taken) :]

    def drop_before(self, position: int) -> None:
        """Forget what is before a position."""
        self.first = max(self.first, min(position, self.end))
        while self._blocks and (self._first_block + 1) * BLOCK_SAMPLES <= self.first:
            self._blocks.popleft()
            self._first_block += 1

    def slice(self, start: int, end: int) -> Samples:
        """Return a copy of [start, end), as far as it is held."""
        start, end = max(start, self.first), min(end, self.end)
        if start >= end:
            return np.zeros(0, np.float32)
        first = start // BLOCK_SAMPLES
        n_before = first - self._first_block
        n_blocks = (end - 1) // BLOCK_SAMPLES + 1 - first
        blocks = [self._blocks[number] for number in range(n_before, n_before + n_blocks)]
        start -= first * BLOCK_SAMPLES
        blocks[-1] = blocks[-1][: end - (first + n_blocks - 1) * BLOCK_SAMPLES]
        blocks[0] = blocks[0][start:]
        return np.concatenate(blocks)

"""The samples of a session that may still be needed, addressed by their position in it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from whisper_server.core.types import Samples


class SoundBuffer:
    """Float32 samples at 16 kHz from `first` to `end`, which are positions in the session."""

    def __init__(self) -> None:
        self.first = 0
        self.end = 0
        self._pieces: deque[Samples] = deque()

    @property
    def n_bytes(self) -> int:
        """Bytes that are held."""
        return sum(piece.nbytes for piece in self._pieces)

    def append(self, samples: Samples) -> None:
        """Take the next samples, float32 [n], n >= 0."""
        if len(samples):
            self._pieces.append(samples)
            self.end += len(samples)

    def drop_before(self, position: int) -> None:
        """Forget what is before a position."""
        position = min(position, self.end)
        while self._pieces and self.first + len(self._pieces[0]) <= position:
            self.first += len(self._pieces.popleft())
        if self._pieces and self.first < position:
            # A copy: a view would keep the whole piece alive.
            self._pieces[0] = self._pieces[0][position - self.first :].copy()
            self.first = position

    def slice(self, start: int, end: int) -> Samples:
        """Return a copy of [start, end), as far as it is held."""
        found, at = [], self.first
        for piece in self._pieces:
            part = piece[max(0, start - at) : max(0, end - at)]
            if len(part):
                found.append(part)
            at += len(piece)
        return np.concatenate(found) if found else np.zeros(0, np.float32)

"""Voices of many stretches -> speakers, whose number is not known; in bounded memory.

Agglomerative clustering with centroid linkage on vectors of length 1, as pyannote's pipelines have it: what
lies nearest is merged until nothing is nearer than the threshold. Must not know of sound or time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

MAX_POINTS = 2048  # that are compared each with each: 16 MB of distances
FEW_POINTS = 1024  # what is left where there were more
SMALL_SHARE = 0.1  # of all that was said; no speaker needs more to count


@dataclass(frozen=True, slots=True)
class SpeakerCount:
    """How many speakers there may be."""

    least: int = 1
    most: int | None = None


class Voices:
    """The voices of a recording as they come in; old ones are merged where they are many."""

    def __init__(self) -> None:
        self._points: list[Vectors] = []
        self._weights: list[float] = []

    def __len__(self) -> int:
        return len(self._points)

    def add(self, voice: Vectors, weight: float) -> None:
        """Take one stretch's voice, float32 [n] of length 1, and how much it counts."""
        self._points.append(voice)
        self._weights.append(weight)
        if len(self._points) > MAX_POINTS:
            centres, weights = _Merging(np.stack(self._points), np.array(self._weights)).down_to(FEW_POINTS)
            self._points, self._weights = list(centres), weights.tolist()

    def speakers(self, threshold: float, small: float, count: SpeakerCount) -> Vectors:
        """Return the centre of each speaker's voices, float32 [n_speakers, n]; none where nobody spoke.

        Voices farther apart than `threshold` are two speakers, 0..2. One that weighs less than `small`, or a
        tenth of all, counts for none.
        """
        if not self._points:
            return np.zeros((0, 0), np.float32)
        weights = np.array(self._weights)
        small = min(small, SMALL_SHARE * float(weights.sum()))
        points = np.stack(self._points)
        found = _Merging(points, weights).speakers(threshold, small, count)
        if len(found) >= min(count.least, len(points)):
            return found
        return _Merging(points, weights).speakers(threshold, 0.0, count)  # a word may be all that one says


class _Merging:
    """One run of merging what is nearest, from many clusters to one."""

    def __init__(self, points: Vectors, weights: NDArray[np.float64]) -> None:
        self._centres = points.astype(np.float32)
        self._weights = weights.astype(np.float64)
        self._alive = np.ones(len(points), bool)
        products = self._centres @ self._centres.T
        squares = np.einsum("ij,ij->i", self._centres, self._centres)
        self._distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)
        np.fill_diagonal(self._distances, np.inf)
        self._nearest = self._distances.argmin(axis=1)
        self._least = self._distances[np.arange(len(points)), self._nearest]

    def down_to(self, n_clusters: int) -> tuple[Vectors, NDArray[np.float64]]:
        """Merge until so many are left; return their centres and weights."""
        for _ in range(len(self._centres) - n_clusters):
            self._step()
        return self._centres[self._alive], self._weights[self._alive]

    def speakers(self, threshold: float, small: float, count: SpeakerCount) -> Vectors:
        """Merge until nothing is nearer than the threshold and the number of speakers is a possible one."""
        enough: Vectors | None = None  # the last state in which there were as many as there must be
        while True:
            is_large = self._large(small)
            n_found = int(is_large.sum())
            if n_found >= count.least > 1:
                enough = self._centres[is_large]
            is_apart = float(self._least.min()) > threshold**2
            is_few = count.most is None or n_found <= count.most
            if self._alive.sum() == 1 or (is_apart and is_few):
                break
            self._step()
        return self._centres[is_large] if enough is None or n_found >= count.least else enough

    def _large(self, small: float) -> NDArray[np.bool_]:
        """Tell which clusters are large enough; the largest is where none is."""
        is_large = self._alive & (self._weights >= small)
        if not is_large.any():
            is_large[np.where(self._alive, self._weights, -1.0).argmax()] = True
        return is_large

    def _step(self) -> None:
        """Merge the two that are nearest."""
        kept = int(self._least.argmin())
        gone = int(self._nearest[kept])
        weight = self._weights[kept] + self._weights[gone]
        self._centres[kept] = self._centres[kept] * (self._weights[kept] / weight) + self._centres[gone] * (
            self._weights[gone] / weight
        )
        self._weights[kept] = weight
        self._alive[gone] = False
        self._distances[gone, :] = self._distances[:, gone] = np.inf
        self._least[gone] = np.inf
        row = np.square(self._centres - self._centres[kept], dtype=np.float32).sum(axis=1)
        row[~self._alive] = np.inf
        row[kept] = np.inf
        self._distances[kept, :] = self._distances[:, kept] = row
        stale = self._alive & ((self._nearest == gone) | (self._nearest == kept))
        stale[kept] = True
        rows = np.flatnonzero(stale)
        self._nearest[rows] = self._distances[rows].argmin(axis=1)
        nearer = self._alive & (row < self._least)
        self._nearest[nearer] = kept
        self._least[self._alive] = self._distances[np.flatnonzero(self._alive), self._nearest[self._alive]]

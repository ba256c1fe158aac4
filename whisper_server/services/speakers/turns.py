"""Windows whose voices have speakers -> who speaks in every frame, and turns.

Windows overlap, so several say something of each frame: they are averaged, how many speak first, then who.
Pure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whisper_server.core.types import SAMPLE_RATE
from whisper_server.services.speakers.segmentation import FRAME_SAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE  # 20 ms
_CHUNK_FRAMES = 15_000  # 5 minutes at a time


@dataclass(frozen=True, slots=True)
class Scene:
    """The voices of one window."""

    first: int  # file frame
    active: NDArray[np.bool_]  # [n_frames, n_voices]
    n_frames: int  # of real sound; what follows in `active` is padding

    @property
    def end(self) -> int:
        """File frame after the last one of real sound."""
        return self.first + self.n_frames


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of one speaker, in frames [first, end)."""

    first: int
    end: int
    speaker: int  # a number from 0


def runs(
    scenes: Sequence[Scene], speakers: Sequence[Sequence[int]], n_speakers: int, first: int, end: int
) -> list[Run]:
    """Return who speaks in the frames [first, end), by start.

    `speakers[i][j]` is the speaker of voice j of scene i, negative where it has none; scenes come in order.
    """
    open_since: dict[int, int] = {}
    found: list[Run] = []
    for start in range(first, end, _CHUNK_FRAMES):
        stop = min(start + _CHUNK_FRAMES, end)
        is_speaking = _speaking(scenes, speakers, n_speakers, start, stop)
        for speaker in range(n_speakers):
            for frame, is_on in _changes(is_speaking[:, speaker], is_on=speaker in open_since):
                if is_on:
                    open_since[speaker] = start + frame
                else:
                    found.append(Run(open_since.pop(speaker), start + frame, speaker))
    found += [Run(since, end, speaker) for speaker, since in open_since.items()]
    return sorted(found, key=lambda run: (run.first, run.end, run.speaker))


def _speaking(
    scenes: Sequence[Scene], speakers: Sequence[Sequence[int]], n_speakers: int, first: int, end: int
) -> NDArray[np.bool_]:
    """Return bool [end - first, n_speakers]."""
    score = np.zeros((end - first, n_speakers), np.float32)
    covered = np.zeros(end - first, np.float32)
    total = np.zeros(end - first, np.float32)
    starts = [scene.first for scene in scenes]
    longest = max((len(scene.active) for scene in scenes), default=0)
    for i in range(bisect_left(starts, first - longest), bisect_right(starts, end)):
        scene = scenes[i]
        left, right = max(scene.first, first), min(scene.end, end)
        if left >= right:
            continue
        here, there = slice(left - first, right - first), slice(left - scene.first, right - scene.first)
        covered[here] += 1
        for voice, speaker in enumerate(speakers[i]):
            total[here] += scene.active[there, voice]
            if speaker >= 0:
                score[here, speaker] += scene.active[there, voice]
    n_speaking = np.rint(total / np.maximum(covered, 1)).astype(int)
    rank = (-score).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    found: NDArray[np.bool_] = (rank < n_speaking[:, None]) & (score > 0)
    return found


def _changes(values: NDArray[np.bool_], *, is_on: bool) -> Iterator[tuple[int, bool]]:
    """Yield where values differ from the one before, the first from `is_on`, and what they are then."""
    for place in np.flatnonzero(np.diff(values, prepend=is_on)):
        yield int(place), bool(values[place])

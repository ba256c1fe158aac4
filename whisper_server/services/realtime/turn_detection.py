"""Probabilities of a voice -> where turns begin and end; no sound, no clock but the frames themselves.

A turn begins when a voice has lasted for MIN_SPEECH_FRAMES and ends when it has been away for as long as the
session wants. Frames are those of voice detection, 32 ms each, counted from the session's first sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

from whisper_server.core.types import VOICE_FRAME_S

# Less than 100 ms is a click, as in files (`VadOptions.min_speech_ms`).
MIN_SPEECH_FRAMES = math.ceil(0.1 / VOICE_FRAME_S)
HYSTERESIS = 0.15  # of Silero: running speech goes on down to so much under the threshold
LOWEST_END = 0.01


class Change(Enum):
    """What a frame changes."""

    STARTED = auto()
    STOPPED = auto()


@dataclass(slots=True)
class TurnDetector:
    """Hysteresis over frames; `silence_frames` may be changed between two of them."""

    threshold: float
    silence_frames: int
    frame: int = 0  # the next one's number
    onset: int = 0  # first frame of the voice that began the turn
    silence_start: int | None = None  # of the open turn: first frame of the silence that may end it
    is_speaking: bool = False
    _voiced: int = 0  # frames of voice in a row, before a turn

    def step(self, probability: float) -> Change | None:
        """Take the next frame."""
        self.frame += 1
        if not self.is_speaking:
            return self._listen(probability)
        if probability >= self.threshold:
            self.silence_start = None
        elif self.silence_start is None and probability < max(self.threshold - HYSTERESIS, LOWEST_END):
            self.silence_start = self.frame - 1
        return self.check()

    def check(self) -> Change | None:
        """Tell whether the silence so far ends the turn; also after `silence_frames` has changed."""
        if self.silence_start is None or self.frame - self.silence_start < self.silence_frames:
            return None
        self.restart()
        return Change.STOPPED

    @property
    def silent_frames(self) -> int:
        """How long the open turn has been silent, in frames."""
        return 0 if self.silence_start is None else self.frame - self.silence_start

    def restart(self) -> None:
        """Wait for the next voice."""
        self.is_speaking, self.silence_start, self._voiced = False, None, 0

    def _listen(self, probability: float) -> Change | None:
        self._voiced = self._voiced + 1 if probability >= self.threshold else 0
        if self._voiced < MIN_SPEECH_FRAMES:
            return None
        self.is_speaking, self.onset = True, self.frame - self._voiced
        return Change.STARTED


def frames_of(duration_ms: float) -> int:
    """Return a duration in frames, at least one."""
    return max(1, math.ceil(duration_ms / (1000 * VOICE_FRAME_S)))

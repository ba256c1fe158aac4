"""How fast audio gets done here, as measured; for telling clients when to come back.

What waits is said in seconds of audio, which operators know; how long it takes is reckoned in steps. A
step is 30 s of a file, the last of a file however short: a clip of 3 s costs the device as much as one of
30 s, and a speed in seconds of audio would be ten times too low for lectures after an hour of short clips.
Silence that is left out makes steps cheap; the measured speed has that in it. Has no clock.
"""

from __future__ import annotations

import math

from whisper_server.core.types import WINDOW_S

MIN_RETRY_S = 1
MAX_RETRY_S = 60  # official clients wait no longer than that: told more, some come back at once
MEMORY_S = 60.0  # busy time after which a measurement counts for a third


def steps_of(audio_s: float) -> int:
    """Return about how many times the device is asked for so much of a file."""
    return math.ceil(audio_s / WINDOW_S)


class Pace:
    """Steps done per second of busy time, the last minute of it counting most."""

    def __init__(self) -> None:
        # Until something was measured: a step a second, as if that had been seen for a second.
        self._steps = 1.0
        self._busy_s = 1.0

    def spend(self, busy_s: float) -> None:
        """Let busy time pass."""
        kept = math.exp(-busy_s / MEMORY_S)
        self._steps *= kept
        self._busy_s = self._busy_s * kept + MEMORY_S * (1.0 - kept)

    def gain(self, steps: int) -> None:
        """Count what was done in it."""
        self._steps += steps

    def retry_after_s(self, steps: float) -> int:
        """Return the whole seconds that so many steps take, within what clients accept."""
        if steps * self._busy_s >= MAX_RETRY_S * self._steps:
            return MAX_RETRY_S
        return max(MIN_RETRY_S, math.ceil(steps * self._busy_s / self._steps))

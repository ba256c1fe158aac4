"""How often an open turn is decoded before its end: as often as the machine can hold."""

from __future__ import annotations

from whisper_server.core.types import SAMPLE_RATE

# Seconds of new sound between two decodes, by the `delay` of the API; None: no decodes before the end.
STEPS_S: dict[str | None, float | None] = {
    "minimal": 0.3, "low": 0.4, None: 0.5, "medium": 1.0, "high": 2.0, "xhigh": None,
}  # fmt: skip
# Of the time between two decodes, at most so much is spent on them: the rest is for the turns of others.
BUSY_SHARE = 0.6
MAX_STEP_S = 8.0
SPARE_S = 1.0  # what takes longer waits for other work on the device


class Pace:
    """The step from one decode to the next; it grows with the time that they take."""

    def __init__(self) -> None:
        self.delay: str | None = None
        self._took_s = 0.0

    @property
    def has_time(self) -> bool:
        """Whether decodes take so little that one more now and then delays no other for long."""
        return self._step_s is not None and self._took_s <= SPARE_S

    def took(self, wall_s: float) -> None:
        """Note how long a decode took, with its wait for the device; the last one counts for half."""
        self._took_s = (self._took_s + wall_s) / 2 if self._took_s else wall_s

    def is_due(self, n_samples: int) -> bool:
        """Tell whether so much new sound is worth another decode."""
        if self._step_s is None:
            return False
        return n_samples >= SAMPLE_RATE * min(max(self._step_s, self._took_s / BUSY_SHARE), MAX_STEP_S)

    @property
    def _step_s(self) -> float | None:
        return STEPS_S.get(self.delay, STEPS_S[None])

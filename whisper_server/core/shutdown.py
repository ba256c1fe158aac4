"""How far the end of the process is: one state, which everything reads that may have to refuse work."""

from __future__ import annotations

import threading
from enum import IntEnum

from whisper_server.core.errors import ShuttingDown

SHUTTING_DOWN = "The server is shutting down; try again later."


class Phase(IntEnum):
    """Each follows the one before it; none comes back."""

    OPEN = 0
    DRAINING = 1  # nothing new begins, what has begun goes on
    CLOSED = 2  # nothing goes on


class Shutdown:
    """The phase of the process, or of a part of it, which is never behind that of the whole. Thread-safe.

    Keep the order: first change the phase, then answer what waits, under the lock under which new work checks
    the phase. So nothing slips in between.
    """

    def __init__(self, whole: Shutdown | None = None) -> None:
        self._whole = whole
        self._own = Phase.OPEN
        self._lock = threading.Lock()  # for changes; reading needs none

    @property
    def phase(self) -> Phase:
        """Where it is."""
        return self._own if self._whole is None else max(self._own, self._whole.phase)

    @property
    def is_draining(self) -> bool:
        """Whether nothing new may begin; also once closed."""
        return self.phase >= Phase.DRAINING

    def drain(self) -> None:
        """Let nothing new begin. Idempotent."""
        self._advance(Phase.DRAINING)

    def close(self) -> None:
        """Let nothing go on. Idempotent."""
        self._advance(Phase.CLOSED)

    def check_open(self) -> None:
        """Check that new work is taken.

        Raises:
            ShuttingDown: no longer.
        """
        if self.is_draining:
            raise ShuttingDown(SHUTTING_DOWN)

    def _advance(self, phase: Phase) -> None:
        with self._lock:
            self._own = max(self._own, phase)

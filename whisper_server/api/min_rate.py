"""How slow a client may be, as arithmetic; knows no clock and no connection."""

from __future__ import annotations

from dataclasses import dataclass

# After a refusal, for what the client still sends: it may not see the answer if that is left unread.
LINGER_S = 2.0

_RESOLUTION_S = 0.001  # what is left below it is an error of rounding, and too short for a timer


@dataclass(frozen=True, slots=True)
class TransferTimeout:
    """How slowly a client may send its upload, or take its reply."""

    stall_s: float  # the longest wait for the next byte; above 0
    min_bytes_per_s: float  # the minimum rate, however short the pauses are; 0: any byte will do


class Allowance:
    """The seconds of waiting that are left to one transfer.

    Waiting spends them, bytes earn them at the minimum rate, and there are never more than at the start: a
    fast client cannot save up for a pause. So a transfer ends after `stall_s` without a byte, one at half of
    the rate after twice that time, and one at the rate never.
    """

    def __init__(self, timeout: TransferTimeout) -> None:
        self._timeout = timeout
        self.left_s = timeout.stall_s

    @property
    def is_spent(self) -> bool:
        """Whether it is time to give up."""
        return self.left_s < _RESOLUTION_S

    def spend(self, waited_s: float, n_bytes: int) -> None:
        """Count `waited_s` of waiting, in which `n_bytes` came in or were taken."""
        left_s = self.left_s - waited_s + self._earned_s(n_bytes)
        self.left_s = min(left_s, self._timeout.stall_s)

    def _earned_s(self, n_bytes: int) -> float:
        if self._timeout.min_bytes_per_s > 0:
            return n_bytes / self._timeout.min_bytes_per_s
        return float("inf") if n_bytes else 0.0

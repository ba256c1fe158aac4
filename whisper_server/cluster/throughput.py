"""How fast the cluster does the work of one front: what `Retry-After` is made of."""

from __future__ import annotations

import math

from whisper_server.cluster.board import Totals
from whisper_server.services.admission import MAX_RETRY_S, MIN_RETRY_S, Throughput


class ClusterThroughput(Throughput):
    """The front's own measurement until the cluster's is known, then its share of that.

    Replicas interleave the requests of all fronts, so a front gets about the share of the speed that it has
    of the work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps_done = 0
        self._totals = Totals()
        self._own_left = 0

    def update(self, totals: Totals, own_left: int) -> None:
        """Take the newest sums, and the steps that are left on this front."""
        self._totals, self._own_left = totals, own_left

    def gain(self, steps: int) -> None:
        """Count what was done."""
        super().gain(steps)
        self.steps_done += steps

    def retry_after_s(self, steps: float) -> int:
        """Return the whole seconds that so many steps of this front take, within what clients accept."""
        own_left, all_left = max(1, self._own_left), max(1, self._totals.steps_left, self._own_left)
        own_speed = self._totals.steps_per_s * own_left / all_left
        if own_speed <= 0:
            return super().retry_after_s(steps)
        return min(MAX_RETRY_S, max(MIN_RETRY_S, math.ceil(steps / own_speed)))

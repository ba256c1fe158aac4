"""How processor time grows with the size of an input."""

from __future__ import annotations

import time
from collections.abc import Callable

WORTH_S = 0.02  # what is quicker is noise
MAX_RATIO = 3.0  # of twice the size; linear is 2, quadratic 4


def check_linear(work: Callable[[int], Callable[[], object]], smallest: int, largest: int) -> None:
    """Check that the time of what `work` makes for a size grows with it, doubling by doubling.

    From small to large, so that quadratic work fails in seconds, where the largest size would take hours.
    """
    size, before_s = smallest, 0.0
    while size <= largest:
        took_s = _cpu_s(work(size))
        if before_s >= WORTH_S:
            assert took_s < MAX_RATIO * before_s, f"{before_s:.3f} s, and {took_s:.3f} s for {size}"
        size, before_s = 2 * size, took_s


def _cpu_s(work: Callable[[], object]) -> float:
    """Return the processor time of this process, the least of up to three runs."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
        if times[-1] > 1.0:
            break
    return min(times)

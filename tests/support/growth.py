"""How processor time grows with the size of an input."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WORTH_S = 0.02  # what is quicker is noise
MAX_RATIO = 3.0  # of twice the size; linear is 2, quadratic 4
AGAIN = 3  # other processes slow this one down: as many more looks at what seems to grow too fast

Work = Callable[[], object]


def check_linear(work: Callable[[int], Work], smallest: int, largest: int) -> None:
    """Check that the time of what `work` makes for a size grows with it, doubling by doubling.

    From small to large, so that quadratic work fails in seconds, where the largest size would take hours.
    """
    size, before_s = smallest, 0.0
    with _own_objects_alone():
        while size <= largest:
            took_s = cpu_s(work(size))
            if before_s >= WORTH_S and took_s >= MAX_RATIO * before_s:
                ratio = _ratio(work(size // 2), work(size))
                assert ratio < MAX_RATIO, (
                    f"{before_s:.3f} s, and {took_s:.3f} s for {size}: {ratio:.1f} times"
                )
            size, before_s = 2 * size, took_s


@contextmanager
def _own_objects_alone() -> Iterator[None]:
    """Keep what was there before out of garbage collections, which go through all that is there.

    One of them, by chance in the larger size, took longer than the work.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def cpu_s(work: Work) -> float:
    """Return the processor time of this process, the least of up to three runs; of one that is long."""
    times = [_once_s(work)]
    while len(times) < 3 and times[0] < 5 * WORTH_S:
        times.append(_once_s(work))
    return min(times)


def _ratio(half: Work, whole: Work) -> float:
    """Return the median of how many times as long the whole takes, one beside the other."""
    return statistics.median(_once_s(whole) / _once_s(half) for _ in range(AGAIN))


def _once_s(work: Work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
